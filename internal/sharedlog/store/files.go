package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"dongne/internal/sharedlog"
)

const (
	snapshotName = "snapshot"
	unfinished   = ".tmp" // ends the names of files that are not yet whole
)

// snapshots keeps the newest snapshot of a log in a directory.
type snapshots struct{ dir string }

func openSnapshots(dir string) (*snapshots, error) {
	if err := makeDir(dir); err != nil {
		return nil, err
	}
	left, err := filepath.Glob(filepath.Join(escape(dir), "*"+unfinished))
	if err != nil {
		return nil, err
	}
	for _, path := range left { // by a process that ended while it wrote
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	return &snapshots{dir}, nil
}

// escape makes a path match itself alone.
func escape(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

// SaveSnapshot implements live.SnapshotStore.
func (s *snapshots) SaveSnapshot(_ context.Context, slot uint64, data []byte) error {
	if err := writeFile(s.dir, snapshotName, data, os.Rename); err != nil {
		if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
			err = fmt.Errorf("%w: %w", sharedlog.ErrFull, err)
		}
		return fmt.Errorf("store: save a snapshot of slot %d: %w", slot, err)
	}
	return nil
}

// LoadSnapshot implements live.SnapshotStore. Damage is found here, to name the file.
func (s *snapshots) LoadSnapshot(context.Context) ([]byte, error) {
	path := filepath.Join(s.dir, snapshotName)
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("store: %w: no snapshot in %s", sharedlog.ErrAbsent, s.dir)
	}
	if err == nil {
		_, err = sharedlog.DecodeSnapshot(data)
	}
	if err != nil {
		return nil, fmt.Errorf("store: %s: %w", path, err)
	}
	return data, nil
}

// writeFile writes a whole file beside its name, and when it is on the disk gives it the name by place: os.Rename
// replaces what has the name, os.Link fails with os.ErrExist.
func writeFile(dir, name string, data []byte, place func(from, to string) error) error {
	f, err := os.CreateTemp(dir, name+"-*"+unfinished)
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone already when it was renamed
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := place(f.Name(), filepath.Join(dir, name)); err != nil {
		return err
	}
	return syncDir(dir)
}

// makeDir makes a directory, durably, with what leads to it.
func makeDir(dir string) error {
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	parent := filepath.Dir(dir)
	if parent != dir {
		if err := makeDir(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return syncDir(parent)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
