package node

import (
	"context"
	"fmt"
	"io"
	"time"

	"dongne/auth/realm"
	"dongne/internal/serve"
	"dongne/internal/token"
	"dongne/internal/verify"
)

// source is what other services learn over HTTP, for the verifier of this one.
type source struct{ *Node }

// Metadata implements verify.Source.
func (s source) Metadata(context.Context) (string, error) { return s.config.Issuer, nil }

// Keys implements verify.Source.
func (s source) Keys(context.Context) (token.Set, time.Duration, error) {
	set, err := s.Node.Keys()
	return set, s.config.KeyCache, err
}

// Follow implements verify.Source.
func (s source) Follow(ctx context.Context, after uint64, on func(verify.Event)) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		items, seq, reset, more := s.Revocations(after)
		if reset {
			on(verify.Event{Kind: verify.Reset})
		}
		for _, x := range items {
			kind := verify.SessionRevoked
			if x.Kind == realm.RevokedToken {
				kind = verify.TokenRevoked
			}
			on(verify.Event{Kind: kind, Seq: x.Seq, ID: x.Text(), Expires: time.UnixMilli(x.Expires)})
		}
		after = seq
		on(verify.Event{Kind: verify.Alive, Seq: seq})
		select {
		case <-more:
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Metrics writes how much there is in Prometheus text.
func (n *Node) Metrics(w io.Writer) {
	var c realm.Counts
	n.read(func(s *realm.State) { c = s.Counts() })
	for _, g := range []struct {
		name, help string
		value      int
	}{
		{"auth_users", "Users.", c.Users},
		{"auth_sessions", "Sessions that have not ended.", c.Sessions},
		{"auth_keys", "Signing keys that are published, or will be.", c.Keys},
		{"auth_revocations", "Revocations that verifiers must know.", c.Revocations},
		{"auth_legacy_tokens", "Tokens of the older system that are known.", c.Legacy},
	} {
		fmt.Fprintf(w, "# HELP %s %s\n# TYPE %s gauge\n%s %d\n", g.name, g.help, g.name, g.name, g.value)
	}
	s := n.Shadow()
	serve.WriteCounter(w, "auth_shadow_total", "Comparisons at stage shadow of a migration, by outcome.", "outcome", map[string]uint64{
		"same": s.Same, "only_legacy": s.OnlyLegacy, "only_new": s.OnlyNew, "other_user": s.OtherUser})
}
