package servetest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dongne/internal/serve"
)

const spec = `openapi: 3.1.0
info:
  title: not a path
  /also: no path
paths:
  # a comment
  /rooms:
    get:
      responses:
        "200": {description: ok}
    post:
      responses: {}
  "/rooms/{room}":
    parameters:
      - name: room
    get: {}

  /:
    get:
      description: |
        /text:
          that looks like a path
  /health:
    get: {}
components:
  schemas:
    get:
`

func handle(http.ResponseWriter, *http.Request) error { return nil }

func table(patterns ...string) map[string]serve.Handler {
	m := map[string]serve.Handler{}
	for _, p := range patterns {
		m[p] = handle
	}
	return m
}

func TestRoutesAgree(t *testing.T) {
	Routes(t, []byte(spec), table("GET /rooms", "POST /rooms", "GET /rooms/{room}", "GET /{$}"))
	Routes(t, []byte(spec), table("GET /rooms", "POST /rooms", "GET /rooms/{room}", "GET /", "/mount/"))
	Routes(t, []byte("paths:\n  /files/{path}:\n    get:\n"), table("GET /files/{path...}"))
	Routes(t, []byte("paths:\n  /x:\n    post:\n  /x:batch:\n    post:\n"), table("POST /x", "POST /x:batch"))
}

// TestRoutesCatchesMutants: every way in which document and table can differ is found.
func TestRoutesCatchesMutants(t *testing.T) {
	all := []string{"GET /rooms", "POST /rooms", "GET /rooms/{room}", "GET /{$}"}
	for name, tt := range map[string]struct {
		spec     string
		patterns []string
		want     string
	}{
		"route missing":         {spec, all[1:], `"GET /rooms" is in openapi.yaml, but not served`},
		"route too many":        {spec, append([]string{"GET /x"}, all...), `"GET /x" is served, but not in openapi.yaml`},
		"other method":          {strings.Replace(spec, "post:", "put:", 1), all, `"PUT /rooms" is in openapi.yaml, but not served`},
		"other parameter":       {strings.Replace(spec, "{room}", "{id}", 1), all, `"GET /rooms/{id}" is in openapi.yaml, but not served`},
		"no method":             {spec, append([]string{"/x"}, all...), `"/x" has no method`},
		"path twice":            {strings.Replace(spec, "\"/rooms/{room}\":", "/rooms:", 1), all, "path comes twice"},
		"method twice":          {strings.Replace(spec, "post:", "get:", 1), all, "method comes twice"},
		"tab":                   {strings.Replace(spec, "    post", "\tpost", 1), all, "tab"},
		"indented by three":     {strings.Replace(spec, "    post", "   post", 1), all, "indented"},
		"not a method":          {strings.Replace(spec, "post:", "fetch:", 1), all, "not a method"},
		"no paths":              {"openapi: 3.1.0\n", nil, "no paths"},
		"shell's own by POST":   {strings.Replace(spec, "/health:\n    get", "/health:\n    post", 1), all, `"POST /health"`},
		"path not of the table": {strings.Replace(spec, "  /:\n", "  /page:\n", 1), all, `"GET /page"`},
	} {
		problems := strings.Join(compare([]byte(tt.spec), tt.patterns), "\n")
		if !strings.Contains(problems, tt.want) {
			t.Errorf("%s: compare = %q, want %q in it", name, problems, tt.want)
		}
	}
}

// shell is a service with one route of every kind.
func shell(t *testing.T) http.Handler {
	env := serve.Env(nil, func(string) string { return "" })
	s, err := serve.New(t.Context(), env, io.Discard, serve.Service{Routes: map[string]serve.Handler{
		"POST /echo/{id}": func(w http.ResponseWriter, r *http.Request) error {
			var v any
			if err := serve.Decode(r, &v); err != nil {
				return err
			}
			return serve.JSON(w, http.StatusCreated, v)
		},
		"GET /binary": func(w http.ResponseWriter, r *http.Request) error { _, err := w.Write([]byte{0xff, 0}); return err },
		"GET /large": func(w http.ResponseWriter, r *http.Request) error {
			_, err := w.Write(bytes.Repeat([]byte("a"), bodyBytesMax+1))
			return err
		},
		"GET /nothing": handle,
		"GET /abort":   func(w http.ResponseWriter, r *http.Request) error { panic(http.ErrAbortHandler) },
		"GET /flush": func(w http.ResponseWriter, r *http.Request) error {
			w.Header().Set("Content-Type", "text/event-stream")
			if err := http.NewResponseController(w).Flush(); err != nil {
				return err
			}
			_, err := io.WriteString(w, "data: 1\n\n")
			return err
		},
		"GET /hijack": func(w http.ResponseWriter, r *http.Request) error {
			conn, rw, err := http.NewResponseController(w).Hijack()
			if err != nil {
				return err
			}
			tcp, ok := conn.(*net.TCPConn)
			if !ok {
				return fmt.Errorf("hijacked connection is a %T", conn)
			}
			go func() { // the stream outlives its handler, on the file descriptor alone
				defer tcp.Close()
				rw.WriteString("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\ndata: 1\n\n")
				rw.Flush()
				io.Copy(io.Discard, tcp) // until the client is gone
			}()
			return nil
		},
	}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// recorded plays requests against a recorded service and returns the record by URL.
func recorded(t *testing.T, play func(url string)) map[string]Exchange {
	t.Helper()
	file := filepath.Join(t.TempDir(), "sub", "test.jsonl")
	t.Run("service", func(t *testing.T) {
		srv := httptest.NewServer(record(t, file, shell(t)))
		defer srv.Close()
		play(srv.URL)
	})
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got := map[string]Exchange{}
	for dec := json.NewDecoder(f); ; {
		var e Exchange
		if err := dec.Decode(&e); err == io.EOF {
			return got
		} else if err != nil {
			t.Fatal(err)
		}
		got[e.URL] = e
	}
}

func get(t *testing.T, url string) string {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

func TestRecord(t *testing.T) {
	var host string
	got := recorded(t, func(url string) {
		host = strings.TrimPrefix(url, "http://")
		resp, err := http.Post(url+"/echo/7?q=1", "application/json", strings.NewReader(`{"a": "<동네>"}`))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		for _, path := range []string{"/binary", "/large", "/nothing", "/flush", "/missing"} {
			get(t, url+path)
		}
		if resp, err := http.Get(url + "/abort"); err == nil {
			resp.Body.Close()
			t.Error("abort: want a cut connection")
		}
	})
	e := got["/echo/7?q=1"]
	if ct := e.Request.Header.Get("Content-Type"); ct != "application/json" {
		t.Errorf("request's Content-Type = %q", ct)
	}
	if ct := e.Response.Header.Get("Content-Type"); ct != "application/json" {
		t.Errorf("answer's Content-Type = %q", ct)
	}
	e.Request.Header, e.Response.Header = nil, nil
	want := Exchange{
		Test: "TestRecord/service", Method: "POST", URL: "/echo/7?q=1", Host: host, Route: "POST /echo/{id}",
		Request:  Message{Body: `{"a": "<동네>"}`},
		Response: Response{201, Message{Body: "{\"a\":\"<동네>\"}\n"}},
	}
	if diff := cmp.Diff(want, e); diff != "" {
		t.Errorf("exchange mismatch (-want +got):\n%s", diff)
	}
	if e := got["/binary"]; !e.Response.Base64 || e.Response.Body != base64.StdEncoding.EncodeToString([]byte{0xff, 0}) {
		t.Errorf("binary = %+v", e.Response)
	}
	if e := got["/large"]; !e.Response.Truncated || len(e.Response.Body) != bodyBytesMax || e.Response.Status != 200 {
		t.Errorf("large: %d bytes, truncated %v", len(e.Response.Body), e.Response.Truncated)
	}
	if e := got["/nothing"]; e.Response.Status != 200 || e.Response.Body != "" || e.Stream {
		t.Errorf("nothing = %+v", e)
	}
	if e := got["/flush"]; !e.Stream || e.Response.Status != 200 || e.Response.Body != "data: 1\n\n" || e.Response.Header.Get("Content-Type") != "text/event-stream" {
		t.Errorf("flush = %+v", e)
	}
	if e := got["/missing"]; e.Route != "" || e.Response.Status != 404 || e.Response.Header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("missing = %+v", e)
	}
	if e, there := got["/abort"]; there {
		t.Errorf("a cut exchange is recorded: %+v", e)
	}
}

func TestRecordHijacked(t *testing.T) {
	got := recorded(t, func(url string) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel() // the client goes; the relay has to end both sides
		req, err := http.NewRequestWithContext(ctx, "GET", url+"/hijack", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if line, err := bufio.NewReader(resp.Body).ReadString('\n'); line != "data: 1\n" {
			t.Errorf("first line = %q, %v", line, err)
		}
	})
	e := got["/hijack"]
	if !e.Stream || e.Response.Status != 200 || e.Response.Header.Get("Content-Type") != "text/event-stream" || e.Response.Body != "data: 1\n\n" || e.Route != "GET /hijack" {
		t.Errorf("hijacked exchange = %+v", e)
	}
}

func TestRecordIsOffByDefault(t *testing.T) {
	t.Setenv("DONGNE_EXCHANGES", "")
	h := http.NewServeMux()
	if got := Record(t, "test", h); got != http.Handler(h) {
		t.Errorf("Record = %T, want the handler itself", got)
	}
}

func TestRecordWritesWhereTheVariableSays(t *testing.T) {
	dir := t.TempDir()
	t.Run("service", func(t *testing.T) {
		t.Setenv("DONGNE_EXCHANGES", dir)
		srv := httptest.NewServer(Record(t, "chat", shell(t)))
		defer srv.Close()
		get(t, srv.URL+"/nothing")
	})
	if b, err := os.ReadFile(filepath.Join(dir, "chat.jsonl")); err != nil || bytes.Count(b, []byte("\n")) != 1 {
		t.Errorf("chat.jsonl = %q, %v; want one line", b, err)
	}
}
