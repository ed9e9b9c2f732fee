package serve

import (
	"context"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestReadCgroup(t *testing.T) {
	file := func(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s + "\n")} }
	for name, tt := range map[string]struct {
		root fs.FS
		want cgroup
	}{
		"none": {fstest.MapFS{}, cgroup{}},
		"v2": {fstest.MapFS{
			"proc/self/cgroup":         file("0::/"),
			"sys/fs/cgroup/memory.max": file("536870912"),
			"sys/fs/cgroup/cpu.max":    file("150000 100000"),
		}, cgroup{536870912, 1.5}},
		"v2 without limits": {fstest.MapFS{
			"proc/self/cgroup":         file("0::/"),
			"sys/fs/cgroup/memory.max": file("max"),
			"sys/fs/cgroup/cpu.max":    file("max 100000"),
		}, cgroup{}},
		"v2, the group above is smaller": {fstest.MapFS{
			"proc/self/cgroup":                 file("0::/pod/app"),
			"sys/fs/cgroup/pod/app/memory.max": file("2000"),
			"sys/fs/cgroup/pod/memory.max":     file("1000"),
			"sys/fs/cgroup/pod/app/cpu.max":    file("max 100000"),
			"sys/fs/cgroup/pod/cpu.max":        file("50000 100000"),
		}, cgroup{1000, 0.5}},
		"v2, the path is the host's": {fstest.MapFS{
			"proc/self/cgroup":         file("0::/kubepods/pod1/app"),
			"sys/fs/cgroup/memory.max": file("1000"),
		}, cgroup{1000, 0}},
		"v1": {fstest.MapFS{
			"proc/self/cgroup":                                    file("9:name=systemd:/\n4:memory:/docker/x\n2:cpu,cpuacct:/docker/x\n0::/"),
			"sys/fs/cgroup/memory/memory.limit_in_bytes":          file("9223372036854771712"),
			"sys/fs/cgroup/memory/docker/x/memory.limit_in_bytes": file("1000"),
			"sys/fs/cgroup/cpu/docker/x/cpu.cfs_quota_us":         file("25000"),
			"sys/fs/cgroup/cpu/docker/x/cpu.cfs_period_us":        file("100000"),
			"sys/fs/cgroup/cpu/cpu.cfs_quota_us":                  file("-1"),
			"sys/fs/cgroup/cpu/cpu.cfs_period_us":                 file("100000"),
		}, cgroup{1000, 0.25}},
		"garbage": {fstest.MapFS{
			"proc/self/cgroup":         file("x\n0::/../../etc\n4:memory"),
			"sys/fs/cgroup/memory.max": file("-5"),
			"sys/fs/cgroup/cpu.max":    file("1"),
		}, cgroup{}},
	} {
		if got := readCgroup(tt.root); got != tt.want {
			t.Errorf("%s: readCgroup = %+v, want %+v", name, got, tt.want)
		}
	}
}

func TestSetMemoryLimit(t *testing.T) {
	before := debug.SetMemoryLimit(-1)
	defer debug.SetMemoryLimit(before)
	if got := setMemoryLimit(0, ""); got != 0 || debug.SetMemoryLimit(-1) != before {
		t.Errorf("without a container limit: %d", got)
	}
	if got := setMemoryLimit(1<<40, "1GiB"); got != 0 || debug.SetMemoryLimit(-1) != before {
		t.Errorf("beside GOMEMLIMIT: %d", got)
	}
	const want = 9 * (10 << 40) / 10
	if got := setMemoryLimit(10<<40, ""); got != want || debug.SetMemoryLimit(-1) != want {
		t.Errorf("setMemoryLimit(10 TiB) = %d, runtime has %d; want %d", got, debug.SetMemoryLimit(-1), int64(want))
	}
	if got := memoryLimit(0); got != want {
		t.Errorf("memoryLimit without a container's = %d, want the runtime's %d", got, int64(want))
	}
}

// feed gives a watch one reading per interval and returns at which checks it wanted profiles.
func feed(w *watch, at *time.Time, readings ...reading) (fired []int) {
	for i, r := range readings {
		*at = at.Add(profileInterval)
		if _, reason := w.check(*at, r); reason != "" {
			fired = append(fired, i+1)
		}
	}
	return fired
}

func times(n int, r reading) []reading {
	rs := make([]reading, n)
	for i := range rs {
		rs[i] = r
	}
	return rs
}

func TestWatch(t *testing.T) {
	high, low := reading{cpu: profileThreshold}, reading{cpu: profileThreshold - 0.01}
	memory := reading{memory: 0.9}
	cooldown := int(profileCooldown / profileInterval)
	for name, tt := range map[string]struct {
		readings []reading
		want     []int
	}{
		"stays high":        {times(profileChecksMin, high), []int{profileChecksMin}},
		"memory":            {times(profileChecksMin, memory), []int{profileChecksMin}},
		"short peak":        {append(times(profileChecksMin-1, high), low), nil},
		"two short peaks":   {append(append(times(profileChecksMin-1, high), low), times(profileChecksMin-1, high)...), nil},
		"one after another": {append(times(profileChecksMin-1, high), times(profileChecksMin-1, memory)...), nil},
		"cool-down": {times(profileChecksMin+cooldown+profileChecksMin, high),
			[]int{profileChecksMin, profileChecksMin + cooldown + profileChecksMin - 1}},
	} {
		var w watch
		at := time.Unix(0, 0)
		if diff := cmp.Diff(tt.want, feed(&w, &at, tt.readings...)); diff != "" {
			t.Errorf("%s: profiled at checks (-want +got):\n%s", name, diff)
		}
	}
	var w watch
	if hot, _ := w.check(time.Unix(0, 0), low); hot {
		t.Error("hot below the threshold")
	}
	if hot, _ := w.check(time.Unix(0, 0), high); !hot {
		t.Error("not hot over the threshold")
	}
}

func TestProfilerWritesFiles(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "profiles")
	load := reading{cpu: 1}
	var hot []bool
	p := &profiler{dir: dir, bytesMax: profileBytesMax, log: slog.New(slog.DiscardHandler), pause: func(context.Context, time.Duration) {}}
	p.read = func(time.Time) reading { hot = append(hot, p.recorder != nil); return load }
	ctx, cancel := context.WithCancel(t.Context())
	ticks, done := make(chan time.Time), make(chan struct{})
	go func() { defer close(done); p.run(ctx, ticks) }()
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for range profileChecksMin + 1 {
		ticks <- at
		at = at.Add(profileInterval)
	}
	cancel()
	<-done
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	prefix := filepath.Join(dir, "20260102T030500Z-cpu-")
	if diff := cmp.Diff([]string{prefix + "cpu.pprof", prefix + "heap.pprof", prefix + "trace.out"}, names); diff != "" {
		t.Fatalf("files mismatch (-want +got):\n%s", diff)
	}
	for name, magic := range map[string]string{"cpu.pprof": "\x1f\x8b", "heap.pprof": "\x1f\x8b", "trace.out": "go 1."} {
		if b, err := os.ReadFile(prefix + name); err != nil || !strings.HasPrefix(string(b), magic) {
			t.Errorf("%s begins with %q (%v), want %q", name, b[:min(8, len(b))], err, magic)
		}
	}
	if hot[0] || !hot[1] || hot[profileChecksMin] || p.recorder != nil {
		t.Errorf("flight recorder at the checks: %v, at the end %v; want it from the first hot check to the profiles", hot, p.recorder)
	}
}

func TestPruneKeepsTheNewest(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"1-a", "2-a", "2-b", "3-a", "3-b" + partSuffix} {
		if err := os.WriteFile(filepath.Join(dir, name), make([]byte, 10), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p := &profiler{dir: dir, bytesMax: 30} // 3-b.part goes and counts, 3-a and 2-b fit
	if err := p.prune(); err != nil {
		t.Fatal(err)
	}
	left, _ := filepath.Glob(filepath.Join(dir, "*"))
	for i := range left {
		left[i] = filepath.Base(left[i])
	}
	if diff := cmp.Diff([]string{"2-b", "3-a"}, left); diff != "" {
		t.Errorf("left mismatch (-want +got):\n%s", diff)
	}
}

func TestWriteProfileLeavesNothingHalf(t *testing.T) {
	dir := t.TempDir()
	err := writeProfile(filepath.Join(dir, "x"), func(w io.Writer) error {
		w.Write([]byte("half"))
		return os.ErrInvalid
	})
	if left, _ := os.ReadDir(dir); err == nil || len(left) > 0 {
		t.Errorf("writeProfile = %v, left %v; want an error and nothing", err, left)
	}
}

func TestUsage(t *testing.T) {
	u := usage{cpus: 2, memory: 1 << 40}
	at := time.Unix(100, 0)
	if r := u.read(at); r.cpu != 0 || r.memory <= 0 || r.memory >= 1 {
		t.Errorf("first reading = %+v, want no CPU yet, some memory", r)
	}
	u.lastCPU -= 3 * time.Second // as if 3 s of CPU had gone by in 2 s of 2 CPUs
	if r := u.read(at.Add(2 * time.Second)); r.cpu < 0.75 || r.cpu > 1 {
		t.Errorf("second reading = %+v, want cpu at 0.75 and a little", r)
	}
	if r := (&usage{cpus: 1}).read(at); r.memory != 0 {
		t.Errorf("without a limit: %+v", r)
	}
}
