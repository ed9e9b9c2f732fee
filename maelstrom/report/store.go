package report

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// folderTime names a run's folder, by its start.
const folderTime = "20060102T150405.000-0700"

const foldersMax = 1000 // runs of a workload that may start in one millisecond, or close after it

// Create makes store/<workload>/<time>/ and points the links store/latest, store/current and store/<workload>/latest at
// it. A folder of that time that exists already is another run's: the new one is named a millisecond later.
func Create(store, workload string, now time.Time) (dir string, err error) {
	reserved := slices.Contains([]string{".", "latest", "current"}, workload)
	if workload != filepath.Base(workload) || !filepath.IsLocal(workload) || reserved {
		return "", fmt.Errorf("report: workload %q cannot name a folder", workload)
	}
	parent := filepath.Join(store, workload)
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return "", fmt.Errorf("report: make the store: %w", err)
	}
	for range foldersMax {
		name := now.Format(folderTime)
		dir = filepath.Join(parent, name)
		if err = os.Mkdir(dir, 0o755); !errors.Is(err, fs.ErrExist) {
			break
		}
		now = now.Add(time.Millisecond)
	}
	if err != nil {
		return "", fmt.Errorf("report: make the run's folder: %w", err)
	}
	name := filepath.Base(dir)
	for link, target := range map[string]string{
		filepath.Join(store, "latest"):  filepath.Join(workload, name),
		filepath.Join(store, "current"): filepath.Join(workload, name),
		filepath.Join(parent, "latest"): name,
	} {
		if err := replaceLink(link, target); err != nil {
			return "", fmt.Errorf("report: link to the run: %w", err)
		}
	}
	return dir, nil
}

// replaceLink leaves no moment without a link. The temporary name is the target's, so that runs that start together do
// not meet.
func replaceLink(link, target string) error {
	dir, name := filepath.Split(link)
	temporary := dir + "." + name + "-" + strings.ReplaceAll(target, string(filepath.Separator), "-")
	if err := os.Symlink(target, temporary); err != nil {
		return err
	}
	if err := os.Rename(temporary, link); err != nil {
		os.Remove(temporary)
		return err
	}
	return nil
}
