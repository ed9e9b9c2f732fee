package node

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"dongne/auth/realm"
	"dongne/internal/etcd"
	"dongne/internal/etcd/etcdtest"
	"dongne/internal/verify"
)

func storeOf(c *etcd.Cluster) string { return "etcd://" + strings.Join(c.Endpoints(), ",") }

// three brings up three nodes on one etcd.
func three(t *testing.T, change func(c *Config)) []*setting {
	t.Helper()
	cluster := etcdtest.Start(t, 1)
	var nodes []*setting
	for i := range 3 {
		nodes = append(nodes, open(t, func(c *Config) {
			c.Store, c.Now, c.Rand = storeOf(cluster), time.Now, newLuck(byte(1+i))
			if change != nil {
				change(c)
			}
		}))
	}
	return nodes
}

// TestShared: what is done at one process counts at once at the others: a log-in, a refresh, a revocation, a changed password,
// a second factor, a sign-up.
func TestShared(t *testing.T) {
	n := three(t, withMailer)
	for i := range 20 {
		a, b, c := n[i%3], n[(i+1)%3], n[(i+2)%3]
		p := a.logIn(ana)
		b.wantGood("from elsewhere", p.Access, true)
		if v, err := c.Judge(t.Context(), "chat", Credentials{Bearer: p.Access}); err != nil || v.User != ana {
			t.Errorf("judged elsewhere: %+v, %v", v, err)
		}
		next, err := b.Refresh(t.Context(), p.Refresh, at(1))
		wantError(t, "refresh elsewhere", err, nil)
		if again, err := c.Refresh(t.Context(), p.Refresh, at(1)); err != nil || again.Refresh != next.Refresh {
			t.Errorf("a retry elsewhere: %v, or another successor", err)
		}
		for _, other := range n {
			if i, err := other.Introspect(t.Context(), next.Refresh); err != nil || !i.Active {
				t.Errorf("introspected elsewhere: %+v, %v", i, err)
			}
		}
		last := a.logIn(ana)
		wantError(t, "revoke elsewhere", c.Revoke(t.Context(), last.Refresh, at(1)), nil)
		wantError(t, "revoke elsewhere", c.Revoke(t.Context(), next.Refresh, at(1)), nil)
		_, err = a.Refresh(t.Context(), next.Refresh, at(1))
		wantError(t, "refresh of what was revoked elsewhere", err, ErrGrant)
		wantError(t, "fresh", b.Fresh(t.Context()), nil)
		b.wantGood("revoked elsewhere", next.Access, false)
		old, fresh := passes, other
		if i%2 == 1 {
			old, fresh = other, passes
		}
		wantError(t, "sign up", a.SignUp(t.Context(), SignUp{Login: fmt.Sprint("guest", i), Password: passes}, at(i)), nil)
		b.logIn(fmt.Sprint("guest", i))
		wantError(t, "change a password", a.SetPassword(t.Context(), "bo", old, fresh, realm.SessionID{}, at(1)), nil)
		_, err = b.LogIn(t.Context(), LogIn{Login: "bo", Password: fresh}, at(1))
		wantError(t, "log-in with the new password elsewhere", err, nil)
		_, err = c.LogIn(t.Context(), LogIn{Login: "bo", Password: old}, at(1))
		wantError(t, "log-in with the old password elsewhere", err, ErrCredentials)
	}
}

// TestSharedRaces: refreshes and ends of one session at different processes are in one order.
func TestSharedRaces(t *testing.T) {
	n := three(t, nil)
	race(t, func(ctx context.Context, luck *rand.Rand) error {
		p, err := n[0].session(ctx)
		if err != nil {
			return err
		}
		var pairs [3]Pair
		var errs [3]error
		end := luck.IntN(4) // one of them ends it instead, or none
		var group sync.WaitGroup
		for i := range n {
			group.Go(func() {
				if i == end {
					errs[i] = n[i].Revoke(ctx, p.Refresh, at(1))
				} else {
					pairs[i], errs[i] = n[i].Refresh(ctx, p.Refresh, at(1))
				}
			})
		}
		group.Wait()
		successor := ""
		for i := range n {
			switch {
			case errs[i] == nil && i != end && (successor == "" || successor == pairs[i].Refresh):
				successor = pairs[i].Refresh
			case i != end && errors.Is(errs[i], ErrGrant) && end < len(n): // it came later
			case i != end || errs[i] != nil:
				return fmt.Errorf("process %d, end at %d: %q, %w", i, end, pairs[i].Refresh, errs[i])
			}
		}
		if end == len(n) {
			return n[luck.IntN(3)].Revoke(ctx, successor, at(1))
		}
		if successor == "" {
			return nil
		}
		if _, err := n[luck.IntN(3)].Refresh(ctx, successor, at(1)); !errors.Is(err, ErrGrant) {
			return fmt.Errorf("the successor of a session that ended: %w", err)
		}
		return nil
	})
	for _, s := range n {
		wantError(t, "fresh", s.Fresh(t.Context()), nil)
		s.check()
	}
}

// TestSharedFeed: a revocation at one process reaches who follows another one, and a process that cannot reach the log any
// more does not say that nothing is missing.
func TestSharedFeed(t *testing.T) {
	cluster := etcdtest.Start(t, 1)
	var n []*setting
	for i := range 2 {
		n = append(n, open(t, func(c *Config) { c.Store, c.Now, c.Rand = storeOf(cluster), time.Now, newLuck(byte(1+i)) }))
	}
	v := verify.Start(t.Context(), source{n[1].Node}, verify.Options{Audience: "dongne"})
	t.Cleanup(v.Close)
	until(t, "it is ready", func() bool { return v.Ready() == nil })
	for range 20 {
		p := n[0].logIn(ana)
		claims, err := v.Verify(p.Access)
		wantError(t, "verify", err, nil)
		ended := make(chan struct{})
		stop := v.AfterRevoked(claims, sync.OnceFunc(func() { close(ended) }))
		wantError(t, "revoke", n[0].Revoke(t.Context(), p.Refresh, at(1)), nil)
		select {
		case <-ended:
		case <-time.After(patience):
			t.Fatal("a revocation at another process does not come")
		}
		stop()
	}
	if !n[1].News(0).Complete {
		t.Error("nothing is missing, and it is not said")
	}
	if err := cluster.Pause(0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cluster.Resume(0) })
	until(t, "without its log it says that all is there", func() bool { return !n[1].News(0).Complete })
	// After 5 s of silence a verifier connects again, and must not hear then that nothing is missing.
	until(t, "who follows it does not learn it", func() bool { return v.Age() > 7*time.Second })
	if err := cluster.Resume(0); err != nil {
		t.Fatal(err)
	}
	until(t, "with its log it does not say that all is there", func() bool { return n[1].News(0).Complete && v.Age() < 2*time.Second })
}
