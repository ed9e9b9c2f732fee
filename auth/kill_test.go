package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"dongne/internal/serve/servetest"
)

// victim is an auth process that is killed and started again.
type victim struct {
	servetest.Process
	t      *testing.T
	client *http.Client
}

func (v *victim) start() {
	v.t.Helper()
	v.Start(v.t)
	until(v.t, "it is ready", func() bool { status, _ := v.send("GET", "/ready", "", ""); return status == 200 })
}

func (v *victim) kill() {
	v.Kill()
	v.client.CloseIdleConnections()
}

// send asks once; status 0: no answer.
func (v *victim) send(method, path, token, body string) (status int, answer string) {
	r, err := http.NewRequest(method, v.URL()+path, strings.NewReader(body))
	if err != nil {
		v.t.Error(err)
		return 0, ""
	}
	r.Header.Set("Content-Type", "application/json")
	if strings.HasPrefix(path, "/oauth2/") {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	w, err := v.client.Do(r)
	if err != nil {
		return 0, ""
	}
	defer w.Body.Close()
	text, err := io.ReadAll(w.Body)
	if err != nil || w.StatusCode >= 500 {
		return 0, ""
	}
	return w.StatusCode, string(text)
}

// chain is a session, by what its client knows: every token that it was given, and the request whose answer it has not seen.
type chain struct {
	given   []pair // the last one is the newest
	ending  bool   // a log-out was sent
	ended   bool   // and answered
	unknown bool   // the last request had no answer
}

func (c *chain) last() pair { return c.given[len(c.given)-1] }

// step sends the chain's next request, or the last one again.
func (v *victim) step(c *chain) {
	if c.ending {
		status, body := v.send("POST", "/logout", c.last().Access, "")
		c.unknown = status == 0
		c.ended = c.ended || status == 204 || status == 401 // one whose answer was lost may have ended it
		if !c.unknown && !c.ended {
			v.t.Errorf("log-out: %d %s", status, body)
		}
		return
	}
	status, body := v.send("POST", "/oauth2/token", "", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {c.last().Refresh}}.Encode())
	c.unknown = status == 0
	var p pair
	switch {
	case c.unknown:
	case status == 200 && json.Unmarshal([]byte(body), &p) == nil && p.Refresh != "" && p.Session == c.last().Session:
		c.given = append(c.given, p)
	default:
		v.t.Errorf("refresh: %d %s", status, body)
	}
}

// audit says what must hold of a session whatever was killed: the newest access token counts unless the session has ended.
func (v *victim) audit(c *chain) {
	status, body := v.send("GET", "/userinfo", c.last().Access, "")
	if want := map[bool]int{true: 401, false: 200}[c.ended]; status != want {
		v.t.Errorf("session %s, ended: %v: %d %s", c.last().Session, c.ended, status, body)
	}
}

// TestKilled: a process under load is killed at any moment, again and again. After each start every request without an answer
// is sent again: a refresh gives a pair that counts, a log-out has ended the session, and nothing that was answered is lost:
// tokens, log-outs, users. In the end the second-last token of a session, used again, ends it: there is one line of
// successors. DONGNE_KILLS says how often (5), DONGNE_SEED which luck.
func TestKilled(t *testing.T) {
	kills, seed := servetest.Number(t, "DONGNE_KILLS", 5), uint64(servetest.Number(t, "DONGNE_SEED", 1))
	t.Logf("DONGNE_SEED=%d", seed)
	luck := rand.New(rand.NewPCG(seed, 0))
	v := &victim{Process: servetest.Process{Binary: servetest.Build(t)}, t: t, client: &http.Client{Timeout: patience}}
	v.Env = append(v.Env, "DATA_DIR="+t.TempDir(), "ISSUER=http://auth.test", "AUTH_KEY="+secret, "TRUSTED_PROXIES=",
		fmt.Sprintf(`SEED=[{"login":"ana","password":%q}]`, passes))
	v.start()
	credentials := func(login string) string { return fmt.Sprintf(`{"login":%q,"password":%q}`, login, passes) }
	open := func(login string) *chain {
		status, body := v.send("POST", "/login", "", credentials(login))
		var p pair
		if status != 200 || json.Unmarshal([]byte(body), &p) != nil {
			t.Fatalf("log-in of %s: %d %s", login, status, body)
		}
		return &chain{given: []pair{p}}
	}
	var all []*chain
	live := make([]*chain, 6)
	steps, doubts := 0, 0
	for n := range kills {
		for i, c := range live {
			if c == nil || c.ending {
				live[i] = open("ana")
				all = append(all, live[i])
			}
		}
		signed := make(chan bool, 1)
		go func() {
			status, _ := v.send("POST", "/signup", "", credentials(fmt.Sprint("guest", n)))
			signed <- status == 202
		}()
		leaving := luck.IntN(len(live))
		var load sync.WaitGroup
		for i, c := range live {
			begin := len(c.given)
			last := begin + 20 + luck.IntN(200)
			load.Go(func() {
				for !c.unknown && !c.ended {
					c.ending = i == leaving && len(c.given) >= last
					v.step(c)
				}
			})
			steps -= begin
		}
		<-time.NewTimer(200*time.Millisecond + time.Duration(luck.Int64N(int64(400*time.Millisecond)))).C
		v.kill()
		load.Wait()
		guest := <-signed
		v.start()
		for _, c := range live {
			if c.unknown {
				doubts++
				v.step(c)
				if c.unknown {
					t.Fatal("no answer after a start")
				}
			}
			steps += len(c.given)
		}
		for _, c := range all {
			v.audit(c)
		}
		if guest {
			open(fmt.Sprint("guest", n))
		}
		if t.Failed() {
			return
		}
	}
	for _, c := range live {
		if n := len(c.given); n > 2 && !c.ended {
			body := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {c.given[n-3].Refresh}}.Encode()
			if status, answer := v.send("POST", "/oauth2/token", "", body); status != 400 || !strings.Contains(answer, "invalid_grant") {
				t.Errorf("a token of before: %d %s", status, answer)
			}
			c.ended = true
			v.audit(c)
		}
	}
	t.Logf("%d kills, %d refreshes, %d requests in doubt", kills, steps, doubts)
	if doubts == 0 {
		t.Error("no kill left anything in doubt")
	}
}
