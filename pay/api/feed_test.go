package api

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"dongne/pay/webhook"

	"github.com/google/go-cmp/cmp"
)

// busy is a source in which something happens every 0.7 s. Of these events only every so-manieth is the reader's business;
// Events skips at most 10 of the others at a time.
type busy struct {
	began time.Time
	every int
	asked int
}

func (b *busy) end() int { return int(time.Since(b.began) / busyEvery) }

const busyEvery = 700 * time.Millisecond

func (b *busy) Events(after string, limit int) (events []webhook.Event, next string, err error) {
	b.asked++
	at, err := strconv.Atoi(after)
	if err != nil {
		return nil, "", err
	}
	for scanned := 0; scanned < 10 && at < b.end() && len(events) < limit; scanned++ {
		if at++; at%b.every == 0 {
			events = append(events, webhook.Event{Body: []byte(strconv.Itoa(at))})
		}
	}
	return events, strconv.Itoa(at), nil
}

func (b *busy) End() string { return strconv.Itoa(b.end()) }

func (b *busy) Wait(ctx context.Context, after string) error {
	at, err := strconv.Atoi(after)
	if err != nil {
		return err
	}
	select {
	case <-time.After(time.Until(b.began.Add(time.Duration(at+1) * busyEvery))):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// TestFeedAmongOthersEvents: the stream neither spins nor is silent while nothing happens that is the reader's business, and
// tells where it stands.
func TestFeedAmongOthersEvents(t *testing.T) {
	for name, test := range map[string]struct {
		every int
		from  string
		want  string
	}{
		"nothing of his": {1000, "0", "id: 21\n\nid: 42\n\nid: 64\n\nid: 85\n\n"},
		"some":           {40, "0", "id: 21\n\nid: 40\ndata: 40\n\nid: 61\n\nid: 80\ndata: 80\n\n"},
		"nothing at all": {1, "1000", ":\n\n:\n\n:\n\n:\n\n"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), 61*time.Second)
				defer cancel()
				source := &busy{began: time.Now(), every: test.every}
				w := httptest.NewRecorder()
				f := &feed{w: w, rc: http.NewResponseController(w)}
				f.run(ctx, source, test.from)
				if diff := cmp.Diff(strings.Split(test.want, "\n\n"), strings.Split(w.Body.String(), "\n\n")); diff != "" {
					t.Errorf("stream mismatch (-want +got):\n%s", diff)
				}
				if source.asked > 3*87 {
					t.Errorf("the source was asked %d times in 61 s, in which 87 things happened", source.asked)
				}
			})
		})
	}
}
