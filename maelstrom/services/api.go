package services

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

const (
	requestMax   = 2 * time.Second // of one request, or until a stream answers
	answerMax    = 8 << 20         // bytes
	eventLineMax = 1 << 20         // bytes of a line of a stream
	pageSize     = 200             // the most that chat gives at once
	pagesMax     = 5000            // of one list
)

// A client is one user's way to the nodes.
type client struct {
	user  string
	nodes []string          // names
	url   map[string]string // by name
	http  *http.Client

	replays atomic.Int64 // answers that were those of an earlier request with the same key
}

func newClient(c *cluster, user string) *client {
	cl := &client{user: user, nodes: c.names, url: map[string]string{}, http: &http.Client{Transport: &http.Transport{}}}
	for _, name := range c.names {
		cl.url[name] = c.url(name)
	}
	return cl
}

// A statusError is an answer that is not 2xx.
type statusError struct {
	status int
	code   string
}

func (e statusError) Error() string { return fmt.Sprintf("%d %s", e.status, e.code) }

// refused says that the request had no effect, and never will: the node looked at it and declined.
func refused(err error) bool {
	status, ok := err.(statusError)
	return ok && 400 <= status.status && status.status < 500 && status.status != http.StatusConflict
}

func (c *client) request(ctx context.Context, node, method, path string, body any) (*http.Request, error) {
	var content io.Reader
	if body != nil {
		content = bytes.NewReader(toJSON(body))
	}
	r, err := http.NewRequestWithContext(ctx, method, c.url[node]+path, content)
	if err != nil {
		return nil, err
	}
	r.Header.Set("X-User", c.user)
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	return r, nil
}

// do sends one request to one node and decodes the answer into v, unless that is nil.
func (c *client) do(ctx context.Context, node, method, path, key string, body, v any) error {
	ctx, cancel := context.WithTimeout(ctx, requestMax)
	defer cancel()
	r, err := c.request(ctx, node, method, path, body)
	if err != nil {
		return err
	}
	if key != "" {
		r.Header.Set("Idempotency-Key", key)
	}
	response, err := c.http.Do(r)
	if err != nil {
		return short(err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(response.Body, answerMax))
	if err != nil {
		return short(err)
	}
	if response.StatusCode/100 != 2 {
		return problem(response.StatusCode, answer)
	}
	if response.Header.Get("Idempotency-Replayed") == "true" {
		c.replays.Add(1)
	}
	if v == nil {
		return nil
	}
	if err := json.Unmarshal(answer, v); err != nil {
		return fmt.Errorf("%s %s on %s: %w in %.200q", method, path, node, err, answer)
	}
	return nil
}

// short is the error without the URL, whose port is another in every run.
func short(err error) error {
	if e, ok := err.(*url.Error); ok {
		return e.Err
	}
	return err
}

func problem(status int, answer []byte) error {
	var p struct{ Code string }
	if json.Unmarshal(answer, &p) != nil { // not of the service itself
		p.Code = fmt.Sprintf("%.100q", answer)
	}
	return statusError{status, p.Code}
}

// A message as chat shows it.
type message struct {
	ID       string `json:"id"`
	Room     string `json:"room"`
	From     string `json:"from"`
	Text     string `json:"text"`
	At       string `json:"at"`
	EditedAt string `json:"edited_at"`
	Deleted  bool   `json:"deleted"`
}

// A listing is what chat says of a room to one of its members.
type listing struct {
	ID      string   `json:"id"`
	Members []string `json:"members"`
	Unread  int      `json:"unread"`
	Read    string   `json:"read"`
	Last    *message `json:"last"`
}

// pages fetches a whole list, page by page. query is what goes on with the next one.
func pages[T any](ctx context.Context, c *client, node, path, query string) ([][]T, error) {
	var all [][]T
	at := ""
	for range pagesMax {
		var page struct {
			Items []T
			Next  string
		}
		target := fmt.Sprintf("%s?limit=%d", path, pageSize)
		if at != "" {
			target += "&" + query + "=" + url.QueryEscape(at)
		}
		if err := c.do(ctx, node, http.MethodGet, target, "", nil, &page); err != nil {
			return nil, err
		}
		all = append(all, page.Items)
		if at = page.Next; at == "" {
			return all, nil
		}
	}
	return nil, fmt.Errorf("GET %s on %s: more than %d pages", path, node, pagesMax)
}

// rooms fetches the user's rooms, that with the newest message first.
func (c *client) rooms(ctx context.Context, node string) ([]listing, error) {
	all, err := pages[listing](ctx, c, node, "/rooms", "cursor")
	return slices.Concat(all...), err
}

// history fetches a room's whole history, oldest first.
func (c *client) history(ctx context.Context, node, room string) ([]message, error) {
	all, err := pages[message](ctx, c, node, "/rooms/"+room+"/messages", "before")
	slices.Reverse(all)
	return slices.Concat(all...), err
}

// An event of a stream. One without data only says where the stream stands.
type event struct{ id, name, data string }

// readEvents reads Server-Sent Events (HTML Living Standard, section 9.2) and hands on each that is complete, until
// there are no more or hear returns false. The last one, if it was cut off, is dropped.
func readEvents(body io.Reader, hear func(event) bool) {
	lines := bufio.NewScanner(body)
	lines.Buffer(nil, eventLineMax)
	var e event
	var data []string
	for lines.Scan() {
		field, value, _ := strings.Cut(lines.Text(), ":")
		value = strings.TrimPrefix(value, " ")
		switch {
		case lines.Text() == "":
			e.data = strings.Join(data, "\n")
			if e != (event{}) && !hear(e) {
				return
			}
			e, data = event{}, nil
		case field == "id":
			e.id = value
		case field == "event":
			e.name = value
		case field == "data":
			data = append(data, value)
		}
	}
}
