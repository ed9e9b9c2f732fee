package services

import (
	"encoding/json"
	"fmt"
	"maps"
	"sync"
	"time"
)

// A picture is what a user's screen shows, as its streams told it.
type picture struct {
	mu     sync.Mutex
	shown  map[string]message       // guarded by mu: by id
	heard  map[string]bool          // guarded by mu: ids that a stream told as new, since the picture was last fetched
	first  map[string]time.Duration // guarded by mu: when a stream first told a text
	told   [][]message              // guarded by mu: what streams told as new, in order; a part since each fetch
	wrong  []string                 // guarded by mu: what no stream may say
	resets []string                 // guarded by mu: the reasons
	copies int                      // guarded by mu: messages that gave way to another of the same request
}

const wrongMax = 100 // complaints that a picture keeps

func newPicture() *picture {
	return &picture{shown: map[string]message{}, heard: map[string]bool{}, first: map[string]time.Duration{}, told: [][]message{nil}}
}

// fetched replaces everything by what a node's lists say. The stream goes on from before they were fetched.
func (p *picture) fetched(histories [][]message) {
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(p.heard)
	clear(p.shown)
	p.told = append(p.told, nil)
	for _, history := range histories {
		for _, m := range history {
			if !m.Deleted {
				p.shown[m.ID] = m
			}
		}
	}
}

// hear takes one event of a stream. It reports a reset, after which everything is to be fetched.
func (p *picture) hear(e event, at time.Duration) (reset bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var data struct {
		message
		Reason string `json:"reason"`
		Stays  string `json:"stays"`
	}
	if e.data != "" && json.Unmarshal([]byte(e.data), &data) != nil {
		p.complain("a stream told %.200q", e)
		return false
	}
	m := data.message
	switch e.name {
	case "", "message":
		if e.data == "" {
			return false // only where the stream stands
		}
		if p.heard[m.ID] {
			p.complain("a stream showed %s %q twice", m.ID, m.Text)
		}
		p.heard[m.ID] = true
		p.shown[m.ID] = m
		p.told[len(p.told)-1] = append(p.told[len(p.told)-1], m)
		if _, known := p.first[m.Text]; !known {
			p.first[m.Text] = at
		}
	case "edited":
		if _, known := p.shown[m.ID]; known {
			p.shown[m.ID] = m
		}
	case "deleted":
		if _, known := p.shown[m.ID]; known && data.Stays != "" {
			p.copies++
		}
		delete(p.shown, m.ID)
	case "reset":
		p.resets = append(p.resets, data.Reason)
		return true
	}
	return false
}

// complain keeps what is wrong. mu is held.
func (p *picture) complain(format string, args ...any) {
	if len(p.wrong) < wrongMax {
		p.wrong = append(p.wrong, fmt.Sprintf(format, args...))
	}
}

// texts is what is shown now, by id.
func (p *picture) texts() map[string]string {
	p.mu.Lock()
	defer p.mu.Unlock()
	texts := make(map[string]string, len(p.shown))
	for id, m := range p.shown {
		texts[id] = m.Text
	}
	return texts
}

// firsts is when each text was first told.
func (p *picture) firsts() map[string]time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.first)
}
