package main

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync"
	"testing"

	"dongne/bench/load"
)

func TestMain(m *testing.M) {
	load.Main()
	code := m.Run()
	os.RemoveAll(programs)
	os.Exit(code)
}

// programs is the folder of what findAll has built.
var programs string

// findAll finds the systems once for all tests: linking nats-server takes seconds.
var findAll = sync.OnceValues(func() (systems, error) {
	var err error
	if programs, err = os.MkdirTemp("", "dongne-bench-test-"); err != nil {
		return systems{}, err
	}
	return findSystems(context.Background(), programs)
})

var tiny = options{seconds: 0.3, rounds: 1, streams: 50, publishers: 8, idle: 100, ackers: 8}

// present are the systems that can be started here: ours at least, and with -short nothing else.
func present(t *testing.T) []system {
	all, err := findAll()
	if err != nil {
		t.Fatal(err)
	}
	found := []system{all.chat}
	if testing.Short() {
		return found
	}
	for _, sys := range append(all.core, all.nchan) {
		if why := all.absent[sys.name]; why != "" {
			t.Log(sys.name, why)
		} else {
			found = append(found, sys)
		}
	}
	return found
}

func TestEveryDeliveryIsCounted(t *testing.T) {
	for _, sys := range present(t) {
		t.Run(sys.name, func(t *testing.T) {
			for _, inFlight := range []int{1, 8} { // one alone, and pipelined or over many connections
				f, err := measureFanOut(t.Context(), sys, tiny, inFlight, true)
				if err != nil {
					t.Fatalf("%d in flight: %v", inFlight, err)
				}
				c := f.checked
				if c.Slowest == 0 || c.Total != c.Slowest*tiny.streams || c.Fastest != c.Slowest || c.Sampled != 1 {
					t.Errorf("%d in flight: checked %+v, want the same number on each of %d streams", inFlight, c, tiny.streams)
				}
				if f.deliveries <= 0 || f.p50 <= 0 || f.p99 < f.p50 {
					t.Errorf("%d in flight: figures %+v are not possible", inFlight, f)
				}
			}
		})
	}
}

func TestMeasurePrintsEveryGoal(t *testing.T) {
	if testing.Short() {
		t.Skip("measures every system")
	}
	all, err := findAll()
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := measure(t.Context(), tiny, all, t.TempDir(), &out); err != nil {
		t.Fatalf("measure: %v\n%s", err, &out)
	}
	for _, want := range []string{"\nfan-out ÷ NATS core: ", "\nidle, KiB: ", "\nidle ÷ nchan: ", "\ndurable acks ÷ JetStream: "} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("measure printed no line %q", want)
		}
	}
	if strings.Contains(out.String(), "failed") {
		t.Errorf("a system failed:\n%s", &out)
	}
}

// spoiled is sys with publishers that treat one text otherwise.
func spoiled(sys system, spoil func(p publisher, i int) error) system {
	start := sys.start
	sys.start = func(ctx context.Context, dir string, rooms []room) (*server, error) {
		s, err := start(ctx, dir, rooms)
		if err != nil {
			return nil, err
		}
		inner := s.publisher
		s.publisher = func(ctx context.Context, i int) (publisher, error) {
			p, err := inner(ctx, i)
			return spoiler{p, spoil}, err
		}
		return s, nil
	}
	return sys
}

type spoiler struct {
	publisher
	spoil func(p publisher, i int) error
}

func (s spoiler) publish(first, n int) error {
	if first == 3 {
		return s.spoil(s.publisher, first)
	}
	return s.publisher.publish(first, n)
}

func TestMeasurementsCatch(t *testing.T) {
	chat := present(t)[0]
	another := spoiled(chat, func(p publisher, i int) error { return p.publish(1_000_000, 1) })
	if _, err := measureFanOut(t.Context(), another, tiny, 1, false); err == nil || !strings.Contains(err.Error(), "sampled streams are wrong") {
		t.Errorf("a text in the place of another: error %v", err)
	}
	extra := spoiled(chat, func(p publisher, i int) error { return errors.Join(p.publish(1_000_000, 1), p.publish(i, 1)) })
	if _, err := measureFanOut(t.Context(), extra, tiny, 1, false); err == nil || !strings.Contains(err.Error(), "the streams got") {
		t.Errorf("a text too many: error %v", err)
	}
	forgotten := spoiled(chat, func(publisher, int) error { return nil })
	if _, err := measureDurable(t.Context(), forgotten, tiny); err == nil || !strings.Contains(err.Error(), "were acknowledged, the server keeps") {
		t.Errorf("an acknowledged text that is not kept: error %v", err)
	}
	refused := spoiled(chat, func(publisher, int) error { return errors.New("refused") })
	if _, err := measureFanOut(t.Context(), refused, tiny, 1, false); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("a refused text: error %v", err)
	}
}
