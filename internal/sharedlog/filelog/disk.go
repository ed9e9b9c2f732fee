package filelog

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// fileSystem is the directory of a log, so far as the log uses it. Names are relative to it. Only what was synced is
// certain to survive: a file's bytes by the file's Sync, its name by syncDir.
type fileSystem interface {
	// open opens a file to read and write; a new, empty one in place of any other when create is set.
	open(name string, create bool) (file, error)
	rename(from, to string) error
	remove(name string) error
	list() ([]string, error)
	syncDir() error
	// lock takes a lock that ends with the process, or says who has it.
	lock(name string) (io.Closer, error)
}

// file is an open file, so far as the log uses it.
type file interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Size() (int64, error)
	Truncate(size int64) error
	// Sync makes bytes and size durable.
	Sync() error
}

// isFull says whether an error means that there is no space.
func isFull(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }

// directory is the real fileSystem.
type directory struct{ path string }

// openDir creates the directory if need be, durably.
func openDir(path string) (directory, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return directory{}, err
	}
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return directory{path}, nil
	}
	parent, err := openDir(filepath.Dir(path))
	if err != nil {
		return directory{}, err
	}
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return directory{}, err
	}
	return directory{path}, parent.syncDir()
}

func (d directory) open(name string, create bool) (file, error) {
	flags := os.O_RDWR
	if create {
		flags |= os.O_CREATE | os.O_TRUNC
	}
	f, err := os.OpenFile(filepath.Join(d.path, name), flags, 0o600)
	if err != nil {
		return nil, err
	}
	return diskFile{f}, nil
}

func (d directory) rename(from, to string) error {
	return os.Rename(filepath.Join(d.path, from), filepath.Join(d.path, to))
}

func (d directory) remove(name string) error { return os.Remove(filepath.Join(d.path, name)) }

func (d directory) list() ([]string, error) {
	entries, err := os.ReadDir(d.path)
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, err
}

func (d directory) syncDir() error {
	f, err := os.Open(d.path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

type diskFile struct{ *os.File }

func (f diskFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}
