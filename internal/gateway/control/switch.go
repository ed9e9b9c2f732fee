package control

import (
	"fmt"
	"time"
	"unicode/utf8"
)

// A Mode is what a kill switch does with a route's requests.
type Mode string

// The modes.
const (
	On     Mode = "on"     // they go where they always go
	Off    Mode = "off"    // they are refused
	Over   Mode = "over"   // they go to the fallback upstream
	Static Mode = "static" // they are answered with what the switch holds
)

// A Switch is a route's kill switch. The zero value is on.
type Switch struct {
	Mode Mode `json:"mode"`
	// Expires is when the switch is on again, by the clock of whoever asks; zero: never.
	Expires time.Time `json:"expires,omitzero"`
	// Upstream is where Over sends; empty: the fallback that the route is configured with.
	Upstream string `json:"upstream,omitempty"`
	// What Static answers: a status from 200 to 599, a content type and a body of at most 64 KiB of UTF-8.
	Status      int    `json:"status,omitempty"`
	ContentType string `json:"content_type,omitempty"`
	Body        string `json:"body,omitempty"`
}

// At returns the mode at a time: On once the switch has expired, and for the zero Switch.
func (s Switch) At(now time.Time) Mode {
	if s.Mode == "" || !s.Expires.IsZero() && !now.Before(s.Expires) {
		return On
	}
	return s.Mode
}

// checked returns the switch with nothing in it that its mode does not use, or ErrInvalid.
func (s Switch) checked() (Switch, error) {
	c := Switch{Mode: s.Mode, Expires: s.Expires.UTC().Truncate(time.Millisecond)}
	switch s.Mode {
	case On:
		return Switch{Mode: On}, nil
	case Off:
	case Over:
		c.Upstream = s.Upstream
		if err := checkUpstream("upstream", s.Upstream); err != nil {
			return Switch{}, err
		}
	case Static:
		c.Status, c.ContentType, c.Body = s.Status, s.ContentType, s.Body
		if err := c.checkStatic(); err != nil {
			return Switch{}, err
		}
	default:
		return Switch{}, fmt.Errorf("%w: mode %.40q is none of on, off, over, static", ErrInvalid, s.Mode)
	}
	if year := c.Expires.Year(); !c.Expires.IsZero() && (year < 1970 || year > yearMax) {
		return Switch{}, fmt.Errorf("%w: expires in the year %d", ErrInvalid, year)
	}
	return c, nil
}

func (s Switch) checkStatic() error {
	switch {
	case s.Status < 200 || s.Status > 599:
		return fmt.Errorf("%w: status %d, want 200 to 599", ErrInvalid, s.Status)
	case len(s.Body) > BodyBytesMax || !utf8.ValidString(s.Body):
		return fmt.Errorf("%w: a body has at most %d bytes of UTF-8, not %d", ErrInvalid, BodyBytesMax, len(s.Body))
	}
	return validName("content_type", s.ContentType)
}

// what says in words what the switch does.
func (s Switch) what() string {
	text := string(s.Mode)
	switch s.Mode {
	case Over:
		if s.Upstream != "" {
			text += " to " + s.Upstream
		}
	case Static:
		text += fmt.Sprintf(" %d, %d bytes of %s", s.Status, len(s.Body), s.ContentType)
	}
	if !s.Expires.IsZero() {
		text += " until " + s.Expires.Format(time.RFC3339)
	}
	return text
}
