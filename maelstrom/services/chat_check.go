package services

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"dongne/maelstrom/services/books"
)

// The checks: pure functions from what the clients saw to what is wrong with it.

const (
	unreadMax = 1_000 // where chat stops counting
	// A position may be too old, too much be missed, or a position too far ahead, only beyond these (DESIGN.md, Streams).
	resetEntries = 20_000
	resetBytes   = 4 << 20
	resetOrigins = 16
	// entryOverhead is more than an entry has beside its text: its header, ids, key, and the names of its origin's past.
	entryOverhead = 1_000 // bytes
)

// observed is all that the clients saw of a run.
type observed struct {
	nodes   []string
	rooms   map[string][]string // id → members, sorted
	sent    []*sent
	views   []view // by node and user, once everything has healed
	readers []seen
	ordered bool // streams show messages in the order of the histories

	requests  int64 // writes that were sent to some node: no more entries are in the logs
	bytes     int64 // of their texts
	processes int   // that were started: no more origins are in the logs
}

// A view is what one node tells one user at the end.
type view struct {
	node, user string
	rooms      []listing
	histories  map[string][]message // by room; nil if they were not fetched
	err        error                // why it could not be fetched
}

// seen is what a reader's streams told it.
type seen struct {
	user   string
	texts  map[string]string // what is shown at the end, by id
	told   [][]message       // as new, in this order; a part from each time that everything was fetched
	wrong  []string
	resets []string
}

// checkAll returns what is wrong, the most telling first.
func checkAll(o *observed) []string {
	var reasons []string
	for _, c := range []func(*observed) []string{checkFetched, checkLost, checkPhantoms, checkChanged, checkStreams, checkOrder, checkPictures, checkAgreement, checkUnread, checkResets} {
		reasons = append(reasons, books.Some(c(o))...)
	}
	return reasons
}

// checkFetched: every node answers at the end.
func checkFetched(o *observed) (wrong []string) {
	for _, v := range o.views {
		if v.err != nil {
			wrong = append(wrong, fmt.Sprintf("%s does not tell %s its rooms and their histories at the end: %v", v.node, v.user, v.err))
		}
	}
	return wrong
}

// histories goes through every history that was fetched.
func (o *observed) histories(each func(where string, v *view, room string, history []message)) {
	for i := range o.views {
		v := &o.views[i]
		for _, room := range slices.Sorted(maps.Keys(v.histories)) {
			each(fmt.Sprintf("%s, room %s as told to %s", v.node, room, v.user), v, room, v.histories[room])
		}
	}
}

// times counts how often each text is shown.
func times(history []message) map[string]int {
	n := map[string]int{}
	for _, m := range history {
		if !m.Deleted {
			n[m.Text]++
		}
	}
	return n
}

// shown is how often a message is, with its first text or that of an edit.
func (m *sent) shown(times map[string]int) int {
	n := times[m.text]
	for _, text := range m.edits {
		n += times[text]
	}
	return n
}

// checkLost: what was acknowledged is in every history once, unless its deletion was asked for; what may have been
// accepted is there at most once.
func checkLost(o *observed) (wrong []string) {
	o.histories(func(where string, _ *view, room string, history []message) {
		n := times(history)
		for _, m := range o.sent {
			if m.room != room {
				continue
			}
			switch shown := m.shown(n); {
			case shown > 1:
				wrong = append(wrong, fmt.Sprintf("%q is shown %d times: %s", m.text, shown, where))
			case shown == 0 && m.posted == sure && m.deleted == never:
				wrong = append(wrong, fmt.Sprintf("%q was acknowledged and is lost: %s", m.text, where))
			}
		}
	})
	return wrong
}

// author is who may have deleted messages in a room.
type author struct{ room, user string }

// checkPhantoms: everything in a history was sent, to this room and by this user, and as many are deleted as are missing
// of those whose deletion was asked for.
func checkPhantoms(o *observed) (wrong []string) {
	may := map[message]bool{} // room, author, text
	for _, m := range o.sent {
		if m.posted == never {
			continue
		}
		for _, text := range append([]string{m.text}, m.edits...) {
			may[message{Room: m.room, From: m.by, Text: text}] = true
		}
	}
	o.histories(func(where string, _ *view, room string, history []message) {
		n := times(history)
		missing := map[author]int{}
		for _, m := range o.sent {
			if m.room == room && m.deleted != never && m.shown(n) == 0 {
				missing[author{room, m.by}]++
			}
		}
		for _, m := range history {
			switch {
			case m.Room != room:
				wrong = append(wrong, fmt.Sprintf("message %s of room %s is in another: %s", m.ID, m.Room, where))
			case m.Deleted:
				missing[author{room, m.From}]--
			case !may[message{Room: room, From: m.From, Text: m.Text}]:
				wrong = append(wrong, fmt.Sprintf("nobody sent %q as %s: %s", m.Text, m.From, where))
			}
		}
		for _, a := range slices.SortedFunc(maps.Keys(missing), func(a, b author) int { return strings.Compare(a.user, b.user) }) {
			if n := missing[a]; n != 0 {
				wrong = append(wrong, fmt.Sprintf("%d more messages of %s were deleted than are told as deleted: %s", n, a.user, where))
			}
		}
	})
	return wrong
}

// checkChanged: an acknowledged edit or deletion holds.
func checkChanged(o *observed) (wrong []string) {
	o.histories(func(where string, _ *view, room string, history []message) {
		n := times(history)
		for _, m := range o.sent {
			switch {
			case m.room != room:
			case m.deleted == sure && m.shown(n) > 0:
				wrong = append(wrong, fmt.Sprintf("%q was deleted and is shown: %s", m.text, where))
			case m.edited == sure && n[m.text] > 0:
				wrong = append(wrong, fmt.Sprintf("the edit of %q was acknowledged and is lost: %s", m.text, where))
			}
		}
	})
	return wrong
}

// checkStreams: no stream shows a message twice, or says what makes no sense.
func checkStreams(o *observed) (wrong []string) {
	for _, r := range o.readers {
		for _, w := range r.wrong {
			wrong = append(wrong, "to "+r.user+" "+w)
		}
	}
	return wrong
}

// checkOrder: where the rooms are kept in a shared log, every stream shows a room's messages in the order of its history.
// checkAgreement says that there is one history.
func checkOrder(o *observed) (wrong []string) {
	if !o.ordered {
		return nil
	}
	for _, r := range o.readers {
		for i := range o.views {
			if v := &o.views[i]; v.user == r.user && v.err == nil {
				wrong = append(wrong, r.disorder(v)...)
			}
		}
	}
	return wrong
}

// disorder says where a reader's streams contradict the histories.
func (r *seen) disorder(v *view) (wrong []string) {
	at := map[string]int{} // id → place in its history, from 1
	for _, history := range v.histories {
		for i, m := range history {
			at[m.ID] = i + 1
		}
	}
	for _, part := range r.told {
		last := map[string]message{} // by room
		for _, m := range part {
			if at[m.ID] == 0 {
				continue // another check's
			}
			if before, any := last[m.Room]; any && at[before.ID] >= at[m.ID] {
				wrong = append(wrong, fmt.Sprintf("a stream told %s %s %q before %s %q, the history of %s has them the other way round",
					r.user, before.ID, before.Text, m.ID, m.Text, v.node))
			}
			last[m.Room] = m
		}
	}
	return wrong
}

// checkPictures: what the streams told a reader is what the histories say.
func checkPictures(o *observed) (wrong []string) {
	for _, r := range o.readers {
		for i := range o.views {
			if v := &o.views[i]; v.user == r.user && v.err == nil {
				wrong = append(wrong, differences(&r, v)...)
				break // whether the nodes agree is another check
			}
		}
	}
	return wrong
}

func differences(r *seen, v *view) (wrong []string) {
	left := maps.Clone(r.texts)
	for _, room := range slices.Sorted(maps.Keys(v.histories)) {
		for _, m := range v.histories[room] {
			text, shown := left[m.ID]
			if delete(left, m.ID); m.Deleted {
				if shown {
					wrong = append(wrong, fmt.Sprintf("%s still shows %s %q, which is deleted", r.user, m.ID, text))
				}
				continue
			}
			switch {
			case !shown:
				wrong = append(wrong, fmt.Sprintf("no stream showed %s %q of %s to %s", m.ID, m.Text, v.node, r.user))
			case text != m.Text:
				wrong = append(wrong, fmt.Sprintf("%s shows %q in place of %s %q", r.user, text, m.ID, m.Text))
			}
		}
	}
	for _, id := range slices.Sorted(maps.Keys(left)) {
		wrong = append(wrong, fmt.Sprintf("%s shows %s %q, which is in no history", r.user, id, left[id]))
	}
	return wrong
}

// checkAgreement: histories are in the order of their ids and the same everywhere, and so are the lists of rooms.
func checkAgreement(o *observed) (wrong []string) {
	first := map[string][]message{}
	firstWhere := map[string]string{}
	o.histories(func(where string, _ *view, room string, history []message) {
		for i := 1; i < len(history); i++ {
			if history[i-1].ID >= history[i].ID {
				wrong = append(wrong, fmt.Sprintf("%s stands before %s: %s", history[i-1].ID, history[i].ID, where))
			}
		}
		if _, known := first[room]; !known {
			first[room], firstWhere[room] = history, where
		} else if at := difference(first[room], history); at != "" {
			wrong = append(wrong, fmt.Sprintf("histories differ, %s: %s; %s", at, firstWhere[room], where))
		}
	})
	lists := map[string]string{}
	for _, v := range o.views {
		if v.err != nil {
			continue
		}
		b, _ := json.Marshal(v.rooms)
		if before, known := lists[v.user]; !known {
			lists[v.user] = string(b)
		} else if before != string(b) {
			wrong = append(wrong, fmt.Sprintf("%s tells %s of other rooms, or otherwise, than %s: %s; %s", v.node, v.user, o.nodes[0], b, before))
		}
	}
	return wrong
}

// difference says where two histories part; "" if nowhere.
func difference(a, b []message) string {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return fmt.Sprintf("%s %q and %s %q", a[i].ID, a[i].Text, b[i].ID, b[i].Text)
		}
	}
	if len(a) != len(b) {
		return fmt.Sprintf("%d and %d messages", len(a), len(b))
	}
	return ""
}

// checkUnread: everybody is told of its rooms, a read position is that of some message, and unread are the others'
// messages after it.
func checkUnread(o *observed) (wrong []string) {
	histories := map[[2]string][]message{} // by node and room: members see one history
	o.histories(func(_ string, v *view, room string, history []message) { histories[[2]string{v.node, room}] = history })
	for _, v := range o.views {
		if v.err != nil {
			continue
		}
		told := map[string]bool{}
		for _, l := range v.rooms {
			told[l.ID] = true
			if !slices.Equal(l.Members, o.rooms[l.ID]) {
				wrong = append(wrong, fmt.Sprintf("%s tells %s that room %s has the members %v, want %v", v.node, v.user, l.ID, l.Members, o.rooms[l.ID]))
			}
			if want := unread(histories[[2]string{v.node, l.ID}], v.user, l.Read); l.Unread != want {
				wrong = append(wrong, fmt.Sprintf("%s tells %s of %d unread messages after %q in room %s, want %d", v.node, v.user, l.Unread, l.Read, l.ID, want))
			}
		}
		for _, id := range slices.Sorted(maps.Keys(o.rooms)) {
			if slices.Contains(o.rooms[id], v.user) && !told[id] {
				wrong = append(wrong, fmt.Sprintf("%s does not tell %s of room %s", v.node, v.user, id))
			}
		}
	}
	return wrong
}

func unread(history []message, user, read string) int {
	n := 0
	for _, m := range history {
		if m.ID > read && m.From != user && !m.Deleted {
			n++
		}
	}
	return min(n, unreadMax)
}

// checkResets: a stream begins anew only where chat says that it may.
func checkResets(o *observed) (wrong []string) {
	many, much := o.requests > resetEntries, o.bytes+entryOverhead*o.requests > resetBytes
	may := map[string]bool{
		"the position is too old":                    many,
		"too much was missed":                        much,
		"the position is too far ahead of this node": o.processes > resetOrigins,
	}
	for _, r := range o.readers {
		for _, reason := range r.resets {
			if !may[reason] {
				wrong = append(wrong, fmt.Sprintf("a stream of %s was reset without need: %q", r.user, reason))
			}
		}
	}
	return wrong
}
