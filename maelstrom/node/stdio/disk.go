package stdio

import (
	"context"
	"encoding/binary"
	"fmt"

	"dongne/internal/sharedlog"
	"dongne/internal/sharedlog/filelog"
)

// disk keeps records in a file log. A slot is a batch of them:
//
//	slot = n(incarnation) { n(length) record }      "n" is an unsigned varint
//
// Each start writes a slot without records first, so that its incarnation is never used again.
type disk struct {
	log         engine
	incarnation uint64
}

// engine is a log of slots: a filelog.Log, unless a test has another.
type engine interface {
	First() uint64
	Tail() uint64
	Get(ctx context.Context, slot uint64) ([]byte, error)
	Create(ctx context.Context, slot uint64, data []byte) (sharedlog.Outcome, error)
	Close() error
}

func openLog(dir string) (engine, error) {
	log, _, err := filelog.Open(dir, filelog.Options{})
	if err != nil {
		return nil, err // not a nil *filelog.Log in an engine
	}
	return log, nil
}

// begin returns the records, and settles on the incarnation, or a higher one if the log has seen as high.
func (d *disk) begin(incarnation uint64) ([][]byte, error) {
	records, last, err := d.load()
	if err != nil {
		return nil, err
	}
	d.incarnation = max(incarnation, last+1)
	return records, d.append(nil)
}

// load reads all records and the highest incarnation.
func (d *disk) load() (records [][]byte, incarnation uint64, err error) {
	for slot := d.log.First(); slot <= d.log.Tail(); slot++ {
		b, err := d.log.Get(context.Background(), slot)
		if err != nil {
			return nil, 0, err
		}
		n, size := binary.Uvarint(b)
		if size <= 0 {
			return nil, 0, fmt.Errorf("slot %d starts with no incarnation", slot)
		}
		incarnation = max(incarnation, n)
		for b = b[size:]; len(b) > 0; {
			length, size := binary.Uvarint(b)
			if size <= 0 || length > uint64(len(b)-size) {
				return nil, 0, fmt.Errorf("slot %d ends within a record", slot)
			}
			end := size + int(length)
			records = append(records, b[size:end:end])
			b = b[end:]
		}
	}
	return records, incarnation, nil
}

// append makes the records durable, as one slot. It is called by one goroutine at a time.
func (d *disk) append(records [][]byte) error {
	b := binary.AppendUvarint(nil, d.incarnation)
	for _, record := range records {
		b = append(binary.AppendUvarint(b, uint64(len(record))), record...)
	}
	_, err := d.log.Create(context.Background(), d.log.Tail()+1, b)
	return err
}
