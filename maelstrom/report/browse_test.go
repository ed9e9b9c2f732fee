package report

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"dongne/maelstrom/check"
	"dongne/maelstrom/history"
)

func TestIndex(t *testing.T) {
	run := sampleRun(1, 300)
	for range findingsMax {
		run.Findings = append(run.Findings, sampleFindings...)
	}
	text := write(t, run, sampleResults, Options{Replay: "maelstrom test --bin 'a b'"})["index.html"]
	all := elements(t, "index.html", text)
	if got := pick(all, "p", "verdict"); len(got) != 1 || got[0].text != "Failed" {
		t.Errorf("verdict: %v", got)
	}
	shown := strings.Join(texts(all), "\n")
	for _, want := range []string{
		"5 March 2026, 14:03:05 +09:00", "Upstream Maelstrom would say true here.", sampleResults.Reasons[1],
		`<script>alert("line")</script>`, `<script>alert("tail")</script>`, "n2: bad-line, at 3.20 s", "… and 50 more in",
		"n1, n2 | n3, n4, n5", "n1 does not hear n2; n2 does not hear n3; n3 does not hear n1", "the end",
		"stable latency, quantile 0.5", "120 ms", "partition,kill", "maelstrom test --bin 'a b'",
	} {
		if !strings.Contains(shown, want) {
			t.Errorf("index.html does not show %q", want)
		}
	}
	var links []string
	for _, e := range pick(all, "a", "") {
		links = append(links, e.attributes["href"])
	}
	for _, want := range []string{"timeline.html", "messages.svg", "latency.svg", "rate.svg", "results.edn", "results.json", "history.txt", "history.edn", "history.jsonl"} {
		if !slices.Contains(links, want) {
			t.Errorf("no link to %s in %q", want, links)
		}
	}
	logs := slices.DeleteFunc(links, func(l string) bool { return !strings.HasPrefix(l, "node-logs/") })
	if want := []string{"node-logs/n1.log", "node-logs/n2.log", "node-logs/n10.log"}; !slices.Equal(logs, want) {
		t.Errorf("links to logs %q, want %q", logs, want)
	}
	for _, img := range pick(all, "img", "") {
		if img.attributes["alt"] == "" {
			t.Errorf("%s has no text instead", img.attributes["src"])
		}
	}
}

func TestIndexInWords(t *testing.T) {
	simulated := &history.Run{Workload: "echo", Simulated: true, Settings: []history.Setting{{Name: "seed", Value: "42"}}}
	for _, c := range []struct {
		results check.Results
		want    []string
	}{
		{check.Results{Valid: check.True, Ours: check.True, Upstream: check.True}, []string{"Passed", "simulated, seed 42", "there was no fault"}},
		{check.Results{Valid: check.Unknown, Ours: check.Unknown, Upstream: check.Unknown, Vacuous: "no operation was ok"},
			[]string{"Unknown", "Nothing was put to the test: no operation was ok"}},
		{check.Results{Valid: check.True, Ours: check.False, Upstream: check.True}, []string{"Passed", "By our own rules it is false."}},
	} {
		shown := strings.Join(texts(elements(t, "index.html", write(t, simulated, c.results, Options{})["index.html"])), "\n")
		for _, want := range c.want {
			if !strings.Contains(shown, want) {
				t.Errorf("%+v: index.html does not show %q", c.results, want)
			}
		}
		if c.results.Ours == c.results.Upstream && strings.Contains(shown, "pstream") {
			t.Errorf("%+v: the two verdicts are the same, and yet index.html speaks of upstream", c.results)
		}
	}
}

// get asks the handler as a hostile client could, without cleaning the path.
func get(t *testing.T, h http.Handler, path string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest("GET", "/", nil)
	r.URL.Path = path
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func makeStore(t *testing.T) (store string) {
	t.Helper()
	parent := t.TempDir()
	store = filepath.Join(parent, "store")
	writeFixture(t, filepath.Join(parent, "secret.txt"), "secret")
	start := time.Date(2026, 3, 5, 14, 3, 5, 0, time.UTC)
	for i, valid := range []check.Verdict{check.True, check.Unknown, check.False} {
		dir, err := Create(store, "echo", start.Add(time.Duration(i)*time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		results := sampleResults
		results.Fields = nil
		results.Valid, results.Fields = valid, results.Fields.With("valid?", valid.EDN())
		if err := Write(dir, &history.Run{Workload: "echo"}, results, Options{}); err != nil {
			t.Fatal(err)
		}
		writeFixture(t, filepath.Join(dir, "node-logs", "n1.log"), "<script>alert(1)</script>")
		writeFixture(t, filepath.Join(dir, "odd.bin"), "<html>")
	}
	unfinished, err := Create(store, "broadcast", start)
	if err != nil {
		t.Fatal(err)
	}
	for link, target := range map[string]string{
		filepath.Join(store, "out"):           parent,
		filepath.Join(store, "out.txt"):       filepath.Join(parent, "secret.txt"),
		filepath.Join(unfinished, "up.txt"):   "../../../secret.txt",
		filepath.Join(unfinished, "gone.txt"): "nothing",
	} {
		if err := os.Symlink(target, link); err != nil {
			t.Fatal(err)
		}
	}
	return store
}

func TestHandlerLists(t *testing.T) {
	h := Handler(makeStore(t))
	w := get(t, h, "/")
	all := elements(t, "list.html", w.Body.String())
	if got, want := texts(pick(all, "h2", "")), []string{"broadcast", "echo"}; !slices.Equal(got, want) {
		t.Errorf("workloads %q, want %q", got, want)
	}
	if got, want := texts(pick(all, "td", "verdict")), []string{"no verdict", "Failed", "Unknown", "Passed"}; !slices.Equal(got, want) {
		t.Errorf("verdicts %q, want %q: newest first", got, want)
	}
	for _, e := range pick(all, "a", "") {
		if w := get(t, h, "/"+e.attributes["href"]); w.Code != http.StatusOK {
			t.Errorf("the list's link %s: %d", e.attributes["href"], w.Code)
		}
	}
	if got := len(pick(elements(t, "list.html", get(t, h, "/echo/").Body.String()), "td", "verdict")); got != 3 {
		t.Errorf("/echo/ lists %d runs, want 3", got)
	}
	if w := get(t, Handler(filepath.Join(t.TempDir(), "none")), "/"); w.Code != http.StatusOK || !strings.Contains(w.Body.String(), "Nothing here yet") {
		t.Errorf("a store that does not exist: %d %s", w.Code, w.Body)
	}
}

func TestHandlerServes(t *testing.T) {
	h := Handler(makeStore(t))
	for path, want := range map[string]string{
		"/latest/":                        "text/html; charset=utf-8", // a link inside
		"/echo/latest/index.html":         "text/html; charset=utf-8",
		"/echo/latest/node-logs/":         "text/html; charset=utf-8",
		"/echo/latest/node-logs/n1.log":   "text/plain; charset=utf-8",
		"/echo/latest/results.edn":        "text/plain; charset=utf-8",
		"/echo/latest/history.jsonl":      "text/plain; charset=utf-8",
		"/echo/latest/history.txt":        "text/plain; charset=utf-8",
		"/echo/latest/odd.bin":            "text/plain; charset=utf-8",
		"/echo/latest/results.json":       "application/json",
		"/echo/latest/messages.svg":       "image/svg+xml",
		"/echo/20260305T140305.000+0000/": "text/html; charset=utf-8",
	} {
		w := get(t, h, path)
		if got := w.Header().Get("Content-Type"); w.Code != http.StatusOK || got != want {
			t.Errorf("GET %s: %d, %s, want %s", path, w.Code, got, want)
		}
		if w.Header().Get("Content-Security-Policy") != policy || w.Header().Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("GET %s: headers %v", path, w.Header())
		}
	}
	if w := get(t, h, "/echo/latest"); w.Code != http.StatusFound || w.Header().Get("Location") != "/echo/latest/" {
		t.Errorf("GET a folder without its slash: %d to %s", w.Code, w.Header().Get("Location"))
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("POST", "/", nil))
	if w.Code != http.StatusMethodNotAllowed {
		t.Errorf("POST: %d", w.Code)
	}
}

func TestHandlerStaysInside(t *testing.T) {
	h := Handler(makeStore(t))
	for _, path := range []string{
		"/out.txt", "/out/", "/out/secret.txt", "/broadcast/latest/up.txt", "/broadcast/latest/gone.txt", "/none", "/echo/none/",
		"/../secret.txt", "/echo/../../secret.txt", "/..", "//secret.txt", "/echo//latest/index.html", "/./echo/", `/..\secret.txt`, "/echo\x00",
	} {
		w := get(t, h, path)
		if w.Code == http.StatusOK || strings.Contains(w.Body.String(), "secret\n") || w.Body.String() == "secret" {
			t.Errorf("GET %q: %d %s", path, w.Code, w.Body)
		}
	}
}
