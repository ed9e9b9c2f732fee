package services

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"dongne/maelstrom/services/books"
)

const (
	requestMax = 2 * time.Second // of one request, or until a stream answers
	answerMax  = 8 << 20         // bytes
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
	urls := map[string]string{}
	for _, name := range c.names {
		urls[name] = c.url(name)
	}
	return &client{user: user, nodes: c.names, url: urls, http: &http.Client{Transport: &http.Transport{}}}
}

// A statusError is an answer that is not 2xx.
type statusError struct {
	status  int
	code    string
	outcome string // as far as the service says what became of the request
}

func (e statusError) Error() string { return fmt.Sprintf("%d %s", e.status, e.code) }

// refused says that the request had no effect, and never will: the node looked at it and declined, or says so itself.
func refused(err error) bool {
	status, ok := err.(statusError)
	return ok && (status.outcome == books.NotApplied || status.outcome == "" && 400 <= status.status && status.status < 500 && status.status != http.StatusConflict)
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

// An answer is what a node said.
type answer struct {
	status   int
	replayed bool // it is that of an earlier request with the same key
	body     []byte
}

// exchange sends one request to one node, and returns its answer, whatever it says.
func (c *client) exchange(ctx context.Context, node, method, path string, header map[string]string, body any) (answer, error) {
	r, err := c.request(ctx, node, method, path, body)
	if err != nil {
		return answer{}, err
	}
	for name, value := range header {
		r.Header.Set(name, value)
	}
	response, err := c.http.Do(r)
	if err != nil {
		return answer{}, short(err)
	}
	defer response.Body.Close()
	a := answer{status: response.StatusCode, replayed: response.Header.Get("Idempotency-Replayed") == "true"}
	a.body, err = io.ReadAll(io.LimitReader(response.Body, answerMax))
	return a, err
}

// do sends one request to one node and decodes the answer into v, unless that is nil.
func (c *client) do(ctx context.Context, node, method, path, key string, body, v any) error {
	ctx, cancel := context.WithTimeout(ctx, requestMax)
	defer cancel()
	header := map[string]string{}
	if key != "" {
		header["Idempotency-Key"] = key
	}
	a, err := c.exchange(ctx, node, method, path, header, body)
	switch {
	case err != nil:
		return err
	case a.status/100 != 2:
		return problem(a.status, a.body)
	case a.replayed:
		c.replays.Add(1)
	}
	if v == nil {
		return nil
	}
	if err := json.Unmarshal(a.body, v); err != nil {
		return fmt.Errorf("%s %s on %s: %w in %.200q", method, path, node, err, a.body)
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
	var p struct{ Code, Outcome string }
	if json.Unmarshal(answer, &p) != nil { // not of the service itself
		p.Code = fmt.Sprintf("%.100q", answer)
	}
	return statusError{status, p.Code, p.Outcome}
}
