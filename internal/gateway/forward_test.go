package gateway

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// What a service has sent reaches the client while the rest is still to come, the head alone too.
func TestForwardPassesOnWhatHasCome(t *testing.T) {
	for _, first := range []string{"", "12345"} {
		rest := make(chan struct{})
		_, base := front(t, service(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "10")
			io.WriteString(w, first)
			http.NewResponseController(w).Flush()
			select {
			case <-rest:
			case <-r.Context().Done():
			}
			io.WriteString(w, "1234567890"[len(first):])
		}))
		answer, err := http.Get(base + "/chat/")
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		got := make([]byte, len(first))
		if _, err := io.ReadFull(answer.Body, got); err != nil || string(got) != first {
			t.Errorf("while the service waits: %q, %v, want %q", got, err, first)
		}
		close(rest)
		all, err := io.ReadAll(answer.Body)
		if err != nil || first+string(all) != "1234567890" {
			t.Errorf("in the end: %q, %v", first+string(all), err)
		}
	}
}

func TestEndHere(t *testing.T) {
	h := http.Header{"Connection": {"close, x-hop", " X-Other ,"}, "X-Hop": {"1"}, "X-Other": {"1"}, "Te": {"trailers"}, "Upgrade": {"h2c"}, "Keep-Alive": {"1"},
		"Transfer-Encoding": {"chunked"}, "Trailer": {"Sum"}, "Proxy-Authorization": {"x"}, "Proxy-Authenticate": {"x"}, "Proxy-Connection": {"x"},
		"Authorization": {"Bearer x"}, "X-Hopping": {"1"}}
	endHere(h)
	if diff := cmp.Diff(http.Header{"Authorization": {"Bearer x"}, "X-Hopping": {"1"}}, h); diff != "" {
		t.Errorf("endHere (-want +got):\n%s", diff)
	}
}

func TestAddAllSharesNothingThatGrows(t *testing.T) {
	old, from := []string{"a", "spare"}[:1], http.Header{"Vary": {"b"}, "X": {"c"}}
	h := http.Header{"Vary": old}
	addAll(h, from)
	if diff := cmp.Diff(http.Header{"Vary": {"a", "b"}, "X": {"c"}}, h); diff != "" {
		t.Errorf("addAll (-want +got):\n%s", diff)
	}
	if old[:2][1] != "spare" {
		t.Error("addAll wrote behind the values that were there")
	}
}

// A line that takes the short way looks as if it had taken the long one; what needs the long one takes it.
func TestRelayShortWay(t *testing.T) {
	for _, line := range []string{`{"time":"x","msg":"request","user":"민지"}`, `{"a":1}`} {
		short, _ := relayed(line + "\n")
		long, _ := relayed(" " + strings.Replace(line, `{"`, `{ "`, 1) + "\n") // white space that the short way does not take
		if !plain([]byte(line)) || short != strings.Replace(long, `, "`, `,"`, 1) {
			t.Errorf("%s: plain %v, %q, want %q", line, plain([]byte(line)), short, long)
		}
	}
	for _, line := range []string{`{}`, `{"service":"x"}`, `{"s\u0065rvice":"x"}`, `{"msg":"listening","addr":"x"}`, `{"a":1`, `{"a":1}}`, `["a"]`, `text`, "{\"a\":\"\xff\"}", ``} {
		if plain([]byte(line)) {
			t.Errorf("%s takes the short way", line)
		}
	}
}

// An answer that breaks off breaks off at the client too, wherever it does.
func TestForwardCutsWhatIsCut(t *testing.T) {
	_, base := front(t, service(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "10")
		io.WriteString(w, "12345")
		panic(http.ErrAbortHandler)
	}))
	client := http.Client{Timeout: 10 * time.Second}
	answer, err := client.Get(base + "/chat/")
	if err != nil {
		return // the head did not get through either: a problem or nothing, never a whole answer
	}
	defer answer.Body.Close()
	if answer.StatusCode == http.StatusOK {
		if all, err := io.ReadAll(answer.Body); err == nil {
			t.Errorf("a cut answer came as %q, whole", all)
		}
	}
}
