package serve

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
)

// nullWriter is a ResponseWriter that costs next to nothing.
type nullWriter struct{ header http.Header }

func (w nullWriter) Header() http.Header         { return w.header }
func (w nullWriter) Write(p []byte) (int, error) { return len(p), nil }
func (w nullWriter) WriteHeader(int)             {}

var benchBody = []byte(`{"ok":true}`)

func bareHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /rooms/{room}", func(w http.ResponseWriter, r *http.Request) { w.Write(benchBody) })
	return mux
}

func shellHandler(b *testing.B) http.Handler {
	s, err := New(b.Context(), env(), io.Discard, Service{Routes: map[string]Handler{
		"GET /rooms/{room}": func(w http.ResponseWriter, r *http.Request) error { _, err := w.Write(benchBody); return err },
	}})
	if err != nil {
		b.Fatal(err)
	}
	return s
}

// inProcess times requests without a network.
func inProcess(b *testing.B, h http.Handler) {
	r := httptest.NewRequest("GET", "http://localhost/rooms/a", nil)
	r.Header.Set("User-Agent", "bench")
	r.Header.Set("Accept-Encoding", "gzip")
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		h.ServeHTTP(nullWriter{http.Header{}}, r)
	}
}

// overLoopback times requests of one client over a kept connection.
func overLoopback(b *testing.B, h http.Handler) {
	srv := httptest.NewServer(h)
	defer srv.Close()
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		resp, err := http.Get(srv.URL + "/rooms/a")
		if err != nil {
			b.Fatal(err)
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
}

// BenchmarkShell is the cost of the shell (trace, limits, log line, metrics) beside net/http's mux alone, with the ratio.
func BenchmarkShell(b *testing.B) {
	for _, kind := range []struct {
		name string
		run  func(*testing.B, http.Handler)
	}{{"in-process", inProcess}, {"loopback", overLoopback}} {
		var bare float64
		b.Run(kind.name+"/bare", func(b *testing.B) {
			kind.run(b, bareHandler())
			bare = float64(b.Elapsed().Nanoseconds()) / float64(b.N)
		})
		b.Run(kind.name+"/shell", func(b *testing.B) {
			kind.run(b, shellHandler(b))
			shell := float64(b.Elapsed().Nanoseconds()) / float64(b.N)
			if bare > 0 {
				b.ReportMetric(shell/bare, "x-bare")
				b.ReportMetric(shell-bare, "ns-more/op")
			}
		})
	}
}

func BenchmarkDecode(b *testing.B) {
	body := []byte(`{"text":"안녕하세요, 아직 판매 중인가요?","attachments":[{"url":"https://example.com/a.jpg","size":12345}],"labels":{"a":"b"}}`)
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for range b.N {
		var m message
		if err := decodeJSON(body, &m); err != nil {
			b.Fatal(err)
		}
	}
}
