package node

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"dongne/auth/password"
	"dongne/auth/realm"
	"dongne/auth/throttle"
)

// Errors of log-ins. What they say is all that a client learns.
var (
	// ErrCredentials: the login or the password is wrong, or the user is disabled.
	ErrCredentials = errors.New("the login or the password is wrong")
	// ErrFactorNeeded: the password is right, and the user has a second factor.
	ErrFactorNeeded = errors.New("this user has a second factor: send its code too")
	// ErrFactor: the code is wrong, or was used before.
	ErrFactor = errors.New("the code of the second factor is wrong, or was used before")
)

// Throttled says that there were too many wrong passwords of late.
type Throttled struct{ Wait time.Duration }

// Error says for how long.
func (t *Throttled) Error() string {
	return fmt.Sprintf("too many attempts; try again in %v", t.Wait.Round(time.Second))
}

// SignUp is what a new user says.
type SignUp struct{ Login, Password, Name, Email string }

// SignUp makes a user, unless the login is taken, which it does not tell: a sign-up of either kind takes the same time and
// gets the same answer. The error is that of a login or a password that cannot be, a *Throttled, or that of the log.
func (n *Node) SignUp(ctx context.Context, q SignUp, from From) error {
	login, err := realm.NormalLogin(q.Login)
	if err != nil {
		return &password.Weak{Field: "login", Code: "login-invalid", Detail: err.Error()}
	}
	if err := cmp.Or(password.Check("password", login, q.Password, false), checkName(q.Name), checkEmail(q.Email)); err != nil {
		return err
	}
	// Whoever signs up often, maybe to find out who is here, is slowed like one who guesses passwords.
	try, err := n.admit("sign-up "+from.address(), from)
	if err != nil {
		return err
	}
	defer try.end()
	hash, err := n.workers.Hash(ctx, q.Password)
	if err == nil || ctx.Err() != nil {
		try.failed()
	}
	if err == nil {
		err = n.fresh(ctx)
	}
	if err != nil {
		return err
	}
	taken := false
	n.read(func(s *realm.State) { _, taken = s.UserByLogin(login) })
	refused := &realm.Note{Kind: "sign-up-refused", Address: from.address(), Detail: login + ": " + realm.LoginTaken.String()}
	if taken { // one entry of the log, as for a login that is free: so both take the same time
		_, err = n.propose(ctx, refused)
		return err
	}
	result, err := n.propose(ctx, &realm.SignUp{User: n.userID(login), Login: login, Name: q.Name, Email: q.Email,
		Password: hash, Address: from.address()})
	switch {
	case err == nil && result.Code == realm.Full:
		return &Refused{result.Code}
	case err == nil && !result.Code.OK(): // taken a moment ago
		_, err = n.propose(ctx, refused)
	}
	return err
}

// userID is the id of a new user: the login itself where it can be one, so that people know each other; otherwise, as of
// an e-mail address, which is nobody's business, or of a client's id, which would be taken for the client, a new one that
// sorts by time.
func (n *Node) userID(login string) string {
	_, client := n.clients[login]
	if !client && !strings.ContainsAny(login, "@+") && !strings.HasPrefix(login, "u_") && realm.ValidUser(login) == nil {
		return login
	}
	var id [12]byte
	binary.BigEndian.PutUint64(id[:], uint64(n.config.Now().UnixMilli())<<16)
	n.random(id[6:])
	return "u_" + strings.ToLower(base32.HexEncoding.WithPadding(base32.NoPadding).EncodeToString(id[:]))
}

// LogIn is what a user says to come in.
type LogIn struct{ Login, Password, Code string }

// LogIn opens a session. The error is ErrCredentials, ErrFactorNeeded, ErrFactor, a *Throttled, password.ErrBusy, or that
// of the log. It takes the same time for users that there are and that there are not.
func (n *Node) LogIn(ctx context.Context, q LogIn, from From) (Pair, error) {
	login, err := realm.NormalLogin(q.Login)
	if err != nil {
		login = "?" + trim(q.Login, realm.LoginBytesMax) // nobody's, which is found out as slowly as with any other
	}
	try, err := n.admit(login, from)
	if err != nil {
		return Pair{}, err
	}
	defer try.end()
	u, right, err := n.verify(ctx, login, q.Password)
	if err != nil {
		try.left(ctx)
		return Pair{}, err
	}
	if !right {
		return Pair{}, n.refuseLogIn(ctx, try, u.ID, "password", ErrCredentials)
	}
	open := &realm.LogIn{User: u.ID, Checked: u.Version}
	if err := n.second(&u, q.Code, open); errors.Is(err, ErrFactor) {
		return Pair{}, n.refuseLogIn(ctx, try, u.ID, "second factor", err)
	} else if err != nil {
		return Pair{}, err
	}
	if n.workers.NeedsRehash(u.Password) {
		if open.Rehash, err = n.workers.Hash(ctx, q.Password); err != nil {
			return Pair{}, err
		}
	}
	var refresh realm.Token
	open.Opening, refresh = n.opening("", u.Groups, from)
	result, err := n.propose(ctx, open)
	switch {
	case err != nil:
		return Pair{}, err
	case result.Code == realm.StepUsed, result.Code == realm.RecoveryUnknown, result.Code == realm.FactorNeeded:
		try.failed()
		return Pair{}, ErrFactor
	case result.Code == realm.UserDisabled, result.Code == realm.Stale, result.Code == realm.UserUnknown:
		try.failed()
		return Pair{}, ErrCredentials
	case !result.Code.OK():
		return Pair{}, &Refused{result.Code}
	}
	try.succeeded()
	return n.pair(result, refresh)
}

// refuseLogIn counts a failure and notes it. What was sent as the login of nobody is not noted: people mistype, and there
// passwords come too.
func (n *Node) refuseLogIn(ctx context.Context, try *attempt, user, what string, err error) error {
	try.failed()
	if user == "" {
		what = "unknown login"
	}
	_, failed := n.propose(ctx, &realm.Note{Kind: "log-in-refused", User: user, Address: try.from.address(), Detail: what})
	return errors.Join(err, failed)
}

// printable is a client's id as the audit trail may have it.
func printable(login string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '?'
		}
		return r
	}, login)
}

// verify says whether the password is that of the user, who need not exist; u is zero if he does not.
func (n *Node) verify(ctx context.Context, login, text string) (u realm.User, right bool, err error) {
	if err := n.fresh(ctx); err != nil { // he may have signed up, or changed his password, elsewhere just now
		return u, false, err
	}
	known := false
	n.read(func(s *realm.State) { u, known = s.UserByLogin(login) })
	if len(text) > password.BytesMax {
		text = "" // hashed all the same, for the time it takes
	}
	if !known || u.Password == "" || text == "" {
		return u, false, n.workers.VerifyUnknown(ctx, text)
	}
	right, err = n.workers.Verify(ctx, u.Password, text)
	return u, right, err
}

// second checks the second factor of a user who has one, and notes in open what proved it.
func (n *Node) second(u *realm.User, code string, open *realm.LogIn) error {
	if u.TOTP.Secret == nil {
		return nil
	}
	if code == "" {
		return ErrFactorNeeded
	}
	secret, err := n.sealer.open("totp "+u.ID, u.TOTP.Secret)
	if err != nil {
		return err
	}
	if step, right := password.VerifyTOTP(secret, code, n.config.Now()); right {
		open.Step = uint64(step)
		return nil
	}
	hashes := make([]string, len(u.Recovery))
	for i, h := range u.Recovery {
		hashes[i] = hex.EncodeToString(h[:])
	}
	if i, right := password.VerifyRecovery(hashes, code); right {
		open.Recovery = u.Recovery[i]
		return nil
	}
	return ErrFactor
}

// opening makes what a new session needs.
func (n *Node) opening(client string, scope []string, from From) (realm.Opening, realm.Token) {
	o := realm.Opening{Client: client, Scope: strings.Join(scope, " "), Agent: from.agent(), Address: from.address()}
	var luck [16]byte
	n.random(o.Session[:])
	n.random(o.Key[:])
	n.random(luck[:])
	refresh := realm.MakeToken(o.Key, o.Session, 1, luck)
	o.Token = refresh.Hash()
	return o, refresh
}

// SetPassword changes the password of a user who knows the one before, and ends his other sessions.
func (n *Node) SetPassword(ctx context.Context, user, before, after string, keep realm.SessionID, from From) error {
	u, err := n.confirm(ctx, user, before, from)
	if err != nil {
		return err
	}
	if err := password.Check("new_password", u.Login, after, u.TOTP.Secret != nil); err != nil {
		return err
	}
	hash, err := n.workers.Hash(ctx, after)
	if err != nil {
		return err
	}
	_, err = n.do(ctx, &realm.SetPassword{User: user, Checked: u.Version, Password: hash, Short: password.Check("", u.Login, after, false) != nil,
		Keep: keep, By: user, Address: from.address()})
	return err
}

// confirm has a user who is logged in say his password again.
func (n *Node) confirm(ctx context.Context, user, text string, from From) (realm.User, error) {
	if err := n.fresh(ctx); err != nil {
		return realm.User{}, err
	}
	var login string
	n.read(func(s *realm.State) {
		u, _ := s.User(user)
		login = u.Login
	})
	try, err := n.admit(login, from)
	if err != nil {
		return realm.User{}, err
	}
	defer try.end()
	u, right, err := n.verify(ctx, login, text)
	if err != nil {
		try.left(ctx)
		return u, err
	}
	if right {
		try.succeeded()
	} else {
		try.failed()
		_, err = n.propose(ctx, &realm.Note{Kind: "password-refused", User: user, By: user, Address: from.address()})
		err = errors.Join(ErrCredentials, err)
	}
	return u, err
}

// An Enrolment is a second factor that waits to be confirmed.
type Enrolment struct {
	Secret string `json:"secret"` // base32, for an authenticator
	URI    string `json:"uri"`    // the same as otpauth://
}

// Enrol gives a user a secret, which becomes his second factor when Confirm proves that he has it.
func (n *Node) Enrol(ctx context.Context, user, text string, from From) (Enrolment, error) {
	u, err := n.confirm(ctx, user, text, from)
	if err != nil {
		return Enrolment{}, err
	}
	secret, err := password.NewTOTPSecret(n.config.Rand)
	if err != nil {
		return Enrolment{}, err
	}
	_, err = n.do(ctx, &realm.AddTOTP{User: user, Checked: u.Version, Secret: n.sealer.seal("totp "+user, secret), By: user, Address: from.address()})
	return Enrolment{password.TOTPSecretText(secret), password.TOTPURI("dongne", u.Login, secret)}, err
}

// Confirm makes the secret that waits the second factor, and returns its recovery codes, which nobody can tell later.
func (n *Node) Confirm(ctx context.Context, user, code string, from From) (codes []string, err error) {
	try, err := n.admit("second factor of "+user, from)
	if err != nil {
		return nil, err
	}
	defer try.end()
	if err := n.fresh(ctx); err != nil {
		return nil, err
	}
	var u realm.User
	n.read(func(s *realm.State) { u, _ = s.User(user) })
	if u.TOTP.Pending == nil {
		return nil, &Refused{realm.NotPending}
	}
	secret, err := n.sealer.open("totp "+user, u.TOTP.Pending)
	if err != nil {
		return nil, err
	}
	step, right := password.VerifyTOTP(secret, code, n.config.Now())
	if !right {
		try.failed()
		return nil, ErrFactor
	}
	codes, hashes, err := password.NewRecoveryCodes(n.config.Rand)
	if err != nil {
		return nil, err
	}
	q := &realm.ConfirmTOTP{User: user, Secret: u.TOTP.Pending, Step: uint64(step), By: user, Address: from.address()}
	for _, h := range hashes {
		var hash realm.Hash
		if len(h) != 2*sha256.Size {
			panic("auth: a recovery code's hash of another length")
		}
		hex.Decode(hash[:], []byte(h))
		q.Recovery = append(q.Recovery, hash)
	}
	_, err = n.do(ctx, q)
	return codes, err
}

// Unenrol takes the second factor away.
func (n *Node) Unenrol(ctx context.Context, user, text string, from From) error {
	u, err := n.confirm(ctx, user, text, from)
	if err == nil {
		_, err = n.do(ctx, &realm.RemoveTOTP{User: user, Checked: u.Version, By: user, Address: from.address()})
	}
	return err
}

// An attempt is one that was admitted. It ends once.
type attempt struct {
	node  *Node
	login string
	from  From
	over  bool
}

// admit refuses who must wait after wrong passwords. The attempt must end.
func (n *Node) admit(login string, from From) (*attempt, error) {
	now := n.config.Now()
	here := false // has he been here before, in the life of another process maybe?
	n.read(func(s *realm.State) {
		u, _ := s.UserByLogin(login)
		here = slices.ContainsFunc(s.Sessions(u.ID, now.UnixMilli()), func(x realm.Session) bool { return x.Address == from.address() })
	})
	n.throttleMu.Lock()
	defer n.throttleMu.Unlock()
	if here {
		n.throttle.Remember(login, from.Address, now)
	}
	if wait := n.throttle.Check(login, from.Address, now); wait > 0 {
		return nil, &Throttled{wait}
	}
	return &attempt{node: n, login: login, from: from}, nil
}

func (a *attempt) close(how func(t *throttle.Throttle, login string, address netip.Addr, now time.Time)) {
	a.node.throttleMu.Lock()
	defer a.node.throttleMu.Unlock()
	if !a.over {
		a.over = true
		how(a.node.throttle, a.login, a.from.Address, a.node.config.Now())
	}
}

// failed: what was said was wrong.
func (a *attempt) failed() {
	a.close(func(t *throttle.Throttle, login string, address netip.Addr, now time.Time) {
		t.Failed(login, address, now)
	})
}

// succeeded: he is who he says.
func (a *attempt) succeeded() { a.close((*throttle.Throttle).Succeeded) }

// left counts an attempt whose password was being looked at, and whose client did not wait for the verdict, as one that
// failed: otherwise whoever hangs up in time could try as often as he likes.
func (a *attempt) left(ctx context.Context) {
	if ctx.Err() != nil {
		a.failed()
	}
}

// end is for what was neither.
func (a *attempt) end() { a.close((*throttle.Throttle).Dropped) }
