package edge

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// raw is one entry of testdata/requests.txt.
type raw struct {
	code   string // "ok" or a refusal's
	inBody bool
	bytes  string
}

func corpus(t testing.TB) []raw {
	t.Helper()
	text, err := os.ReadFile("testdata/requests.txt")
	if err != nil {
		t.Fatal(err)
	}
	var all []raw
	for i, line := range strings.Split(string(text), "\n") {
		if line == "" || line[0] == '#' {
			continue
		}
		code, quoted, _ := strings.Cut(line, " ")
		bytes, err := strconv.Unquote(quoted)
		if err != nil {
			t.Fatalf("testdata/requests.txt:%d: %v", i+1, err)
		}
		code, inBody := strings.CutPrefix(code, "body:")
		all = append(all, raw{code, inBody, bytes})
	}
	return all
}

// message is a request as a parser saw it.
type message struct {
	Method, Target, Host, Body string
}

func newScanner() scanner { return scanner{headBytes: headBytesDefault, fieldsMax: fieldsDefault} }

// scanAll feeds stream to a scanner in pieces and returns the whole requests it saw, how many bytes it passed and the
// code of its refusal, if any. cut(n) says how many of at most n bytes come next.
func scanAll(stream string, cut func(n int) int) (messages []message, passed int, code string) {
	s, all := newScanner(), []byte(stream)
	var m message
	for fed := 0; fed < len(stream); {
		fed += cut(len(stream) - fed)
		for passed < fed && s.refused == nil {
			before := s.state
			if before == atStart {
				m = message{}
			}
			b := all[passed:fed]
			n := s.step(b)
			passed += n
			switch {
			case before == inHead && n > 0:
				target, _, _ := bytes.Cut(b, []byte(" "))
				m.Method, m.Target = string(s.method[:s.methodLen]), string(target)
				if m.Host = string(b[s.host.from:s.host.to]); s.authority.to > 0 {
					m.Host = string(b[s.authority.from:s.authority.to])
				}
			case before == inBody, before == inChunk:
				m.Body += string(b[:n])
			}
			if s.state == atStart && before != atStart {
				messages = append(messages, m)
			}
			if n == 0 {
				break
			}
		}
		if s.refused != nil {
			return messages, passed, s.refused.Code
		}
	}
	return messages, passed, ""
}

func whole(n int) int { return n }

func TestScannerJudgesTheCorpus(t *testing.T) {
	for _, r := range corpus(t) {
		for _, cut := range []func(int) int{whole, func(int) int { return 1 }, func(n int) int { return min(n, 7) }} {
			messages, passed, code := scanAll(r.bytes, cut)
			if r.code == "ok" {
				if code != "" || passed != len(r.bytes) || len(messages) != 1 {
					t.Errorf("%q: code %q, %d of %d bytes passed, %d requests; want all of one",
						r.bytes, code, passed, len(r.bytes), len(messages))
				}
				continue
			}
			if code != r.code {
				t.Errorf("%q: refused with %q, want %q", r.bytes, code, r.code)
			}
			if head := strings.Index(r.bytes, "\r\n\r\n") + 4; r.inBody != (passed >= head && head > 4) {
				t.Errorf("%q: %d bytes passed, head of %d", r.bytes, passed, head)
			}
			if method := strings.IndexAny(r.bytes, " \r") + 1; !r.inBody && passed > method {
				t.Errorf("%q: more than the method passed: %q", r.bytes, r.bytes[:passed])
			}
		}
	}
}

func TestEachRefusalHasACodeOfItsOwnAndAnExample(t *testing.T) {
	seen := map[string]bool{"head-too-large": true, "too-many-fields": true, "trailer-too-large": true} // TestLimits
	for _, r := range corpus(t) {
		seen[r.code] = true
	}
	codes := map[string]bool{}
	for _, r := range refusals {
		if codes[r.Code] {
			t.Errorf("two refusals have the code %q", r.Code)
		}
		codes[r.Code] = true
		if !seen[r.Code] {
			t.Errorf("testdata/requests.txt has no example of %q", r.Code)
		}
	}
}

func TestLimits(t *testing.T) {
	const start, end = "GET ", "/ HTTP/1.1\r\nHost: a\r\n\r\n"
	pad := func(n int) string { // a head of n bytes from its target on
		return start + "/" + strings.Repeat("x", n-len(end)) + end[1:]
	}
	fields := func(n int) string {
		return start + end[:len(end)-2] + strings.Repeat("X: y\r\n", n-1) + "\r\n"
	}
	const chunked = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
	extension := func(n int) string { return chunked + "1;" + strings.Repeat("x", n-4) + "\r\nx\r\n0\r\n\r\n" }
	trailer := func(n int) string { return chunked + "0\r\nX: " + strings.Repeat("x", n-10) + "\r\n\r\n" }
	for _, c := range []struct{ name, stream, want string }{
		{"head", pad(headBytesDefault), ""},
		{"head", pad(headBytesDefault + 1), "head-too-large"},
		{"unending head", pad(headBytesDefault + 1)[:len(start)+headBytesDefault], "head-too-large"},
		{"fields", fields(fieldsDefault), ""},
		{"fields", fields(fieldsDefault + 1), "too-many-fields"},
		{"chunk extension", extension(chunkLineMax), ""},
		{"chunk extension", extension(chunkLineMax + 1), "bad-chunk"},
		{"unending chunk size", extension(chunkLineMax + 1)[:len(chunked)+chunkLineMax], "bad-chunk"},
		{"trailer", trailer(trailerBytesMax), ""},
		{"trailer", trailer(trailerBytesMax + 1), "trailer-too-large"},
		{"unending trailer", trailer(trailerBytesMax + 1)[:len(chunked)+trailerBytesMax], "trailer-too-large"},
		{"largest length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9223372036854775807\r\n\r\n", ""},
		{"largest chunk", chunked + "7fffFFFF\r\n", ""},
	} {
		for _, cut := range []func(int) int{whole, func(n int) int { return min(n, 1000) }, func(int) int { return 1 }} {
			if _, _, code := scanAll(c.stream, cut); code != c.want {
				t.Errorf("%s of %d bytes: refused with %q, want %q", c.name, len(c.stream), code, c.want)
			}
		}
	}
}

// The scanner looks at each byte a bounded number of times, however slowly they come.
func TestScanningIsLinear(t *testing.T) {
	s := newScanner()
	stream := []byte("GET /" + strings.Repeat("x", 60_000))
	steps := 0
	for fed, passed := 1, 0; fed <= len(stream); fed++ {
		before := s.seen
		passed += s.scan(stream[passed:fed])
		steps += s.seen - before
	}
	if steps > len(stream) {
		t.Errorf("%d bytes were searched %d times", len(stream), steps)
	}
}

// disagreement compares what the scanner saw in what it passed with what net/http sees in the same bytes.
func disagreement(passed string, messages []message) string {
	in := bufio.NewReader(strings.NewReader(passed))
	for i, want := range messages {
		req, err := http.ReadRequest(in)
		if err != nil {
			return fmt.Sprintf("request %d: net/http: %v", i, err)
		}
		body, err := io.ReadAll(req.Body)
		if err != nil && !strings.Contains(err.Error(), "non-data") { // of many tiny chunks net/http has enough
			return fmt.Sprintf("request %d: net/http: body: %v", i, err)
		} else if err != nil {
			return ""
		}
		got := message{req.Method, req.RequestURI, req.Host, string(body)}
		if diff := cmp.Diff(want, got); diff != "" {
			return fmt.Sprintf("request %d: scanner and net/http disagree (-scanner +net/http):\n%s", i, diff)
		}
	}
	return ""
}

// nothingWhole tells whether net/http finds no whole request in rest.
func nothingWhole(rest string) bool {
	req, err := http.ReadRequest(bufio.NewReader(strings.NewReader(rest)))
	if err != nil {
		return true
	}
	_, err = io.ReadAll(req.Body)
	return err != nil
}

func checkAgreement(t *testing.T, stream string, cut func(int) int) {
	t.Helper()
	messages, passed, code := scanAll(stream, cut)
	all, allPassed, allCode := scanAll(stream, whole)
	if diff := cmp.Diff(all, messages); diff != "" || code != allCode || passed != allPassed {
		t.Fatalf("%q: the pieces matter: refused with %q, else %q; %d bytes passed, else %d (-whole +pieces):\n%s",
			stream, code, allCode, passed, allPassed, diff)
	}
	if d := disagreement(stream[:passed], messages); d != "" {
		t.Fatalf("%q (%q): %s", stream, code, d)
	}
	// What is passed beyond the whole requests must not be one to net/http.
	in := bufio.NewReader(strings.NewReader(stream[:passed]))
	for range messages {
		req, err := http.ReadRequest(in)
		if err != nil {
			return // reported above
		}
		io.Copy(io.Discard, req.Body)
	}
	rest, _ := io.ReadAll(in)
	if !nothingWhole(string(rest)) {
		t.Fatalf("%q: net/http sees one more request, in %q", stream, rest)
	}
}

// pieces returns a cut of random lengths.
func pieces(seed uint64) func(int) int {
	rng := rand.New(rand.NewPCG(seed, 1))
	return func(n int) int { return 1 + rng.IntN(min(n, 40)) }
}

func FuzzScannerAgreesWithNetHTTP(f *testing.F) {
	all := corpus(f)
	for i, r := range all {
		f.Add([]byte(r.bytes), uint64(i))
		f.Add([]byte(all[i%20].bytes+r.bytes+all[3].bytes), uint64(i))
	}
	f.Fuzz(func(t *testing.T, stream []byte, seed uint64) { checkAgreement(t, string(stream), pieces(seed)) })
}

// Random changes of good requests: most are still refused or accepted by a hair.
func TestScannerAgreesWithNetHTTPOnMutants(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 2))
	all := corpus(t)
	accepted := 0
	for range 5000 {
		stream := all[rng.IntN(len(all))].bytes
		for range rng.IntN(3) {
			stream = mutate(rng, stream)
		}
		stream += all[0].bytes
		checkAgreement(t, stream, pieces(rng.Uint64()))
		if _, _, code := scanAll(stream, whole); code == "" {
			accepted++
		}
	}
	if accepted < 250 {
		t.Errorf("%d of 5000 were accepted: the test sees too little", accepted)
	}
}

// mutate changes a few bytes.
func mutate(rng *rand.Rand, s string) string {
	words := []string{"\r\n", "\n", "\r", " ", "\t", "\x00", ":", ",", "chunked", "Content-Length: 1\r\n", "0", "5", "a", "%",
		"/", "Transfer-Encoding: chunked\r\n", "Host: a\r\n", "0\r\n\r\n", ";", "\x80", "HTTP/1.0", "_", "#", "@", "[", "http://a"}
	b := []byte(s)
	at := rng.IntN(len(b) + 1)
	word := words[rng.IntN(len(words))]
	switch rng.IntN(4) {
	case 0:
		b = append(b[:at:at], append([]byte(word), b[at:]...)...)
	case 1:
		b = append(b[:at:at], b[min(at+1+rng.IntN(4), len(b)):]...)
	case 2:
		b = append(b[:at:at], append([]byte(word), b[min(at+1, len(b)):]...)...)
	case 3:
		if at < len(b) {
			b[at] ^= 1 << rng.IntN(8)
		}
	}
	return string(b)
}

// The checker catches scanners that are wrong in the ways that smuggling uses.
func TestDisagreementCatchesMutants(t *testing.T) {
	const smuggled = "GET /admin HTTP/1.1\r\nHost: a\r\n\r\n"
	for _, c := range []struct {
		name, stream string
		seen         []message
	}{
		{"believes the length beside chunked",
			"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 41\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + smuggled,
			[]message{{"POST", "/", "a", "0\r\n\r\n" + smuggled + "  "}}},
		{"believes chunked in HTTP/1.0",
			"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
			[]message{{"POST", "/", "a", ""}, {"GET", "/admin", "a", ""}}},
		{"reads a size's digits as decimal",
			"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n10\r\n0123456789\r\n0\r\n\r\n",
			[]message{{"POST", "/", "a", "0123456789"}}},
		{"misses a folded line",
			"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
			[]message{{"POST", "/", "a", "0\r\n\r\n"}}},
		{"takes the Host where the target has another",
			"GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n",
			[]message{{"GET", "http://b/", "a", ""}}},
	} {
		if disagreement(c.stream, c.seen) == "" {
			t.Errorf("a scanner that %s goes unnoticed", c.name)
		}
	}
}

// The substitute is a request to net/http from wherever the scanner stopped, and says why.
func TestSubstituteIsARequest(t *testing.T) {
	for _, r := range corpus(t) {
		if r.code == "ok" || r.inBody {
			continue
		}
		s := newScanner()
		passed := s.scan([]byte(r.bytes))
		stream := s.substitute([]byte(r.bytes[:passed]), "/")
		req, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(stream)))
		if err != nil {
			t.Errorf("%q becomes %q: %v", r.bytes, stream, err)
			continue
		}
		if got := Refused(req); got == nil || got.Code != r.code || !req.Close {
			t.Errorf("%q becomes %q: Refused = %v, Close %v; want %q and true", r.bytes, stream, got, req.Close, r.code)
		}
	}
}
