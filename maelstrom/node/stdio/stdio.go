// Package stdio runs a node.Program as a Maelstrom node: a process that reads messages on stdin and writes them to stdout,
// with the demo library that Maelstrom comes with.
//
// Where MAELSTROM_NODE_DIR names a directory, the program has a disk there; our harness gives nodes that it kills one that
// outlives that. Upstream's does not, and the program starts from nothing each time.
package stdio

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	maelstrom "github.com/jepsen-io/maelstrom/demo/go"

	"dongne/maelstrom/node"
)

// Surroundings are what the process runs in.
type Surroundings struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Getenv         func(string) string
	Now            func() time.Time
	Rand           *rand.Rand
	// OwnsLog says that the standard logger, on which the library logs every message, is ours to silence. With the
	// argument --verbose it goes to Stderr.
	OwnsLog bool
}

// ErrExited says that the program wanted to end, as some mutants do.
var ErrExited = errors.New("the program ended by itself")

// Run runs the program until stdin ends or something fails.
func Run(spec node.Spec, args []string, s Surroundings) error {
	verbose := slices.Contains(args, "--verbose")
	if s.OwnsLog {
		log.SetOutput(io.Discard)
		if verbose {
			log.SetOutput(s.Stderr)
		}
	}
	args = slices.DeleteFunc(slices.Clone(args), func(arg string) bool { return arg == "--verbose" })
	return newDriver(spec, args, s).run()
}

// driver does for a program what it cannot do itself. The library calls it from one goroutine per message.
type driver struct {
	Surroundings
	spec    node.Spec
	args    []string
	library *maelstrom.Node
	stdout  *lineWriter
	began   time.Time
	failed  chan error // the first failure; has room for it
	open    func(dir string) (engine, error)
	writer  sync.WaitGroup

	mu      sync.Mutex
	program node.Program // nil before init, and after the end; guarded by mu
	wake    *time.Timer  // nil before init; guarded by mu
	disk    *disk        // nil: none; set once, by init
	records [][]byte     // to be written next; guarded by mu
	writing bool         // a goroutine is writing; guarded by mu
}

func newDriver(spec node.Spec, args []string, s Surroundings) *driver {
	d := &driver{Surroundings: s, spec: spec, args: args, library: maelstrom.NewNode(), began: s.Now(), open: openLog,
		stdout: &lineWriter{to: s.Stdout}, failed: make(chan error, 1)}
	d.library.Stdin = newSieve(s.Stdin, slices.Concat(spec.Requests, []string{"init"}), d.receive)
	d.library.Stdout = d.stdout
	d.library.Handle("init", d.init)
	for _, request := range spec.Requests {
		d.library.Handle(request, func(m maelstrom.Message) error {
			d.receive(m.Src, m.Body)
			return nil
		})
	}
	return d
}

func (d *driver) run() error {
	ended := make(chan error, 1)
	go func() { ended <- d.library.Run() }()
	var err error
	select {
	case err = <-ended:
	case err = <-d.failed:
	}
	return errors.Join(err, d.close())
}

// init starts the program. The library answers when it has returned.
func (d *driver) init(m maelstrom.Message) error {
	var body maelstrom.InitMessageBody
	if err := json.Unmarshal(m.Body, &body); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.wake != nil {
		return errors.New("a second init")
	}
	d.wake = time.AfterFunc(time.Hour, func() { d.input(func(time.Duration) {}) }) // step says when
	err := d.start(node.Start{ID: body.NodeID, Nodes: body.NodeIDs, Args: d.args, Rand: d.Rand,
		Incarnation: uint64(max(1, d.Now().UnixMicro()))})
	if err != nil {
		fmt.Fprintln(d.Stderr, err)
	}
	return err
}

func (d *driver) start(s node.Start) error {
	if dir := d.Getenv("MAELSTROM_NODE_DIR"); dir != "" {
		log, err := d.open(dir)
		if err != nil {
			return err
		}
		d.disk = &disk{log: log}
		if s.Disk, err = d.disk.begin(s.Incarnation); err != nil {
			return fmt.Errorf("stdio: disk in %s: %w", dir, err)
		}
		s.Incarnation, s.Durable = d.disk.incarnation, true
	}
	program, err := d.spec.New(s)
	if err != nil {
		return err
	}
	d.program = program
	d.step()
	return nil
}

// receive gives the program a message. One that comes before init is lost, as it would be before the process.
func (d *driver) receive(src string, body json.RawMessage) {
	d.input(func(now time.Duration) { d.program.Receive(now, src, body) })
}

// input tells the program something, and does what it then wants.
func (d *driver) input(tell func(now time.Duration)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.program != nil {
		tell(d.now())
		d.step()
	}
}

func (d *driver) now() time.Duration { return d.Now().Sub(d.began) }

// step does what the program wants. It holds mu.
func (d *driver) step() {
	out := d.program.Ready(d.now())
	for _, m := range out.Send {
		if err := d.library.Send(m.To, m.Body); err != nil {
			d.fail(fmt.Errorf("stdio: send to %s: %w", m.To, err))
		}
	}
	for _, line := range out.Print {
		if err := d.stdout.print(line); err != nil {
			d.fail(fmt.Errorf("stdio: print: %w", err))
		}
	}
	d.records = append(d.records, out.Write...)
	if len(d.records) > 0 && !d.writing {
		d.writing = true
		d.writer.Go(d.write)
	}
	if wake := d.program.Wake(); wake >= 0 {
		d.wake.Reset(max(0, wake-d.now()))
	}
	if out.Exit {
		d.fail(ErrExited)
	}
}

// write writes records while there are any: those that come meanwhile share the next slot.
func (d *driver) write() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for len(d.records) > 0 {
		batch := d.records
		d.records = nil
		d.mu.Unlock()
		err := d.disk.append(batch)
		d.mu.Lock()
		if err != nil {
			d.fail(fmt.Errorf("stdio: write to disk: %w", err))
			return // writing stays true: nothing is written any more
		}
		if d.program != nil {
			d.program.Persisted(d.now(), len(batch))
			d.step()
		}
	}
	d.writing = false
}

// fail makes Run end with the error, if it is the first.
func (d *driver) fail(err error) {
	select {
	case d.failed <- err:
	default:
	}
}

// close ends the program once its records are written.
func (d *driver) close() error {
	d.mu.Lock()
	if d.wake != nil {
		d.wake.Stop()
	}
	d.program = nil
	disk := d.disk
	d.mu.Unlock()
	d.writer.Wait()
	if disk == nil {
		return nil
	}
	return disk.log.Close()
}
