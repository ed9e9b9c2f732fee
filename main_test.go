package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"dongne/internal/gateway"
	"dongne/internal/serve"
	"dongne/internal/serve/servetest"
)

// patience bounds every wait for something that the programs do by themselves.
const patience = time.Minute

// logLine is what the tests look at in a log line.
type logLine struct {
	Service, Msg, Level, Child, Addr string
	Pid                              int
}

// program is a started gateway.
type program struct {
	t     *testing.T
	cmd   *exec.Cmd
	temp  string       // its TMPDIR
	up    chan string  // the URL that it told people
	users chan string  // "login password" of those it told them; closed after the last
	lines chan logLine // of its standard output; closed at its end

	readers sync.WaitGroup
	mu      sync.Mutex
	stdout  bytes.Buffer // guarded by mu
	stderr  bytes.Buffer // guarded by mu
}

// start runs the gateway at path with env on top of this process's environment.
func start(t *testing.T, path string, env ...string) *program {
	t.Helper()
	p := &program{
		t: t, cmd: exec.Command(path), temp: t.TempDir(),
		up: make(chan string, 1), users: make(chan string, 10), lines: make(chan logLine, 10_000),
	}
	p.cmd.Env = append(os.Environ(), "PORT=0", "ADMIN_ADDR=off", "DATA_DIR="+t.TempDir(), "TMPDIR="+p.temp)
	p.cmd.Env = append(p.cmd.Env, env...)
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.cmd.Process.Kill() })
	p.readers.Go(func() {
		up, user := regexp.MustCompile(`^dongne is up: (http://\S+) `), regexp.MustCompile(`^  log in as (\S+) +with (\S+)$`)
		p.read(stderr, &p.stderr, func(line string) {
			if m := up.FindStringSubmatch(line); m != nil {
				p.up <- m[1]
			} else if m := user.FindStringSubmatch(line); m != nil {
				p.users <- m[1] + " " + m[2]
			}
		})
	})
	p.readers.Go(func() {
		defer close(p.lines)
		p.read(stdout, &p.stdout, func(line string) {
			var l logLine
			if err := json.Unmarshal([]byte(line), &l); err != nil || l.Service == "" {
				t.Errorf("log line %q: service %q, %v", line, l.Service, err)
			}
			p.lines <- l
		})
	})
	return p
}

func (p *program) read(from io.Reader, into *bytes.Buffer, each func(line string)) {
	for lines := bufio.NewScanner(from); lines.Scan(); {
		p.mu.Lock()
		into.WriteString(lines.Text() + "\n")
		p.mu.Unlock()
		each(lines.Text())
	}
}

// output is everything that it wrote, errors first.
func (p *program) output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stderr.String() + p.stdout.String()
}

// url waits until the gateway says that everything is up.
func (p *program) url() string {
	p.t.Helper()
	select {
	case url := <-p.up:
		return url
	case <-time.After(patience):
		p.t.Fatalf("not up after %v:\n%s", patience, p.output())
		return ""
	}
}

// passwords waits for the users that it told people, and returns their passwords.
func (p *program) passwords() map[string]string {
	p.t.Helper()
	all := map[string]string{}
	for len(all) < 3 {
		select {
		case user := <-p.users:
			name, password, _ := strings.Cut(user, " ")
			all[name] = password
		case <-time.After(patience):
			p.t.Fatalf("only %d users:\n%s", len(all), p.output())
		}
	}
	return all
}

// logIn logs a user in at auth and returns the access token.
func logIn(t *testing.T, base, login, password string) string {
	t.Helper()
	answer, err := http.Post(base+"/auth/login", "application/json", strings.NewReader(`{"login":"`+login+`","password":"`+password+`"}`))
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	var pair struct {
		Access string `json:"access_token"`
	}
	if err := json.NewDecoder(answer.Body).Decode(&pair); err != nil || pair.Access == "" {
		t.Fatalf("log-in of %s: %s, %v", login, answer.Status, err)
	}
	return pair.Access
}

// line waits for the next log line of service with msg.
func (p *program) line(service, msg string) logLine {
	p.t.Helper()
	return p.lineOf(service, msg, "")
}

// lineOf is line, of a child unless that is "".
func (p *program) lineOf(service, msg, child string) logLine {
	p.t.Helper()
	limit := time.After(patience)
	for {
		select {
		case l, open := <-p.lines:
			if l.Service == service && l.Msg == msg && (child == "" || l.Child == child) {
				return l
			}
			if !open {
				p.t.Fatalf("ended without a line %q of %s:\n%s", msg, service, p.output())
			}
		case <-limit:
			p.t.Fatalf("no line %q of %s after %v:\n%s", msg, service, patience, p.output())
		}
	}
}

// end sends sig and returns the exit code, -1 for a signal's.
func (p *program) end(sig os.Signal) int {
	p.t.Helper()
	if sig != nil {
		if err := p.cmd.Process.Signal(sig); err != nil {
			p.t.Fatal(err)
		}
	}
	for limit := time.After(patience); ; {
		select {
		case _, open := <-p.lines:
			if open {
				continue
			}
		case <-limit:
			p.t.Fatalf("not ended after %v:\n%s", patience, p.output())
		}
		p.readers.Wait()
		var exit *exec.ExitError
		if err := p.cmd.Wait(); err != nil && !errors.As(err, &exit) {
			p.t.Fatal(err)
		}
		return p.cmd.ProcessState.ExitCode()
	}
}

// cleanEnd ends the gateway and checks that nothing of it is left, neither the
// processes pids nor a file in its temporary folder.
func (p *program) cleanEnd(pids ...int) {
	p.t.Helper()
	if code := p.end(syscall.SIGTERM); code != 0 {
		p.t.Errorf("exit code %d, want 0:\n%s", code, p.output())
	}
	for _, pid := range pids {
		if err := syscall.Kill(pid, 0); err != syscall.ESRCH {
			p.t.Errorf("process %d is still there (%v)", pid, err)
		}
	}
	if left, err := os.ReadDir(p.temp); len(left) > 0 || err != nil {
		p.t.Errorf("it left %v, %v in its temporary folder", left, err)
	}
}

// fetch returns the body of a 200.
func fetch(t *testing.T, url string) string {
	t.Helper()
	answer, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK {
		t.Errorf("GET %s: %s, %v: %s", url, answer.Status, err, body)
	}
	return string(body)
}

// stream opens chat's stream, through the gateway, and returns it after its
// first line.
func stream(t *testing.T, base, access string) *bufio.Reader {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, base+"/chat/stream", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+access)
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { answer.Body.Close() })
	events := bufio.NewReader(answer.Body)
	if line, err := events.ReadString('\n'); answer.StatusCode != http.StatusOK || err != nil {
		t.Fatalf("stream: %s, first line %q, %v", answer.Status, line, err)
	}
	return events
}

// The programs as they are built: they start, talk, fall, rise and drain.
func TestPrograms(t *testing.T) {
	path := filepath.Join(t.TempDir(), "dongne")
	if out, err := exec.Command("go", "build", "-o", path, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	t.Run("life", func(t *testing.T) { life(t, path) })
	t.Run("auth stopped", func(t *testing.T) { authStopped(t, path) })
	t.Run("known URL", func(t *testing.T) { knownURL(t, path) })
	t.Run("no toolchain", func(t *testing.T) {
		p := start(t, path, "PATH=")
		if code := p.end(nil); code != 1 || !strings.HasPrefix(p.output(), "AUTH_URL, CHAT_URL, PAY_URL: not set") {
			t.Errorf("exit code %d, want 1 and the variable's name:\n%s", code, p.output())
		}
	})
	t.Run("bad URL", func(t *testing.T) {
		p := start(t, path, "CHAT_URL=localhost:8082")
		if code := p.end(nil); code != 1 || !strings.HasPrefix(p.output(), "CHAT_URL=") {
			t.Errorf("exit code %d, want 1 and the variable's name:\n%s", code, p.output())
		}
	})
	t.Run("signal while building", func(t *testing.T) {
		p := start(t, path)
		p.line("gateway", "building")
		p.cleanEnd()
	})
	t.Run("help", func(t *testing.T) {
		out, err := exec.Command(path, "-h").CombinedOutput()
		for _, want := range []string{"CHAT_URL", "8080", "DATA_DIR"} {
			if err != nil || !strings.Contains(string(out), want) {
				t.Errorf("-h (%v) does not say %s:\n%s", err, want, out)
			}
		}
	})
}

func life(t *testing.T, path string) {
	p := start(t, path)
	first := p.lineOf("gateway", "service started", "chat")
	base := p.url()

	spec, status := fetch(t, base+"/openapi.yaml"), fetch(t, base+"/status")
	if page := fetch(t, base+"/"); !strings.Contains(page, `action="login"`) {
		t.Errorf("the start page has no log-in:\n%s", page)
	}
	if strings.Count(status, `"up":true`) != len(services()) {
		t.Errorf("/status of services that are up: %s", status)
	}
	for name, path := range map[string]string{"auth": "/oauth2/token", "chat": "/rooms", "pay": "/transfers:batch"} {
		if health := fetch(t, base+"/"+name+"/health"); !strings.Contains(health, `"service":"`+name+`"`) {
			t.Errorf("/%s/health is %s", name, health)
		}
		if !strings.Contains(spec, "\n  /"+name+path+":\n") {
			t.Errorf("the combined specification lacks %s's paths:\n%s", name, spec)
		}
		fetch(t, base+"/"+name+"/")
	}
	fetch(t, base+"/ready")
	passwords := p.passwords()
	access := logIn(t, base, "admin", passwords["admin"])
	transfers(t, base+"/pay", access)

	events := stream(t, base, access)
	if err := syscall.Kill(first.Pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if rest, _ := io.ReadAll(events); strings.Contains(string(rest), "bye") {
		t.Errorf("a killed service ends its stream with %q", rest)
	}
	if l := p.line("gateway", "service ended"); l.Child != "chat" || l.Level != "ERROR" {
		t.Errorf("the log says %+v of a killed chat", l)
	}
	second := p.lineOf("gateway", "service started", "chat")
	p.line("chat", "listening")
	fetch(t, base+"/chat/health")
	servetest.AwaitReady(t, base)

	events = stream(t, base, access)
	p.cleanEnd(first.Pid, second.Pid)
	if rest, err := io.ReadAll(events); err != nil || !strings.Contains(string(rest), "event: bye\n") {
		t.Errorf("the stream's last event is %q, %v; want bye", rest, err)
	}
}

// While auth hangs, whoever has a token goes on; but no money moves once nobody can know which tokens were revoked.
func authStopped(t *testing.T, path string) {
	p := start(t, path)
	auth := p.lineOf("gateway", "service started", "auth")
	base := p.url()
	access := logIn(t, base, "admin", p.passwords()["admin"])
	ask := func(method, path, body string) (status int, text string) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, base+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+access)
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Idempotency-Key", "k")
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		all, err := io.ReadAll(answer.Body)
		if err != nil {
			t.Fatal(err)
		}
		return answer.StatusCode, string(all)
	}
	account := func() (int, string) {
		return ask("POST", "/pay/accounts", `{"id":"bank","currency":"KRW","kind":"asset"}`)
	}
	if status, body := account(); status != http.StatusCreated {
		t.Fatalf("before: %d %s", status, body)
	}
	if err := syscall.Kill(auth.Pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer syscall.Kill(auth.Pid, syscall.SIGCONT)
	until := func(what string, holds func() bool) {
		t.Helper()
		limit := time.After(patience)
		for tick := time.Tick(100 * time.Millisecond); !holds(); {
			select {
			case <-tick:
			case <-limit:
				t.Fatalf("not within %v: %s\n%s", patience, what, p.output())
			}
		}
	}
	until("money stands still", func() bool {
		if status, body := ask("GET", "/chat/rooms", ""); status != http.StatusOK {
			t.Errorf("chat while auth hangs: %d %s", status, body)
		}
		status, body := account()
		return status == http.StatusServiceUnavailable && strings.Contains(body, `"code":"revocations-unknown"`) && strings.Contains(body, `"outcome":"not_applied"`)
	})
	if status, body := ask("GET", "/pay/accounts/bank", ""); status != http.StatusOK {
		t.Errorf("a look at an account: %d %s", status, body)
	}
	fetch(t, base+"/")
	fetch(t, base+"/status")
	syscall.Kill(auth.Pid, syscall.SIGCONT)
	until("money moves again", func() bool { status, _ := account(); return status == http.StatusCreated || status == http.StatusOK })
	p.cleanEnd(auth.Pid)
}

// transfers makes two accounts and a transfer at a pay below base, and hears of it on the stream that is open meanwhile.
func transfers(t *testing.T, base, access string) {
	t.Helper()
	ask := func(method, path, key, body string) *http.Response {
		r, err := http.NewRequestWithContext(t.Context(), method, base+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+access)
		if body != "" {
			r.Header.Set("Content-Type", "application/json")
			r.Header.Set("Idempotency-Key", key)
		} else {
			r.Header.Set("Accept", "text/event-stream")
		}
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { answer.Body.Close() })
		return answer
	}
	events := bufio.NewScanner(ask("GET", "/events", "", "").Body)
	for i, made := range []struct{ path, body string }{
		{"/accounts", `{"id":"bank","currency":"KRW","kind":"asset"}`},
		{"/accounts", `{"id":"minji","currency":"KRW"}`},
		{"/transfers", `{"from":"bank","to":"minji","amount":{"amount":"5000","currency":"KRW"}}`},
	} {
		if answer := ask("POST", made.path, strconv.Itoa(i), made.body); answer.StatusCode != http.StatusCreated {
			t.Errorf("POST /pay%s %s: %s", made.path, made.body, answer.Status)
		}
	}
	for events.Scan() {
		if strings.Contains(events.Text(), "dongne.pay.transfer.posted") {
			return
		}
	}
	t.Errorf("the stream ended without the transfer: %v", events.Err())
}

// A gateway that is told where all services are starts none, and needs no toolchain.
func knownURL(t *testing.T, path string) {
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "elsewhere "+r.URL.Path)
	}))
	defer elsewhere.Close()
	p := start(t, path, "AUTH_URL="+servetest.NewAuth(t).URL, "CHAT_URL="+elsewhere.URL, "PAY_URL="+elsewhere.URL, "PATH=")
	base := p.url()
	if got := fetch(t, base+"/chat/health"); got != "elsewhere /health" {
		t.Errorf("/chat/health is %q", got)
	}
	p.cleanEnd()
	for _, no := range []string{`"service":"chat"`, "building", "service started"} {
		if strings.Contains(p.output(), no) {
			t.Errorf("it says %q:\n%s", no, p.output())
		}
	}
}

// The gateway's own contract is its own routes, and the combined one holds
// every service's.
func TestSpecification(t *testing.T) {
	env := map[string]string{"DATA_DIR": t.TempDir()}
	getenv := serve.Env(variables(), func(name string) string { return env[name] })
	backends, err := locate(getenv)
	if err != nil {
		t.Fatal(err)
	}
	root, err := specs.ReadFile("openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	g, err := gateway.Open(t.Context(), getenv, root, backends, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	service := g.Service
	own, err := specs.ReadFile("openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	servetest.Routes(t, own, service.Routes)
	if diff := cmp.Diff([]string{"auth", "chat", "pay"}, services()); diff != "" {
		t.Errorf("services mismatch (-want +got):\n%s", diff)
	}
	paths := regexp.MustCompile(`(?m)^  (/\S*):`)
	want := paths.FindAllString(string(own), -1)
	for _, b := range backends {
		for _, path := range paths.FindAllStringSubmatch(string(b.Spec), -1) {
			want = append(want, "  /"+b.Name+path[1]+":")
		}
	}
	if diff := cmp.Diff(want, paths.FindAllString(string(service.OpenAPI), -1)); diff != "" {
		t.Errorf("paths of the combined specification mismatch (-want +got):\n%s", diff)
	}
}

// A gateway that cannot listen ends what it started, and says which variable.
func TestPortTaken(t *testing.T) {
	other := httptest.NewServer(http.NotFoundHandler())
	defer other.Close()
	_, port, _ := strings.Cut(strings.TrimPrefix(other.URL, "http://"), ":")
	env := map[string]string{"PORT": port, "ADMIN_ADDR": "off", "DATA_DIR": t.TempDir(), "LOG_LEVEL": "error"}
	getenv := serve.Env(variables(), func(name string) string { return env[name] })
	var out bytes.Buffer
	err := run(context.Background(), getenv, &out, io.Discard, os.Environ())
	if err == nil || !strings.Contains(err.Error(), "PORT") {
		t.Errorf("error is %v, want one that names PORT; log:\n%s", err, out.String())
	}
}
