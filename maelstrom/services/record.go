package services

import (
	"sync"
	"time"

	"dongne/maelstrom/history"
)

// findingsMax bounds what a run says about its nodes; one is enough to fail it.
const findingsMax = 100

// A recorder writes the history, in the order of time.
type recorder struct {
	started time.Time

	mu       sync.Mutex
	ops      []history.Op      // guarded by mu
	findings []history.Finding // guarded by mu
}

func newRecorder() *recorder { return &recorder{started: time.Now()} }

// now is the time since the start of the run.
func (r *recorder) now() time.Duration { return time.Since(r.started) }

// add appends an operation, and gives it its index and time.
func (r *recorder) add(op history.Op) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	op.Index, op.Time = len(r.ops), r.now()
	r.ops = append(r.ops, op)
	return op.Time
}

// fresh is a process number that no operation has, nor a greater one.
func (r *recorder) fresh() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, op := range r.ops {
		n = max(n, op.Process+1)
	}
	return n
}

func (r *recorder) finding(f history.Finding) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if f.Time = r.now(); len(r.findings) < findingsMax {
		r.findings = append(r.findings, f)
	}
}

// A process numbers the operations of one client: after one whose outcome nobody knows it is another process.
type process struct {
	record *recorder
	number int
	step   int  // how many processes there are
	final  bool // after recovery
}

// begin notes that something is asked. The returned function notes how it ended, and returns when.
func (p *process) begin(f string, value any) (end func(t history.Type, node string, value any, err error) time.Duration, at time.Duration) {
	at = p.record.add(history.Op{Process: p.number, Type: history.Invoke, F: f, Value: toJSON(value), Final: p.final})
	return func(t history.Type, node string, value any, err error) time.Duration {
		op := history.Op{Process: p.number, Type: t, F: f, Value: toJSON(value), Node: node, Final: p.final}
		if err != nil {
			op.Error.Text = err.Error()
		}
		if t == history.Info {
			p.number += p.step
		}
		return p.record.add(op)
	}, at
}
