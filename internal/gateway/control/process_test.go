package control

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

const childDir = "CONTROL_TEST_DIR"

// TestChild is the process that TestKilled kills: it changes a switch for ever and says so.
func TestChild(t *testing.T) {
	dir := os.Getenv(childDir)
	if dir == "" {
		return
	}
	c := newCluster(t, "n1")
	c.dirs["n1"] = dir
	c.start("n1")
	n := c.node("n1")
	at := 0
	if body := n.Table().Route("chat").Switch.Body; body != "" {
		at, _ = strconv.Atoi(body)
	}
	for {
		at++
		must(t)(n.SetSwitch(t.Context(), "chat", ana, Switch{Mode: Static, Status: 503, ContentType: "text/plain", Body: strconv.Itoa(at)}))
		fmt.Printf("acked %d\n", at)
	}
}

// What was acknowledged survives kill -9, again and again, across snapshots.
func TestKilled(t *testing.T) {
	dir := t.TempDir()
	acked := 0
	for range 3 {
		child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestChild$")
		child.Env = append(os.Environ(), childDir+"="+dir)
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		until := acked + snapshotSlots + 50
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if number, ok := strings.CutPrefix(lines.Text(), "acked "); ok {
				if acked, err = strconv.Atoi(number); err != nil {
					t.Fatal(err)
				}
			}
			if acked == until {
				child.Process.Kill()
			}
		}
		child.Wait()
		c := newCluster(t, "n1")
		c.dirs["n1"] = dir
		c.start("n1")
		if got, err := strconv.Atoi(c.node("n1").Table().Route("chat").Switch.Body); err != nil || got != acked && got != acked+1 || acked < until {
			t.Errorf("after kill -9: change %d, %v; %d was acknowledged, of at least %d", got, err, acked, until)
		}
		c.stop("n1")
	}
}

// Over HTTP and with real files: how long it takes until a switch acts on the other gateway. The limit is a hundred
// times what is normal, so that a busy machine does not fail the test; -v shows the time.
func TestLatencyOverHTTP(t *testing.T) {
	c := newCluster(t, "n1", "n2")
	peers := map[string]string{}
	for name := range c.dirs {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, MessageBytesMax))
			if n := c.node(name); err == nil && n != nil {
				err = n.Receive(r.Context(), r.Header, body)
			}
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			w.WriteHeader(http.StatusNoContent)
		}))
		defer server.Close()
		peers[name] = server.URL
	}
	for name := range c.dirs {
		o := c.options(name)
		o.Client = &http.Client{Transport: &http.Transport{}}
		for other := range o.Peers {
			o.Peers[other] = peers[other]
		}
		n, err := Open(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		c.mu.Lock()
		c.nodes[name] = n
		c.mu.Unlock()
	}
	defer c.stopAll()
	a, b := c.node("n1"), c.node("n2")
	<-b.Synced()
	var local, remote []time.Duration
	for i := range 100 {
		s := []Switch{off, {Mode: On}}[i%2]
		began := time.Now()
		must(t)(a.SetSwitch(t.Context(), "chat", ana, s))
		local = append(local, time.Since(began))
		within(t, b, time.Second, string(s.Mode)+" on n2", func() bool { return mode(b, "chat") == s.Mode })
		remote = append(remote, time.Since(began))
	}
	slices.Sort(local)
	slices.Sort(remote)
	t.Logf("a change is acknowledged after %v, acts on the other gateway after %v (medians); worst %v, %v", local[50], remote[50], local[99], remote[99])
}
