package serve

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	rtmetrics "runtime/metrics"
	"runtime/pprof"
	"runtime/trace"
	"strings"
	"time"
)

// The rules follow github.com/daangn/autopprof: a threshold, and checks in a row so that a short peak is none. It
// profiles at the first check over the threshold; here the load must stay, and a cool-down and a cap on disk use bound
// what a bad day may cost.
const (
	profileThreshold = 0.75             // of the CPU or memory limit
	profileChecksMin = 12               // in a row over the threshold
	profileInterval  = 5 * time.Second  // between two checks
	profileCooldown  = 10 * time.Minute // after a set of profiles
	profileCPUTime   = 10 * time.Second // that the CPU profile covers
	profileBytesMax  = 64 << 20         // of all files together; the oldest go first
	traceBytesMax    = 8 << 20          // of the flight recorder's window
	traceAgeMin      = 5 * time.Second  // of the flight recorder's window
)

// reading is one check: the used part of the limit, 0 to about 1; 0 where there is no limit.
type reading struct{ cpu, memory float64 }

// watch decides, from readings alone, when to profile. The zero value is ready.
type watch struct {
	cpuOver, memoryOver int // checks in a row
	quietUntil          time.Time
}

// check takes the reading of time now. hot: some load is over the threshold, so the flight recorder should run. reason is
// "cpu" or "memory" when the load stayed there for long enough: take profiles.
func (w *watch) check(now time.Time, r reading) (hot bool, reason string) {
	if now.Before(w.quietUntil) {
		return false, ""
	}
	count := func(n *int, used float64) {
		if *n++; used < profileThreshold {
			*n = 0
		}
	}
	count(&w.cpuOver, r.cpu)
	count(&w.memoryOver, r.memory)
	switch {
	case w.cpuOver >= profileChecksMin:
		reason = "cpu"
	case w.memoryOver >= profileChecksMin:
		reason = "memory"
	default:
		return w.cpuOver > 0 || w.memoryOver > 0, ""
	}
	*w = watch{quietUntil: now.Add(profileCooldown)}
	return true, reason
}

// usage reads how much of its limits the process uses.
type usage struct {
	cpus    float64
	memory  int64 // bytes; 0: no limit
	lastCPU time.Duration
	lastAt  time.Time
}

// read returns the CPU used since the last read, and the memory held now.
func (u *usage) read(now time.Time) reading {
	var r reading
	cpu := processCPU()
	if wall := now.Sub(u.lastAt); !u.lastAt.IsZero() && wall > 0 {
		r.cpu = float64(cpu-u.lastCPU) / float64(wall) / u.cpus
	}
	u.lastCPU, u.lastAt = cpu, now
	if u.memory > 0 {
		samples := []rtmetrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
		rtmetrics.Read(samples)
		r.memory = float64(samples[0].Value.Uint64()-samples[1].Value.Uint64()) / float64(u.memory)
	}
	return r
}

// profiler writes profiles into dir when told to by a watch.
type profiler struct {
	dir      string
	bytesMax int64
	log      *slog.Logger
	read     func(now time.Time) reading
	pause    func(ctx context.Context, d time.Duration) // returns early when ctx ends
	recorder *trace.FlightRecorder                      // nil while nothing is hot: an idle service pays nothing for it
}

// startProfiler watches the process in the background; the returned function ends that and waits for it.
func startProfiler(dir string, limit cgroup, log *slog.Logger) (stop func()) {
	u := usage{cpus: cmp.Or(limit.cpus, float64(runtime.GOMAXPROCS(0))), memory: memoryLimit(limit.memory)}
	p := &profiler{dir: dir, bytesMax: profileBytesMax, log: log, read: u.read, pause: pause}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		ticker := time.NewTicker(profileInterval)
		defer ticker.Stop()
		p.run(ctx, ticker.C)
	}()
	return func() { cancel(); <-done }
}

func pause(ctx context.Context, d time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	<-ctx.Done()
}

// run checks at every tick until ctx ends; a tick's value is the time.
func (p *profiler) run(ctx context.Context, ticks <-chan time.Time) {
	defer p.record(false)
	var w watch
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-ticks:
			r := p.read(now)
			hot, reason := w.check(now, r)
			p.record(hot)
			if reason != "" {
				p.take(ctx, now, reason, r)
				p.record(false)
			}
		}
	}
}

// record starts or stops the flight recorder. A process has at most one; when another part of it has it, ours stays off.
func (p *profiler) record(on bool) {
	switch {
	case on && p.recorder == nil:
		recorder := trace.NewFlightRecorder(trace.FlightRecorderConfig{MinAge: traceAgeMin, MaxBytes: traceBytesMax})
		if err := recorder.Start(); err == nil {
			p.recorder = recorder
		}
	case !on && p.recorder != nil:
		p.recorder.Stop()
		p.recorder = nil
	}
}

// take writes one set of files: the trace of what led here, the heap, and the CPU from here on.
func (p *profiler) take(ctx context.Context, now time.Time, reason string, r reading) {
	prefix := filepath.Join(p.dir, now.UTC().Format("20060102T150405Z")+"-"+reason)
	var errs []error
	if p.recorder != nil {
		errs = append(errs, writeProfile(prefix+"-trace.out", func(w io.Writer) error {
			_, err := p.recorder.WriteTo(w)
			return err
		}))
	}
	errs = append(errs, writeProfile(prefix+"-heap.pprof", func(w io.Writer) error {
		return pprof.Lookup("heap").WriteTo(w, 0)
	}))
	errs = append(errs, writeProfile(prefix+"-cpu.pprof", func(w io.Writer) error {
		if err := pprof.StartCPUProfile(w); err != nil {
			return err
		}
		p.pause(ctx, profileCPUTime)
		pprof.StopCPUProfile()
		return nil
	}))
	errs = append(errs, p.prune())
	p.log.Warn("profiled", "reason", reason, "cpu", r.cpu, "memory", r.memory, "files", prefix+"-*")
	if err := errors.Join(errs...); err != nil {
		p.log.Error("profile failed", "error", err.Error())
	}
}

// partSuffix marks a file that is being written.
const partSuffix = ".part"

// writeProfile writes a file that appears under its name only when it is whole.
func writeProfile(name string, write func(io.Writer) error) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(name+partSuffix, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(write(f), f.Close()); err != nil {
		os.Remove(f.Name())
		return fmt.Errorf("%s: %w", name, err)
	}
	return os.Rename(f.Name(), name)
}

// prune removes the oldest files until the rest is within bytesMax, and what a crash left half-written. Names begin with
// the time, so their order is that of age.
func (p *profiler) prune() error {
	entries, err := os.ReadDir(p.dir) // sorted by name
	if err != nil {
		return err
	}
	var errs []error
	var total int64
	for i := len(entries) - 1; i >= 0; i-- {
		info, err := entries[i].Info()
		if err != nil {
			errs = append(errs, err)
			continue
		}
		total += info.Size()
		if total > p.bytesMax || strings.HasSuffix(info.Name(), partSuffix) {
			errs = append(errs, os.Remove(filepath.Join(p.dir, info.Name())))
		}
	}
	return errors.Join(errs...)
}
