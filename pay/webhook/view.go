package webhook

import (
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"time"
)

// Limits of a request.
const (
	urlBytesMax  = 2048
	typesMax     = 32 // filters of one endpoint
	typeBytesMax = 128
	keyBytesMax  = 255
	userBytesMax = 255
)

// Statuses of an Endpoint.
const (
	StatusEnabled  = "enabled"
	StatusDisabled = "disabled"
)

// Endpoint is a registration as its owner sees it.
type Endpoint struct {
	ID             string    `json:"id"` // sorts by time
	User           string    `json:"user"`
	URL            string    `json:"url"`
	Types          []string  `json:"types"` // empty: all
	CreatedAt      time.Time `json:"created_at"`
	Secret         string    `json:"secret,omitempty"`               // only in the answers of Create and Rotate
	OldSecretUntil time.Time `json:"old_secret_until,omitzero"`      // when the last replaced secret ceases to sign
	Status         string    `json:"status"`                         // enabled or disabled
	DisabledReason string    `json:"disabled_reason,omitempty"`      //
	LastEventID    string    `json:"last_event_id,omitempty"`        // the last one delivered
	LastSuccessAt  time.Time `json:"last_success_at,omitzero"`       //
	LastFailure    *Failure  `json:"last_failure,omitempty"`         // it may lie before the last success
	Failures       int       `json:"consecutive_failures,omitempty"` // attempts of the event that is due
	NextAttemptAt  time.Time `json:"next_attempt_at,omitzero"`       // of that event
}

// Failure is an attempt that failed.
type Failure struct {
	At     time.Time `json:"at"`
	Status int       `json:"status,omitempty"` // of HTTP; 0: there was no answer
	Error  string    `json:"error"`
}

// view returns what the owner of an endpoint sees, without a secret.
func (e endpoint) view() Endpoint {
	v := Endpoint{
		ID:             e.ID,
		User:           e.User,
		URL:            e.URL,
		Types:          append([]string{}, e.Types...),
		CreatedAt:      instant(e.Created),
		Status:         StatusEnabled,
		DisabledReason: e.Disabled,
		LastEventID:    e.Progress.LastEvent,
		LastSuccessAt:  instant(e.Progress.LastSuccess),
		Failures:       e.Progress.Attempts,
	}
	if len(e.Secrets) > 1 {
		v.OldSecretUntil = instant(e.Secrets[1].Until)
	}
	if e.Disabled != "" {
		v.Status = StatusDisabled
	} else {
		v.NextAttemptAt = instant(e.Progress.Next)
	}
	if f := e.Progress.LastFailure; f != nil {
		v.LastFailure = &Failure{At: instant(f.At), Status: f.Status, Error: f.Error}
	}
	return v
}

func (v Endpoint) withSecret(e endpoint) Endpoint {
	v.Secret = e.Secrets[0].Text
	return v
}

// instant returns the time of Unix nanoseconds; the zero time for 0.
func instant(nanos int64) time.Time {
	if nanos == 0 {
		return time.Time{}
	}
	return time.Unix(0, nanos).UTC()
}

func checkRequest(user, key string) error {
	if user == "" || len(user) > userBytesMax {
		return &InvalidError{"user", fmt.Sprintf("must have 1 to %d bytes", userBytesMax)}
	}
	if key == "" || len(key) > keyBytesMax {
		return &InvalidError{"key", fmt.Sprintf("must have 1 to %d bytes", keyBytesMax)}
	}
	return nil
}

// checkURL refuses what can never be delivered to. Where a name leads is checked when it is dialled.
func checkURL(text string, allowPrivate bool) error {
	wrong := func(detail string) error { return &InvalidError{"url", detail} }
	if len(text) > urlBytesMax {
		return wrong(fmt.Sprintf("must have at most %d bytes", urlBytesMax))
	}
	u, err := url.Parse(text)
	if err != nil {
		return wrong("is not a URL")
	}
	port, portErr := strconv.ParseUint(u.Port(), 10, 16)
	literal, err := netip.ParseAddr(u.Hostname())
	switch {
	case u.Scheme != "https" && !(u.Scheme == "http" && allowPrivate):
		return wrong("must begin with https://")
	case u.Hostname() == "":
		return wrong("has no host")
	case u.Port() != "" && (portErr != nil || port == 0):
		return wrong("has no valid port")
	case u.User != nil:
		return wrong("must have no user")
	case u.Fragment != "":
		return wrong("must have no fragment")
	case err == nil && !allowPrivate && !public(literal):
		return wrong("names an address that " + errNotPublic.Error())
	}
	return nil
}

// typeFilter is an event type, or the beginning of one with ".*" behind it.
var typeFilter = regexp.MustCompile(`^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*(\.\*)?$`)

func checkTypes(types []string) error {
	if len(types) > typesMax {
		return &InvalidError{"types", fmt.Sprintf("must be at most %d", typesMax)}
	}
	for i, t := range types {
		field := fmt.Sprintf("types[%d]", i)
		switch {
		case len(t) > typeBytesMax || !typeFilter.MatchString(t):
			return &InvalidError{field, `must be an event type such as "a.b.c", or its beginning such as "a.b.*"`}
		case slices.Contains(types[:i], t):
			return &InvalidError{field, "is there twice"}
		}
	}
	return nil
}
