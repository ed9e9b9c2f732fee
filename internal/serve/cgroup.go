package serve

import (
	"io/fs"
	"math"
	"path"
	"runtime/debug"
	"strconv"
	"strings"
)

// cgroup is what the container may use; 0 means no limit.
type cgroup struct {
	memory int64   // bytes
	cpus   float64 // CPU seconds per second
}

// unlimitedBytes: cgroup v1 says "no limit" with the largest multiple of the page size.
const unlimitedBytes = 1 << 62

// readCgroup reads the limits of the process's control groups, version 1 or 2, below root ("/" but for tests). A limit of
// any group above counts too, so the smallest wins. What cannot be read is no limit.
func readCgroup(root fs.FS) cgroup {
	var c cgroup
	self, err := fs.ReadFile(root, "proc/self/cgroup")
	if err != nil {
		return c
	}
	for line := range strings.Lines(string(self)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3) // id:controllers:path
		if len(parts) != 3 {
			continue
		}
		group := strings.TrimPrefix(parts[2], "/")
		if parts[1] == "" {
			c.readV2(root, "sys/fs/cgroup", group)
			continue
		}
		for controller := range strings.SplitSeq(parts[1], ",") {
			switch controller {
			case "memory":
				c.readV1Memory(root, "sys/fs/cgroup/memory", group)
			case "cpu":
				c.readV1CPU(root, "sys/fs/cgroup/cpu", group)
			}
		}
	}
	return c
}

func (c *cgroup) readV2(root fs.FS, mount, group string) {
	eachGroup(root, mount, group, "memory.max", func(text, _ string) { c.limitMemory(text) })
	eachGroup(root, mount, group, "cpu.max", func(text, _ string) {
		quota, period, _ := strings.Cut(text, " ")
		c.limitCPU(quota, period)
	})
}

func (c *cgroup) readV1Memory(root fs.FS, mount, group string) {
	eachGroup(root, mount, group, "memory.limit_in_bytes", func(text, _ string) { c.limitMemory(text) })
}

func (c *cgroup) readV1CPU(root fs.FS, mount, group string) {
	eachGroup(root, mount, group, "cpu.cfs_quota_us", func(quota, dir string) {
		period, err := fs.ReadFile(root, path.Join(dir, "cpu.cfs_period_us"))
		if err == nil {
			c.limitCPU(quota, strings.TrimSpace(string(period)))
		}
	})
}

// eachGroup calls f with the text of name in group and every group above it, up to the mount. Inside a container the
// path may be that of the host, which does not exist here: its ancestors are tried all the same.
func eachGroup(root fs.FS, mount, group, name string, f func(text, dir string)) {
	for {
		dir := path.Join(mount, group)
		if text, err := fs.ReadFile(root, path.Join(dir, name)); err == nil {
			f(strings.TrimSpace(string(text)), dir)
		}
		if group == "" || group == "." {
			return
		}
		group = path.Dir(group)
	}
}

func (c *cgroup) limitMemory(text string) {
	n, err := strconv.ParseInt(text, 10, 64) // "max" is no number
	if err == nil && n > 0 && n < unlimitedBytes && (c.memory == 0 || n < c.memory) {
		c.memory = n
	}
}

func (c *cgroup) limitCPU(quotaText, periodText string) {
	quota, err1 := strconv.ParseFloat(quotaText, 64) // "max" in version 2 and -1 in version 1 are no limit
	period, err2 := strconv.ParseFloat(periodText, 64)
	if err1 != nil || err2 != nil || quota <= 0 || period <= 0 {
		return
	}
	if cpus := quota / period; c.cpus == 0 || cpus < c.cpus {
		c.cpus = cpus
	}
}

// memoryHeadroom is the part of the container's memory that is left to what the Go runtime does not count: the binary,
// page cache that is in use, other processes.
const memoryHeadroom = 0.1

// setMemoryLimit sets the Go runtime's soft limit from the container's, unless GOMEMLIMIT (given as its text) did. It
// returns the limit that it set, in bytes, or 0.
func setMemoryLimit(container int64, gomemlimit string) int64 {
	if container == 0 || gomemlimit != "" {
		return 0
	}
	limit := int64(float64(container) * (1 - memoryHeadroom))
	debug.SetMemoryLimit(limit)
	return limit
}

// memoryLimit is the limit against which memory use is watched, in bytes: the container's or else GOMEMLIMIT's; 0: none.
func memoryLimit(container int64) int64 {
	if container > 0 {
		return container
	}
	if limit := debug.SetMemoryLimit(-1); limit < math.MaxInt64 {
		return limit
	}
	return 0
}
