package api

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"dongne/auth/node"
	"dongne/auth/realm"
	"dongne/internal/serve"
)

const (
	writeWithin   = 10 * time.Second // for a part of a stream to be taken
	feedItemsMax  = 10_000           // of an answer
	feedWritesMax = 500              // items between two flushes of a stream
)

// Revocations is GET /revocations: what verifiers must forget, after the sequence number that they know; and as a stream
// with Accept: text/event-stream. It is public: ids of sessions that are over are of no use.
func Revocations(n *node.Node) serve.Handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		stream := strings.Contains(r.Header.Get("Accept"), "text/event-stream")
		text := r.URL.Query().Get("after")
		if last := r.Header.Get("Last-Event-ID"); stream && last != "" {
			text = last
		}
		after, err := strconv.ParseUint(text, 10, 64)
		if text != "" && err != nil {
			return serve.Problem(http.StatusBadRequest, "query-invalid", "after: %q is not a sequence number", text)
		}
		if stream {
			return follow(w, r, n, after)
		}
		if err := n.Fresh(r.Context()); err != nil {
			return err
		}
		news := n.News(after)
		if len(news.Items) > feedItemsMax {
			news.Items = news.Items[:feedItemsMax]
			news.Seq = news.Items[feedItemsMax-1].Seq
		}
		return serve.JSON(w, http.StatusOK, struct {
			Items []Revocation `json:"items"`
			Seq   uint64       `json:"seq"`
			Reset bool         `json:"reset"`
		}{RevocationsOf(news.Items), news.Seq, news.Reset})
	}
}

// follow streams revocations until the client goes or the service shuts down.
func follow(w http.ResponseWriter, r *http.Request, n *node.Node, after uint64) error {
	if err := serve.Stream(r); err != nil {
		return err
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	for {
		news := n.News(after)
		if err := tell(w, news); err != nil {
			return err
		}
		after = news.Seq
		select {
		case <-news.More:
		case <-news.Alive:
		case <-r.Context().Done():
			return nil
		case <-serve.Draining(r.Context()):
			return nil
		}
	}
}

// tell writes news to a stream, in parts, so that whoever reads slowly holds up nothing but himself.
func tell(w http.ResponseWriter, news node.News) error {
	rc := http.NewResponseController(w)
	flush := func() error {
		rc.SetWriteDeadline(time.Now().Add(writeWithin)) // an error means a connection of a test, without time-outs
		return rc.Flush()
	}
	if news.Reset {
		// Without an id: whoever is cut off before the end of what follows has to be told all of it again.
		fmt.Fprintf(w, "event: reset\ndata: {\"seq\":%d}\n\n", news.Seq)
	}
	for part := range slices.Chunk(news.Items, feedWritesMax) {
		for _, item := range RevocationsOf(part) {
			data, err := json.Marshal(item)
			if err != nil {
				return err
			}
			fmt.Fprintf(w, "event: revocation\nid: %d\ndata: %s\n\n", item.Seq, data)
		}
		if err := flush(); err != nil {
			return err
		}
	}
	if news.Complete {
		fmt.Fprintf(w, "event: alive\nid: %d\ndata: {\"seq\":%d}\n\n", news.Seq, news.Seq)
	}
	return flush()
}

// Events is GET /events, the audit trail, newest first.
func (h Handlers) Events(w http.ResponseWriter, r *http.Request, _ string) error {
	limit, err := serve.Limit(r, 50, 500)
	if err != nil {
		return err
	}
	query := r.URL.Query()
	filter := realm.Filter{Kind: query.Get("kind"), User: query.Get("user")}
	var before uint64
	if text := query.Get("cursor"); text != "" {
		if before, err = strconv.ParseUint(text, 10, 64); err != nil || before == 0 {
			return serve.Problem(http.StatusBadRequest, "query-invalid", "cursor: %q is none of this list", text)
		}
	}
	for name, to := range map[string]*int64{"since": &filter.Since, "until": &filter.Until} {
		if text := query.Get(name); text != "" {
			t, err := time.Parse(time.RFC3339, text)
			if err != nil {
				return serve.Problem(http.StatusBadRequest, "query-invalid", "%s: %q is not a time such as 2026-01-02T15:04:05Z", name, text)
			}
			*to = t.UnixMilli()
		}
	}
	if err := h.Node.Fresh(r.Context()); err != nil {
		return err
	}
	var events []realm.Event
	h.Node.Read(func(s *realm.State) { events = s.EventsBefore(before, filter, limit) })
	next := ""
	if len(events) == limit {
		next = strconv.FormatUint(events[limit-1].Seq, 10)
	}
	return serve.List(w, EventsOf(events), next)
}

// Migrate is POST /migrate: the older system's sessions, a JSON object a line:
//
//	{"token_sha256":"<64 hexadecimal digits>","user":"minji","expires_at":"2026-12-01T00:00:00Z","revoked":false}
//
// or with "token", the token itself, of which only the hash is kept.
func (h Handlers) Migrate(w http.ResponseWriter, r *http.Request, by string) error {
	serve.LimitBody(r, migrateBytesMax)
	return migrate(r.Context(), w, r, h.Node, by)
}

const migrateBytesMax = 256 << 20

type legacyRow struct {
	Token   string    `json:"token"`
	Hash    string    `json:"token_sha256"`
	User    string    `json:"user"`
	Expires time.Time `json:"expires_at"`
	Revoked bool      `json:"revoked"`
}

func migrate(ctx context.Context, w http.ResponseWriter, r *http.Request, n *node.Node, by string) error {
	var counts struct {
		Added   int `json:"added"`
		Kept    int `json:"kept"`
		Refused int `json:"refused"`
	}
	rows := &realm.ImportLegacy{By: by}
	send := func() error {
		if len(rows.Tokens) == 0 {
			return nil
		}
		result, err := n.Do(ctx, rows)
		counts.Added, counts.Kept, counts.Refused = counts.Added+result.Added, counts.Kept+result.Kept, counts.Refused+result.Refused
		rows = &realm.ImportLegacy{By: by}
		return err
	}
	lines := newLines(r.Body)
	for line := 1; lines.Scan(); line++ {
		if len(lines.Bytes()) == 0 {
			continue
		}
		row, err := legacyToken(lines.Bytes())
		if err != nil {
			return serve.Problem(http.StatusBadRequest, "line-invalid", "line %d: %v; the lines before it, but for the last %d, were taken", line, err, len(rows.Tokens)).Outcome("unknown")
		}
		if rows.Tokens = append(rows.Tokens, row); len(rows.Tokens) == realm.RowsMax {
			if err := send(); err != nil {
				return err
			}
		}
	}
	if err := lines.Err(); errors.Is(err, bufio.ErrTooLong) {
		return serve.Problem(http.StatusBadRequest, "line-invalid", "a line has over %d bytes", lineBytesMax).Outcome("unknown")
	} else if err != nil {
		return err
	}
	if err := send(); err != nil {
		return err
	}
	return serve.JSON(w, http.StatusOK, counts)
}
