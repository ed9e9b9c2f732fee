package cluster

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"dongne/internal/gateway"
)

const (
	tailLines    = 32       // of a node's output, for the finding when it exits
	tailLineMax  = 400      // bytes of each
	lineBytesMax = 64 << 20 // of a message
	endTime      = 5 * time.Second
	drainTime    = time.Second // for the output of a process that has ended
)

// A process is one life of a node.
type process struct {
	cmd    *exec.Cmd
	stdin  *os.File
	ended  chan struct{} // closed when the process is gone and its output was read
	killed atomic.Bool   // by us
	out    tail
	errs   tail
}

// spawn starts the program. Whoever reads its lines gets each without its end, valid until it returns.
func spawn(path string, args, env []string, log io.Writer, outLine, errLine func(line []byte)) (*process, error) {
	p := &process{cmd: exec.Command(path, args...), ended: make(chan struct{})}
	p.cmd.Env, p.cmd.Dir, p.cmd.SysProcAttr = env, os.TempDir(), gateway.OwnGroup()
	var ours, theirs [3]*os.File
	for i := range ours {
		r, w, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		if ours[i], theirs[i] = r, w; i == 0 {
			ours[i], theirs[i] = w, r
		}
	}
	p.stdin = ours[0]
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = theirs[0], theirs[1], theirs[2]
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // Linux ends the child with the thread that started it
		err := p.cmd.Start()
		for _, f := range theirs {
			f.Close()
		}
		started <- err
		if err == nil {
			p.wait(ours[1], ours[2], log, outLine, errLine)
		}
		for _, f := range ours {
			f.Close()
		}
	}()
	return p, <-started
}

func (p *process) wait(stdout, stderr *os.File, log io.Writer, outLine, errLine func([]byte)) {
	var reading sync.WaitGroup
	reading.Go(func() {
		readLines(stdout, func(line []byte, whole bool) {
			if whole || !p.killed.Load() { // a kill may cut a line short
				p.out.add(line)
				outLine(line)
			}
		})
	})
	reading.Go(func() {
		readLines(stderr, func(line []byte, _ bool) {
			p.errs.add(line)
			log.Write(append(line, '\n')) // a log that cannot be written must not end the node
			errLine(line)
		})
	})
	p.cmd.Wait()
	for _, f := range []*os.File{stdout, stderr} { // a child of the node may hold them open
		f.SetReadDeadline(time.Now().Add(drainTime))
	}
	reading.Wait()
	close(p.ended)
}

// readLines calls f with each line, cut at lineBytesMax, until the end. The last one may lack its end.
func readLines(r io.Reader, f func(line []byte, whole bool)) {
	in := bufio.NewReaderSize(r, 64<<10)
	var long []byte
	for {
		part, err := in.ReadSlice('\n')
		line := part
		if err == bufio.ErrBufferFull || len(long) > 0 {
			long = append(long, part[:min(len(part), lineBytesMax-len(long))]...)
			line = long
		}
		if err == bufio.ErrBufferFull {
			continue
		}
		if line = bytes.TrimSuffix(bytes.TrimSuffix(line, []byte("\n")), []byte("\r")); err == nil || len(line) > 0 {
			f(line, err == nil)
		}
		long = long[:0]
		if err != nil {
			return
		}
	}
}

// signal reaches the process and those that it started.
func (p *process) signal(s syscall.Signal) { syscall.Kill(-p.cmd.Process.Pid, s) }

// kill ends the process, and waits for it.
func (p *process) kill() error {
	p.killed.Store(true)
	p.signal(syscall.SIGKILL)
	select {
	case <-p.ended:
		return nil
	case <-time.After(endTime):
		return fmt.Errorf("process %d does not end within %v of its SIGKILL", p.cmd.Process.Pid, endTime)
	}
}

// tails returns the last lines of both outputs.
func (p *process) tails() []string {
	var all []string
	for _, t := range []struct {
		name string
		tail *tail
	}{{"stdout", &p.out}, {"stderr", &p.errs}} {
		for _, line := range t.tail.lines() {
			all = append(all, t.name+": "+line)
		}
	}
	return all
}

// tail keeps the last lines.
type tail struct {
	mu   sync.Mutex
	ring [tailLines]string // guarded by mu
	next int               // guarded by mu
}

func (t *tail) add(line []byte) {
	text := strings.ToValidUTF8(string(line[:min(len(line), tailLineMax)]), "\uFFFD")
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ring[t.next%tailLines] = text
	t.next++
}

func (t *tail) lines() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.next <= tailLines {
		return slices.Clone(t.ring[:t.next])
	}
	at := t.next % tailLines
	return slices.Concat(t.ring[at:], t.ring[:at])
}

// Program returns the canonical path of a program, as upstream resolves --bin.
func Program(name string) (string, error) {
	path, err := filepath.Abs(name)
	if err == nil {
		path, err = filepath.EvalSymlinks(path)
	}
	if err != nil {
		return "", err
	}
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return "", err
	case info.IsDir():
		return "", fmt.Errorf("%s is a directory, not a program", path)
	case info.Mode()&0o111 == 0:
		return "", fmt.Errorf("%s may not be executed; chmod +x it, and let a script begin with its interpreter (#!/usr/bin/env python3)", path)
	}
	return path, nil
}
