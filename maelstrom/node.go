package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"dongne/internal/sim"
	"dongne/maelstrom/node"
	"dongne/maelstrom/node/stdio"
)

const nodeUsage = `usage: maelstrom node NAME [ARGUMENTS]
       maelstrom node mutant NAME [ARGUMENTS]

A built-in node program: it reads messages on stdin and writes messages on stdout. Give it to a harness, ours or upstream's:

  maelstrom test -w broadcast --bin maelstrom -- node broadcast --profile balanced

`

// runNode is a node program: the command node.
func runNode(_ context.Context, w world) (int, error) {
	if len(w.args) == 0 || w.args[0] == "-h" || w.args[0] == "--help" {
		fmt.Fprint(w.stdout, nodeUsage)
		listNodes(w.stdout)
		return exitValid, nil
	}
	name, args := w.args[0], w.args[1:]
	spec, ok := node.Find(name)
	if name == "mutant" && len(args) > 0 {
		var m node.Mutant
		m, ok = findMutant(args[0])
		spec, name, args = m.Spec, "mutant "+args[0], args[1:]
	}
	if !ok {
		return 0, badArgument("there is no node program %q; maelstrom node lists them", name)
	}
	return exitValid, stdio.Run(spec, args, stdio.Surroundings{Stdin: w.stdin, Stdout: w.stdout, Stderr: w.stderr,
		Getenv: w.getenv, Now: time.Now, Rand: sim.Stream(uint64(time.Now().UnixNano()), "node"), OwnsLog: true})
}

func listNodes(out io.Writer) {
	for _, s := range node.Programs() {
		fmt.Fprintf(out, "  %-24s %s\n", s.Name, s.Help)
	}
	fmt.Fprintln(out, "\nMutants are wrong on purpose, so that a harness can show that it finds it:")
	for _, m := range node.Mutants() {
		fmt.Fprintf(out, "  %-24s %s: %s\n", m.Name, m.Workload, m.Wrong)
	}
}
