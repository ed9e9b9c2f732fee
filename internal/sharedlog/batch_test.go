package sharedlog_test

import (
	"bytes"
	"errors"
	"testing"

	"dongne/internal/sharedlog"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func drawBatch(t *rapid.T) *sharedlog.Batch {
	b := &sharedlog.Batch{
		Slot:   rapid.Uint64().Draw(t, "slot"),
		Time:   rapid.Int64().Draw(t, "time"),
		Writer: sharedlog.Writer(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "writer")),
		N:      rapid.Uint64().Draw(t, "n"),
		Prev:   sharedlog.Sum(rapid.SliceOf(rapid.Byte()).Draw(t, "before")),
	}
	for range rapid.IntRange(0, 5).Draw(t, "commands") {
		data := rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "data")
		b.Commands = append(b.Commands, sharedlog.Command{Data: data})
	}
	return b
}

func TestBatchRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := drawBatch(t)
		data := b.Encode()
		got, err := sharedlog.DecodeBatch(data)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(b, got); diff != "" {
			t.Fatalf("DecodeBatch(Encode) mismatch (-want +got)\n%s", diff)
		}
		for i, c := range got.Commands {
			if !bytes.Equal(data[c.Offset:c.Offset+len(c.Data)], c.Data) {
				t.Fatalf("command %d is not at its offset %d", i, c.Offset)
			}
		}
	})
}

// Whatever is decoded encodes to the same bytes: two different slots never read as the same batch, so the hash of the
// bytes stands for the batch.
func TestBatchIsCanonical(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		data := drawBatch(t).Encode()
		for range rapid.IntRange(1, 3).Draw(t, "changes") {
			i := rapid.IntRange(0, len(data)-1).Draw(t, "at")
			switch rapid.IntRange(0, 2).Draw(t, "change") {
			case 0:
				data[i] ^= rapid.ByteRange(1, 255).Draw(t, "xor")
			case 1:
				data = data[:i]
			case 2:
				data = append(data, data[i])
			}
			if len(data) == 0 {
				return
			}
		}
		b, err := sharedlog.DecodeBatch(data)
		if err != nil {
			if !errors.Is(err, sharedlog.ErrDamaged) {
				t.Fatalf("error %v, want ErrDamaged", err)
			}
			return
		}
		if again := b.Encode(); !bytes.Equal(again, data) {
			t.Fatalf("decoded %x, encodes to %x", data, again)
		}
	})
}

func TestBatchRefusesLongLength(t *testing.T) {
	b := &sharedlog.Batch{Slot: 1, Commands: []sharedlog.Command{{Data: []byte("x")}}}
	data := b.Encode()
	long := append(bytes.Clone(data[:80]), 0x81, 0x00, 'x') // 1 in two bytes
	if _, err := sharedlog.DecodeBatch(long); !errors.Is(err, sharedlog.ErrDamaged) {
		t.Fatalf("DecodeBatch of a length in two bytes: error %v, want ErrDamaged", err)
	}
	if _, err := sharedlog.DecodeBatch(data); err != nil {
		t.Fatal(err)
	}
}

func TestSnapshotEveryBit(t *testing.T) {
	want := &sharedlog.Snapshot{Position: sharedlog.Position{Slot: 7, Time: 9}, Hash: sharedlog.Sum(nil), State: []byte("state")}
	data := want.Encode()
	got, err := sharedlog.DecodeSnapshot(data)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("DecodeSnapshot mismatch (-want +got)\n%s", diff)
	}
	for bit := range len(data) * 8 {
		data[bit/8] ^= 1 << (bit % 8)
		if _, err := sharedlog.DecodeSnapshot(data); !errors.Is(err, sharedlog.ErrDamaged) {
			t.Fatalf("bit %d flipped: error %v, want ErrDamaged", bit, err)
		}
		data[bit/8] ^= 1 << (bit % 8)
	}
	for n := range data {
		if _, err := sharedlog.DecodeSnapshot(data[:n]); !errors.Is(err, sharedlog.ErrDamaged) {
			t.Fatalf("cut to %d bytes: error %v, want ErrDamaged", n, err)
		}
	}
}
