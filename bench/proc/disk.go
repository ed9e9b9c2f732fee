package proc

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	rawFileBytes  = 16 << 20
	rawBlockBytes = 4 << 10
)

// RawSyncs is the disk's own rate under dir, measured for d: one block overwritten in an allocated file and fdatasync'd, one
// after the other.
func RawSyncs(ctx context.Context, dir string, d time.Duration) (perSecond float64, err error) {
	f, err := os.Create(filepath.Join(dir, "raw"))
	if err != nil {
		return 0, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if _, err := f.Write(make([]byte, rawFileBytes)); err != nil {
		return 0, err
	}
	if err := f.Sync(); err != nil {
		return 0, err
	}
	block := make([]byte, rawBlockBytes)
	begin, n := time.Now(), 0
	for ; time.Since(begin) < d && ctx.Err() == nil; n++ {
		if _, err := f.WriteAt(block, int64(n*rawBlockBytes%rawFileBytes)); err != nil {
			return 0, err
		}
		if err := syscall.Fdatasync(int(f.Fd())); err != nil {
			return 0, err
		}
	}
	return float64(n) / time.Since(begin).Seconds(), ctx.Err()
}

// Written is how many bytes the process and its living descendants have sent towards the disk, in pages that they made dirty.
func (p *Process) Written() (bytes int, err error) {
	err = p.each(func(dir string, _ []string) error {
		text, err := os.ReadFile(filepath.Join(dir, "io"))
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(text)) {
			if number, ok := strings.CutPrefix(line, "write_bytes: "); ok {
				n, err := strconv.Atoi(strings.TrimSpace(number))
				if err != nil {
					return err
				}
				bytes += n
			}
		}
		return nil
	})
	return bytes, err
}
