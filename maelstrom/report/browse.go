package report

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path"
	"slices"
	"strings"
	"time"
)

const (
	runsMax  = 100 // listed of a workload
	filesMax = 1000
)

// policy lets a page load the pictures beside it and nothing else; no script runs, wherever it came from.
const policy = "default-src 'none'; style-src 'unsafe-inline'; img-src 'self' data:; object-src 'self'; frame-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'self'"

// contentTypes of a store's files; any other is plain text, for people to read.
var contentTypes = map[string]string{
	".html": "text/html; charset=utf-8",
	".svg":  "image/svg+xml",
	".json": "application/json",
	".png":  "image/png",
}

// Handler browses a store: the list of its runs, newest first, and the files of each. It serves nothing that lies outside
// the store, whatever links there are in it. A store that does not exist is empty.
func Handler(store string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{path...}", func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-cache")
		root, err := os.OpenRoot(store)
		if err != nil {
			if r.PathValue("path") == "" && os.IsNotExist(err) {
				writeListing(w, r, listing{Title: "Runs", Empty: true})
				return
			}
			http.NotFound(w, r)
			return
		}
		defer root.Close()
		serveStore(w, r, root.FS())
	})
	return mux
}

func serveStore(w http.ResponseWriter, r *http.Request, store fs.FS) {
	name := strings.TrimSuffix(r.PathValue("path"), "/")
	if name == "" {
		name = "."
	}
	// A pipe or a device would block, or never end: only what is a file or a folder is opened.
	info, err := fs.Stat(store, name)
	switch {
	case err != nil || !info.IsDir() && !info.Mode().IsRegular():
		http.NotFound(w, r)
	case !info.IsDir():
		serveFile(w, r, store, name)
	case !strings.HasSuffix(r.URL.Path, "/"):
		http.Redirect(w, r, (&url.URL{Path: r.URL.Path + "/"}).String(), http.StatusFound)
	case isFile(store, path.Join(name, "index.html")):
		serveFile(w, r, store, path.Join(name, "index.html"))
	default:
		writeListing(w, r, list(store, name))
	}
}

func isFile(store fs.FS, name string) bool {
	info, err := fs.Stat(store, name)
	return err == nil && info.Mode().IsRegular()
}

func serveFile(w http.ResponseWriter, r *http.Request, store fs.FS, name string) {
	f, err := store.Open(name)
	if err != nil {
		http.NotFound(w, r)
		return
	}
	defer f.Close()
	info, err := f.Stat()
	content, seeks := f.(*os.File)
	if err != nil || !seeks {
		http.NotFound(w, r)
		return
	}
	kind := contentTypes[path.Ext(name)]
	if kind == "" {
		kind = "text/plain; charset=utf-8"
	}
	w.Header().Set("Content-Type", kind)
	http.ServeContent(w, r, name, info.ModTime(), content)
}

// listing is what store.html shows: the workloads' runs of the store, or of one workload, or the files of a folder.
type listing struct {
	Title     string
	Workloads []workload
	Files     []string
	Empty     bool
}

type workload struct {
	Name string
	Link string // from the page to the runs' folders
	Runs []listed
	More int
}

type listed struct {
	Folder  string
	Started time.Time
	Verdict verdict
	Whole   bool // the report was written
}

func list(store fs.FS, name string) listing {
	l := listing{Title: name}
	if name == "." {
		l.Title = "Runs"
		for _, folder := range folders(store, ".") {
			if runs := runsOf(store, folder); len(runs.Runs) > 0 {
				runs.Link = folder + "/"
				l.Workloads = append(l.Workloads, runs)
			}
		}
	} else if runs := runsOf(store, name); len(runs.Runs) > 0 {
		l.Workloads = []workload{runs}
	} else {
		l.Files = files(store, name)
	}
	l.Empty = len(l.Workloads)+len(l.Files) == 0
	return l
}

// folders lists those in a folder, without links.
func folders(store fs.FS, name string) []string {
	entries, _ := fs.ReadDir(store, name) // what cannot be read is shown as empty
	var names []string
	for _, entry := range entries {
		if entry.IsDir() {
			names = append(names, entry.Name())
		}
	}
	return names
}

func files(store fs.FS, name string) []string {
	entries, _ := fs.ReadDir(store, name)
	var names []string
	for _, entry := range entries[:min(len(entries), filesMax)] {
		if entry.IsDir() {
			names = append(names, entry.Name()+"/")
		} else {
			names = append(names, entry.Name())
		}
	}
	return names
}

// runsOf returns a workload's runs, newest first.
func runsOf(store fs.FS, name string) workload {
	w := workload{Name: name}
	for _, folder := range folders(store, name) {
		if start, err := time.Parse(folderTime, folder); err == nil {
			w.Runs = append(w.Runs, listed{Folder: folder, Started: start})
		}
	}
	slices.SortFunc(w.Runs, func(a, b listed) int { return b.Started.Compare(a.Started) })
	shown := w.Runs[:min(len(w.Runs), runsMax)]
	w.Runs, w.More = shown, len(w.Runs)-len(shown)
	for i := range shown {
		folder := path.Join(name, shown[i].Folder)
		shown[i].Verdict = readVerdict(store, folder)
		shown[i].Whole = isFile(store, path.Join(folder, "index.html"))
	}
	return w
}

// readVerdict reads it from a run's results.json.
func readVerdict(store fs.FS, folder string) verdict {
	none := verdict{Class: "soft", Word: "no verdict"}
	if !isFile(store, path.Join(folder, "results.json")) {
		return none
	}
	f, err := store.Open(path.Join(folder, "results.json"))
	if err != nil {
		return none
	}
	defer f.Close()
	var results struct {
		Valid any `json:"valid?"`
	}
	if json.NewDecoder(f).Decode(&results) != nil {
		return none
	}
	for v, words := range verdicts {
		if fmt.Sprint(results.Valid) == v.String() {
			return words
		}
	}
	return none
}

func writeListing(w http.ResponseWriter, r *http.Request, l listing) {
	var body bytes.Buffer
	if err := pages.ExecuteTemplate(&body, "store.html", l); err != nil {
		http.Error(w, "the list cannot be shown", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(body.Bytes()))
}
