package node

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"dongne/auth/realm"
	"dongne/internal/serve"
	"dongne/internal/sharedlog"
	"dongne/internal/token"
	"dongne/internal/verify"
)

// Errors of the token endpoints.
var (
	// ErrGrant: the token is not good for this: unknown, expired, used, revoked.
	ErrGrant = errors.New("the token is unknown, expired, used or revoked")
	// ErrClient: there is no such client, or its secret is wrong.
	ErrClient = errors.New("the client is unknown, or its secret is wrong")
	// ErrScope: more than the session, or the client, may have.
	ErrScope = errors.New("the scope is more than may be given")
)

// A Pair is an access token and, of sessions, the refresh token for the next one.
type Pair struct {
	Access  string `json:"access_token"`
	Type    string `json:"token_type"`
	Expires int    `json:"expires_in"` // seconds
	Refresh string `json:"refresh_token,omitempty"`
	Scope   string `json:"scope,omitempty"`
	Session string `json:"session,omitempty"`
	User    string `json:"user,omitempty"`
}

// pair makes the tokens of a session that was opened or rotated.
func (n *Node) pair(result realm.Result, refresh realm.Token) (Pair, error) {
	scope := result.Groups // of now: what was taken away since is not in the token
	claims := token.Claims{Subject: result.User, Session: result.Session.String(), Scope: scope, Groups: result.Groups}
	p, err := n.access(claims, result.At)
	p.Refresh, p.Session, p.User = refresh.String(), result.Session.String(), result.User
	return p, err
}

// access signs an access token as of the log's time at, in milliseconds: or as of the clock's, where some clock was ahead
// once, so that who has the right time takes the token.
func (n *Node) access(claims token.Claims, at int64) (Pair, error) {
	issued := time.UnixMilli(min(at, n.config.Now().UnixMilli()))
	key, err := n.signing(at)
	if err != nil {
		return Pair{}, err
	}
	var id realm.TokenID
	n.random(id[:])
	claims.Issuer, claims.Audience, claims.ID = n.config.Issuer, []string{serve.Audience}, id.String()
	claims.Issued, claims.Expires = issued, issued.Add(realm.AccessLife)
	text, err := key.Sign(claims)
	return Pair{Access: text, Type: "Bearer", Expires: int(realm.AccessLife / time.Second), Scope: strings.Join(claims.Scope, " ")}, err
}

// Refresh gives the next pair for a refresh token; ErrGrant if there is none.
func (n *Node) Refresh(ctx context.Context, text string, from From) (Pair, error) {
	old, ok := realm.ParseToken(text)
	if !ok {
		return Pair{}, ErrGrant
	}
	session, known, err := n.genuine(ctx, old)
	if err != nil {
		return Pair{}, err
	}
	if !known || session.Ended != 0 { // for good, so the log need not be asked
		return Pair{}, ErrGrant
	}
	var luck [16]byte
	n.random(luck[:])
	next := realm.MakeToken(session.Key, session.ID, old.Generation()+1, luck)
	result, err := n.propose(ctx, &realm.Refresh{Session: session.ID, Generation: old.Generation(), Token: old.Hash(),
		Next: next.Hash(), Sealed: n.sealSuccessor(text, next), Agent: from.agent(), Address: from.address()})
	return n.succeed(result, err, text, next)
}

// succeed makes the answer to a request that gives a refresh token for another one.
func (n *Node) succeed(result realm.Result, err error, before string, next realm.Token) (Pair, error) {
	switch {
	case err != nil:
		return Pair{}, err
	case !result.Code.OK():
		return Pair{}, fmt.Errorf("%w: %w", ErrGrant, &Refused{result.Code})
	case result.Code == realm.Same:
		if next, err = openSuccessor(before, result.Sealed); err != nil {
			return Pair{}, err
		}
	}
	return n.pair(result, next)
}

// genuine returns the session of a refresh token that was made for it.
func (n *Node) genuine(ctx context.Context, t realm.Token) (x realm.Session, known bool, err error) {
	find := func(s *realm.State) { x, known = s.Session(t.Session()) }
	n.read(find)
	if !known && n.store.Shared() { // opened elsewhere just now, it may be
		if err := n.fresh(ctx); err != nil {
			return x, false, err
		}
		n.read(find)
	}
	return x, known && t.Genuine(x.Key), nil
}

// ForClient gives a service a token of its own.
func (n *Node) ForClient(ctx context.Context, id, secret, scope string, from From) (Pair, error) {
	c, err := n.Client(ctx, id, secret, from)
	if err != nil {
		return Pair{}, err
	}
	wanted := c.Scope
	if scope != "" {
		wanted = strings.Fields(scope)
	}
	for _, s := range wanted {
		if !slices.Contains(c.Scope, s) {
			return Pair{}, fmt.Errorf("%w: %q", ErrScope, s)
		}
	}
	result, err := n.propose(ctx, &realm.Note{Kind: "client-token", By: id, Address: from.address(), Detail: trim(strings.Join(wanted, " "), realm.DetailBytesMax)})
	if err != nil {
		return Pair{}, err
	}
	return n.access(token.Claims{Subject: c.ID, Client: c.ID, Scope: wanted}, result.At)
}

// refusals are clients that were refused. Anybody can be one, as fast as he can send; so few come into the log, and the
// others into a metric.
type refusals struct {
	mu    sync.Mutex
	since time.Time // of the present minute; guarded by mu
	noted int       // in it; guarded by mu
	total uint64    // guarded by mu
}

const refusalsNotedMax = 60 // a minute

// count counts one more and says whether it is to be noted.
func (r *refusals) count(now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.total++
	if age := now.Sub(r.since); age < 0 || age >= time.Minute {
		r.since, r.noted = now, 0
	}
	r.noted++
	return r.noted <= refusalsNotedMax
}

func (r *refusals) counted() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.total
}

// Client returns the client who knows the secret, or ErrClient. Nobody guesses a secret of 32 bytes, so nobody is slowed.
func (n *Node) Client(ctx context.Context, id, secret string, from From) (Client, error) {
	c, known := n.clients[id]
	want, got := sha256.Sum256([]byte(c.Secret)), sha256.Sum256([]byte(secret))
	if subtle.ConstantTimeCompare(want[:], got[:]) == 1 && known {
		return c, nil
	}
	if !n.refusals.count(n.config.Now()) {
		return Client{}, ErrClient
	}
	_, err := n.propose(ctx, &realm.Note{Kind: "client-refused", Address: from.address(), Detail: printable(trim(id, realm.ClientBytesMax))})
	return Client{}, errors.Join(ErrClient, err)
}

// Exchange gives a session for a token of the older system, once.
func (n *Node) Exchange(ctx context.Context, text string, from From) (Pair, error) {
	var known bool
	find := func(s *realm.State) { _, known = s.Legacy(realm.HashOf(text)) }
	n.read(find)
	if !known && n.store.Shared() {
		if err := n.fresh(ctx); err != nil {
			return Pair{}, err
		}
		n.read(find)
	}
	if !known { // what anybody can make up does not reach the log
		return Pair{}, ErrGrant
	}
	open, refresh := n.opening("", nil, from)
	result, err := n.propose(ctx, &realm.ExchangeLegacy{Hash: realm.HashOf(text), Sealed: n.sealSuccessor(text, refresh), Opening: open})
	return n.succeed(result, err, text, refresh)
}

// Revoke ends the session of a refresh token, or revokes an access token; nothing of a token that is not ours, or no longer
// good (RFC 7009, section 2.2).
func (n *Node) Revoke(ctx context.Context, text string, from From) error {
	if old, ok := realm.ParseToken(text); ok {
		session, known, err := n.genuine(ctx, old)
		if err != nil || !known || session.Ended != 0 {
			return err
		}
		_, err = n.do(ctx, &realm.EndSession{Session: session.ID, By: session.User, Address: from.address()})
		return lenient(err, realm.SessionEnded, realm.Unknown)
	}
	claims, err := n.Verify(ctx, text)
	if undecided(err) {
		return err
	}
	if err != nil {
		return nil
	}
	id, ok := realm.ParseTokenID(claims.ID)
	if !ok {
		return nil
	}
	_, err = n.do(ctx, &realm.RevokeToken{ID: id, Expires: claims.Expires.UnixMilli(), User: claims.Subject, By: claims.Subject, Address: from.address()})
	return err
}

// lenient takes some refusals for what was wanted anyway.
func lenient(err error, codes ...realm.Code) error {
	var refused *Refused
	if errors.As(err, &refused) && slices.Contains(codes, refused.Code) {
		return nil
	}
	return err
}

// Verify returns the claims of an access token of ours that is good now: also by what was revoked a moment ago. The error is
// that of the verifier, or of the log.
func (n *Node) Verify(ctx context.Context, text string) (*token.Claims, error) {
	claims, err := n.verifier.Verify(text)
	if err == nil {
		err = n.Good(ctx, claims)
	}
	if err != nil {
		return nil, err
	}
	return claims, nil
}

// undecided says whether an error of Verify is about this service, and says nothing of the token.
func undecided(err error) bool {
	var log *sharedlog.Error
	return errors.Is(err, verify.ErrUnavailable) || errors.As(err, &log)
}

// Good says whether what a verified token came with still counts, by all that this node knows: nil, verify.ErrRevoked, or an
// error of the log.
func (n *Node) Good(ctx context.Context, claims *token.Claims) error {
	over, known := n.over(claims)
	if !known && n.store.Shared() { // its session was opened elsewhere just now
		if err := n.fresh(ctx); err != nil {
			return err
		}
		over, known = n.over(claims)
	}
	if over || !known {
		return verify.ErrRevoked
	}
	return nil
}

// Verifier verifies the tokens of this service's own callers.
func (n *Node) Verifier() *verify.Verifier { return n.verifier }

// over says whether a token, or its session, is over; known: the session, if there is one, is.
func (n *Node) over(claims *token.Claims) (over, known bool) {
	known = true
	n.read(func(s *realm.State) {
		id, ok := realm.ParseTokenID(claims.ID)
		over = ok && s.RevokedToken(id)
		if claims.Session == "" {
			return
		}
		var x realm.Session
		if id, ok := realm.ParseSession(claims.Session); ok {
			x, known = s.Session(id)
		} else {
			known = false
		}
		over = over || x.Ended != 0
	})
	return over, known
}

// Introspection is what RFC 7662 tells of a token.
type Introspection struct {
	Active   bool     `json:"active"`
	Scope    string   `json:"scope,omitempty"`
	Client   string   `json:"client_id,omitempty"`
	Username string   `json:"username,omitempty"`
	Type     string   `json:"token_type,omitempty"`
	Expires  int64    `json:"exp,omitempty"`
	Issued   int64    `json:"iat,omitempty"`
	Subject  string   `json:"sub,omitempty"`
	Audience []string `json:"aud,omitempty"`
	Issuer   string   `json:"iss,omitempty"`
	ID       string   `json:"jti,omitempty"`
	Session  string   `json:"sid,omitempty"`
}

// Introspect tells of a token of ours, access or refresh, and of any other that it is not active. Of several processes each
// answers by what it has read of the log, which is all but the last few hundredths of a second. The error is that of the log,
// or verify.ErrUnavailable: nothing is known of the token.
func (n *Node) Introspect(ctx context.Context, text string) (Introspection, error) {
	if old, ok := realm.ParseToken(text); ok {
		return n.introspectRefresh(ctx, old)
	}
	c, err := n.Verify(ctx, text)
	if undecided(err) {
		return Introspection{}, err
	}
	if err != nil {
		return Introspection{}, nil
	}
	return Introspection{Active: true, Type: "Bearer", Subject: c.Subject, Username: n.login(c.Subject), Scope: strings.Join(c.Scope, " "), Client: c.Client,
		Expires: c.Expires.Unix(), Issued: c.Issued.Unix(), Issuer: c.Issuer, Audience: c.Audience, ID: c.ID, Session: c.Session}, nil
}

func (n *Node) introspectRefresh(ctx context.Context, t realm.Token) (Introspection, error) {
	x, known, err := n.genuine(ctx, t)
	if err == nil && known && x.Current != t.Hash() && n.store.Shared() { // rotated elsewhere just now, to this one
		if err = n.fresh(ctx); err == nil {
			x, known, err = n.genuine(ctx, t)
		}
	}
	if err != nil || !known || x.Current != t.Hash() || !x.Alive(n.config.Now().UnixMilli()) {
		return Introspection{}, err
	}
	return Introspection{Active: true, Type: "refresh_token", Subject: x.User, Username: n.login(x.User), Scope: x.Scope, Client: x.Client,
		Expires: x.Expires / 1000, Issued: x.Rotated / 1000, Issuer: n.config.Issuer, Session: x.ID.String()}, nil
}

func (n *Node) login(user string) (login string) {
	n.read(func(s *realm.State) {
		u, _ := s.User(user)
		login = u.Login
	})
	return login
}

// LegacyToken says whether a bearer token is one of the older system: it has not the form of a JWT.
func LegacyToken(text string) bool { return text != "" && strings.Count(text, ".") != 2 }
