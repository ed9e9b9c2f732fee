// Package e2e tests from outside what the root module serves: its OpenAPI documents against everything that the services
// and the gateway really answered, the pages in a real browser, auth behind real proxies, and its tokens before verifiers that
// others wrote. It is a module of its own because the root module needs nothing but the standard library.
//
//	DONGNE_EXCHANGES    folder of recorded exchanges, <service>.jsonl; empty: they are recorded first, by the root's tests
//	DONGNE_SCREENSHOTS  folder for pictures of the page; empty: none are taken
package e2e

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"dongne/internal/serve"
	"dongne/internal/serve/servetest"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/legacy"
)

// contract is a service's OpenAPI document, to hold exchanges against.
type contract struct {
	doc    *openapi3.T
	router routers.Router
}

func loadContract(data []byte) (*contract, error) {
	doc, err := openapi3.NewLoader().LoadFromData(data)
	if err != nil {
		return nil, fmt.Errorf("load: %w", err)
	}
	if !doc.IsOpenAPI31OrLater() {
		return nil, fmt.Errorf("openapi: %s, want 3.1", doc.OpenAPI)
	}
	if err := doc.Validate(context.Background()); err != nil {
		return nil, fmt.Errorf("validate: %w", err)
	}
	doc.Servers = nil // the tests' servers are elsewhere
	router, err := legacy.NewRouter(doc)
	if err != nil {
		return nil, fmt.Errorf("routes: %w", err)
	}
	return &contract{doc, router}, nil
}

// services are the names of the folders that hold a service's document.
func services(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("../*/openapi.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no */openapi.yaml (%v)", err)
	}
	for i, file := range files {
		files[i] = filepath.Base(filepath.Dir(file))
	}
	return files
}

// ownOperations are the ids of the operations in the root's document, the gateway's own.
func ownOperations(t *testing.T) (ids []string) {
	t.Helper()
	doc, err := openapi3.NewLoader().LoadFromFile("../openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, item := range doc.Paths.Map() {
		for _, operation := range item.Operations() {
			ids = append(ids, operation.OperationID)
		}
	}
	slices.Sort(ids)
	return ids
}

func TestDocuments(t *testing.T) {
	files := []string{"openapi.yaml"}
	for _, name := range services(t) {
		files = append(files, name+"/openapi.yaml")
	}
	for _, file := range files {
		data, err := os.ReadFile("../" + file)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := loadContract(data); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
}

// TestCombinedDocument: the gateway's document is valid and holds every path of every service.
func TestCombinedDocument(t *testing.T) {
	g := start(t, build(t, "."), "DATA_DIR="+t.TempDir())
	answer, err := http.Get("http://" + g.addr + "/openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	data, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK {
		t.Fatalf("GET /openapi.yaml: %s, %v", answer.Status, err)
	}
	combined, err := loadContract(data)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range services(t) {
		own, err := openapi3.NewLoader().LoadFromFile("../" + name + "/openapi.yaml")
		if err != nil {
			t.Fatal(err)
		}
		for path, item := range own.Paths.Map() {
			there := combined.doc.Paths.Value("/" + name + path)
			if there == nil {
				t.Errorf("%s is not in the gateway's document", "/"+name+path)
				continue
			}
			for method := range item.Operations() {
				if there.GetOperation(method) == nil {
					t.Errorf("%s /%s%s is not in the gateway's document", method, name, path)
				}
			}
		}
	}
	g.stop(t)
}

// TestExchanges holds everything that the services answered in their own tests against their documents.
func TestExchanges(t *testing.T) {
	t.Parallel() // with what mostly waits
	dir := exchanges(t)
	for _, name := range services(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := contractOf(t, name)
			all := read(t, filepath.Join(dir, name+".jsonl"))
			seen := make(map[string]int)
			for i, e := range all {
				operation, err := c.check(e)
				if err != nil {
					t.Errorf("exchange %d (%s, %s): %s %s: %d: %v", i+1, e.Test, e.Route, e.Method, e.URL, e.Response.Status, err)
				}
				seen[operation]++
			}
			t.Logf("%d exchanges of %s hold, by operation:", len(all), name)
			for _, operation := range slices.Sorted(maps.Keys(seen)) {
				t.Logf("%6d %s", seen[operation], operation)
			}
			for path, item := range c.doc.Paths.Map() {
				for method, operation := range item.Operations() {
					if seen[operation.OperationID] == 0 {
						t.Errorf("no test of %s makes a request to %s %s", name, method, path)
					}
				}
			}
		})
	}
}

// exchanges is the folder of recorded exchanges. It runs the services' tests when nobody has.
func exchanges(t *testing.T) string {
	t.Helper()
	if dir := os.Getenv("DONGNE_EXCHANGES"); dir != "" {
		return dir
	}
	dir := t.TempDir()
	args := []string{"test", "-count=1", "-short"}
	for _, name := range services(t) {
		args = append(args, "./"+name) // its own package alone speaks HTTP to the service
	}
	cmd := exec.CommandContext(t.Context(), "go", args...)
	cmd.Dir = ".."
	cmd.Env = append(os.Environ(), "DONGNE_EXCHANGES="+dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return dir
}

func contractOf(t *testing.T, service string) *contract {
	t.Helper()
	data, err := os.ReadFile("../" + service + "/openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	c, err := loadContract(data)
	if err != nil {
		t.Fatalf("%s/openapi.yaml: %v", service, err)
	}
	return c
}

// read reads a record; one without exchanges fails the test.
func read(t *testing.T, file string) []servetest.Exchange {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatalf("no exchange was recorded: %v", err)
	}
	defer f.Close()
	var all []servetest.Exchange
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e servetest.Exchange
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			t.Fatalf("%s:%d: %v", file, len(all)+1, err)
		}
		all = append(all, e)
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	if len(all) == 0 {
		t.Fatalf("%s: no exchange was recorded", file)
	}
	return all
}

// Names for exchanges that belong to no operation of the document.
const (
	ofNoRoute = "(refused before any route)"
	ofShell   = "(the shell's own)"
)

// check holds one exchange against the contract and names the operation.
func (c *contract) check(e servetest.Exchange) (operation string, err error) {
	if e.Route == "" {
		return ofNoRoute, c.checkRefusal(e)
	}
	r, err := requestOf(e)
	if err != nil {
		return "", err
	}
	route, params, err := c.router.FindRoute(r)
	switch {
	case err == nil:
		return route.Operation.OperationID, c.checkRouted(e, r, route, params)
	case slices.Contains(serve.ShellRoutes, strings.Replace(e.Route, "HEAD ", "GET ", 1)):
		return ofShell, nil
	}
	return "", fmt.Errorf("%s is not in the document: %w", e.Route, err)
}

// requestOf builds the request again. A HEAD is held against the GET that it stands for.
func requestOf(e servetest.Exchange) (*http.Request, error) {
	body, err := bodyOf(e.Request)
	if err != nil {
		return nil, err
	}
	method := e.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	r := httptest.NewRequest(method, "/", strings.NewReader(body))
	if r.URL, err = r.URL.Parse(e.URL); err != nil {
		return nil, err
	}
	if _, pattern, ok := strings.Cut(e.Route, "/"); ok && strings.HasSuffix(pattern, "...}") { // which the library does not know
		prefix := "/" + pattern[:strings.LastIndex(pattern, "{")]
		if rest, ok := strings.CutPrefix(r.URL.Path, prefix); ok {
			r.URL.Path, r.URL.RawPath = prefix+strings.ReplaceAll(rest, "/", "~"), ""
		}
	}
	r.Header = e.Request.Header.Clone()
	return r, nil
}

func bodyOf(m servetest.Message) (string, error) {
	if !m.Base64 {
		return m.Body, nil
	}
	b, err := base64.StdEncoding.DecodeString(m.Body)
	return string(b), err
}

// checkRefusal is for what the shell refuses before any route sees it: it is a problem, whatever the status.
func (c *contract) checkRefusal(e servetest.Exchange) error {
	if kind := e.Response.Header.Get("Content-Type"); e.Response.Status < 400 || kind != "application/problem+json" {
		return fmt.Errorf("status %d, content type %q: want a problem", e.Response.Status, kind)
	}
	if e.Method == http.MethodHead {
		return nil
	}
	var body any
	if err := json.Unmarshal([]byte(e.Response.Body), &body); err != nil {
		return err
	}
	return c.doc.Components.Schemas["Problem"].Value.VisitJSON(body, openapi3.EnableJSONSchema2020())
}

// plainTexts are the content types whose body is just text to a schema.
var plainTexts = []string{"text/html", "text/event-stream", "application/yaml", "application/x-ndjson"}

func init() { // the decoders are the library's global state, and have to be there before any test
	for _, kind := range plainTexts {
		openapi3filter.RegisterBodyDecoder(kind, openapi3filter.PlainBodyDecoder)
	}
}

func (c *contract) checkRouted(e servetest.Exchange, r *http.Request, route *routers.Route, params map[string]string) error {
	input := &openapi3filter.RequestValidationInput{
		Request: r, PathParams: params, Route: route,
		Options: &openapi3filter.Options{IncludeResponseStatus: true, AuthenticationFunc: openapi3filter.NoopAuthenticationFunc},
	}
	if e.Response.Status < 300 && !e.Request.Truncated {
		if err := openapi3filter.ValidateRequest(context.Background(), input); err != nil {
			return fmt.Errorf("was accepted, but: %w", err)
		}
	}
	if err := checkContent(e, route.Operation.Responses); err != nil {
		return err
	}
	body, err := bodyOf(e.Response.Message)
	if err != nil {
		return err
	}
	options := *input.Options
	options.ExcludeResponseBody = e.Method == http.MethodHead || e.Response.Truncated // no whole body to look at
	return openapi3filter.ValidateResponse(context.Background(), &openapi3filter.ResponseValidationInput{
		RequestValidationInput: input, Status: e.Response.Status, Header: e.Response.Header,
		Body: io.NopCloser(strings.NewReader(body)), Options: &options,
	})
}

// checkContent checks what the library does not, or not without a whole body: that the content type is declared, and
// that there is no body where none is.
func checkContent(e servetest.Exchange, responses *openapi3.Responses) error {
	declared := responses.Status(e.Response.Status)
	if declared == nil {
		declared = responses.Default()
	}
	kind := e.Response.Header.Get("Content-Type")
	switch {
	case declared == nil:
		return errors.New("the status is not in the document")
	case len(declared.Value.Content) == 0 && e.Response.Body != "":
		return errors.New("the answer has a body, and the document has none")
	case len(declared.Value.Content) > 0 && declared.Value.Content.Get(kind) == nil:
		return fmt.Errorf("the content type %q is not in the document", kind)
	}
	return nil
}

// TestMutants: each of these exchanges is wrong in one thing, and must be rejected; the one that they are made of holds.
func TestMutants(t *testing.T) {
	c := contractOf(t, "chat")
	good := func() servetest.Exchange {
		return servetest.Exchange{
			Method: "POST", URL: "/rooms/0sa5mqe1c01vb/messages", Route: "POST /rooms/{room}/messages",
			Request: servetest.Message{Header: http.Header{"Content-Type": {"application/json"}, "X-User": {"minji"}, "Idempotency-Key": {"k"}}, Body: `{"text":"안녕"}`},
			Response: servetest.Response{Status: 201, Message: servetest.Message{
				Header: http.Header{"Content-Type": {"application/json"}},
				Body:   `{"id":"0sa5mqe1c01vb","room":"0sa5mqe1c01va","from":"minji","text":"안녕","at":"2026-11-22T03:08:17.291Z"}`,
			}},
		}
	}
	if _, err := c.check(good()); err != nil {
		t.Fatalf("the exchange without a fault is rejected: %v", err)
	}
	stream := func(e *servetest.Exchange) {
		e.Method, e.URL, e.Route, e.Stream = "GET", "/stream", "GET /stream", true
		e.Request = servetest.Message{Header: http.Header{"X-User": {"minji"}}}
		e.Response = servetest.Response{Status: 200, Message: servetest.Message{Header: http.Header{"Content-Type": {"text/event-stream"}}, Body: "retry: 1000\n\n", Truncated: true}}
	}
	e := good()
	stream(&e)
	if _, err := c.check(e); err != nil {
		t.Fatalf("the stream without a fault is rejected: %v", err)
	}
	replace := func(old, new string) func(*servetest.Exchange) {
		return func(e *servetest.Exchange) {
			changed := strings.Replace(e.Response.Body, old, new, 1)
			if changed == e.Response.Body {
				t.Fatalf("%q is not in the answer", old)
			}
			e.Response.Body = changed
		}
	}
	for name, spoil := range map[string]func(*servetest.Exchange){
		"another status":           func(e *servetest.Exchange) { e.Response.Status = 202 },
		"another content type":     func(e *servetest.Exchange) { e.Response.Header.Set("Content-Type", "text/plain") },
		"no content type":          func(e *servetest.Exchange) { e.Response.Header.Del("Content-Type") },
		"a field missing":          replace(`"from":"minji",`, ``),
		"a field too many":         replace(`"from"`, `"secret":1,"from"`),
		"a field of another type":  replace(`"안녕"`, `7`),
		"an id of another form":    replace(`0sa5mqe1c01vb`, `1`),
		"not JSON":                 replace(`}`, ``),
		"a header of another form": func(e *servetest.Exchange) { e.Response.Header.Set("Idempotency-Replayed", "maybe") },
		"a required header missing": func(e *servetest.Exchange) {
			e.Response = problem(429)
			e.Response.Header.Del("Retry-After")
		},
		"a problem without code":          func(e *servetest.Exchange) { e.Response = problem(404); replace(`"code":"c",`, ``)(e) },
		"an accepted field too many":      func(e *servetest.Exchange) { e.Request.Body = `{"text":"안녕","colour":"red"}` },
		"an accepted body missing":        func(e *servetest.Exchange) { e.Request.Body = `` },
		"a route that is not there":       func(e *servetest.Exchange) { e.URL, e.Route = "/hidden", "POST /hidden" },
		"a method that is not there":      func(e *servetest.Exchange) { e.Method = "TRACE" },
		"a refusal that is not a problem": func(e *servetest.Exchange) { e.Route = ""; e.Response.Status = 405 },
		"a stream that is not one":        func(e *servetest.Exchange) { stream(e); e.Response.Header.Set("Content-Type", "application/json") },
		"a stream of another status":      func(e *servetest.Exchange) { stream(e); e.Response.Status = 206 },
		"a body where there is none": func(e *servetest.Exchange) {
			e.URL, e.Route, e.Request.Body, e.Response.Status = "/rooms/0sa5mqe1c01vb/typing", "POST /rooms/{room}/typing", "", 204
		},
	} {
		e := good()
		spoil(&e)
		if _, err := c.check(e); err == nil {
			t.Errorf("%s: not rejected", name)
		} else {
			t.Logf("%s: %.120s", name, strings.ReplaceAll(err.Error(), "\n", " "))
		}
	}
	e = good()
	e.Response = problem(429)
	if _, err := c.check(e); err != nil {
		t.Errorf("the problem without a fault is rejected: %v", err)
	}
}

func problem(status int) servetest.Response {
	return servetest.Response{Status: status, Message: servetest.Message{
		Header: http.Header{"Content-Type": {"application/problem+json"}, "Retry-After": {"1"}},
		Body:   fmt.Sprintf(`{"type":"tag:dongne,2026:c","title":"t","status":%d,"code":"c","trace_id":"0af7651916cd43dd8448eb211c80319c","retryable":false}`, status),
	}}
}
