package services

import (
	"context"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"dongne/internal/etcd"
	"dongne/internal/sim"
	"dongne/maelstrom/history"
	"dongne/maelstrom/services/relay"
)

// needEtcd skips a test where there is no etcd, but not where all tests must run.
func needEtcd(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("starts processes")
	}
	if _, err := etcd.Find(); err != nil && os.Getenv("CI") == "" {
		t.Skip(err)
	} else if err != nil {
		t.Fatal(err)
	}
}

// answers says whether a server serves a node, within a time.
func answers(t *testing.T, endpoint string, within time.Duration) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+endpoint+"/v3/kv/range", strings.NewReader(`{"key":"YQ=="}`))
	if err != nil {
		t.Fatal(err)
	}
	response, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(r)
	if err != nil {
		return false
	}
	response.Body.Close()
	return response.StatusCode == http.StatusOK
}

// TestStorage: the servers of a storage are cut off from nodes and from each other, killed and paused, and come back.
func TestStorage(t *testing.T) {
	needEtcd(t)
	const soon, late = 300 * time.Millisecond, 20 * time.Second
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	record := newRecorder()
	o := Options{NodeCount: 2, Store: etcdStore, Dir: t.TempDir()}
	c, err := newCluster(ctx, &o, record.finding)
	defer c.close()
	if err != nil {
		t.Fatal(err)
	}
	s := c.storage
	first, second := c.endpoints("n1"), c.endpoints("n2")
	for i := range s.names {
		if !answers(t, first[i], late) || !answers(t, second[i], late) {
			t.Fatalf("e%d does not serve", i+1)
		}
	}
	c.cut(sim.Cut{"e1": {"n1"}}, relay.Cut)
	if answers(t, first[0], soon) || !answers(t, second[0], late) {
		t.Error("e1 hears n1, or not n2")
	}
	c.open()
	c.cut(sim.Cut{"n1": {"e1"}}, relay.Cut) // n1 hears no answers
	if swallowed := c.stats.Swallowed.Load(); answers(t, first[0], soon) || c.stats.Swallowed.Load() == swallowed || !answers(t, second[0], late) {
		t.Error("n1 hears e1, or n2 does not")
	}
	c.open()

	leader, err := s.servers.Leader(ctx)
	if err != nil {
		t.Fatal(err)
	}
	name := s.names[leader]
	isolated := sim.Cut{}
	for _, other := range s.names {
		if other != name {
			isolated[name] = append(isolated[name], other)
			isolated[other] = []string{name}
		}
	}
	c.cut(isolated, relay.Blackhole)
	next := leader
	for next == leader {
		if next, err = s.servers.Leader(ctx); err != nil {
			t.Fatalf("nobody leads but %s, who is cut off: %v", name, err)
		}
	}
	if answers(t, first[leader], soon) || !answers(t, first[next], late) {
		t.Errorf("%s serves although it is cut off, or %s does not", name, s.names[next])
	}
	c.open()
	if !answers(t, first[leader], late) {
		t.Errorf("%s does not serve once it is not cut off any more", name)
	}

	if hit := c.kill([]string{"e1", "e2", "e3"}); len(hit) != 3 || len(c.kill([]string{"e1"})) > 0 || len(c.pause([]string{"e1"})) > 0 {
		t.Errorf("killed %v", hit)
	}
	if answers(t, first[0], soon) {
		t.Error("the dead serve")
	}
	if hit := s.launch(); len(hit) != 3 {
		t.Errorf("launched %v", hit)
	}
	s.await(ctx, record.finding)
	if hit := c.pause([]string{"e2"}); !slices.Equal(hit, []string{"e2"}) || answers(t, first[1], soon) {
		t.Errorf("paused %v, or it serves", hit)
	}
	if hit := c.resume(); !slices.Contains(hit, "e2") || !answers(t, first[1], late) {
		t.Errorf("resumed %v, or it does not serve", hit)
	}
	if len(record.findings) > 0 {
		t.Errorf("findings: %+v", record.findings)
	}
}

// TestRevive: a node that cannot start is started again and again, until it is killed; nobody complains of that, only of its
// being away at the end.
func TestRevive(t *testing.T) {
	binary := buildService(t, "chat")
	record := newRecorder()
	o := Options{NodeCount: 1, Binary: binary, Dir: t.TempDir()}
	c, err := newCluster(t.Context(), &o, record.finding)
	defer c.close()
	if err != nil {
		t.Fatal(err)
	}
	n := c.nodes["n1"]
	n.env = append(c.env("n1"), "NODE_ID=n1", "PEER_SECRET=no more than a test's", "PORT=none")
	attempts := make(chan bool, 100)
	n.revive(t.Context(), record.finding, func() { attempts <- true })
	for range 3 {
		<-attempts
	}
	if !n.up() || n.listens() || len(c.down()) > 0 {
		t.Error("it is not being started")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if c.await(ctx); len(record.findings) != 1 || record.findings[0].Kind != history.Exited || !strings.Contains(record.findings[0].Text, "n1 does not listen") {
		t.Errorf("findings: %+v", record.findings)
	}
	if n.kill(); n.up() {
		t.Error("it is still being started")
	}
	n.env = append(n.env, "PORT=0")
	n.revive(t.Context(), record.finding, func() {})
	if c.await(t.Context()); !n.listens() || len(record.findings) != 1 {
		t.Errorf("it does not listen, or findings: %+v", record.findings)
	}
}
