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
	for {
		news := s.News(after)
		if news.Reset {
			on(verify.Event{Kind: verify.Reset})
		}
		for _, x := range news.Items {
			kind := verify.SessionRevoked
			if x.Kind == realm.RevokedToken {
				kind = verify.TokenRevoked
			}
			on(verify.Event{Kind: kind, Seq: x.Seq, ID: x.Text(), Expires: time.UnixMilli(x.Expires)})
		}
		after = news.Seq
		if news.Complete {
			on(verify.Event{Kind: verify.Alive, Seq: after})
		}
		select {
		case <-news.More:
		case <-news.Alive:
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
	fmt.Fprintf(w, "# HELP auth_clients_refused_total Clients whose id or secret was wrong.\n# TYPE auth_clients_refused_total counter\n"+
		"auth_clients_refused_total %d\n", n.refusals.counted())
	s := n.Shadow()
	serve.WriteCounter(w, "auth_shadow_total", "Comparisons at stage shadow of a migration, by outcome.", "outcome", map[string]uint64{
		"same": s.Same, "only_legacy": s.OnlyLegacy, "only_new": s.OnlyNew, "other_user": s.OtherUser})
}
