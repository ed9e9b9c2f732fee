package control

import (
	"maps"
	"slices"
	"strings"
)

// register names what entries of one kind on one route set.
type register struct {
	route string
	kind  Kind
}

func (r register) compare(other register) int {
	if c := strings.Compare(r.route, other.route); c != 0 {
		return c
	}
	return strings.Compare(string(r.kind), string(other.kind))
}

// A State is what a set of entries amounts to: the newest of each register, and the newest 1,000 of all without their
// values. The zero value is the empty set's. It is pure, and not safe for concurrent use.
type State struct {
	registers map[register]Entry
	audit     []Entry // oldest first, at most AuditMax
	newest    Stamp
}

// Apply adds an entry to the set and says whether its register now has its value. The order of calls does not matter,
// nor does an entry that comes again.
func (s *State) Apply(e Entry) (current bool) {
	if s.newest.Compare(e.Stamp) < 0 {
		s.newest = e.Stamp
	}
	s.note(e.stripped())
	if e.Value == nil {
		return false
	}
	if was, ok := s.registers[e.register()]; ok && was.compare(e) >= 0 {
		return false
	}
	if s.registers == nil {
		s.registers = make(map[register]Entry)
	}
	s.registers[e.register()] = e
	return true
}

// note puts an entry in its place in the audit.
func (s *State) note(e Entry) {
	at, found := slices.BinarySearchFunc(s.audit, e, Entry.compare)
	if found {
		return
	}
	if len(s.audit) == AuditMax {
		if at == 0 {
			return
		}
		s.audit = slices.Delete(s.audit, 0, 1)
		at--
	}
	s.audit = slices.Insert(s.audit, at, e)
}

// noted says whether the entry is in the audit.
func (s *State) noted(e Entry) bool {
	_, found := slices.BinarySearchFunc(s.audit, e.stripped(), Entry.compare)
	return found
}

// Entry returns the entry that a register has its value from.
func (s *State) Entry(route string, kind Kind) (Entry, bool) {
	e, ok := s.registers[register{route, kind}]
	return e, ok
}

// Entries returns the newest entry of each register, by route and kind.
func (s *State) Entries() []Entry {
	entries := make([]Entry, 0, len(s.registers))
	for _, r := range slices.SortedFunc(maps.Keys(s.registers), register.compare) {
		entries = append(entries, s.registers[r])
	}
	return entries
}

// Audit returns the newest entries, at most limit and at most 1,000, newest first and without their values.
func (s *State) Audit(limit int) []Entry {
	newest := slices.Clone(s.audit[max(0, len(s.audit)-max(0, limit)):])
	slices.Reverse(newest)
	return newest
}

// Newest returns the highest stamp of all entries, those that are kept nowhere included.
func (s *State) Newest() Stamp { return s.newest }
