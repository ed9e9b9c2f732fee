package token

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
)

const (
	setBytesMax = 64 << 10
	setKeysMax  = 64
)

// Set is a JWK Set (RFC 7517): public keys with different ids, at most 64.
type Set []*Key

// Find returns the key with an id, or nil.
func (s Set) Find(kid string) *Key {
	for _, k := range s {
		if k.ID == kid {
			return k
		}
	}
	return nil
}

// jwk is a key as Encode writes it: RFC 7518, section 6.2, and RFC 8037, section 2.
type jwk struct {
	Kty string `json:"kty"`
	Crv string `json:"crv"`
	X   string `json:"x"`
	Y   string `json:"y,omitempty"`
	Kid string `json:"kid"`
	Alg Alg    `json:"alg"`
	Use string `json:"use"`
}

// Encode writes the set as JSON, in its order. What ParseSet would refuse is an error.
func (s Set) Encode() ([]byte, error) {
	all := make([]jwk, len(s))
	for i, k := range s {
		fresh, err := NewKey(k.Public)
		if err != nil {
			return nil, err
		}
		all[i] = jwk{Kty: "OKP", Crv: "Ed25519", Kid: k.ID, Alg: fresh.Alg, Use: "sig"}
		if fresh.Alg == ES256 {
			all[i].Kty, all[i].Crv = "EC", "P-256"
		}
		all[i].X, all[i].Y = fresh.coordinates()
	}
	text, err := json.Marshal(map[string]any{"keys": all})
	if err != nil {
		return nil, err
	}
	_, err = ParseSet(text)
	return text, err
}

// ParseSet reads a JWK Set of at most 64 KiB with the strictness of Verify. Keys for anything but verifying ES256 and
// EdDSA are skipped: another kty, crv or alg, a use other than sig, key_ops without verify. The whole set is refused
// if it is not JSON of this shape, if it has over 64 keys, if any key in it shows a private part (d or, of a
// symmetric one, k), or if one that is to be used has an alg that its kty and crv contradict, coordinates that are no
// point of the curve or one of small order, no kid, one that is not 1 to 64 visible ASCII characters, or one that
// another has.
func ParseSet(text []byte) (Set, error) {
	if len(text) > setBytesMax {
		return nil, fmt.Errorf("token: key set: %d bytes, at most %d are allowed", len(text), setBytesMax)
	}
	set, found, n := Set{}, false, 0
	err := scanObject(string(text), []string{"keys"}, func(s *scanner, name string) error {
		if name != "keys" {
			return s.skip()
		}
		found = true
		return s.list('[', ']', func() error {
			if n++; n > setKeysMax {
				return s.errorf("over %d keys", setKeysMax)
			}
			k, err := s.key()
			if err != nil || k == nil {
				return err
			}
			if set.Find(k.ID) != nil {
				return s.errorf("kid %q comes twice", k.ID)
			}
			set = append(set, k)
			return nil
		})
	})
	if err == nil && !found {
		err = errors.New("keys is missing")
	}
	if err != nil {
		return nil, fmt.Errorf("token: key set: %w", err)
	}
	return set, nil
}

var jwkKnown = []string{"kty", "use", "key_ops", "alg", "kid", "crv", "x", "y", "d", "k"}

// key reads a JWK; nil if it is one to skip.
func (s *scanner) key() (*Key, error) {
	const strange = "\x00" // stands for a value that is no string, and is no value of any member
	texts := map[string]string{}
	skip := false
	err := s.object(jwkKnown, func(name string) (err error) {
		switch {
		case name == "d" || name == "k":
			return s.errorf("private member %q", name)
		case name == "key_ops":
			var ops []string
			ops, err = s.strs(membersMax)
			skip = !slices.Contains(ops, "verify")
		case s.peek() == '"':
			texts[name], err = s.str()
		default:
			texts[name] = strange
			err = s.skip()
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	use, hasUse := texts["use"]
	said, hasAlg := texts["alg"]
	alg := algOf(texts["kty"], texts["crv"])
	if skip = skip || hasUse && use != "sig" || !hasAlg && alg == ""; skip {
		return nil, nil
	}
	if hasAlg && Alg(said) != ES256 && Alg(said) != EdDSA {
		return nil, nil
	}
	if hasAlg && Alg(said) != alg {
		return nil, s.errorf("alg %q with kty %q and crv %q", said, texts["kty"], texts["crv"])
	}
	k, err := keyOf(alg, texts["x"], texts["y"])
	if err == nil {
		k.ID, err = texts["kid"], checkKid(texts["kid"])
	}
	if err != nil {
		return nil, s.errorf("%w", err)
	}
	return k, nil
}

// algOf returns what a kind of key is for, "" if for nothing here.
func algOf(kty, crv string) Alg {
	switch {
	case kty == "EC" && crv == "P-256":
		return ES256
	case kty == "OKP" && crv == "Ed25519":
		return EdDSA
	}
	return ""
}

// keyOf returns the key with these coordinates.
func keyOf(alg Alg, x, y string) (*Key, error) {
	point, err := decode(x)
	if err != nil || len(point) != coordinateBytes {
		return nil, fmt.Errorf("x is not %d bytes of base64url", coordinateBytes)
	}
	var public crypto.PublicKey = ed25519.PublicKey(point)
	if alg == ES256 {
		second, err := decode(y)
		if err != nil || len(second) != coordinateBytes {
			return nil, fmt.Errorf("y is not %d bytes of base64url", coordinateBytes)
		}
		public, err = ecdsa.ParseUncompressedPublicKey(elliptic.P256(), slices.Concat([]byte{4}, point, second))
		if err != nil {
			return nil, errors.New("x and y are no point of P-256")
		}
	}
	return NewKey(public)
}
