package check

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"dongne/maelstrom/history"
)

const (
	partition   = `nemesis start-partition ["isolated",{"n1":["n2"],"n2":["n1"]}]`
	noPartition = `nemesis start-partition ["isolated",{"n1":[]}]`
	heal        = `nemesis stop-partition "network-healed"`
)

// Each rule has a history that breaks it, and one that differs as little as possible and is right.
func TestRules(t *testing.T) {
	for _, c := range []struct {
		name, workload string
		options        Options
		bad, reason    string
		want           Verdict
		good           string
	}{
		{"stats", "broadcast", Options{}, "n1 broadcast 1\nn1 fail read net-timeout", "not one of 1 read operations was ok", False,
			"n1 broadcast 1\nn1 fail read net-timeout\nfinal\nn1 read [1]"},
		{"stats under faults", "broadcast", Options{NemesisAsked: true}, partition + "\nn1 broadcast 1\nn1 fail read net-timeout",
			"not one of 1 read operations was ok", Unknown, partition + "\nn1 broadcast 1\nn1 fail read net-timeout\nfinal\nn1 read [1]"},
		{"loss is a fault", "unique-ids", Options{NemesisAsked: true}, "nemesis start-loss [\"started\",[]]\nn1 generate 1\nn1 generate 2",
			"faults were wanted", Unknown, "nemesis start-loss [\"started\",\"loss\"]\nn1 generate 1\nn1 generate 2"},
		{"availability", "echo", Options{Availability: 0.75}, "n1 echo 1\nn1 fail echo crash\nn1 echo 2", "only 2 of 3", False, ""},
		{"total availability", "unique-ids", Options{Availability: 1}, "n1 generate 1\nn1 generate 2\nn1 fail generate crash",
			"only 2 of 3 operations were ok, and a fraction of 1 was wanted", False, "n1 generate 1\nn1 generate 2"},
		{"partial availability", "unique-ids", Options{Availability: 0.7}, "n1 generate 1\nn1 generate 2\nn1 fail generate crash",
			"only 2 of 3", False, "n1 generate 1\nn1 generate 2\nn1 generate 3\nn1 fail generate crash"},
		{"no operation", "echo", Options{}, "wait 1", "there was no operation at all", Unknown, `n1 echo "a"`},
		{"unknown workload", "chess", Options{}, "n1 move 1", `no checker for the workload "chess"`, Unknown, ""},
		{"no fault", "unique-ids", Options{NemesisAsked: true}, "n1 generate 1\nn1 generate 2", "faults were wanted", Unknown,
			partition + "\nn1 generate 1\nn1 generate 2\n" + heal},
		{"empty fault", "unique-ids", Options{NemesisAsked: true}, noPartition + "\nn1 generate 1\nn1 generate 2", "faults were wanted", Unknown,
			"nemesis kill [\"killed\",[\"n1\"]]\nn1 generate 1\nn1 generate 2"},
		{"nobody paused", "unique-ids", Options{NemesisAsked: true},
			"nemesis pause [\"paused\",[]]\nn1 generate 1\nn1 generate 2", "faults were wanted", Unknown,
			"nemesis pause [\"paused\",[\"n1\"]]\nn1 generate 1\nn1 generate 2"},

		{"another echo", "echo", Options{}, "n1 begin echo \"a\"\nwait 3000\nn1 end echo {\"echo\":\"b\"}",
			`n1 answered "b" to echo "a" at 3.021 s`, False, "n1 begin echo \"a\"\nn1 end echo {\"echo\":\"a\"}"},
		{"no echo", "echo", Options{}, "n1 begin echo \"a\"\nn1 end echo {\"Echo\":\"a\"}", `n1 answered {"Echo":"a"} to`, False,
			"n1 begin echo {\"a\":1,\"b\":2}\nn1 end echo {\"echo\":{\"b\":2, \"a\":1}}"},
		{"failed echo", "echo", Options{}, "n1 echo \"a\"\nn1 info echo net-timeout \"b\"",
			`n1 did not answer echo "b": it timed out at 0.011 s`, False, "n1 echo \"a\"\nn1 echo \"b\""},
		{"open echo", "echo", Options{}, "n1 echo 1\nn1 begin echo 2", "n1 did not answer echo 2: it was never answered", False,
			"n1 echo 1\nn1 begin echo 2\nn1 end echo 2"},

		{"same id", "unique-ids", Options{}, "n1 generate \"x\"\nn2 generate \"y\"\nn2 generate \"x\"",
			`the id "x" was given out 2 times: by n1 at 0.001 s and by n2 at 0.021 s`, False, "n1 generate \"x\"\nn2 generate \"y\"\nn2 generate \"z\""},
		{"same object", "unique-ids", Options{}, "n1 generate {\"a\":1,\"b\":2}\nn2 generate {\"b\": 2, \"a\": 1}", "given out 2 times", False,
			"n1 generate {\"a\":1,\"b\":2}\nn2 generate {\"b\": 1, \"a\": 2}"},
		{"same number", "unique-ids", Options{}, "n1 generate 1.0\nn2 generate 10e-1", "given out 2 times", False,
			"n1 generate 1.0\nn2 generate 1\nn1 generate \"1\"\nn1 generate [1]\nn1 generate null\nn1 generate true"},
		{"one id", "unique-ids", Options{}, "n1 generate 1\nn1 info generate crash", "needs two ids", Unknown, "n1 generate 1\nn1 generate 2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			wantVerdict(t, script(c.workload, c.bad), c.options, c.want, c.reason)
			if c.good != "" {
				wantVerdict(t, script(c.workload, c.good), c.options, True, "")
			}
		})
	}
}

// As TestRules, of broadcast.
func TestBroadcastRules(t *testing.T) {
	for _, c := range []struct {
		name, bad, reason string
		want              Verdict
		good              string
	}{
		{"lost in one final read", "n1 broadcast 1\nfinal\nn1 begin read\nn2 begin read\nn1 end read []\nn2 end read [1]",
			"n1's final read at 0.041 s lacks 1 (acknowledged by n1 at 0.001 s)", False,
			"n1 broadcast 1\nfinal\nn1 begin read\nn2 begin read\nn1 end read [1]\nn2 end read [1]"},
		{"seen, and lost", "n1 broadcast 7\nn1 info broadcast net-timeout 1\nn2 read [1,7]\nfinal\nn1 read [7]\nn2 read [7,1]",
			"n1's final read at 0.041 s lacks 1 (n2's read had it at 0.021 s)", False,
			"n1 broadcast 7\nn1 info broadcast net-timeout 1\nn2 read [7]\nfinal\nn1 read [7]\nn2 read [7]"},
		{"lost", "n1 broadcast 1\nn2 broadcast 2\nfinal\nn1 read [1,2]\nn1 begin read\nn1/2 read [2]\nn1 end read [2]",
			"lacks 1 (acknowledged", False, "n1 broadcast 1\nn2 broadcast 2\nfinal\nn1 read [1,2]\nn1 begin read\nn1/2 read [2,1]\nn1 end read [2,1]\nn2 read [1,2]"},
		{"lost without a final read", "n1 broadcast 1\nn1 read [1]\nn1 read []",
			"1 (acknowledged by n1 at 0.001 s) was lost: n1's read, begun at 0.02 s, lacks it", False, "n1 broadcast 1\nn1 read [1]\nfinal\nn1 read [1]"},
		{"disagreement", "n1 broadcast 1\nn1 info broadcast net-timeout 17\nfinal\nn1 read [1,17]\nn3 read [1]",
			"n1 and n3 never agreed on 17", False, "n1 broadcast 1\nn1 info broadcast net-timeout 17\nfinal\nn1 read [1,17]\nn3 read [1,17]"},
		{"phantom", "n1 broadcast 1\nn1 read [1,\"ghost\"]\nfinal\nn1 read [1]", `n1's read at 0.011 s has "ghost", which nobody had`, False,
			"n1 broadcast 1\nn1 broadcast \"ghost\"\nn1 read [1,\"ghost\"]\nfinal\nn1 read [1,\"ghost\"]"},
		{"prophet", "n1 broadcast 1\nn1 read [2]\nn1 broadcast 2\nfinal\nn1 read [1,2]", "n1's read at 0.011 s has 2, which nobody had", False,
			"n1 broadcast 1\nn2 begin broadcast 2\nn1 read [2]\nn2 end broadcast\nfinal\nn1 read [1,2]\nn2 read [2,1]"},
		{"duplicate", "n1 broadcast 1\nn2 read [1,1,1]\nfinal\nn1 read [1]\nn2 read [1]", "n2's read at 0.011 s has 3 copies of 1", False,
			"n1 broadcast 1\nn2 read [1]\nfinal\nn1 read [1]\nn2 read [1]"},
		{"duplicate of another look", "n1 broadcast {\"a\":1,\"b\":2}\nfinal\nn1 read [{\"a\":1,\"b\":2}, {\"b\":2, \"a\":1}]", "2 copies of", False,
			"n1 broadcast {\"a\":1,\"b\":2}\nfinal\nn1 read [{\"b\":2, \"a\":1}]"},
		{"no array", "n1 broadcast 1\nn1 read {\"1\":1}\nfinal\nn1 read [1]", `n1's read at 0.011 s is no array: {"1":1}`, False,
			"n1 broadcast 1\nn1 read [ ]\nfinal\nn1 read [1]"},
		{"final read timed out", "n1 broadcast 1\nfinal\nn1 read [1]\nn3 fail read net-timeout",
			"what n3 has at the end is not known: its final read timed out at 0.031 s", Unknown, "n1 broadcast 1\nfinal\nn1 read [1]\nn3 fail read net-timeout\nn3 read [1]"},
		{"final read refused", "n1 broadcast 1\nfinal\nn1 read [1]\nn3 fail read crash", "its final read failed at 0.031 s: crash", Unknown,
			"n1 broadcast 1\nfinal\nn1 read [1]\nn3 read [1]"},
		{"no final read", "n1 broadcast 1\nn1 read [1]", "there was no final read", Unknown, "n1 broadcast 1\nfinal\nn1 read [1]"},
		{"acknowledged too late", "n1 broadcast 1\nn2 begin broadcast 2\nfinal\nn1 read [1]\nn2 end broadcast\nn2 fail read crash",
			"no read that was ok began after these were acknowledged: 2 (acknowledged by n2 at 0.041 s)", Unknown,
			"n1 broadcast 1\nn2 begin broadcast 2\nfinal\nn1 begin read\nn2 end broadcast\nn2 read [1,2]\nn1 end read [1,2]"},
		{"acknowledged during the last read", "n1 begin read\nn2 broadcast 1\nn2 fail read crash\nfinal\nn1 end read []\nn1 fail read crash",
			"no read that was ok began after", Unknown, "n1 begin read\nn2 broadcast 1\nfinal\nn2 read [1]\nn1 end read []\nn1 read [1]"},
		{"nothing acknowledged", "n1 info broadcast net-timeout 1\nn1 begin broadcast 2\nfinal\nn2 read [1]", "no broadcast was acknowledged", False, ""},
		{"nothing read", "n1 broadcast 1\nn1 begin read", "no read was ok", Unknown, "n1 broadcast 1\nfinal\nn1 read [1]"},
		{"nothing broadcast", "final\nn1 read []", "no broadcast was acknowledged", Unknown, "n1 broadcast 1\nfinal\nn1 read [1]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			wantVerdict(t, script("broadcast", c.bad), Options{}, c.want, c.reason)
			if c.good != "" {
				wantVerdict(t, script("broadcast", c.good), Options{}, True, "")
			}
		})
	}
}

// What several rules catch is told once, in the clearest words.
func TestOneFaultHasOneReason(t *testing.T) {
	for words, text := range map[string]string{
		"final read at 0.031 s lacks 1":          "n1 broadcast 1\nfinal\nn1 read [1]\nn2 read []",
		"n1 and n2 never agreed on 17":           "n1 broadcast 1\nn1 info broadcast net-timeout 17\nfinal\nn1 read [1,17]\nn2 read [1]",
		"has 9, which nobody had":                "n1 broadcast 1\nn1 read [9,1]\nfinal\nn1 read [9,1]\nn2 read [1]",
		"n1's read at 0.021 s has 2 copies of 1": "n1 broadcast 1\nfinal\nn1 read [1,1]\nn2 read [1,1]",
	} {
		if r := wantVerdict(t, script("broadcast", text), Options{}, False, words); len(r.Reasons) != 1 {
			t.Errorf("%d reasons: %q", len(r.Reasons), r.Reasons)
		}
	}
}

// Of nodes that no final read was sent to, the verdict says nothing.
func TestNodeWithoutWorker(t *testing.T) {
	run := script("broadcast", "n1 broadcast 1\nfinal\nn1 read [1]", "n2", "n3")
	r := wantVerdict(t, run, Options{}, True, "")
	wantNote(t, r, "what n2, n3 had at the end is not known")
	wantNoNote(t, wantVerdict(t, script("broadcast", "n1 broadcast 1\nfinal\nn1 read [1]"), Options{}, True, ""))
}

func notes(r Results) string { return fmt.Sprint(strict(r).Get("notes")) }

func wantNote(t *testing.T, r Results, words string) {
	t.Helper()
	if !strings.Contains(notes(r), words) {
		t.Errorf("nothing about %q in the notes %s", words, notes(r))
	}
}

func wantNoNote(t *testing.T, r Results) {
	t.Helper()
	if notes(r) != "[]" {
		t.Errorf("notes %s, want none", notes(r))
	}
}

func TestFindings(t *testing.T) {
	const good = "n1 broadcast 1\nfinal\nn1 read [1]"
	for kind, want := range map[history.Kind]struct{ ours, upstream Verdict }{
		history.Exited:       {False, Unknown},
		history.NotAnswering: {False, Unknown},
		history.BadLine:      {False, True},
		history.BadAddress:   {False, True},
		history.BadReply:     {False, True},
		history.LateReply:    {True, True},
	} {
		run := script("broadcast", good)
		run.Findings = []history.Finding{{Time: 3200 * time.Millisecond, Node: "n2", Kind: kind, Text: "it did so"}}
		const said = "at 3.2 s, n2: it did so"
		r := wantVerdict(t, run, Options{}, want.ours, said)
		if kind == history.LateReply {
			wantNote(t, r, said)
		}
		if r.Upstream != want.upstream {
			t.Errorf("%s: upstream's verdict %v, want %v", kind, r.Upstream, want.upstream)
		}
		if compat := Check(run, Options{Compat: true}); compat.Valid != want.upstream || compat.Ours != want.ours {
			t.Errorf("%s: with Compat %v, ours %v, want %v, %v", kind, compat.Valid, compat.Ours, want.upstream, want.ours)
		}
		text := text(r.Fields.Get("findings"))
		if wanted := `[{:node "n2", :kind :` + string(kind) + `, :text "it did so", :time 3200000000}]`; text != wanted {
			t.Errorf("findings %s, want %s", text, wanted)
		}
		if said, has := r.Fields.Get("error").(string); has != (want.upstream == Unknown) || has && !strings.Contains(said, "n2 ("+string(kind)+")") {
			t.Errorf("%s: the error is %q", kind, said)
		}
	}
}

// Of many findings alike one is told, with how many there are.
func TestFindingsAreGrouped(t *testing.T) {
	run := script("broadcast", "n1 broadcast 1\nfinal\nn1 read [1]")
	for i := range 3 {
		run.Findings = append(run.Findings, history.Finding{Time: time.Duration(i) * time.Second, Node: "n1", Kind: history.BadLine, Text: "n1 printed x"})
	}
	run.Findings[2].More = 5
	run.Findings = append(run.Findings, history.Finding{Time: 4 * time.Second, Node: "n1", Kind: history.BadReply, Text: "no type"})
	want := []string{"at 0 s n1 printed x (8 times)", "at 4 s, n1: no type"}
	if got := Check(run, Options{}).Reasons; !slices.Equal(got, want) {
		t.Errorf("reasons %q, want %q", got, want)
	}
}

func TestExposure(t *testing.T) {
	run := script("unique-ids", "n1 generate 1\nn2 begin generate\n"+partition+"\nn1 generate 2\nn2 end generate 3\n"+heal+"\nn1 generate 4\n"+noPartition)
	for _, dropped := range []int{0, 5} {
		run.Journal.Dropped = dropped
		r := wantVerdict(t, run, Options{NemesisAsked: true}, True, "")
		want := fmt.Sprintf("{:faults 1, :dropped-messages %d, :ops-during-faults 2, :ops-outside 2}", dropped)
		if got := text(strict(r).Get("exposure")); got != want {
			t.Errorf("exposure %s, want %s", got, want)
		}
		if dropped > 0 {
			wantNoNote(t, r)
		} else {
			wantNote(t, r, "the partitions dropped no message")
		}
	}
	run = script("unique-ids", "n1 generate 1\nn1 generate 2\n"+partition+"\n"+heal)
	wantNote(t, wantVerdict(t, run, Options{NemesisAsked: true}, True, ""), "no operation was under way during a fault")
}

// Every rule that is broken has its reasons among the first twelve, and one line says how many there are more.
func TestReasonsAreBounded(t *testing.T) {
	lines := "n1 broadcast 0\n"
	for i := range 40 {
		lines += fmt.Sprintf("n1 read [0,0,%d,%d]\n", 100+i, 100+i)
	}
	r := Check(script("broadcast", lines+"final\nn1 read [0]\nn2 read []\n"), Options{})
	if len(r.Reasons) != reasonsMax+1 || r.Reasons[reasonsMax] != "… and 70 more" {
		t.Errorf("%d reasons: %q", len(r.Reasons), r.Reasons)
	}
	for _, words := range []string{"n2's final read", "2 copies", "nobody had broadcast"} {
		if !slices.ContainsFunc(r.Reasons, func(reason string) bool { return strings.Contains(reason, words) }) {
			t.Errorf("nothing about %q in %q", words, r.Reasons)
		}
	}
	if !strings.Contains(r.Reasons[0], "n2's final read") {
		t.Errorf("the first reason is %q", r.Reasons[0])
	}
}

func TestList(t *testing.T) {
	for n, want := range []string{"", "0", "0 and 1", "0, 1 and 2", "0, 1, 2 and 3", "0, 1, 2, 3 and 4", "0, 1, 2, 3, 4 and 5", "0, 1, 2, 3, 4 and 2 more"} {
		var all []string
		for i := range n {
			all = append(all, fmt.Sprint(i))
		}
		if got := list(all); got != want {
			t.Errorf("list(%q) = %q, want %q", all, got, want)
		}
	}
}
