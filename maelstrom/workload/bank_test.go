package workload

import (
	"encoding/json"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestBankRequests(t *testing.T) {
	w, err := New("bank", nil)
	if err != nil {
		t.Fatal(err)
	}
	text := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	got := []string{text(w.Setup("n0"))}
	for f, v := range map[string]BankValue{"transfer": {ID: "1", From: "0", To: "3", Amount: 5}, "void": {ID: "2", Hold: "1"}} {
		got = append(got, text(w.Request(Invocation{f, json.RawMessage(text(v))})))
	}
	got = append(got, text(w.Request(Invocation{F: "read"})), text(w.Reply("read")), text(w.Reply("hold")))
	slices.Sort(got)
	want := []string{
		`{"Type":"hold_ok","Member":"","Whole":false,"Array":false,"Integer":false}`,
		`{"Type":"read_ok","Member":"balances","Whole":false,"Array":false,"Integer":false}`,
		`{"accounts":{"0":10,"1":20,"2":30,"3":40,"4":50,"5":60,"6":70,"7":80},"type":"open"}`,
		`{"type":"read"}`,
		`{"type":"transfer","id":"1","from":"0","to":"3","amount":5}`,
		`{"type":"void","id":"2","hold":"1"}`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("bank mismatch (-want +got):\n%s", diff)
	}
}

// Operations are of all kinds; what has an id that was there is word for word what had it before; what is done to a hold
// names one that was asked for.
func TestBankOperations(t *testing.T) {
	const seed = 7
	r := rand.New(rand.NewPCG(seed, 1))
	w := &bank{}
	kinds, asked, holds, repeats := map[string]int{}, map[string]string{}, map[string]bool{}, 0
	for range 4000 {
		inv := w.Next(r)
		kinds[inv.F]++
		if inv.F == "read" {
			continue
		}
		var v BankValue
		if err := json.Unmarshal(inv.Value, &v); err != nil {
			t.Fatal(err)
		}
		text := inv.F + string(inv.Value)
		if before, again := asked[v.ID]; again {
			repeats++
			if before != text {
				t.Errorf("seed %d: %s, and before %s", seed, text, before)
			}
			continue
		}
		asked[v.ID] = text
		switch inv.F {
		case "transfer", "hold":
			if holds[v.ID] = inv.F == "hold"; v.From == v.To || v.Amount < 1 || v.Amount > bankAmounts {
				t.Errorf("seed %d: %s", seed, text)
			}
		default:
			if !holds[v.Hold] {
				t.Errorf("seed %d: %s, and there is no such hold", seed, text)
			}
		}
	}
	for f, least := range map[string]int{"read": 1100, "transfer": 900, "hold": 400, "capture": 400, "void": 200, "refund": 200} {
		if kinds[f] < least {
			t.Errorf("seed %d: %d of kind %s, want %d at least", seed, kinds[f], f, least)
		}
	}
	if repeats < 200 {
		t.Errorf("seed %d: %d operations are asked for again, want 200 at least", seed, repeats)
	}
	if len(w.open) > bankOpen || len(w.ended) > bankEnded || len(w.captured) > bankEnded || len(w.asked) > bankRepeats {
		t.Errorf("%d open, %d ended, %d captured, %d asked are remembered", len(w.open), len(w.ended), len(w.captured), len(w.asked))
	}
}
