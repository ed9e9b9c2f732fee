package services

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

const (
	eventLineMax = 1 << 20 // bytes of a line of a stream
	pageSize     = 200     // the most that chat gives at once
	pagesMax     = 5000    // of one list
)

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
