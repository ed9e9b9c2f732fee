package realm

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
	"slices"
)

// The form of a snapshot: "dRM1"; then fields as in a command: slot, time (nanoseconds, milliseconds), requests; users,
// sessions, keys, revocations, tokens of the older system, stages and events, each with their number before them,
// sorted by id, by sequence number, keys as they sign; then CRC-32C of all that, little endian.
//
// Equal states have equal snapshots, so its SHA-256 is the hash of the state.
const snapshotMagic = "dRM1"

// The least bytes that rows take.
const (
	userBytesMin        = 19
	sessionBytesMin     = 128
	keyBytesMin         = 7
	revocationBytes     = 19
	legacyBytesMin      = 53
	stageBytesMin       = 2
	eventBytesMin       = 23
	snapshotBytesMin    = len(snapshotMagic) + 13 + checksumBytes
	checksumBytes       = 4
	userBytesTypical    = 256
	sessionBytesTypical = 320
)

// Snapshot returns the state's bytes.
func (s *State) Snapshot() []byte {
	c := &coder{out: make([]byte, 0, 1024+len(s.users)*userBytesTypical+len(s.sessions)*sessionBytesTypical+
		len(s.events)*96+len(s.legacy)*96+len(s.revocations)*32)}
	c.out = append(c.out, snapshotMagic...)
	s.rows(c)
	if c.err != nil {
		panic("realm: a state that cannot be written: " + c.err.Error())
	}
	return binary.LittleEndian.AppendUint32(c.out, checksum(c.out))
}

func checksum(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

// Restore replaces the state by one that Snapshot wrote. The error says what is wrong with it; the state is then as it
// was.
func (s *State) Restore(snapshot []byte) error {
	if len(snapshot) < snapshotBytesMin || string(snapshot[:len(snapshotMagic)]) != snapshotMagic {
		return errNotSnapshot
	}
	body := snapshot[:len(snapshot)-checksumBytes]
	if sum := binary.LittleEndian.Uint32(snapshot[len(body):]); sum != checksum(body) {
		return fmt.Errorf("realm: the snapshot of %d bytes has checksum %08x, not %08x", len(snapshot), checksum(body), sum)
	}
	fresh := New()
	fresh.limits = s.limits
	c := &coder{in: body, at: len(snapshotMagic), reading: true}
	fresh.rows(c)
	if err := c.end(); err != nil {
		return err
	}
	if err := fresh.Check(); err != nil {
		return err
	}
	*s = *fresh
	return nil
}

// rows codes the whole state.
func (s *State) rows(c *coder) {
	number(c, &s.position.Slot)
	number(c, &s.position.Time)
	number(c, &s.now)
	number(c, &s.requests)
	users := sorted(s.users, func(a, b *user) int { return cmp.Compare(a.ID, b.ID) })
	list(c, &users, "users", math.MaxInt32, userBytesMin, userRow)
	sessions := sorted(s.sessions, func(a, b *session) int { return slices.Compare(a.ID[:], b.ID[:]) })
	list(c, &sessions, "sessions", math.MaxInt32, sessionBytesMin, sessionRow)
	list(c, &s.keys, "keys", math.MaxInt32, keyBytesMin, keyRow)
	number(c, &s.seq)
	list(c, &s.revocations, "revocations", math.MaxInt32, revocationBytes, revocationRow)
	legacies := sorted(s.legacy, func(a, b *legacy) int { return slices.Compare(a.hash[:], b.hash[:]) })
	list(c, &legacies, "tokens", math.MaxInt32, legacyBytesMin, legacyRow)
	routes := s.Stages()
	list(c, &routes, "stages", math.MaxInt32, stageBytesMin, stageRow)
	number(c, &s.eventSeq)
	list(c, &s.events, "events", math.MaxInt32, eventBytesMin, eventRow)
	if c.reading && c.err == nil {
		s.index(c, users, sessions, legacies, routes)
	}
}

func sorted[K comparable, V any](m map[K]V, compare func(a, b V) int) []V {
	all := make([]V, 0, len(m))
	for _, v := range m {
		all = append(all, v)
	}
	slices.SortFunc(all, compare)
	return all
}

// index fills what is found by key or by time from rows that were read.
func (s *State) index(c *coder, users []*user, sessions []*session, legacies []*legacy, routes []RouteStage) {
	for _, u := range users {
		s.users[u.ID], s.byLogin[u.Login] = u, u
	}
	for _, x := range sessions {
		u := s.users[x.User]
		if u == nil {
			c.fail("session %v is of user %q, who does not exist", x.ID, x.User)
			return
		}
		x.User, x.place = u.ID, -1
		s.sessions[x.ID] = x
		if x.Ended == 0 {
			u.alive = append(u.alive, x)
			s.due.add(x)
		}
		if x.Sealed != nil {
			s.grace = append(s.grace, graced{x, x.Rotated})
		}
	}
	slices.SortStableFunc(s.grace, func(a, b graced) int { return cmp.Compare(a.rotated, b.rotated) })
	for _, r := range s.revocations {
		if r.Kind == RevokedToken {
			s.revoked[r.ID] = true
		}
	}
	for _, l := range legacies {
		if u := s.users[l.User]; u != nil {
			l.User = u.ID
		}
		s.legacy[l.hash] = l
		s.legacyDue.add(l)
	}
	for _, r := range routes {
		s.stages[r.Route] = r.Stage
	}
	if len(s.users) != len(users) || len(s.sessions) != len(sessions) || len(s.legacy) != len(legacies) ||
		len(s.stages) != len(routes) {
		c.fail("a row is there twice")
	}
}

func userRow(c *coder, p **user) {
	if c.reading {
		*p = new(user)
	}
	u := *p
	c.user(&u.ID)
	c.text(&u.Login, "login", LoginBytesMax)
	c.text(&u.Name, "name", NameBytesMax)
	c.text(&u.Email, "email", EmailBytesMax)
	c.text(&u.Password, "password", PasswordBytesMax)
	c.flag(&u.Short)
	c.groups(&u.Groups)
	c.bytes(&u.TOTP.Secret, "secret", SecretBytesMax)
	c.bytes(&u.TOTP.Pending, "secret", SecretBytesMax)
	number(c, &u.TOTP.Step)
	c.recovery(&u.Recovery)
	number(c, &u.Version)
	c.flag(&u.Disabled)
	number(c, &u.Created)
	number(c, &u.Changed)
	number(c, &u.LoggedIn)
	number(c, &u.cut)
}

func sessionRow(c *coder, p **session) {
	if c.reading {
		*p = new(session)
	}
	x := *p
	c.fixed(x.ID[:])
	c.user(&x.User)
	c.text(&x.Client, "client", ClientBytesMax)
	c.text(&x.Scope, "scope", ScopeBytesMax)
	c.text(&x.Agent, "agent", AgentBytesMax)
	c.address(&x.Address)
	for _, time := range []*int64{&x.Created, &x.Used, &x.Rotated, &x.Expires, &x.End, &x.Ended} {
		number(c, time)
	}
	number(c, &x.Generation)
	c.fixed(x.Key[:])
	c.fixed(x.Current[:])
	c.fixed(x.Previous[:])
	c.bytes(&x.Sealed, "sealed successor", SecretBytesMax)
}

func keyRow(c *coder, k *Key) {
	c.text(&k.ID, "key id", KeyIDBytesMax)
	c.text(&k.Alg, "alg", AlgBytesMax)
	c.bytes(&k.Public, "public key", KeyBytesMax)
	c.bytes(&k.Sealed, "sealed key", KeyBytesMax)
	number(c, &k.Published)
	number(c, &k.Signs)
	number(c, &k.Retires)
}

func revocationRow(c *coder, r *Revocation) {
	number(c, &r.Seq)
	number(c, &r.Kind)
	c.fixed(r.ID[:])
	number(c, &r.Expires)
}

func legacyRow(c *coder, p **legacy) {
	if c.reading {
		*p = new(legacy)
	}
	l := *p
	c.fixed(l.hash[:])
	c.user(&l.User)
	number(c, &l.Expires)
	c.flag(&l.Revoked)
	number(c, &l.Exchanged)
	c.fixed(l.Session[:])
	number(c, &l.known)
}

func stageRow(c *coder, r *RouteStage) {
	c.text(&r.Route, "route", RouteBytesMax)
	number(c, &r.Stage)
}

func eventRow(c *coder, e *Event) {
	number(c, &e.Seq)
	number(c, &e.At)
	c.text(&e.Kind, "kind", EventBytesMax)
	c.user(&e.User)
	c.by(&e.By)
	c.fixed(e.Session[:])
	c.address(&e.Address)
	c.text(&e.Detail, "detail", DetailBytesMax)
}
