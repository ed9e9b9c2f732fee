package token

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"slices"
)

const (
	coordinateBytes     = 32 // of P-256 and of Ed25519
	es256SignatureBytes = 2 * coordinateBytes
	drawsMax            = 64 // of a scalar; one in 2^32 is out of range, so more mean a reader that does not vary
)

// Key is a public key. Read it only.
type Key struct {
	ID     string           // kid; of our own keys the thumbprint of RFC 7638
	Alg    Alg              // decides Public's type
	Public crypto.PublicKey // *ecdsa.PublicKey on P-256, or ed25519.PublicKey
}

// NewKey returns the key for an *ecdsa.PublicKey on P-256 or an ed25519.PublicKey, with its thumbprint as its id. Any
// other key and any point outside the group is an error.
func NewKey(public crypto.PublicKey) (*Key, error) {
	k := &Key{Public: public}
	switch p := public.(type) {
	case *ecdsa.PublicKey:
		k.Alg = ES256
		if p == nil || p.Curve != elliptic.P256() {
			return nil, errors.New("token: key is not on P-256")
		}
		if _, err := p.ECDH(); err != nil { // which looks whether the point is on the curve
			return nil, errors.New("token: key is no point of P-256")
		}
	case ed25519.PublicKey:
		k.Alg = EdDSA
		if !validEd25519(p) {
			return nil, errors.New("token: key is no point of Ed25519, or one of small order")
		}
	default:
		return nil, fmt.Errorf("token: %T is no key for %s or %s", public, ES256, EdDSA)
	}
	k.ID = k.thumbprint()
	return k, nil
}

// Equal says whether both are the same key under the same id.
func (k *Key) Equal(other *Key) bool {
	same, ok := k.Public.(interface{ Equal(crypto.PublicKey) bool })
	return k.ID == other.ID && k.Alg == other.Alg && ok && same.Equal(other.Public)
}

// thumbprint is that of RFC 7638, section 3, with SHA-256: the required members in the order of their names, no white
// space.
func (k *Key) thumbprint() string {
	x, y := k.coordinates()
	text := fmt.Sprintf(`{"crv":"Ed25519","kty":"OKP","x":"%s"}`, x)
	if k.Alg == ES256 {
		text = fmt.Sprintf(`{"crv":"P-256","kty":"EC","x":"%s","y":"%s"}`, x, y)
	}
	sum := sha256.Sum256([]byte(text))
	return base64url.EncodeToString(sum[:])
}

// coordinates returns x and, on P-256, y as a JWK has them.
func (k *Key) coordinates() (x, y string) {
	switch p := k.Public.(type) {
	case *ecdsa.PublicKey:
		point, err := p.Bytes() // 4, x, y
		if err != nil {
			panic("token: key that is no point: " + err.Error())
		}
		return base64url.EncodeToString(point[1 : 1+coordinateBytes]), base64url.EncodeToString(point[1+coordinateBytes:])
	case ed25519.PublicKey:
		return base64url.EncodeToString(p), ""
	}
	panic(fmt.Sprintf("token: key of type %T", k.Public))
}

// verify checks a signature over text.
func (k *Key) verify(text string, signature []byte) error {
	switch p := k.Public.(type) {
	case *ecdsa.PublicKey:
		if len(signature) != es256SignatureBytes {
			return fmt.Errorf("%w: %d bytes, not %d", ErrSignature, len(signature), es256SignatureBytes)
		}
		digest := sha256.Sum256([]byte(text))
		r, s := signature[:coordinateBytes], signature[coordinateBytes:]
		if k.Alg == ES256 && ecdsa.VerifyASN1(p, digest[:], encodeDER(r, s)) { // which wants r and s from 1 to n-1
			return nil
		}
	case ed25519.PublicKey:
		if len(signature) != ed25519.SignatureSize {
			return fmt.Errorf("%w: %d bytes, not %d", ErrSignature, len(signature), ed25519.SignatureSize)
		}
		if k.Alg == EdDSA && len(p) == ed25519.PublicKeySize && ed25519.Verify(p, []byte(text), signature) {
			return nil
		}
	}
	return ErrSignature
}

// encodeDER writes r and s as the SEQUENCE of two INTEGERs that crypto/ecdsa reads.
func encodeDER(r, s []byte) []byte {
	out := make([]byte, 2, 2+2*(2+1+coordinateBytes))
	for _, n := range [...][]byte{r, s} {
		for len(n) > 1 && n[0] == 0 {
			n = n[1:]
		}
		if n[0] >= 0x80 {
			out = append(out, 2, byte(len(n)+1), 0) // a first bit would be a sign
		} else {
			out = append(out, 2, byte(len(n)))
		}
		out = append(out, n...)
	}
	out[0], out[1] = 0x30, byte(len(out)-2)
	return out
}

// decodeDER reads what crypto/ecdsa writes as r and s of coordinateBytes each.
func decodeDER(der []byte) []byte {
	out := make([]byte, es256SignatureBytes)
	for rest, end := der[2:], coordinateBytes; end <= es256SignatureBytes; end += coordinateBytes {
		n := rest[2 : 2+rest[1]]
		rest = rest[2+rest[1]:]
		if len(n) > coordinateBytes {
			n = n[1:] // the zero in front of a first bit
		}
		copy(out[end-len(n):end], n)
	}
	return out
}

// Private is a private key. It is safe for concurrent use.
type Private struct {
	key    *Key
	signer crypto.Signer // *ecdsa.PrivateKey or ed25519.PrivateKey
}

// Generate draws a key from random; the same bytes give the same key. The error is that of random, or of an alg that
// is not one of the constants.
func Generate(alg Alg, random io.Reader) (*Private, error) {
	for range drawsMax {
		seed := make([]byte, coordinateBytes)
		if _, err := io.ReadFull(random, seed); err != nil {
			return nil, fmt.Errorf("token: draw a key: %w", err)
		}
		switch alg {
		case EdDSA:
			return newPrivate(ed25519.NewKeyFromSeed(seed))
		case ES256:
			// A candidate out of range is thrown away: FIPS 186-5, appendix A.2.2.
			if k, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), seed); err == nil {
				return newPrivate(k)
			}
		default:
			return nil, fmt.Errorf("token: no algorithm %q", alg)
		}
	}
	return nil, errors.New("token: draw a key: not random")
}

func newPrivate(signer crypto.Signer) (*Private, error) {
	key, err := NewKey(signer.Public())
	if err != nil {
		return nil, err
	}
	return &Private{key, signer}, nil
}

// Key returns the public key.
func (p *Private) Key() *Key { return p.key }

// Marshal returns the key in PKCS #8, DER.
func (p *Private) Marshal() ([]byte, error) { return x509.MarshalPKCS8PrivateKey(p.signer) }

// ParsePrivate reads what Marshal wrote.
func ParsePrivate(der []byte) (*Private, error) {
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("token: private key: %w", err)
	}
	signer, ok := parsed.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("token: private key of type %T", parsed)
	}
	return newPrivate(signer)
}

// sign signs text; it takes no randomness.
func (p *Private) sign(text string) ([]byte, error) {
	if k, ok := p.signer.(ed25519.PrivateKey); ok {
		return ed25519.Sign(k, []byte(text)), nil
	}
	digest := sha256.Sum256([]byte(text))
	der, err := p.signer.Sign(nil, digest[:], crypto.SHA256) // without a reader: RFC 6979
	if err != nil {
		return nil, fmt.Errorf("token: sign: %w", err)
	}
	return decodeDER(der), nil
}

// The field and the d of edwards25519: RFC 7748, section 4.1.
const (
	fieldDec = "57896044618658097711785492504343953926634992332820282019728792003956564819949"
	dDec     = "37095705934669439343138083508754565189542113879843219016388785533085940283555"
)

// validEd25519 says whether public is the one encoding of a point of edwards25519 whose order is not 1, 2, 4 or 8.
// Under a key of such an order there are signatures that hold for any text; crypto/ed25519 does not mind.
func validEd25519(public []byte) bool {
	if len(public) != ed25519.PublicKeySize {
		return false
	}
	p, _ := new(big.Int).SetString(fieldDec, 10)
	d, _ := new(big.Int).SetString(dDec, 10)
	one := big.NewInt(1)
	mod := func(n *big.Int) *big.Int { return n.Mod(n, p) }
	over := func(a, b *big.Int) *big.Int { // b is never 0 below: -1/d is not a square
		return mod(a.Mul(a, new(big.Int).ModInverse(mod(b), p)))
	}

	bytes := slices.Clone(public)
	slices.Reverse(bytes)
	bytes[0] &= 0x7f // the sign of x
	y := new(big.Int).SetBytes(bytes)
	if y.Cmp(p) >= 0 {
		return false
	}
	// The curve is -x² + y² = 1 + d x² y²; what follows needs x² only.
	square := func(n *big.Int) *big.Int { return mod(new(big.Int).Mul(n, n)) }
	xxOf := func(yy *big.Int) *big.Int {
		return over(new(big.Int).Sub(yy, one), new(big.Int).Add(one, new(big.Int).Mul(d, yy)))
	}
	yy := square(y)
	xx := xxOf(yy)
	if big.Jacobi(xx, p) < 0 {
		return false
	}
	for range 3 { // double: y is (y² + x²) / (1 - d x² y²)
		dxxyy := mod(new(big.Int).Mul(d, new(big.Int).Mul(xx, yy)))
		y = over(new(big.Int).Add(yy, xx), new(big.Int).Sub(one, dxxyy))
		yy = square(y)
		xx = xxOf(yy)
	}
	return y.Cmp(one) != 0 // 8 times the point is not the neutral element
}
