// Maelstrom: a workbench for distributed programs, after Jepsen's Maelstrom (github.com/jepsen-io/maelstrom), in one Go
// program. A node is any program that reads a JSON message a line on stdin and writes some on stdout; the harness starts
// several, carries their messages, cuts the network between them, and judges what clients saw.
//
//	maelstrom test -w broadcast --bin ./my-node --node-count 5 --nemesis partition    real processes
//	maelstrom sim -w broadcast --seeds 1-1000 --nemesis partition,kill,loss           the built-in node in virtual time
//	maelstrom services -w pay --nemesis partition,kill,pause                          one of our own services, under faults
//	maelstrom serve                                                                   the reports of past runs
//	maelstrom node broadcast                                                          a built-in node program
//
// It exits with upstream's codes: 0 valid, 1 invalid, 2 unknown, 254 bad arguments, 255 the run itself failed.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

// The exit codes.
const (
	exitValid     = 0
	exitInvalid   = 1
	exitUnknown   = 2
	exitArguments = 254
	exitFailed    = 255
)

const usage = `usage: maelstrom COMMAND [OPTIONS] [-- NODE ARGUMENTS]

  test       run a workload against node processes, and judge it
  sim        run a built-in node in virtual time, seed after seed
  services   run one of our own services as processes, under faults
  serve      browse the reports of past runs
  node       be a built-in node, speaking on stdin and stdout

maelstrom COMMAND -h lists a command's options.
`

// world is what a command has around it.
type world struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	getenv         func(string) string
	args           []string // after the command
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, world{os.Stdin, os.Stdout, os.Stderr, os.Getenv, os.Args[1:]})
	stop()
	os.Exit(code)
}

// errArguments is wrapped by what is wrong with the command line.
var errArguments = errors.New("bad arguments")

func run(ctx context.Context, w world) int {
	commands := map[string]func(context.Context, world) (int, error){
		"test": test, "sim": simulateCommand, "services": servicesCommand, "serve": serveStore, "node": runNode,
	}
	if len(w.args) == 0 || commands[w.args[0]] == nil {
		if len(w.args) > 0 && (w.args[0] == "-h" || w.args[0] == "--help" || w.args[0] == "help") {
			fmt.Fprint(w.stdout, usage)
			return exitValid
		}
		if len(w.args) > 0 {
			fmt.Fprintf(w.stderr, "maelstrom: there is no command %q\n\n", w.args[0])
		}
		fmt.Fprint(w.stderr, usage)
		return exitArguments
	}
	command := commands[w.args[0]]
	w.args = w.args[1:]
	code, err := command(ctx, w)
	if errors.Is(err, errHelp) {
		return exitValid
	}
	if err != nil {
		fmt.Fprintf(w.stderr, "maelstrom: %v\n", err)
		if errors.Is(err, errArguments) {
			return exitArguments
		}
		return exitFailed
	}
	return code
}
