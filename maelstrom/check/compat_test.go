package check

import (
	"testing"

	"dongne/maelstrom/history"
)

// What upstream cannot fail or misjudges, as far as it concerns these workloads: with Compat the verdict is its own, without
// it ours. That a node is heard no more after a bad line or a late reply, and that partitions may cut nothing, is not the
// checkers' business; packages cluster and interpreter have tests of it.
func TestCompat(t *testing.T) {
	for _, c := range []struct {
		name, workload, text string
		findings             []history.Finding
		upstream, ours       Verdict
	}{
		{"duplicates in a read", "broadcast", "n1 broadcast 1\nfinal\nn1 read [1,1]", nil, True, False},
		{"a value that nobody sent", "broadcast", "n1 broadcast 1\nfinal\nn1 read [1,9]", nil, True, False},
		{"a value that one node lacks", "broadcast", "n1 broadcast 1\nfinal\nn1 begin read\nn2 begin read\nn1 end read []\nn2 end read [1]", nil, True, False},
		{"no final read that is ok", "broadcast", "n1 broadcast 1\nn1 read [1]\nn1 broadcast 2\nfinal\nn1 fail read net-timeout", nil, True, Unknown},
		{"a node that exits", "broadcast", "n1 broadcast 1\nfinal\nn1 read [1]", []history.Finding{{Node: "n1", Kind: history.Exited, Text: "n1 ended"}}, Unknown, False},
		{"a bad line", "broadcast", "n1 broadcast 1\nfinal\nn1 read [1]", []history.Finding{{Node: "n1", Kind: history.BadLine, Text: "n1 printed x"}}, True, False},
		{"ids that cannot be compared", "unique-ids", "n1 generate 1\nn1 generate \"a\"", nil, Unknown, True},
		{"a counter without a final read", "g-counter", "n1 add 1\nn1 read 1\nfinal\nn1 info read net-timeout", nil, True, Unknown},
		{"a counter that shows too much before the end", "pn-counter", "n1 add 1\nn1 read 7\nfinal\nn1 read 1", nil, True, False},
		{"a counter that adds what it refused", "g-counter", "n1 add 1\nn1 info add abort 2\nfinal\nn1 read 3", nil, True, False},
		{"nothing done", "echo", "wait 1", nil, True, Unknown},
		{"one id", "unique-ids", "n1 generate 1", nil, True, Unknown},
	} {
		run := script(c.workload, c.text)
		run.Findings = c.findings
		ours, compat := Check(run, Options{}), Check(run, Options{Compat: true})
		if ours.Valid != c.ours || compat.Valid != c.upstream {
			t.Errorf("%s: %v, with Compat %v; want %v, %v", c.name, ours.Valid, compat.Valid, c.ours, c.upstream)
		}
		if ours.Upstream != compat.Upstream || ours.Ours != compat.Ours {
			t.Errorf("%s: the two verdicts depend on which is asked for", c.name)
		}
	}
}
