package report

import (
	"bufio"
	"errors"
	"path/filepath"

	"dongne/maelstrom/history"
)

// WriteHistory writes the history alone, for a run that came to no verdict.
func WriteHistory(dir string, run *history.Run) error {
	return errors.Join(
		writeFile(filepath.Join(dir, "history.edn"), func(w *bufio.Writer) error { return history.WriteEDN(w, run.Ops) }),
		writeFile(filepath.Join(dir, "history.jsonl"), func(w *bufio.Writer) error { return history.WriteJSON(w, run.Ops) }))
}
