package edge

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// engines are proxies whose reading of requests ours must not differ from. Each is started on the socket SELF in
// front of the service on the socket SERVICE.
var engines = []struct {
	name, config string
	args         []string // behind them comes the configuration's file
}{
	{"nginx", `
daemon off;
master_process off;
worker_processes 1;
pid DIR/pid;
error_log DIR/log;
events {}
http {
	access_log off;
	client_body_temp_path DIR/body;
	proxy_temp_path DIR/proxy;
	fastcgi_temp_path DIR/fastcgi;
	uwsgi_temp_path DIR/uwsgi;
	scgi_temp_path DIR/scgi;
	server {
		listen unix:SELF;
		location / {
			proxy_pass http://unix:SERVICE;
			proxy_http_version 1.1;
			proxy_set_header Host a; # HTTP/1.0 may have none
		}
	}
}
`, []string{"-p", "DIR", "-c"}},
	{"haproxy", `
defaults
	mode http
	timeout connect 5s
	timeout client 5s
	timeout server 5s
frontend front
	bind unix@SELF
	default_backend back
backend back
	server service unix@SERVICE
`, []string{"-db", "-f"}},
}

// startEngine runs an engine and returns its socket.
func startEngine(t *testing.T, name, config string, args []string, service string) string {
	t.Helper()
	program, err := exec.LookPath(name)
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("%v: apt-get install %s", err, name)
		}
		t.Skipf("%s is not installed (apt-get install %s)", name, name)
	}
	dir := filepath.Dir(service)
	self := filepath.Join(dir, name)
	fill := strings.NewReplacer("DIR", dir, "SELF", self, "SERVICE", service)
	file := filepath.Join(dir, name+".conf")
	if err := os.WriteFile(file, []byte(fill.Replace(config)), 0o600); err != nil {
		t.Fatal(err)
	}
	args = append([]string{fill.Replace(strings.Join(args, " "))}, file)
	cmd := exec.Command(program, append(strings.Fields(args[0]), args[1])...)
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() { defer close(exited); cmd.Wait() }()
	t.Cleanup(func() { cmd.Process.Kill(); <-exited })
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if conn, err := net.Dial("unix", self); err == nil {
			conn.Close()
			return self
		}
		select {
		case <-exited:
			t.Fatalf("%s ended: %s", name, said.String())
		case <-deadline:
			t.Fatalf("%s does not listen", name)
		case <-tick.C:
		}
	}
}

// echo starts a service on a socket that answers each request with what it saw.
func echo(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "edge") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "service")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		json.NewEncoder(w).Encode(message{r.Method, r.RequestURI, r.Host, string(body)})
	}))
	server.Listener.Close()
	server.Listener = listener
	server.Config.DisableGeneralOptionsHandler = true
	server.Start()
	t.Cleanup(server.Close)
	return path
}

// through sends stream, a request that the scanner accepts as want, with another one behind it, and says what is wrong
// with the answers.
func through(socket, stream string, want message) error {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	go io.WriteString(conn, stream+after)
	answers, err := io.ReadAll(conn)
	if err != nil {
		return fmt.Errorf("%q: %w", answers, err)
	}
	wants := []message{want, {"GET", "/after", "a", ""}}
	if strings.Contains(stream, "HTTP/1.0") {
		wants = wants[:1] // most end the connection
	}
	for i, rest := 0, string(answers); i < len(wants); i++ {
		rest = strings.TrimPrefix(rest, "HTTP/1.1 100 Continue\r\n\r\n")
		head, after, _ := strings.Cut(rest, "\r\n\r\n")
		if !strings.HasPrefix(head, "HTTP/1.1 200") && !strings.HasPrefix(head, "HTTP/1.0 200") {
			return fmt.Errorf("request %d: %q", i, head)
		}
		var got message
		in := json.NewDecoder(strings.NewReader(after[strings.Index(after, "{"):]))
		if err := in.Decode(&got); err != nil {
			return fmt.Errorf("request %d: %w", i, err)
		}
		if diff := cmp.Diff(normal(wants[i]), normal(got)); diff != "" {
			return fmt.Errorf("request %d (-want +got):\n%s", i, diff)
		}
		_, rest, _ = strings.Cut(after, "}\n")
		if next := strings.Index(rest, "HTTP/1.1 "); next >= 0 {
			rest = rest[next:]
		}
	}
	return nil
}

// normal leaves out what an engine may write anew: the target's form, and the Host of HTTP/1.0 and of absolute-form.
func normal(m message) message {
	if n := schemeLen([]byte(m.Target)); n > 0 {
		i := strings.IndexAny(m.Target[n:]+"/", "/?")
		m.Target = m.Target[n:][i:]
	}
	if !strings.HasPrefix(m.Target, "/") && m.Target != "*" {
		m.Target = "/" + m.Target
	}
	m.Host = ""
	m.Body = strings.ToValidUTF8(m.Body, "\ufffd")
	return m
}

// acceptedMutants returns the corpus's good requests and changed ones that the scanner and Path accept.
func acceptedMutants(t *testing.T, n int) map[string]message {
	t.Helper()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 3))
	all := corpus(t)
	accepted := map[string]message{}
	for i := 0; len(accepted) < n; i++ {
		stream := all[i%len(all)].bytes
		for range min(i/len(all), 1+rng.IntN(3)) {
			stream = mutate(rng, stream)
		}
		messages, _, code := scanAll(stream+after, whole)
		if code != "" || len(messages) != 2 || messages[1].Method != "GET" {
			continue
		}
		path, err := Path(messages[0].Method, messages[0].Target)
		if err == nil && path != "*" { // nginx refuses OPTIONS *, for all that RFC 9110 has it
			accepted[stream] = messages[0]
		}
	}
	return accepted
}

// What we accept, nginx and HAProxy accept, and all see the same request in it.
func TestEnginesAgree(t *testing.T) {
	for _, engine := range engines {
		t.Run(engine.name, func(t *testing.T) {
			socket := startEngine(t, engine.name, engine.config, engine.args, echo(t))
			for stream, m := range acceptedMutants(t, 300) {
				if err := through(socket, stream, m); err != nil {
					t.Errorf("%s disagrees about %q: %v", engine.name, stream, err)
				}
			}
		})
	}
}
