// Package report writes the files that a run leaves in the store, and browses the store.
//
// Everything is readable offline: the SVG and HTML files stand alone, without scripts. A run's folder holds
//
//	index.html      the whole run on one page; shows the next three
//	latency.svg     every operation's latency over time, and quantiles
//	rate.svg        operations per second over time
//	messages.svg    Lamport diagram of the first messages
//	timeline.html   a column per process, a row per history entry
//	results.edn     what the checkers found; results.json the same
//	history.edn     the operations; history.jsonl and history.txt the same
//	node-logs/      what the nodes wrote to stderr; the runner's, linked if there
package report

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"dongne/maelstrom/check"
	"dongne/maelstrom/edn"
	"dongne/maelstrom/history"
)

// Options of Write.
type Options struct {
	Replay string // the command line that runs the same again; may be empty
}

// Write writes a run's files into dir, all but node-logs.
func Write(dir string, run *history.Run, results check.Results, o Options) error {
	for _, file := range []struct {
		name  string
		write func(*bufio.Writer) error
	}{
		{"results.edn", func(w *bufio.Writer) error {
			_, err := w.Write(append(edn.AppendIndented(nil, results.Fields), '\n'))
			return err
		}},
		{"results.json", func(w *bufio.Writer) error { return writeJSON(w, results.Fields) }},
		{"history.edn", func(w *bufio.Writer) error { return history.WriteEDN(w, run.Ops) }},
		{"history.jsonl", func(w *bufio.Writer) error { return history.WriteJSON(w, run.Ops) }},
		{"history.txt", func(w *bufio.Writer) error { return writeText(w, run.Ops) }},
		{"messages.svg", func(w *bufio.Writer) error { return drawMessages(w, run) }},
		{"latency.svg", func(w *bufio.Writer) error { return drawLatency(w, run) }},
		{"rate.svg", func(w *bufio.Writer) error { return drawRate(w, run) }},
		{"timeline.html", func(w *bufio.Writer) error { return writeTimeline(w, run) }},
		{"index.html", func(w *bufio.Writer) error { return writeIndex(w, dir, run, results, o) }},
	} {
		if err := writeFile(filepath.Join(dir, file.name), file.write); err != nil {
			return fmt.Errorf("report: write %s: %w", file.name, err)
		}
	}
	return nil
}

// writeFile need not look at the errors of single writes: a bufio.Writer keeps the first for Flush.
func writeFile(name string, write func(*bufio.Writer) error) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	w := bufio.NewWriterSize(f, 64<<10)
	if err := write(w); err != nil {
		return err
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return f.Close()
}

func writeJSON(w *bufio.Writer, fields edn.Map) error {
	text, err := json.MarshalIndent(fields, "", "  ")
	if err != nil {
		return err
	}
	_, err = w.Write(append(text, '\n'))
	return err
}

// writeText writes history.txt: process, type, f, value, error.
func writeText(w *bufio.Writer, ops []history.Op) error {
	fWidth := 0
	for i := range ops {
		fWidth = max(fWidth, len(ops[i].F))
	}
	for i := range ops {
		op := &ops[i]
		fmt.Fprintf(w, "%-8s\t%-6s\t%-*s\t", processName(op.Process), op.Type, fWidth, op.F)
		if op.Value == nil {
			w.WriteString("null")
		} else {
			w.Write(op.Value)
		}
		if text := errorText(op); text != "" {
			w.WriteString("\t" + strings.Join(strings.Fields(text), " ")) // one line an operation
		}
		w.WriteByte('\n')
	}
	return nil
}

func processName(process int) string {
	if process == history.Nemesis {
		return "nemesis"
	}
	return strconv.Itoa(process)
}

// errorText returns why an operation did not end well, "" if it did.
func errorText(op *history.Op) string {
	parts := []string{op.Error.Name, op.Error.Text, op.Exception}
	return strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), ": ")
}
