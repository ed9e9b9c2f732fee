package services

import (
	"bytes"
	"encoding/json"
	"io"
	"slices"
	"sync"
)

const (
	tailLinesMax   = 32
	tailLineMax    = 1000     // bytes of a line in the tail
	outputLineMax  = 64 << 10 // bytes; the rest of a line is not looked at
	outputBytesMax = 64 << 20 // of one node's log file
	listeningMark  = `"msg":"listening"`
)

// An output takes what a node prints, over all its starts: whole into its log file, and the last lines into memory.
type output struct {
	mu        sync.Mutex
	file      io.Writer         // guarded by mu
	room      int               // guarded by mu: bytes that may still go to the file
	line      []byte            // guarded by mu: the line so far
	tail      []string          // guarded by mu
	listening func(addr string) // guarded by mu: told where the node listens; may be nil
}

func newOutput(file io.Writer) *output { return &output{file: file, room: outputBytesMax} }

// expect says whom to tell where the node listens, once it is started anew.
func (o *output) expect(listening func(addr string)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.listening = listening
}

// Write takes the next bytes. It never fails, as that would end the node: when the file does, it gets no more.
func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	n, err := o.file.Write(p[:min(len(p), o.room)])
	if o.room -= n; err != nil {
		o.room = 0
	}
	for rest := p; ; {
		end := bytes.IndexByte(rest, '\n')
		if end < 0 {
			o.keep(rest)
			return len(p), nil
		}
		o.keep(rest[:end])
		o.endLine()
		rest = rest[end+1:]
	}
}

// Close ends a last line that has no end; the node may print on after its next start.
func (o *output) Close() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.line) > 0 {
		o.endLine()
	}
	return nil
}

func (o *output) keep(p []byte) {
	o.line = append(o.line, p[:min(len(p), outputLineMax-len(o.line))]...)
}

func (o *output) endLine() {
	if len(o.tail) == tailLinesMax {
		o.tail = slices.Delete(o.tail, 0, 1)
	}
	o.tail = append(o.tail, string(o.line[:min(len(o.line), tailLineMax)]))
	if o.listening != nil && bytes.Contains(o.line, []byte(listeningMark)) {
		var line struct{ Addr string }
		if json.Unmarshal(o.line, &line) == nil && line.Addr != "" {
			o.listening(line.Addr)
			o.listening = nil
		}
	}
	o.line = o.line[:0]
}

// last returns the last lines.
func (o *output) last() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.tail)
}
