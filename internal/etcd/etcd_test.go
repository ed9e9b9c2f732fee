package etcd_test

import (
	"context"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"dongne/internal/etcd"
	"dongne/internal/etcd/etcdtest"
)

const (
	soon = time.Second / 2  // for what should not happen
	late = 30 * time.Second // for what should
)

// serves says whether a server answers a linearizable read within a time.
func serves(t *testing.T, endpoint string, within time.Duration) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	url := "http://" + endpoint + "/v3/kv/range"
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(`{"key":"YQ=="}`))
	if err != nil {
		t.Fatal(err)
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return false
	}
	answer.Body.Close()
	return answer.StatusCode == http.StatusOK
}

func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func TestOneServer(t *testing.T) {
	c := etcdtest.Start(t, 1)
	if leader, err := c.Leader(within(t)); leader != 0 || err != nil {
		t.Errorf("leader %d, %v", leader, err)
	}
	endpoint := c.Endpoints()[0]
	if !serves(t, endpoint, late) {
		t.Error("it does not serve after Start")
	}
	if err := c.Pause(0); err != nil {
		t.Fatal(err)
	}
	if serves(t, endpoint, soon) {
		t.Error("it serves while paused")
	}
	if err := c.Kill(0); err != nil { // a paused process dies too
		t.Fatal(err)
	}
	if serves(t, endpoint, soon) {
		t.Error("it serves after Kill")
	}
	if err := c.Resume(0); err == nil {
		t.Error("a dead server resumes")
	}
	if err := c.Restart(within(t), 0); err != nil {
		t.Fatal(err)
	}
	if !serves(t, endpoint, late) {
		t.Error("it does not serve after Restart")
	}
}

// The two that are left elect another leader; the one that was killed joins again.
func TestLeaderKilled(t *testing.T) {
	c := etcdtest.Start(t, 3)
	first, err := c.Leader(within(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Kill(first); err != nil {
		t.Fatal(err)
	}
	second, err := c.Leader(within(t))
	if err != nil || second == first {
		t.Errorf("leader %d after %d was killed, %v", second, first, err)
	}
	if err := c.Restart(within(t), first); err != nil {
		t.Fatal(err)
	}
	for i, endpoint := range c.Endpoints() {
		if !serves(t, endpoint, late) {
			t.Errorf("server %d does not serve", i)
		}
	}
}

// lines hands on what is written to it.
type lines chan string

func (l lines) Write(p []byte) (int, error) {
	l <- string(p)
	return len(p), nil
}

// A port that somebody else took while the server was down is waited for, as long as the caller likes.
func TestPortTaken(t *testing.T) {
	output := make(lines, 1000)
	c := etcdtest.StartWith(t, etcd.Config{Nodes: 1, Output: output})
	if err := c.Kill(0); err != nil {
		t.Fatal(err)
	}
	thief, err := net.Listen("tcp", c.Endpoints()[0])
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(within(t))
	restarted := make(chan error, 1)
	restart := func() { restarted <- c.Restart(ctx, 0) }
	go restart()
	for !strings.Contains(<-output, "address already in use") {
	}
	cancel()
	if err := <-restarted; err == nil {
		t.Error("two listen on one port")
	}
	ctx = within(t)
	go restart()
	for !strings.Contains(<-output, "address already in use") {
	}
	thief.Close()
	if err := <-restarted; err != nil {
		t.Error(err)
	}
}

// Advertise puts something in front of every link, and sees the address to forward to.
func TestAdvertise(t *testing.T) {
	var links []etcd.Link
	advertise := func(node int, link etcd.Link, listen string) (string, error) {
		links = append(links, link)
		if link == etcd.Client {
			return "client.test:1", nil
		}
		return listen, nil
	}
	c := etcdtest.StartWith(t, etcd.Config{Nodes: 1, Advertise: advertise})
	if want := []etcd.Link{etcd.Client, etcd.Peer}; !slices.Equal(links, want) {
		t.Errorf("Advertise was asked for %v, want %v", links, want)
	}
	if got, want := c.Endpoints(), []string{"client.test:1"}; !slices.Equal(got, want) {
		t.Errorf("endpoints %v, want %v", got, want)
	}
}

func TestStartFails(t *testing.T) {
	start := func(config etcd.Config) string {
		t.Helper()
		config.Dir = t.TempDir()
		c, err := etcd.Start(within(t), config)
		if err == nil {
			c.Close()
			t.Fatalf("Start(%+v) succeeds", config)
		}
		return err.Error()
	}
	if got, want := start(etcd.Config{Nodes: 2}), "want 1 or 3"; !strings.Contains(got, want) {
		t.Errorf("error %q, want %q", got, want)
	}
	// The test's own program is no etcd: it refuses the flags and ends.
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if got, want := start(etcd.Config{Program: program}), "flag provided but not defined"; !strings.Contains(got, want) {
		t.Errorf("error %q, want its last words %q", got, want)
	}
	t.Setenv("PATH", "")
	if got, want := start(etcd.Config{}), "apt-get install etcd-server"; !strings.Contains(got, want) {
		t.Errorf("error %q, want %q", got, want)
	}
}
