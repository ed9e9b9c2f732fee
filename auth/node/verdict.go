package node

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"

	"dongne/auth/realm"
)

// A Verdict is who sends a request, as forward authentication tells it.
type Verdict struct {
	User    string
	Email   string
	Groups  []string
	Session string // "" of a client, and of the older system
	Legacy  bool   // the older system's token decided
}

// ErrNobody: the request has no token that counts.
var ErrNobody = errors.New("no token that counts here")

// Credentials are what a request brings.
type Credentials struct {
	Bearer string // the token of its Authorization header
	Legacy string // the older system's token, from its cookie
}

// Judge says who sends a request to a route, by the route's stage of the migration: at legacy and shadow the older system's
// token decides, at dual either, and at new, or without a stage, only ours. At shadow both verdicts are compared and
// counted. The error is ErrNobody, or says that it cannot be known now: it is the log's, or wraps verify.ErrUnavailable.
func (n *Node) Judge(ctx context.Context, route string, c Credentials) (Verdict, error) {
	if c.Legacy == "" && LegacyToken(c.Bearer) {
		c.Legacy, c.Bearer = c.Bearer, ""
	}
	var stage realm.Stage
	n.read(func(s *realm.State) { stage = s.Stage(route) })
	switch stage {
	case realm.StageLegacy:
		return n.judgeLegacy(c.Legacy)
	case realm.StageShadow:
		old, oldErr := n.judgeLegacy(c.Legacy)
		if ours, oursErr := n.judgeToken(ctx, c.Bearer); oursErr == nil || errors.Is(oursErr, ErrNobody) {
			n.shadow.compare(old, oldErr, ours, oursErr)
		}
		return old, oldErr
	case realm.StageDual:
		v, err := n.judgeToken(ctx, c.Bearer)
		if err == nil {
			return v, nil
		}
		if old, oldErr := n.judgeLegacy(c.Legacy); oldErr == nil {
			return old, nil
		}
		return v, err
	}
	return n.judgeToken(ctx, c.Bearer)
}

func (n *Node) judgeToken(ctx context.Context, bearer string) (Verdict, error) {
	if bearer == "" {
		return Verdict{}, ErrNobody
	}
	claims, err := n.Verify(ctx, bearer)
	switch {
	case undecided(err):
		return Verdict{}, err
	case err != nil:
		return Verdict{}, fmt.Errorf("%w: %w", ErrNobody, err)
	}
	v := Verdict{User: claims.Subject, Groups: claims.Groups, Session: claims.Session}
	n.read(func(s *realm.State) {
		u, _ := s.User(claims.Subject)
		v.Email = u.Email
	})
	return v, nil
}

func (n *Node) judgeLegacy(text string) (v Verdict, err error) {
	if text == "" {
		return v, ErrNobody
	}
	now := n.config.Now().UnixMilli()
	n.read(func(s *realm.State) {
		l, known := s.Legacy(realm.HashOf(text))
		u, _ := s.User(l.User)
		if !known || l.Revoked || l.Expires <= now || u.ID == "" || u.Disabled {
			err = ErrNobody
			return
		}
		v = Verdict{User: u.ID, Email: u.Email, Groups: u.Groups, Legacy: true}
	})
	return v, err
}

// shadowCounts counts what came of the comparisons at stage shadow.
type shadowCounts struct{ Same, OnlyLegacy, OnlyNew, OtherUser atomic.Uint64 }

func (s *shadowCounts) compare(old Verdict, oldErr error, ours Verdict, oursErr error) {
	switch {
	case oldErr == nil && oursErr != nil:
		s.OnlyLegacy.Add(1)
	case oldErr != nil && oursErr == nil:
		s.OnlyNew.Add(1)
	case oldErr == nil && old.User != ours.User:
		s.OtherUser.Add(1)
	default:
		s.Same.Add(1)
	}
}

// ShadowCounts are the comparisons at stage shadow since the start.
type ShadowCounts struct {
	Same       uint64 `json:"same"`
	OnlyLegacy uint64 `json:"only_legacy"` // the older system's token would have let in alone
	OnlyNew    uint64 `json:"only_new"`
	OtherUser  uint64 `json:"other_user"` // both, as somebody else
}

// Shadow returns them.
func (n *Node) Shadow() ShadowCounts {
	return ShadowCounts{n.shadow.Same.Load(), n.shadow.OnlyLegacy.Load(), n.shadow.OnlyNew.Load(), n.shadow.OtherUser.Load()}
}

// RouteOf is the name under which a path's stage is set: its first segment in lower case, "root" for the path "/".
func RouteOf(path string) string {
	first, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	if first == "" {
		return "root"
	}
	return strings.ToLower(trim(first, realm.RouteBytesMax))
}

// Do does what an administrator, or a user with himself, asks of the realm.
func (n *Node) Do(ctx context.Context, q realm.Request) (realm.Result, error) { return n.do(ctx, q) }

// Read runs f while the realm stands still; f must be quick and keep nothing that it may not.
func (n *Node) Read(f func(s *realm.State)) { n.read(f) }

// Sessions returns a user's sessions that are alive, after all that was acknowledged anywhere before the call.
func (n *Node) Sessions(ctx context.Context, user string) (sessions []realm.Session, err error) {
	if err := n.fresh(ctx); err != nil {
		return nil, err
	}
	n.read(func(s *realm.State) { sessions = s.Sessions(user, n.config.Now().UnixMilli()) })
	return sessions, nil
}

// Fresh returns once memory holds all that was acknowledged anywhere before the call.
func (n *Node) Fresh(ctx context.Context) error { return n.fresh(ctx) }
