package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"dongne/internal/serve"
	"dongne/pay/node"
	"dongne/pay/webhook"
)

const (
	feedBytes    = 64 << 10         // sent at once, and an event more
	commentAfter = 15 * time.Second // of silence
	writeWithin  = 10 * time.Second // or the client is taken for gone
)

// WantsFeed says whether a client asks for the stream instead of a page of JSON.
func WantsFeed(h http.Header) bool {
	for part := range strings.SplitSeq(strings.Join(h["Accept"], ","), ",") {
		kind, _, _ := strings.Cut(part, ";")
		if strings.EqualFold(strings.TrimSpace(kind), "text/event-stream") {
			return true
		}
	}
	return false
}

// Bodies are the events of a page, as they are told.
func Bodies(events []webhook.Event) []json.RawMessage {
	bodies := make([]json.RawMessage, len(events))
	for i, e := range events {
		bodies[i] = e.Body
	}
	return bodies
}

// Feed answers with a stream of Server-Sent Events: what source has behind the cursor after ("": behind its end), and what
// it gets, until the client goes or the service shuts down. A cursor that source does not know is answered with an event
// "reset", and the stream goes on from the end. retry is when the client is to come back after a cut.
func Feed(w http.ResponseWriter, r *http.Request, source webhook.Source, after string, retry time.Duration) error {
	if err := serve.Stream(r); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	draining := serve.Draining(r.Context())
	go func() {
		select {
		case <-draining:
			cancel()
		case <-ctx.Done():
		}
	}()
	f := feed{w: w, rc: http.NewResponseController(w)}
	f.buf.WriteString("retry: " + strconv.FormatInt(retry.Milliseconds(), 10) + "\n\n")
	if _, _, err := source.Events(after, 1); after == "" || errors.Is(err, node.ErrCursor) {
		after = source.End()
		if err != nil {
			f.event("reset", after, []byte(`{"reason":"the position is none of this outbox"}`))
		} else {
			f.buf.WriteString("id: " + after + "\n\n") // where it stands, without an event
		}
	}
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no")
	f.run(ctx, source, after)
	if r.Context().Err() == nil {
		f.event("bye", "", []byte(`{}`))
		f.flush()
	}
	return nil
}

// feed is a stream under way. The first error of a write ends it.
type feed struct {
	w   http.ResponseWriter
	rc  *http.ResponseController
	buf bytes.Buffer
}

// run sends events until ctx ends or a write fails. Of events that are none of the client's business it is told, when
// there was nothing else for a while, where it stands: it then resumes behind them.
func (f *feed) run(ctx context.Context, source webhook.Source, after string) {
	for told := after; f.flush() == nil && ctx.Err() == nil; told = after {
		quiet, cancel := context.WithTimeout(ctx, commentAfter)
		var err error
		for f.buf.Len() == 0 && err == nil && quiet.Err() == nil {
			if after, err = f.fill(quiet, source, after); err == nil && f.buf.Len() == 0 {
				source.Wait(quiet, after) // an error means that quiet is over
			}
		}
		cancel()
		switch {
		case err != nil:
			return
		case f.buf.Len() > 0 || ctx.Err() != nil:
		case told != after:
			f.buf.WriteString("id: " + after + "\n\n")
		default:
			f.buf.WriteString(":\n\n")
		}
	}
}

// fill takes over what source has behind a cursor, as far as there is room, and returns the cursor behind that.
func (f *feed) fill(ctx context.Context, source webhook.Source, after string) (string, error) {
	for f.buf.Len() < feedBytes && ctx.Err() == nil {
		events, next, err := source.Events(after, 1) // one by one, as each needs the cursor behind it
		switch {
		case err != nil:
			return after, err
		case len(events) > 0:
			f.event("", next, events[0].Body)
		case next == after:
			return after, nil
		}
		after = next
	}
	return after, nil
}

// event writes an event; a name or id of "" is left out. data is JSON, which is written without line breaks, so no text in
// it can begin a field.
func (f *feed) event(name, id string, data []byte) {
	if name != "" {
		f.buf.WriteString("event: " + name + "\n")
	}
	if id != "" {
		f.buf.WriteString("id: " + id + "\n")
	}
	f.buf.WriteString("data: ")
	if err := json.Compact(&f.buf, data); err != nil {
		panic("api: an event is no JSON: " + err.Error())
	}
	f.buf.WriteString("\n\n")
}

func (f *feed) flush() error {
	if f.buf.Len() > 0 {
		f.rc.SetWriteDeadline(time.Now().Add(writeWithin)) // an error means a connection of a test, without time-outs
		if _, err := f.w.Write(f.buf.Bytes()); err != nil {
			return err
		}
		f.buf.Reset()
	}
	return f.rc.Flush()
}
