package shadow

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var epoch = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)

// response makes an answer whose length is not known before its end.
func response(status int, kind, body string) *http.Response {
	return &http.Response{
		StatusCode: status, ContentLength: -1, Header: http.Header{"Content-Type": {kind}},
		Body: io.NopCloser(strings.NewReader(body)),
	}
}

// answering is a Send that answers at once.
func answering(status int, body string) func(context.Context) (*http.Response, error) {
	return func(context.Context) (*http.Response, error) { return response(status, "application/json", body), nil }
}

// hanging is a Send that answers only that its context has ended.
func hanging(ctx context.Context) (*http.Response, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func get(send func(context.Context) (*http.Response, error)) Request {
	return Request{Method: "GET", Route: "pay", TraceID: "t1", At: epoch, Send: send}
}

// counted returns all counters that are not 0.
func counted(s *Shadow) map[string]uint64 {
	counts := map[string]uint64{}
	for _, o := range Outcomes() {
		if n := s.Count(o); n > 0 {
			counts[o.String()] = n
		}
	}
	return counts
}

// inBubble runs a test of a Shadow in virtual time, to the end of its workers.
func inBubble(t *testing.T, settings Settings, want map[string]uint64, test func(t *testing.T, s *Shadow)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := newShadow(t, settings)
		test(t, s)
		synctest.Wait()
		if diff := cmp.Diff(want, counted(s)); diff != "" {
			t.Errorf("counts mismatch (-want +got):\n%s", diff)
		}
		if s.Running() != 0 {
			t.Errorf("%d workers are busy at the end", s.Running())
		}
	})
}

// deliver plays the proxy: the primary's answer is read to its end.
func deliver(t *testing.T, c *Call, r *http.Response) string {
	t.Helper()
	c.Answer(r)
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Error(err)
	}
	r.Body.Close()
	c.Abandon() // after the end it means nothing
	return string(body)
}

func TestOutcomes(t *testing.T) {
	want := map[string]uint64{"same": 1, "status": 1, "header": 1, "body": 1, "failed": 3}
	inBubble(t, Settings{}, want, func(t *testing.T, s *Shadow) {
		const body = `{"name":"secret-of-the-primary"}`
		for _, send := range []func(context.Context) (*http.Response, error){
			answering(200, body+" "),
			answering(500, `{"name":"secret-of-the-shadow"}`),
			func(context.Context) (*http.Response, error) { return response(200, "text/html", body), nil },
			answering(200, `{"name":"secret-of-the-shadow"}`),
			func(context.Context) (*http.Response, error) { return nil, errors.New("refused") },
			func(context.Context) (*http.Response, error) { panic("in Send") },
			func(context.Context) (*http.Response, error) {
				r := response(200, "application/json", "")
				r.Body = io.NopCloser(iotest.ErrReader(errors.New("reset")))
				return r, nil
			},
		} {
			if got := deliver(t, s.Begin(get(send)), response(200, "application/json", body)); got != body {
				t.Errorf("the client got %q", got)
			}
			synctest.Wait()
		}
		base := Example{At: epoch, Method: "GET", Route: "pay", TraceID: "t1", PrimaryStatus: 200, ShadowStatus: 200}
		byBody, byHeader, byStatus := base, base, base
		byBody.Outcome, byBody.Where = "body", "/name"
		byHeader.Outcome, byHeader.Where = "header", "Content-Type"
		byStatus.Outcome, byStatus.ShadowStatus = "status", 500
		if diff := cmp.Diff([]Example{byBody, byHeader, byStatus}, s.Examples()); diff != "" {
			t.Errorf("Examples mismatch (-want +got):\n%s", diff)
		}
		if text, _ := json.Marshal(s.Examples()); bytes.Contains(text, []byte("secret")) {
			t.Errorf("an example holds what was answered: %s", text)
		}
	})
}

func TestExamplesAreBounded(t *testing.T) {
	inBubble(t, Settings{ExamplesMax: 2}, map[string]uint64{"status": 5}, func(t *testing.T, s *Shadow) {
		for status := range 5 {
			deliver(t, s.Begin(get(answering(500+status, ""))), response(200, "application/json", ""))
			synctest.Wait()
		}
		if got := s.Examples(); len(got) != 2 || got[0].ShadowStatus != 504 || got[1].ShadowStatus != 503 {
			t.Errorf("Examples = %+v, want those with 504 and 503", got)
		}
	})
}

func TestOnlySafeMethods(t *testing.T) {
	inBubble(t, Settings{}, map[string]uint64{"same": 4}, func(t *testing.T, s *Shadow) {
		for method, shadowed := range map[string]bool{
			"GET": true, "HEAD": true, "OPTIONS": true,
			"POST": false, "PUT": false, "DELETE": false, "PATCH": false, "get": false, "": false,
		} {
			c := s.Begin(Request{Method: method, Send: answering(204, "")})
			if (c != nil) != shadowed {
				t.Errorf("%q is shadowed: %v, want %v", method, c != nil, shadowed)
			}
			deliver(t, c, response(204, "application/json", ""))
		}
		marked := Request{Method: "POST", Marked: true, Send: answering(201, "1")}
		deliver(t, s.Begin(marked), response(201, "application/json", "1.0"))
	})
}

// With all workers busy, requests go on without a shadow; with the timeout the
// workers are free again.
func TestFullIsDropped(t *testing.T) {
	want := map[string]uint64{"failed": 2, "dropped": 1, "same": 1}
	inBubble(t, Settings{Workers: 2, Timeout: time.Minute}, want, func(t *testing.T, s *Shadow) {
		begun := time.Now()
		for range 3 {
			deliver(t, s.Begin(get(hanging)), response(200, "application/json", "{}"))
		}
		if time.Since(begun) > 0 {
			t.Error("a request waited for its shadow")
		}
		synctest.Wait()
		if s.Running() != 2 {
			t.Errorf("Running() = %d, want 2", s.Running())
		}
		<-time.After(time.Minute)
		synctest.Wait()
		deliver(t, s.Begin(get(answering(200, "{}"))), response(200, "application/json", "{}"))
	})
}

// What the primary does not finish is not compared, and does not hold a worker.
func TestPrimaryWithoutAWholeAnswer(t *testing.T) {
	for name, test := range map[string]func(t *testing.T, c *Call){
		"it failed":            func(t *testing.T, c *Call) { c.Abandon() },
		"the client went away": func(t *testing.T, c *Call) { half(t, c) },
		"its body broke off": func(t *testing.T, c *Call) {
			r := response(200, "application/json", "")
			r.Body = io.NopCloser(iotest.TimeoutReader(iotest.OneByteReader(strings.NewReader("{}"))))
			c.Answer(r)
			if _, err := io.ReadAll(r.Body); !errors.Is(err, iotest.ErrTimeout) {
				t.Errorf("the client's error is %v", err)
			}
		},
		"a stream": func(t *testing.T, c *Call) {
			r := response(200, "text/event-stream; charset=utf-8", "data: 1\n\n")
			body := r.Body
			c.Answer(r)
			if r.Body != body {
				t.Error("the stream's body was wrapped")
			}
		},
		"an upgrade": func(t *testing.T, c *Call) {
			r := response(101, "", "")
			body := r.Body
			c.Answer(r)
			if r.Body != body {
				t.Error("the connection was wrapped")
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			for _, send := range []func(context.Context) (*http.Response, error){hanging, answering(200, "{}")} {
				inBubble(t, Settings{}, map[string]uint64{"uncompared": 1}, func(t *testing.T, s *Shadow) {
					test(t, s.Begin(get(send)))
				})
			}
		})
	}
	t.Run("too slow", func(t *testing.T) {
		inBubble(t, Settings{}, map[string]uint64{"uncompared": 1}, func(t *testing.T, s *Shadow) {
			c := s.Begin(get(answering(200, "{}")))
			<-time.After(time.Minute)
			deliver(t, c, response(200, "application/json", "{}"))
		})
	})
}

// half reads one byte of the primary's answer.
func half(t *testing.T, c *Call) {
	r := response(200, "application/json", "{}")
	c.Answer(r)
	if n, err := r.Body.Read(make([]byte, 1)); n != 1 || err != nil {
		t.Errorf("Read = %d, %v", n, err)
	}
	r.Body.Close()
}

// Of a body over the limit nothing is kept, and the client gets all of it.
func TestLargeBodies(t *testing.T) {
	large := strings.Repeat("x", 1000)
	want := map[string]uint64{"uncompared": 3, "same": 1, "status": 1}
	inBubble(t, Settings{BodyBytesMax: 999}, want, func(t *testing.T, s *Shadow) {
		for _, c := range []struct {
			status          int
			primary, shadow string
			length          int64
		}{
			{200, large, large, -1},
			{200, large, large, 1000},
			{200, large[1:], large, -1},
			{200, large[1:], large[1:], 999},
			{404, large, large, -1},
		} {
			r := response(200, "application/json", c.primary)
			r.ContentLength = c.length
			if got := deliver(t, s.Begin(get(answering(c.status, c.shadow))), r); got != c.primary {
				t.Errorf("the client got %d bytes of %d", len(got), len(c.primary))
			}
		}
	})
}

// What is over the limit does not hold a worker until its end.
func TestLargeBodyFreesTheWorker(t *testing.T) {
	inBubble(t, Settings{BodyBytesMax: 9}, map[string]uint64{"uncompared": 1}, func(t *testing.T, s *Shadow) {
		r := response(200, "application/json", strings.Repeat("x", 1000))
		s.Begin(get(answering(200, "{}"))).Answer(r)
		for _, running := range []int{1, 0} {
			if _, err := io.ReadFull(r.Body, make([]byte, 9)); err != nil {
				t.Error(err)
			}
			if synctest.Wait(); s.Running() != running {
				t.Errorf("Running() = %d, want %d", s.Running(), running)
			}
		}
	})
}

// The context of a shadow request ends with it.
func TestContextEnds(t *testing.T) {
	inBubble(t, Settings{}, map[string]uint64{"same": 1}, func(t *testing.T, s *Shadow) {
		var kept context.Context
		deliver(t, s.Begin(get(func(ctx context.Context) (*http.Response, error) {
			kept = ctx
			return response(200, "application/json", ""), nil
		})), response(200, "application/json", ""))
		if synctest.Wait(); kept.Err() != context.Canceled {
			t.Errorf("the context's error is %v, want %v", kept.Err(), context.Canceled)
		}
	})
}

// An answer without a body is whole at once.
func TestNoBody(t *testing.T) {
	inBubble(t, Settings{}, map[string]uint64{"same": 2}, func(t *testing.T, s *Shadow) {
		head := response(200, "application/json", "")
		head.ContentLength = 5000
		s.Begin(Request{Method: "HEAD", Send: answering(200, "")}).Answer(head)
		empty := response(204, "application/json", "")
		empty.Body = http.NoBody
		s.Begin(get(answering(204, ""))).Answer(empty)
	})
}

// A reader in front of the body changes nothing of what is read, in whatever
// pieces it comes.
func TestTeeIsTransparent(t *testing.T) {
	s := newShadow(t, Settings{BodyBytesMax: 64})
	rapid.Check(t, func(t *rapid.T) {
		body := rapid.SliceOfN(rapid.Byte(), 0, 200).Draw(t, "body")
		reader := io.Reader(bytes.NewReader(body))
		reader = rapid.SampledFrom([]func(io.Reader) io.Reader{
			iotest.HalfReader, iotest.OneByteReader, func(r io.Reader) io.Reader { return r },
		}).Draw(t, "pieces")(reader)
		if rapid.Bool().Draw(t, "the end comes with the last byte") {
			reader = iotest.DataErrReader(reader)
		}
		c := &Call{shadow: s, cancel: func() {}, primary: make(chan *answer, 1)}
		r := response(200, "text/plain", "")
		r.Body = io.NopCloser(reader)
		c.Answer(r)
		got, err := io.ReadAll(r.Body)
		if err != nil || !bytes.Equal(got, body) {
			t.Fatalf("read %q, %v, want %q", got, err, body)
		}
		a := <-c.primary
		if a.cut != (len(body) > 64) || !a.cut && !bytes.Equal(a.body, body) {
			t.Fatalf("kept %q, cut %v", a.body, a.cut)
		}
	})
}

func TestClose(t *testing.T) {
	inBubble(t, Settings{Workers: 3}, map[string]uint64{"failed": 1, "uncompared": 1}, func(t *testing.T, s *Shadow) {
		s.Begin(get(hanging))
		s.Begin(get(answering(200, "{}"))) // whose primary never answers
		s.Close()
		if s.Running() != 0 {
			t.Errorf("%d workers are busy after Close", s.Running())
		}
		if s.Begin(get(answering(200, "{}"))) != nil {
			t.Error("a request begins after Close")
		}
		s.Close()
	})
}

// Through a real proxy, a shadow that hangs delays nothing and one that is wrong
// is found.
func TestBehindAProxy(t *testing.T) {
	primary := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, `{"items":[{"price":"100"},{"price":"200"}]}`)
	}))
	defer primary.Close()
	var hang atomic.Bool
	second := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if hang.Load() {
			<-r.Context().Done()
			return
		}
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, `{"items":[{"price":"100"},{"price":"250"}]}`)
	}))
	defer second.Close()
	s := newShadow(t, Settings{Workers: 1})
	target, err := url.Parse(primary.URL)
	if err != nil {
		t.Fatal(err)
	}
	gateway := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := s.Begin(Request{Method: r.Method, Route: "items", Send: func(ctx context.Context) (*http.Response, error) {
			copied, err := http.NewRequestWithContext(ctx, http.MethodGet, second.URL, nil)
			if err != nil {
				return nil, err
			}
			return http.DefaultTransport.RoundTrip(copied)
		}})
		defer c.Abandon()
		(&httputil.ReverseProxy{
			Rewrite:        func(p *httputil.ProxyRequest) { p.SetURL(target) },
			ModifyResponse: func(r *http.Response) error { c.Answer(r); return nil },
		}).ServeHTTP(w, r)
	}))
	defer gateway.Close()
	ask := func() {
		t.Helper()
		r, err := http.Get(gateway.URL)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		if body, err := io.ReadAll(r.Body); err != nil || !bytes.Contains(body, []byte("200")) {
			t.Fatalf("the client got %q, %v", body, err)
		}
	}
	ask()
	eventually(t, func() bool { return s.Count(Body) == 1 && s.Running() == 0 })
	if got := s.Examples(); len(got) != 1 || got[0].Where != "/items/1/price" {
		t.Errorf("Examples = %+v, want the second price", got)
	}
	hang.Store(true)
	for range 5 {
		ask()
	}
	if got := s.Count(Dropped); got != 4 {
		t.Errorf("%d dropped, want 4", got)
	}
	s.Close()
	if got := s.Count(Failed); got != 1 {
		t.Errorf("%d failed, want 1", got)
	}
}

// eventually waits until a condition holds.
func eventually(t *testing.T, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	deadline := time.After(10 * time.Second)
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("not within 10 s")
		}
	}
}

func TestSettingsErrors(t *testing.T) {
	for want, s := range map[string]Settings{
		"Workers is 1025":         {Workers: 1025},
		"Workers is -1":           {Workers: -1},
		"BodyBytesMax is -1":      {BodyBytesMax: -1},
		"ExamplesMax is 1001":     {ExamplesMax: 1001},
		"Timeout is 1µs":          {Timeout: time.Microsecond},
		"Timeout is 1h0m0s":       {Timeout: time.Hour},
		"ignored path \"a\"":      {Ignore: []string{"/a", "a"}},
		"101 ignored paths":       {Ignore: make([]string, 101)},
		"101 header fields and 0": {Headers: make([]string, 101)},
	} {
		if _, err := New(t.Context(), s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("New(%+v): error %v, want one with %q", s, err, want)
		}
	}
}

// BenchmarkRequest is what shadowing costs one request with an answer of 1 KB: to
// the end of the comparison, and where it is dropped. Making up the two answers is
// a part of it.
func BenchmarkRequest(b *testing.B) {
	body := `{"text":"` + strings.Repeat("x", 1000) + `"}`
	for _, full := range []bool{false, true} {
		b.Run(map[bool]string{false: "compared", true: "dropped"}[full], func(b *testing.B) {
			s := newShadow(b, Settings{Workers: 8})
			if full {
				for s.Begin(get(hanging)) != nil {
				}
			}
			b.ReportAllocs()
			b.ResetTimer()
			for range b.N {
				c := s.Begin(get(answering(200, body)))
				r := response(200, "application/json", body)
				c.Answer(r)
				io.Copy(io.Discard, r.Body)
				r.Body.Close()
				for !full && s.Running() > 0 {
					runtime.Gosched()
				}
			}
		})
	}
}
