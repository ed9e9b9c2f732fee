package live_test

import (
	"context"
	"fmt"
	"os"
	"strconv"

	"dongne/internal/sharedlog"
	"dongne/internal/sharedlog/filelog"
	"dongne/internal/sharedlog/live"
)

// sum is a machine that adds numbers up. A request is a number, its answer the sum after it.
type sum struct{ total int }

func (m *sum) Prepare(_ sharedlog.Position, requests []int) []sharedlog.Prepared[int] {
	var prepared []sharedlog.Prepared[int]
	for _, q := range requests {
		if q == 0 { // nothing to write down
			prepared = append(prepared, sharedlog.Prepared[int]{Done: true, Result: m.total})
			continue
		}
		prepared = append(prepared, sharedlog.Prepared[int]{Commands: [][]byte{[]byte(strconv.Itoa(q))}})
	}
	return prepared
}

func (m *sum) Apply(b *sharedlog.Batch) (totals []int) {
	for _, c := range b.Commands {
		n, _ := strconv.Atoi(string(c.Data))
		m.total += n
		totals = append(totals, m.total)
	}
	return totals
}

func (m *sum) Abandon()                 {}
func (m *sum) Snapshot() ([]byte, bool) { return []byte(strconv.Itoa(m.total)), true }

func (m *sum) Restore(state []byte) (err error) {
	m.total, err = strconv.Atoi(string(state))
	return err
}

// A machine behind a durable file: what was answered is there when the log is opened again.
func Example() {
	dir, err := os.MkdirTemp("", "sum-")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	ctx := context.Background()
	for range 2 {
		engine, report, err := filelog.Open(dir, filelog.Options{})
		if err != nil {
			fmt.Println(err)
			return
		}
		log, err := live.Open(ctx, engine, &sum{}, live.Options{})
		if err != nil {
			fmt.Println(err)
			return
		}
		total, err := log.Propose(ctx, 20)
		fmt.Println(report, "->", total, err)
		total, err = log.Propose(ctx, 1)
		fmt.Println(total, err)
		log.Close()
		engine.Close()
	}
	// Output:
	// no slots -> 20 <nil>
	// 21 <nil>
	// slots 1 to 2 in 1 segments -> 41 <nil>
	// 42 <nil>
}
