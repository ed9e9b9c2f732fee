package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"dongne/auth/password"
	"dongne/auth/realm"
	"dongne/internal/token"
)

// checkKeys makes the first key, or makes sure that those that there are can be used.
func (n *Node) checkKeys(ctx context.Context) error {
	var keys []realm.Key
	n.read(func(s *realm.State) { keys = s.Keys(n.config.Now().UnixMilli()) })
	for _, k := range keys {
		if _, err := n.unsealed(k); err != nil {
			return err
		}
	}
	if len(keys) > 0 {
		return nil
	}
	_, err := n.RotateKey(ctx, "")
	return err
}

// RotateKey publishes a new key, which signs once every verifier has it, and returns its id.
func (n *Node) RotateKey(ctx context.Context, by string) (string, error) {
	key, err := token.Generate(n.config.Alg, n.config.Rand)
	if err != nil {
		return "", err
	}
	public, err := token.Set{key.Key()}.Encode()
	if err != nil {
		return "", err
	}
	private, err := key.Marshal()
	if err != nil {
		return "", err
	}
	id := key.Key().ID
	_, err = n.do(ctx, &realm.AddKey{ID: id, Alg: string(key.Key().Alg), Public: public, Sealed: n.sealer.seal("key "+id, private),
		Cache: n.config.KeyCache.Milliseconds(), By: by})
	return id, err
}

// unsealed returns a key that can sign.
func (n *Node) unsealed(k realm.Key) (*token.Private, error) {
	n.keysMu.Lock()
	defer n.keysMu.Unlock()
	if p := n.private[k.ID]; p != nil {
		return p, nil
	}
	der, err := n.sealer.open("key "+k.ID, k.Sealed)
	if err != nil {
		return nil, err
	}
	p, err := token.ParsePrivate(der)
	if err != nil {
		return nil, fmt.Errorf("auth: key %s: %w", k.ID, err)
	}
	for id := range n.private { // of keys that were retired
		if len(n.private) < realm.KeysMax {
			break
		}
		delete(n.private, id)
	}
	n.private[k.ID] = p
	return p, nil
}

// signing returns the key that signs at a time of the log, in milliseconds.
func (n *Node) signing(at int64) (*token.Private, error) {
	var k realm.Key
	var any bool
	n.read(func(s *realm.State) { k, any = s.Signing(at) })
	if !any {
		return nil, errors.New("auth: there is no key")
	}
	return n.unsealed(k)
}

// Keys returns the public keys that are published now.
func (n *Node) Keys() (set token.Set, err error) {
	var keys []realm.Key
	n.read(func(s *realm.State) { keys = s.Keys(n.config.Now().UnixMilli()) })
	for _, k := range keys {
		one, err := token.ParseSet(k.Public)
		if err != nil {
			return nil, fmt.Errorf("auth: key %s: %w", k.ID, err)
		}
		set = append(set, one...)
	}
	return set, nil
}

// seed makes the users that are to be there from the start.
func (n *Node) seed(ctx context.Context) error {
	q := &realm.Seed{By: "start"}
	for i, s := range n.config.Seeds {
		login, err := realm.NormalLogin(s.Login)
		if err == nil {
			err = cmp.Or(password.Check("password", login, s.Password, false), checkName(s.Name), checkEmail(s.Email), CheckGroups(s.Groups))
		}
		if err != nil {
			return fmt.Errorf("user %d: %w", i, err)
		}
		known := false
		n.read(func(st *realm.State) { _, known = st.UserByLogin(login) })
		if known {
			continue
		}
		hash, err := n.workers.Hash(ctx, s.Password)
		if err != nil {
			return err
		}
		q.Users = append(q.Users, realm.SeedUser{User: n.userID(login), Login: login, Name: s.Name, Email: s.Email, Password: hash, Groups: s.Groups})
	}
	if len(q.Users) == 0 {
		return nil
	}
	_, err := n.do(ctx, q)
	return err
}
