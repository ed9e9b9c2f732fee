package verify

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"dongne/internal/token"
)

const (
	answerBytesMax = 64 << 10
	eventBytesMax  = 64 << 10 // of one event of the feed
	idBytesMax     = 512
)

// HTTP returns the source that asks auth at base, by way of transport:
//
//	GET /.well-known/oauth-authorization-server     RFC 8414; of its members issuer
//	GET /.well-known/jwks.json                      RFC 7517; with the max-age of its Cache-Control
//	GET /revocations?after=n                        Server-Sent Events
//
// The feed's events and their data are
//
//	revocation  {"seq":7,"kind":"session"|"token","id":"…","expires_at":"2026-01-02T15:04:05Z"}
//	reset       {"seq":7}
//	alive       {"seq":7}
//
// An event of another name is skipped, as is a member that is not known; a kind that is not known is an error, since
// what it revokes would go on. An answer is at most 64 KiB long, as is an event; redirects are not followed.
// transport should bound the time to connect; there is no other limit of time here, since the Verifier has its own.
func HTTP(base *url.URL, transport http.RoundTripper) Source {
	refuse := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &httpSource{base: base, client: &http.Client{Transport: transport, CheckRedirect: refuse}}
}

type httpSource struct {
	base   *url.URL
	client *http.Client
}

// get returns the answer to a GET if its status is 200.
func (s *httpSource) get(ctx context.Context, path, query, accept string) (*http.Response, error) {
	u := s.base.JoinPath(path)
	u.RawQuery = query
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("verify: %w", err)
	}
	req.Header.Set("Accept", accept)
	req.Header.Set("Accept-Encoding", "identity") // a compressed stream would come late
	res, err := s.client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("verify: %w", err)
	}
	if res.StatusCode != http.StatusOK {
		res.Body.Close()
		return nil, fmt.Errorf("verify: GET %s: status %d", u.Redacted(), res.StatusCode)
	}
	return res, nil
}

// body returns a whole answer.
func (s *httpSource) body(ctx context.Context, path string) ([]byte, http.Header, error) {
	res, err := s.get(ctx, path, "", "application/json")
	if err != nil {
		return nil, nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, answerBytesMax+1))
	if err == nil && len(body) > answerBytesMax {
		err = fmt.Errorf("over %d bytes", answerBytesMax)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("verify: GET %s: %w", path, err)
	}
	return body, res.Header, nil
}

func (s *httpSource) Metadata(ctx context.Context) (issuer string, err error) {
	const path = "/.well-known/oauth-authorization-server"
	body, _, err := s.body(ctx, path)
	if err != nil {
		return "", err
	}
	var metadata struct {
		Issuer string `json:"issuer"`
	}
	if err := json.Unmarshal(body, &metadata); err != nil {
		return "", fmt.Errorf("verify: GET %s: %w", path, err)
	}
	return metadata.Issuer, nil
}

func (s *httpSource) Keys(ctx context.Context) (token.Set, time.Duration, error) {
	body, header, err := s.body(ctx, "/.well-known/jwks.json")
	if err != nil {
		return nil, 0, err
	}
	set, err := token.ParseSet(body)
	return set, maxAge(header), err
}

// maxAge reads Cache-Control; 0 if it does not say. What must not be stored is asked for as often as is allowed.
func maxAge(h http.Header) (fresh time.Duration) {
	for directive := range strings.SplitSeq(strings.Join(h.Values("Cache-Control"), ","), ",") {
		name, value, _ := strings.Cut(strings.ToLower(strings.TrimSpace(directive)), "=")
		switch name {
		case "no-store", "no-cache":
			return keysFreshMin
		case "max-age":
			if n, err := strconv.ParseUint(strings.Trim(value, `"`), 10, 31); err == nil {
				fresh = max(time.Duration(n)*time.Second, keysFreshMin)
			}
		}
	}
	return fresh
}

func (s *httpSource) Follow(ctx context.Context, after uint64, on func(Event)) error {
	res, err := s.get(ctx, "/revocations", "after="+strconv.FormatUint(after, 10), "text/event-stream")
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if kind, _, err := mime.ParseMediaType(res.Header.Get("Content-Type")); err != nil || kind != "text/event-stream" {
		return fmt.Errorf("verify: feed: Content-Type is %q", res.Header.Get("Content-Type"))
	}
	return readEvents(res.Body, func(name, data string) error {
		e, err := parseEvent(name, data)
		if err != nil {
			return fmt.Errorf("verify: feed: event %q: %w", name, err)
		}
		if e.Kind != 0 {
			on(e)
		}
		return nil
	})
}

// readEvents reads a stream of Server-Sent Events (HTML, section 9.2) with lines that end in LF or CR LF, until its
// end, which is an error, or one of on. An event without its empty line at the end is none.
func readEvents(r io.Reader, on func(name, data string) error) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 4<<10), eventBytesMax)
	name, data := "", ""
	for lines.Scan() {
		line := lines.Text() // without CR LF
		if line == "" {
			if data != "" {
				if err := on(name, strings.TrimSuffix(data, "\n")); err != nil {
					return err
				}
			}
			name, data = "", ""
			continue
		}
		field, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch field {
		case "event":
			name = value
		case "data":
			if data += value + "\n"; len(data) > eventBytesMax {
				return fmt.Errorf("verify: feed: an event of over %d bytes", eventBytesMax)
			}
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("verify: feed: %w", err)
	}
	return errors.New("verify: feed: it ended")
}

// parseEvent reads one event; one of Kind 0 is to be skipped.
func parseEvent(name, data string) (e Event, err error) {
	kinds := map[string]Kind{"reset": Reset, "alive": Alive, "revocation": 0}
	kind, ok := kinds[name]
	if !ok {
		return e, nil
	}
	var w struct {
		Seq     *uint64   `json:"seq"`
		Kind    string    `json:"kind"`
		ID      string    `json:"id"`
		Expires time.Time `json:"expires_at"`
	}
	if err := json.Unmarshal([]byte(data), &w); err != nil {
		return e, err
	}
	if w.Seq == nil {
		return e, errors.New("seq is missing")
	}
	if kind != 0 {
		return Event{Kind: kind, Seq: *w.Seq}, nil
	}
	revoked := map[string]Kind{"session": SessionRevoked, "token": TokenRevoked}
	e = Event{Kind: revoked[w.Kind], Seq: *w.Seq, ID: w.ID, Expires: w.Expires}
	switch {
	case e.Kind == 0:
		return e, fmt.Errorf("kind %q", w.Kind)
	case e.ID == "" || len(e.ID) > idBytesMax:
		return e, fmt.Errorf("id of %d bytes", len(e.ID))
	case e.Expires.IsZero():
		return e, errors.New("expires_at is missing")
	}
	return e, nil
}
