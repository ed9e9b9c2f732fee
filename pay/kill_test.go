package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"dongne/internal/serve/servetest"
	"dongne/pay/ledger"

	"github.com/google/go-cmp/cmp"
)

// ask is a request, and the answer that it got, if any.
type ask struct {
	key, path, body string
	status          int // 0: no definite answer
	answer          string
}

// victim is a pay process that is killed and started again.
type victim struct {
	servetest.Process
	t      *testing.T
	client *http.Client
}

func (v *victim) start() {
	v.t.Helper()
	v.Start(v.t)
}

func (v *victim) kill() {
	v.Kill()
	v.client.CloseIdleConnections()
}

// send asks once, and notes a definite answer.
func (v *victim) send(a *ask) bool {
	req, err := http.NewRequest(http.MethodPost, v.URL()+a.path, strings.NewReader(a.body))
	if err != nil {
		v.t.Error(err)
		return false
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-User", "bank")
	req.Header.Set("Idempotency-Key", a.key)
	resp, err := v.client.Do(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode >= 500 {
		return false
	}
	text := withoutTrace(answer)
	if a.status != 0 && (a.status != resp.StatusCode || a.answer != text) {
		v.t.Errorf("%s %s was answered\n%d %s\nand again\n%d %s", a.path, a.body, a.status, a.answer, resp.StatusCode, text)
	}
	a.status, a.answer = resp.StatusCode, text
	return true
}

// withoutTrace is a body without what differs from one request to the next.
func withoutTrace(body []byte) string {
	body = bytes.ReplaceAll(body, []byte(`"replayed":true`), []byte(`"replayed":false`)) // of a batch's items
	var fields map[string]json.RawMessage
	if json.Unmarshal(body, &fields) != nil {
		return string(body)
	}
	delete(fields, "trace_id")
	text, err := json.Marshal(fields)
	if err != nil {
		return string(body)
	}
	return string(text)
}

func (v *victim) get(path string, into any) {
	v.t.Helper()
	req, err := http.NewRequest(http.MethodGet, v.URL()+path, nil)
	if err != nil {
		v.t.Fatal(err)
	}
	req.Header.Set("X-User", "bank")
	resp, err := v.client.Do(req)
	if err != nil {
		v.t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(into); err != nil || resp.StatusCode != http.StatusOK {
		v.t.Fatalf("GET %s: %d, %v", path, resp.StatusCode, err)
	}
}

// teller makes a client's requests: transfers and holds, then what can be done with its own.
type teller struct {
	name string
	luck *rand.Rand
	n    int
	made []string // ids of its transfers and holds
}

var tellerAccounts = []string{"cash", "a", "b", "c", "d"}

func (m *teller) next() *ask {
	m.n++
	a := &ask{key: m.name + "-" + strconv.Itoa(m.n), path: "/transfers"}
	from := m.luck.IntN(len(tellerAccounts))
	to := (from + 1 + m.luck.IntN(len(tellerAccounts)-1)) % len(tellerAccounts)
	transfer := fmt.Sprintf(`"from":%q,"to":%q,"amount":{"amount":"%d","currency":"KRW"}`, tellerAccounts[from], tellerAccounts[to], 1+m.luck.IntN(100))
	switch k := m.luck.IntN(10); {
	case k == 0:
		a.path = "/transfers:batch"
		a.body = fmt.Sprintf(`{"items":[{%s},{%s,"linked":true},{%s}]}`, transfer, transfer, transfer)
	case k <= 2:
		a.body = fmt.Sprintf(`{%s,"hold":true}`, transfer)
	case k <= 6 || len(m.made) == 0:
		a.body = fmt.Sprintf(`{%s,"memo":"from %s"}`, transfer, m.name)
	default:
		what := []string{"capture", "void", "refund"}[m.luck.IntN(3)]
		a.path = "/transfers/" + m.made[m.luck.IntN(len(m.made))] + "/" + what
		a.body = `{}`
		if what != "void" && m.luck.IntN(2) == 0 {
			a.body = `{"amount":{"amount":"7","currency":"KRW"}}`
		}
	}
	return a
}

func (m *teller) note(a *ask) {
	var t ledger.Transfer
	if a.status == http.StatusCreated && json.Unmarshal([]byte(a.answer), &t) == nil && t.Parent == "" {
		m.made = append(m.made, t.ID)
	}
}

// TestKilled: a process under load is killed at any moment, again and again. After each start every request of before is
// sent once more: what was answered is answered the same, what was in doubt has one effect or none, and the books are
// exact. DONGNE_KILLS says how often (5), DONGNE_SEED which luck.
func TestKilled(t *testing.T) {
	for _, shards := range []int{1, 3} {
		t.Run(fmt.Sprint("shards=", shards), func(t *testing.T) { testKilled(t, shards) })
	}
}

func testKilled(t *testing.T, shards int) {
	kills := servetest.Number(t, "DONGNE_KILLS", 5)
	seed := uint64(servetest.Number(t, "DONGNE_SEED", 1))
	t.Logf("DONGNE_SEED=%d", seed)
	luck := rand.New(rand.NewPCG(seed, 0))
	dir := t.TempDir()
	v := &victim{Process: servetest.Process{Binary: servetest.Build(t)}, t: t, client: &http.Client{Timeout: 20 * time.Second}}
	v.Env = append(v.Env, "DATA_DIR="+dir, "LOG_LEVEL=info", fmt.Sprint("SHARDS=", shards))
	v.start()
	for _, id := range tellerAccounts {
		a := &ask{key: "open " + id, path: "/accounts", body: fmt.Sprintf(`{"id":%q,"currency":"KRW","kind":%q}`, id,
			map[bool]string{true: "asset", false: "liability"}[id == "cash"])}
		a.key = strings.ReplaceAll(a.key, " ", "-")
		if !v.send(a) || a.status != http.StatusCreated {
			t.Fatalf("open %s: %d %s", id, a.status, a.answer)
		}
	}
	balances := map[string]int64{}
	acked, doubted := 0, 0
	tellers := make([]*teller, 8)
	for i := range tellers {
		tellers[i] = &teller{name: fmt.Sprint("t", i), luck: rand.New(rand.NewPCG(seed, uint64(i+1)))}
	}
	for range kills {
		asked := v.load(tellers, time.Duration(luck.Int64N(int64(120*time.Millisecond))))
		v.start()
		for i, list := range asked {
			for _, a := range list {
				if acked++; a.status == 0 {
					doubted++
				}
				if !v.send(a) {
					t.Fatalf("%s %s is not answered after a start", a.path, a.body)
				}
				addUp(t, balances, a.answer)
				tellers[i].note(a)
			}
		}
		v.settle()
		v.compare(balances)
		if t.Failed() {
			return
		}
	}
	t.Logf("%d kills, %d requests, %d of them in doubt", kills, acked, doubted)
	v.kill()
	verify := exec.Command(v.Binary, "verify")
	verify.Env = append(os.Environ(), v.Env...)
	if out, err := verify.CombinedOutput(); err != nil || !bytes.HasSuffix(out, []byte("valid\n")) {
		t.Errorf("verify: %v\n%s", err, out)
	}
}

// load lets the tellers ask until the process is killed, after a time, and returns what each asked.
func (v *victim) load(tellers []*teller, after time.Duration) [][]*ask {
	asked := make([][]*ask, len(tellers))
	var group sync.WaitGroup
	for i, teller := range tellers {
		group.Go(func() {
			for {
				a := teller.next()
				asked[i] = append(asked[i], a)
				if !v.send(a) {
					return // killed
				}
			}
		})
	}
	timer := time.NewTimer(after)
	<-timer.C
	v.kill()
	group.Wait()
	return asked
}

// addUp adds what an answer says was moved.
func addUp(t *testing.T, balances map[string]int64, answer string) {
	var batch struct {
		Items []struct{ Transfer *ledger.Transfer }
	}
	var one ledger.Transfer
	if json.Unmarshal([]byte(answer), &batch) == nil && len(batch.Items) > 0 {
		for _, item := range batch.Items {
			if item.Transfer != nil {
				move(t, balances, item.Transfer)
			}
		}
	} else if json.Unmarshal([]byte(answer), &one) == nil && one.ID != "" {
		move(t, balances, &one)
	}
}

func move(t *testing.T, balances map[string]int64, transfer *ledger.Transfer) {
	if transfer.Kind == "hold" || transfer.Kind == "void" {
		return
	}
	for _, leg := range transfer.Legs {
		amount, err := strconv.ParseInt(leg.Amount.Amount, 10, 64)
		if err != nil {
			t.Error(err)
		}
		if leg.Account == "cash" {
			amount = -amount // an asset
		}
		balances[leg.Account] += amount
	}
}

// settle waits until no transfer is between shards any more: of one that was refused, the next process takes back what the
// other shard had done by itself.
func (v *victim) settle() {
	v.t.Helper()
	deadline, tick := time.NewTimer(20*time.Second), time.NewTicker(20*time.Millisecond)
	defer tick.Stop()
	for {
		resp, err := v.client.Get(v.URL() + "/metrics")
		if err != nil {
			v.t.Fatal(err)
		}
		metrics, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			v.t.Fatal(err)
		}
		if !unsettled.Match(metrics) {
			return
		}
		select {
		case <-deadline.C:
			v.t.Fatalf("transfers stay between shards:\n%s", metrics)
		case <-tick.C:
		}
	}
}

var unsettled = regexp.MustCompile(`(?m)^pay_(settling|unfinished)\{.*\} [1-9]`)

func (v *victim) compare(want map[string]int64) {
	v.t.Helper()
	got := map[string]int64{}
	for _, id := range tellerAccounts {
		var a ledger.Account
		v.get("/accounts/"+id, &a)
		amount, err := strconv.ParseInt(a.Posted.Amount, 10, 64)
		if err != nil {
			v.t.Error(err)
		}
		if amount != 0 || want[id] != 0 {
			got[id] = amount
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		v.t.Errorf("balances after a kill (-answers +accounts)\n%s", diff)
	}
}
