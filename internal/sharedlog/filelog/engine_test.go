package filelog_test

import (
	"context"
	"testing"

	"dongne/internal/sharedlog/enginetest"
	"dongne/internal/sharedlog/filelog"
	"dongne/internal/sharedlog/live"
)

// trimmer is a log whose Trim is as the suite of engines wants it.
type trimmer struct{ *filelog.Log }

func (t trimmer) Trim(_ context.Context, floor uint64) error { return t.Log.Trim(floor) }

func TestEngine(t *testing.T) {
	enginetest.Run(t, func(t *testing.T) func(*testing.T) live.Engine {
		dir := t.TempDir()
		return func(t *testing.T) live.Engine {
			log, _, err := filelog.Open(dir, filelog.Options{})
			if err != nil {
				t.Fatal(err)
			}
			return trimmer{log}
		}
	})
}
