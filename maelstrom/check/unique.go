package check

import (
	"cmp"
	"fmt"
	"slices"

	"dongne/maelstrom/edn"
	"dongne/maelstrom/history"
)

const duplicatesMax = 48 // upstream's results name no more

// checkUniqueIDs wants no id twice. Upstream cannot judge ids of which one cannot say which is greater; we can.
func checkUniqueIDs(ops *operations, j *judge) part {
	var ids index
	var given [][]int // id → indexes of the operations that returned it
	attempted, acknowledged := 0, 0
	for i := range ops.Ops {
		op := &ops.Ops[i]
		switch {
		case op.F != "generate":
		case op.Type == history.Invoke:
			attempted++
		case op.Type == history.OK:
			acknowledged++
			n, isNew := ids.number(op.Value)
			if isNew {
				given = append(given, nil)
			}
			given[n] = append(given[n], i)
		}
	}
	if acknowledged < 2 {
		j.nothing("uniqueness needs two ids, and the nodes gave out %d", acknowledged)
	}
	var duplicated [][]int
	var wrong []string
	for _, by := range given {
		if len(by) > 1 {
			duplicated = append(duplicated, by)
			wrong = append(wrong, givenTwice(ops, by))
		}
	}
	j.wrong(wrong...)
	lowest, highest, err := idRange(ops, given)
	if err != nil {
		return part{Unknown, edn.Map{}.With("error", err.Error())}
	}
	return part{verdict(len(duplicated) == 0), edn.Map{}.With("attempted-count", attempted).
		With("acknowledged-count", acknowledged).With("duplicated-count", len(duplicated)).
		With("duplicated", duplicates(ops, duplicated)).With("range", edn.Vector{lowest, highest})}
}

func givenTwice(ops *operations, by []int) string {
	var who []string
	for _, i := range by {
		who = append(who, fmt.Sprintf("by %s at %s", ops.node(i), ops.at(i)))
	}
	return fmt.Sprintf("the id %s was given out %d times: %s", cut(ops.Ops[by[0]].Value), len(by), list(who))
}

// idRange returns the lowest and the highest id.
func idRange(ops *operations, given [][]int) (lowest, highest edn.Raw, err error) {
	var low, high any
	for n, by := range given {
		raw := ops.Ops[by[0]].Value
		value, err := decode(raw)
		if err != nil {
			return nil, nil, fmt.Errorf("the id %s is no JSON: %w", cut(raw), err)
		}
		if n == 0 {
			low, high, lowest, highest = value, value, edn.Raw(raw), edn.Raw(raw)
			if len(by) == 1 {
				continue // one alone is compared with nothing
			}
		}
		below, ok := compare(value, low)
		above, okay := compare(value, high)
		if !ok || !okay {
			return nil, nil, fmt.Errorf("the ids %s and %s cannot be compared", cut(lowest), cut(raw))
		}
		if below < 0 {
			low, lowest = value, edn.Raw(raw)
		}
		if above > 0 {
			high, highest = value, edn.Raw(raw)
		}
	}
	return lowest, highest, nil
}

// duplicates maps the most frequent ids, sorted, to how often each was given out.
func duplicates(ops *operations, duplicated [][]int) edn.Map {
	slices.SortStableFunc(duplicated, func(a, b []int) int { return cmp.Compare(len(b), len(a)) })
	most := duplicated[:min(len(duplicated), duplicatesMax)]
	sortByValue(most, func(by []int) []byte { return ops.Ops[by[0]].Value })
	m := edn.Map{}
	for _, by := range most {
		m = append(m, edn.Pair{Key: edn.Raw(ops.Ops[by[0]].Value), Value: len(by)})
	}
	return m
}
