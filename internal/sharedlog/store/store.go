// Package store opens the shared logs of a service where its STORE variable says: in files of its own, or in an etcd
// that several processes share.
//
//	file                                     logs under the service's directory, one process at a time
//	etcd://host:port,host:port[/prefix]      logs under the prefix (default: dongne/<service>) in etcd
//
// # Places
//
// In files, under the directory:
//
//	<log>/                 a log; see package filelog
//	settings/<setting>     the value of a setting, as it is
//
// In etcd, the log of package etcdlog under <prefix>/<log>, and for a setting a log under <prefix>/settings/<setting>
// whose slot 1 is the value. Snapshots are too large for etcd. Each process keeps its own, as files:
//
//	<log>/snapshot         see sharedlog.Snapshot
package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"dongne/internal/sharedlog"
	"dongne/internal/sharedlog/etcdlog"
	"dongne/internal/sharedlog/filelog"
	"dongne/internal/sharedlog/live"
)

const (
	nameBytesMax  = 64
	valueBytesMax = 4096
	settings      = "settings"
	retryPause    = 50 * time.Millisecond
)

// Log is an open log. From files it is a *filelog.Log: exclusive, with snapshots, and with reads of a part of a slot.
// From etcd it is shared, and keeps its snapshots in files.
type Log interface {
	live.Engine
	io.Closer
}

// Store is where a service keeps its logs.
type Store struct {
	dir       string
	endpoints []string // none: files
	prefix    string   // of all keys in etcd
}

// Open reads the text of STORE; empty means file. dir is the service's data directory, service its name. Nothing is
// opened or reached yet; the error says what is wrong with the text.
func Open(store, dir, service string) (*Store, error) {
	s := &Store{dir: dir}
	if store == "" || store == "file" {
		return s, nil
	}
	rest, ok := strings.CutPrefix(store, "etcd://")
	if !ok {
		return nil, fmt.Errorf("%q, want file or etcd://host:port,host:port", store)
	}
	hosts, prefix, _ := strings.Cut(rest, "/")
	s.endpoints, s.prefix = strings.Split(hosts, ","), cmp.Or(strings.TrimSuffix(prefix, "/"), "dongne/"+service)
	for _, e := range s.endpoints {
		host, port, err := net.SplitHostPort(e)
		n, bad := strconv.ParseUint(port, 10, 16)
		if err != nil || bad != nil || host == "" || n == 0 || strings.Contains(host, "@") {
			return nil, fmt.Errorf("%q in %q, want host:port", e, store)
		}
	}
	if strings.ContainsAny(s.prefix, "?# ") {
		return nil, fmt.Errorf("prefix %q, want none of ?, # and blanks", s.prefix)
	}
	if _, err := s.etcd("x"); err != nil {
		return nil, err
	}
	return s, nil
}

// Shared says whether several processes may have its logs open at once.
func (s *Store) Shared() bool { return len(s.endpoints) > 0 }

// Log opens a log, and returns a line that says what was found. A name has 1 to 64 letters, digits, - and _.
func (s *Store) Log(ctx context.Context, name string) (Log, string, error) {
	if err := checkName(name); err != nil {
		return nil, "", err
	}
	dir := filepath.Join(s.dir, name)
	if !s.Shared() {
		log, report, err := filelog.Open(dir, filelog.Options{})
		if err != nil {
			return nil, "", err
		}
		return log, fmt.Sprintf("log %s: %v", name, report), nil
	}
	log, err := s.etcd(name)
	if err != nil {
		return nil, "", err
	}
	snapshots, err := openSnapshots(dir)
	if err != nil {
		return nil, "", errors.Join(fmt.Errorf("store: snapshots of log %s: %w", name, err), log.Close())
	}
	report := fmt.Sprintf("log %s: %s/%s in etcd at %s", name, s.prefix, name, strings.Join(s.endpoints, ", "))
	return sharedLog{log, snapshots}, report, nil
}

func (s *Store) etcd(name string) (*etcdlog.Log, error) {
	return etcdlog.New(etcdlog.Config{Endpoints: s.endpoints, Prefix: s.prefix + "/" + name})
}

// sharedLog is a log in etcd with its snapshots in files.
type sharedLog struct {
	*etcdlog.Log
	*snapshots
}

// Setting records a value that must never change once anybody relied on it, such as a number of shards: the value of
// the first caller ever stands, and is returned to all. A value has 1 to 4096 bytes.
func (s *Store) Setting(ctx context.Context, name, value string) (string, error) {
	if err := checkName(name); err != nil {
		return "", err
	}
	if value == "" || len(value) > valueBytesMax {
		return "", fmt.Errorf("store: setting %s of %d bytes, want 1 to %d", name, len(value), valueBytesMax)
	}
	var stands string
	var err error
	if s.Shared() {
		stands, err = s.settingInEtcd(ctx, name, value)
	} else {
		stands, err = settingInFile(filepath.Join(s.dir, settings), name, value)
	}
	if err != nil {
		return "", fmt.Errorf("store: setting %s: %w", name, err)
	}
	return stands, nil
}

func (s *Store) settingInEtcd(ctx context.Context, name, value string) (string, error) {
	log, err := s.etcd(settings + "/" + name)
	if err != nil {
		return "", err
	}
	defer log.Close()
	for {
		outcome, err := log.Create(ctx, 1, []byte(value))
		switch outcome {
		case sharedlog.Created:
			return value, nil
		case sharedlog.Taken:
			var data []byte
			if data, err = log.Get(ctx, 1); err == nil {
				return string(data), nil
			}
		case sharedlog.NotApplied:
			return "", err
		}
		select {
		case <-ctx.Done():
			return "", errors.Join(ctx.Err(), err)
		case <-time.After(retryPause):
		}
	}
}

// settingInFile makes the file of a setting appear at once and whole, unless it is there.
func settingInFile(dir, name, value string) (string, error) {
	if err := makeDir(dir); err != nil {
		return "", err
	}
	path := filepath.Join(dir, name)
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		err := writeFile(dir, name, []byte(value), os.Link)
		if err != nil && !errors.Is(err, os.ErrExist) {
			return "", err
		}
	}
	data, err := os.ReadFile(path)
	return string(data), err
}

func checkName(name string) error {
	const allowed = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"
	if name == "" || len(name) > nameBytesMax || strings.Trim(name, allowed) != "" || name == settings {
		return fmt.Errorf("store: name %q, want 1 to %d letters, digits, - and _, not %s", name, nameBytesMax, settings)
	}
	return nil
}
