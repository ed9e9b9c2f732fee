package store_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"dongne/internal/etcd/etcdtest"
	"dongne/internal/sharedlog"
	"dongne/internal/sharedlog/enginetest"
	"dongne/internal/sharedlog/filelog"
	"dongne/internal/sharedlog/live"
	"dongne/internal/sharedlog/store"

	"github.com/google/go-cmp/cmp"
)

func TestOpen(t *testing.T) {
	for _, c := range []struct {
		text   string
		shared bool
	}{{"", false}, {"file", false}, {"etcd://127.0.0.1:2379", true}, {"etcd://a:1,b:2,[::1]:3/some/prefix/", true}} {
		s, err := store.Open(c.text, "dir", "pay")
		if err != nil || s.Shared() != c.shared {
			t.Errorf("Open(%q): shared %v, %v; want shared %v", c.text, s.Shared(), err, c.shared)
		}
	}
	for text, want := range map[string]string{
		"files":                 `"files", want file or etcd://`,
		"http://a:1":            `"http://a:1", want file or etcd://`,
		"etcd://":               `"" in "etcd://", want host:port`,
		"etcd://a":              `"a" in "etcd://a", want host:port`,
		"etcd://a:1,":           `"" in "etcd://a:1,", want host:port`,
		"etcd://a:1,b:x":        `"b:x" in`,
		"etcd://a:0":            `"a:0" in`,
		"etcd://a:70000":        `"a:70000" in`,
		"etcd://:1":             `":1" in`,
		"etcd://me:word@a:1":    `"me:word@a:1" in`,
		"etcd://a:1//p":         `prefix "/p/x"`,
		"etcd://a:1/p?timeout":  `prefix "p?timeout"`,
		"etcd://a:1/p q":        `prefix "p q"`,
		"etcd://" + many("a:1"): "17 endpoints",
	} {
		if _, err := store.Open(text, "dir", "pay"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Open(%q): %v, want %q", text, err, want)
		}
	}
}

func many(endpoint string) string { return strings.Repeat(endpoint+",", 16) + endpoint }

func open(t *testing.T, text, dir string) *store.Store {
	t.Helper()
	s, err := store.Open(text, dir, "pay")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func openLog(t *testing.T, s *store.Store, name string) (store.Log, string) {
	t.Helper()
	log, report, err := s.Log(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return log, report
}

// both runs a test on a store of each kind. another is a store that another process would open: in the same directory,
// or in its own on the same etcd.
func both(t *testing.T, test func(t *testing.T, another func() *store.Store)) {
	t.Run("file", func(t *testing.T) {
		dir := t.TempDir()
		test(t, func() *store.Store { return open(t, "file", dir) })
	})
	t.Run("etcd", func(t *testing.T) {
		text := "etcd://" + strings.Join(etcdtest.Start(t, 1).Endpoints(), ",")
		test(t, func() *store.Store { return open(t, text, t.TempDir()) })
	})
}

func TestEngine(t *testing.T) {
	t.Run("file", func(t *testing.T) {
		enginetest.Run(t, func(t *testing.T) func(*testing.T) live.Engine {
			s := open(t, "file", t.TempDir())
			return func(t *testing.T) live.Engine { log, _ := openLog(t, s, "log"); return log.(*filelog.Log) }
		})
	})
	t.Run("etcd", func(t *testing.T) {
		text := "etcd://" + etcdtest.Start(t, 1).Endpoints()[0] + "/"
		n := 0
		enginetest.Run(t, func(t *testing.T) func(*testing.T) live.Engine {
			n++
			s := open(t, text+fmt.Sprint("place", n), t.TempDir())
			return func(t *testing.T) live.Engine { log, _ := openLog(t, s, "log"); return log }
		})
	})
}

// Logs of one store do not see each other; the report says where a log is.
func TestLogs(t *testing.T) {
	both(t, func(t *testing.T, another func() *store.Store) {
		s := another()
		for _, name := range []string{"shard-0", "shard-1"} {
			log, report := openLog(t, s, name)
			if !strings.HasPrefix(report, "log "+name+": ") {
				t.Errorf("report %q", report)
			}
			if o, err := log.Create(t.Context(), 1, []byte(name)); o != sharedlog.Created {
				t.Errorf("%s: %v, %v", name, o, err)
			}
			if err := log.Close(); err != nil {
				t.Error(err)
			}
			log, _ = openLog(t, another(), name)
			if data, err := log.Get(t.Context(), 1); string(data) != name {
				t.Errorf("%s holds %q, %v", name, data, err)
			}
			log.Close()
		}
		for _, name := range []string{"", "a/b", "..", "settings", "a b", "é", strings.Repeat("x", 65)} {
			if _, _, err := s.Log(t.Context(), name); err == nil {
				t.Errorf("a log may be named %q", name)
			}
			if _, err := s.Setting(t.Context(), name, "1"); err == nil {
				t.Errorf("a setting may be named %q", name)
			}
		}
	})
}

// Of many that set a value at once one wins, and all are told which; it stands ever after.
func TestSetting(t *testing.T) {
	both(t, func(t *testing.T, another func() *store.Store) {
		const callers = 8
		got := make([]string, callers)
		var wg sync.WaitGroup
		for i := range callers {
			s := another()
			wg.Go(func() {
				var err error
				if got[i], err = s.Setting(t.Context(), "shards", fmt.Sprint(i)); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		for i, v := range got {
			if v != got[0] || len(v) != 1 {
				t.Errorf("caller %d was told %q, caller 0 %q", i, v, got[0])
			}
		}
		if v, err := another().Setting(t.Context(), "shards", "99"); v != got[0] || err != nil {
			t.Errorf("later it is %q, %v; want %q", v, err, got[0])
		}
		if v, err := another().Setting(t.Context(), "other", "99"); v != "99" || err != nil {
			t.Errorf("another setting is %q, %v; want 99", v, err)
		}
		for _, value := range []string{"", strings.Repeat("x", 4097)} {
			if _, err := another().Setting(t.Context(), "bad", value); err == nil {
				t.Errorf("a setting may have %d bytes", len(value))
			}
		}
	})
}

// Nobody listens: the setting is not taken for set. Somebody listens and is silent: the caller decides how long.
func TestSettingWithoutEtcd(t *testing.T) {
	if v, err := open(t, "etcd://127.0.0.1:1", t.TempDir()).Setting(t.Context(), "shards", "1"); err == nil {
		t.Errorf("it is %q", v)
	}
	c := etcdtest.Start(t, 1)
	if err := c.Pause(0); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	s := open(t, "etcd://"+c.Endpoints()[0], t.TempDir())
	if v, err := s.Setting(ctx, "shards", "1"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("it is %q, %v", v, err)
	}
}

// A log in etcd starts again from its snapshot; a damaged one is refused, by name; what was left unfinished is removed.
func TestSnapshotFile(t *testing.T) {
	dir := t.TempDir()
	s := open(t, "etcd://"+etcdtest.Start(t, 1).Endpoints()[0], dir)
	engine, _ := openLog(t, s, "log")
	log, err := live.Open(t.Context(), engine, &enginetest.Journal{}, live.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		if _, err := log.Propose(t.Context(), fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
		if i == 2 {
			if _, err := log.Snapshot(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	log.Close()
	engine.Close()
	path := filepath.Join(dir, "log", "snapshot")
	left := filepath.Join(dir, "log", "snapshot-1.tmp")
	if err := os.WriteFile(left, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	engine, _ = openLog(t, s, "log")
	if _, err := os.Stat(left); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the unfinished file: %v", err)
	}
	restored := &restores{}
	log, err = live.Open(t.Context(), engine, restored, live.Options{})
	if err != nil {
		t.Fatal(err)
	}
	log.Close()
	if d := cmp.Diff([]string{"0", "1", "2", "3", "4"}, restored.Items()); d != "" || restored.times != 1 {
		t.Errorf("restored %d times (-want +got)\n%s", restored.times, d)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []int{0, 50, len(data) - 1} {
		data[at] ^= 1
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		data[at] ^= 1
		_, err := live.Open(t.Context(), engine, &enginetest.Journal{}, live.Options{})
		if !errors.Is(err, sharedlog.ErrDamaged) || !strings.Contains(err.Error(), path) {
			t.Errorf("byte %d flipped: %v, want %v and the file's name", at, err, sharedlog.ErrDamaged)
		}
	}
}

// restores counts how often it was restored from a snapshot.
type restores struct {
	enginetest.Journal
	times int
}

func (r *restores) Restore(state []byte) error {
	r.times++
	return r.Journal.Restore(state)
}
