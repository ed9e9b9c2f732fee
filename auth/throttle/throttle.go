// Package throttle slows down who guesses passwords, without locking out whose password it is. It is pure: time is an
// argument, and nothing but the calls decides. It is not safe for concurrent use.
//
// An attempt to log in is [Throttle.Check]ed before the password is looked at, and its end is told with one of
// [Throttle.Failed], [Throttle.Succeeded] and [Throttle.Dropped]. Failures are counted
//
//   - by address (IPv6: by its /64), over all users;
//   - by user, over all addresses from which he never logged in: the strangers;
//   - by user and address, once he has logged in from there: the acquaintances.
//
// Each count has its [Limit]: some failures are free, each after them makes the next attempt wait, twice as long each
// time up to a cap, and every time that the cap goes by one failure is forgotten. A stranger waits for the longer of the
// address's and the user's count; an acquaintance for his own alone.
//
// # Guarantees
//
// They hold for each process by itself, while no table is full (see [KeysMax]).
//
//   - One address, whatever users it tries, has at most Free + log2(Cap/Base) + 2 failures as a stranger at once, and
//     two more for each Cap that goes by. Logging in to an account of its own between them does not help: a success takes
//     back only the failures of the same user from the same address.
//   - One user has at most as many failures of all strangers together, by the user's limit, between two log-ins of his
//     from new addresses.
//   - Nothing that others do from other addresses makes an acquaintance wait; only failures of the same user from the
//     same address do, which a success forgets. So an owner can be kept out for good only from where he never was.
//   - A wait is never longer than the longest Cap, however long an attack lasted.
//   - Attempts that run at the same time count as failed until they end, so that none can slip in before the first of
//     them is known to have failed: beyond the free ones, one runs at a time.
//
// The price: whoever shares an address with an owner shares his allowance there; and an owner under attack who comes from a
// new address competes with the attackers, unless he was remembered ([Throttle.Remember]).
package throttle

import (
	"crypto/sha256"
	"fmt"
	"net/netip"
	"time"
)

const (
	// KeysMax is the default of how many counts of each kind are kept. The one that was used least recently is
	// forgotten for a new one, of the acquaintances the one that logged in least recently. An attacker who wants his
	// failures forgotten needs as many others, and each of them is an attempt that he must be admitted to.
	KeysMax = 1 << 17

	// PendingMax is how long attempts whose end nobody tells count after the last of them began; they are dropped then.
	PendingMax = time.Minute

	freeMax = 10_000 // so that no sum of times overflows
)

// Limit bounds one count of failures.
type Limit struct {
	Free int           // failures without a wait; 1 to 10,000
	Base time.Duration // wait after the first that is not free; twice as long after each more
	Cap  time.Duration // longest wait, Base to a day; and one failure is forgotten whenever as long has gone by
}

// Config is what a Throttle is made of.
type Config struct {
	Address Limit // of one address, all users
	User    Limit // of one user, all strangers
	Known   Limit // of one user from one address where he has logged in
	KeysMax int   // of each of four kinds: addresses, users, and twice pairs of both
}

// Default is the configuration of New.
func Default() Config {
	return Config{
		Address: Limit{Free: 100, Base: time.Second, Cap: 15 * time.Minute}, // many people may share an address
		User:    Limit{Free: 10, Base: time.Second, Cap: 15 * time.Minute},
		Known:   Limit{Free: 10, Base: time.Second, Cap: 5 * time.Minute},
		KeysMax: KeysMax,
	}
}

// Throttle counts failures; see the package.
type Throttle struct {
	config Config
	began  time.Time // of the first call

	addresses table // failures of all users
	users     table // of all strangers
	pairs     table // of one user from one address, for what a success takes back
	known     table // acquaintances; their entries are never idle
}

// New returns a Throttle with the configuration of Default.
func New() *Throttle { return NewWith(Default()) }

// NewWith returns a Throttle. It panics when a limit makes no sense: limits are constants of the program.
func NewWith(c Config) *Throttle {
	for _, l := range []Limit{c.Address, c.User, c.Known} {
		if l.Free < 1 || l.Free > freeMax || l.Base <= 0 || l.Cap < l.Base || l.Cap > 24*time.Hour {
			panic(fmt.Sprintf("throttle: a limit that is none: %+v", l))
		}
	}
	if c.KeysMax < 1 {
		panic("throttle: KeysMax is less than 1")
	}
	return &Throttle{config: c, addresses: newTable(c.KeysMax), users: newTable(c.KeysMax), pairs: newTable(c.KeysMax),
		known: newTable(c.KeysMax)}
}

// Check says how long an attempt to log in as user (in one spelling: fold the case first) from an address must wait. 0
// admits it: look at the password, then tell how it ended with the same user and address. Otherwise refuse it without
// looking, or the answer would tell a guesser what he waits for. The zero Addr is an address like any other.
func (t *Throttle) Check(user string, address netip.Addr, now time.Time) time.Duration {
	at, keys := t.at(now), keysOf(user, address)
	if b := t.known.find(keys.pair); b != nil {
		if wait := b.wait(t.config.Known, at); wait > 0 {
			return wait
		}
		b.begin(at)
	} else {
		wait := max(t.addresses.wait(keys.address, t.config.Address, at), t.users.wait(keys.user, t.config.User, at))
		if wait > 0 {
			return wait
		}
	}
	t.addresses.touch(keys.address, at).begin(at)
	t.users.touch(keys.user, at).begin(at)
	return 0
}

// Failed tells that an admitted attempt had the wrong password, or the wrong second factor, and returns how long the next
// one must wait.
func (t *Throttle) Failed(user string, address netip.Addr, now time.Time) time.Duration {
	at, keys := t.at(now), keysOf(user, address)
	t.end(keys, at)
	t.addresses.touch(keys.address, at).fail(t.config.Address, at)
	t.pairs.touch(keys.pair, at).fail(t.config.Address, at)
	if b := t.known.find(keys.pair); b != nil {
		b.fail(t.config.Known, at)
		return b.wait(t.config.Known, at)
	}
	t.users.touch(keys.user, at).fail(t.config.User, at)
	return max(t.addresses.wait(keys.address, t.config.Address, at), t.users.wait(keys.user, t.config.User, at))
}

// Succeeded tells that an admitted attempt logged the user in. It forgets the failures of the user from this address and,
// when he was never here before, those of all strangers, since no guesser gets so far; and it makes him an acquaintance
// here.
func (t *Throttle) Succeeded(user string, address netip.Addr, now time.Time) {
	at, keys := t.at(now), keysOf(user, address)
	t.end(keys, at)
	if b := t.pairs.find(keys.pair); b != nil {
		if all := t.addresses.find(keys.address); all != nil {
			all.takeBack(b, at)
		}
		t.pairs.remove(keys.pair)
		t.addresses.tidy(keys.address, at)
	}
	if b := t.known.find(keys.pair); b != nil {
		b.forget()
	} else if b := t.users.find(keys.user); b != nil {
		b.forget()
		t.users.tidy(keys.user, at)
	}
	t.Remember(user, address, now)
}

// Dropped tells that an admitted attempt ended without a verdict on the password: nobody had time to look at it, or it was
// right and the second factor was not given. It is as if it had not been, so call it only when the client learned nothing
// that he could not have learned twice; a client who went away while his password was being verified is no reason.
func (t *Throttle) Dropped(user string, address netip.Addr, now time.Time) {
	t.end(keysOf(user, address), t.at(now))
}

// Remember makes a user an acquaintance of an address without a log-in, say because a session of his began there before
// this process did.
func (t *Throttle) Remember(user string, address netip.Addr, now time.Time) {
	t.known.touch(keysOf(user, address).pair, t.at(now)).keep = true
}

// end ends a pending attempt in every count.
func (t *Throttle) end(keys keys, at int64) {
	if b := t.known.find(keys.pair); b != nil {
		b.end(at)
	}
	if b := t.users.find(keys.user); b != nil {
		b.end(at)
		t.users.tidy(keys.user, at)
	}
	if b := t.addresses.find(keys.address); b != nil {
		b.end(at)
		t.addresses.tidy(keys.address, at)
	}
}

// at is now in nanoseconds since a century before the first call, so that it is positive whatever a clock does. Both
// clocks of Go's times serve; a monotonic one does not step.
func (t *Throttle) at(now time.Time) int64 {
	const century = 100 * 365 * 24 * time.Hour
	if t.began.IsZero() {
		t.began = now
	}
	return int64(century + max(-century, min(century, now.Sub(t.began))))
}

// key is a hash of what it stands for, so that it has a bounded length.
type key [16]byte

type keys struct{ user, address, pair key }

func keysOf(user string, address netip.Addr) keys {
	var k keys
	if address = address.Unmap(); address.Is4() {
		four := address.As4()
		k.address[0] = 4
		copy(k.address[1:], four[:])
	} else if address.IsValid() {
		sixteen := address.As16()
		k.address[0] = 6
		copy(k.address[1:], sixteen[:8]) // the half that a network gives to a household or a host
	}
	hashed := make([]byte, 0, len(k.address)+len(user))
	hashed = append(append(hashed, k.address[:]...), user...)
	pair := sha256.Sum256(hashed)
	copy(hashed, make([]byte, len(k.address))) // no address begins with these bytes but the zero Addr
	hashed[0] = 255
	alone := sha256.Sum256(hashed)
	copy(k.pair[:], pair[:])
	copy(k.user[:], alone[:])
	return k
}
