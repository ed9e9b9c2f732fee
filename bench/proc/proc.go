// Package proc runs the servers of a benchmark as child processes and reads from /proc what they cost. Linux only.
package proc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	stopTime   = 5 * time.Second // that a process has to end by itself
	retryTime  = 10 * time.Millisecond
	outputKept = 4 << 10 // bytes of a process's output, for the error message
	clockTicks = 100     // per second in /proc/<pid>/stat: USER_HZ, the same on every Linux architecture that Go knows
)

// Process is a running child process with its descendants: they share a process group of its own, or are its children's
// children, as PostgreSQL's, which each make a group.
type Process struct {
	cmd    *exec.Cmd
	output tail
	exited chan struct{}
}

// Start runs a program with env added to this process's environment. It ends when this process does, whatever ends it.
func Start(env []string, name string, args ...string) (*Process, error) {
	return StartAs(nil, env, name, args...)
}

// StartAs is Start as another user, for which this process must be root; nil: as this one.
func StartAs(user *syscall.Credential, env []string, name string, args ...string) (*Process, error) {
	p := &Process{cmd: exec.Command(name, args...), exited: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stdout, p.cmd.Stderr = &p.output, &p.output
	p.cmd.WaitDelay = time.Second // for output that a descendant holds open
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM, Credential: user}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		p.cmd.Wait()
		close(p.exited)
	}()
	return p, nil
}

// Stop ends the process and its descendants: politely, then by force.
func (p *Process) Stop() {
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.exited:
	case <-time.After(stopTime):
	}
	p.Kill()
}

// Kill ends the process and its group at once, as kill -9 does.
func (p *Process) Kill() {
	syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) // an empty group answers ESRCH
	<-p.exited
	for late := time.Now().Add(stopTime); p.alive() && time.Now().Before(late); {
		time.Sleep(retryTime) // a killed process dies in its own time
	}
}

// alive reports whether the process or a descendant runs.
func (p *Process) alive() bool {
	return p.each(func(string, []string) error { return nil }) == nil
}

// Await calls ready until it succeeds, and fails when the process or ctx ends first.
func (p *Process) Await(ctx context.Context, ready func() error) error {
	for {
		err := ready()
		if err == nil {
			return nil
		}
		select {
		case <-time.After(retryTime):
		case <-ctx.Done():
			return fmt.Errorf("%s does not answer: %w (%v)", p.cmd.Path, err, ctx.Err())
		case <-p.exited:
			return fmt.Errorf("%s ended: %v: %s", p.cmd.Path, p.cmd.ProcessState, p.output.String())
		}
	}
}

// AwaitTCP waits until the process takes connections at addr.
func (p *Process) AwaitTCP(ctx context.Context, addr string) error {
	return p.Await(ctx, func() error {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			conn.Close()
		}
		return err
	})
}

// CPU is the user and system time of the process and its living descendants, in steps of 10 ms.
func (p *Process) CPU() (time.Duration, error) {
	var ticks int
	err := p.each(func(_ string, fields []string) error {
		user, err := strconv.Atoi(fields[11])
		system, err2 := strconv.Atoi(fields[12])
		ticks += user + system
		return errors.Join(err, err2)
	})
	return time.Duration(ticks) * time.Second / clockTicks, err
}

// Memory is what a process and its descendants hold, in bytes. RSS counts a page shared by two of them twice, PSS once.
type Memory struct{ RSS, PSS int }

// Memory reads smaps_rollup.
func (p *Process) Memory() (Memory, error) {
	var m Memory
	err := p.each(func(dir string, _ []string) error {
		text, err := os.ReadFile(filepath.Join(dir, "smaps_rollup"))
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(text)) {
			fields := strings.Fields(line)
			if len(fields) != 3 || fields[2] != "kB" {
				continue
			}
			kib, err := strconv.Atoi(fields[1])
			if err != nil {
				return err
			}
			switch fields[0] {
			case "Rss:":
				m.RSS += kib << 10
			case "Pss:":
				m.PSS += kib << 10
			}
		}
		return nil
	})
	return m, err
}

// each calls f for every process of the group and every descendant: its folder in /proc, and the fields of its stat file
// from the state on.
func (p *Process) each(f func(dir string, fields []string) error) error {
	root := strconv.Itoa(p.cmd.Process.Pid)
	dirs, err := filepath.Glob("/proc/[0-9]*")
	stats, parents := map[string][]string{}, map[string]string{}
	for _, dir := range dirs {
		stat, err := os.ReadFile(filepath.Join(dir, "stat"))
		if err != nil {
			continue // it ended meanwhile
		}
		// The name before the state is in parentheses and may hold anything.
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		if len(fields) >= 13 && fields[0] != "Z" {
			stats[dir], parents[filepath.Base(dir)] = fields, fields[1]
		}
	}
	descends := func(pid string) bool {
		for steps := 0; pid != root && pid != "" && steps < len(parents); steps++ { // read over a time, it may hold a circle
			pid = parents[pid]
		}
		return pid == root
	}
	found := false
	for _, dir := range dirs {
		fields := stats[dir]
		if fields == nil || fields[2] != root && !descends(filepath.Base(dir)) {
			continue
		}
		if err := f(dir, fields); err != nil {
			if _, statErr := os.Stat(dir); statErr != nil {
				continue // it ended meanwhile
			}
			return fmt.Errorf("%s: %w", dir, err)
		}
		found = true
	}
	if !found && err == nil {
		err = fmt.Errorf("%s has ended: %s", p.cmd.Path, p.output.String())
	}
	return err
}

// Busy is the time that all processors together have spent on anything since boot, of whatever process.
func Busy() (time.Duration, error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	// The first line: cpu, then ticks of user, nice, system, idle, iowait, irq, softirq, steal, and of guests, which user
	// and nice contain.
	line, _, _ := strings.Cut(string(text), "\n")
	ticks := 0
	for i, field := range strings.Fields(line) {
		if i == 0 || i == 4 || i == 5 || i > 8 {
			continue
		}
		n, err := strconv.Atoi(field)
		if err != nil {
			return 0, fmt.Errorf("/proc/stat: %q: %w", line, err)
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / clockTicks, nil
}

// Others is the CPU time of everything on this machine but this process and those whose time is known.
func Others(known time.Duration) (time.Duration, error) {
	busy, err := Busy()
	if err != nil {
		return 0, err
	}
	own, err := Own()
	return busy - own - known, err
}

// Own is the CPU time of this process.
func Own() (time.Duration, error) {
	var usage syscall.Rusage
	err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage)
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano()), err
}

// Flushes counts the cache flushes that the disk under path has completed since boot, of all processes.
func Flushes(path string) (int, error) {
	var stat syscall.Stat_t
	if err := syscall.Stat(path, &stat); err != nil {
		return 0, err
	}
	// The kernel's new_encode_dev: 12 bits of major amid 20 bits of minor.
	major, minor := stat.Dev>>8&0xfff, stat.Dev&0xff|stat.Dev>>12&0xfff00
	text, err := os.ReadFile("/proc/diskstats")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) >= 20 && fields[0] == fmt.Sprint(major) && fields[1] == fmt.Sprint(minor) {
			return strconv.Atoi(fields[18])
		}
	}
	return 0, fmt.Errorf("/proc/diskstats does not count flushes of device %d:%d", major, minor)
}

// FreeAddr returns a loopback address whose port was free a moment ago.
func FreeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// tail keeps the end of what is written to it.
type tail struct {
	mu   sync.Mutex
	kept []byte // guarded by mu
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.kept = append(t.kept, p...)
	t.kept = t.kept[max(0, len(t.kept)-outputKept):]
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.kept)
}
