package token

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The keys of RFC 7517, appendix A.1, and RFC 8037, appendix A.2.
const (
	rfcEC = `{"kty":"EC","crv":"P-256","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",` +
		`"y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM","use":"sig","kid":"1"}`
	rfcOKP = `{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","kid":"2"}`
)

func keysOf(jwks ...string) string { return `{"keys":[` + strings.Join(jwks, ",") + `]}` }

func ids(s Set) string {
	var all []string
	for _, k := range s {
		all = append(all, k.ID+" "+string(k.Alg))
	}
	return strings.Join(all, ", ")
}

func TestParseSet(t *testing.T) {
	const good = rfcEC
	change := func(from, to string) string {
		if !strings.Contains(good, from) {
			t.Fatalf("no %q in %s", from, good)
		}
		return keysOf(strings.Replace(good, from, to, 1))
	}
	for _, row := range []struct{ what, text, want, err string }{
		{"none", `{"keys":[]}`, "", ""},
		{"one", keysOf(good), "1 ES256", ""},
		{"both", keysOf(rfcOKP, good), "2 EdDSA, 1 ES256", ""},
		{"another member", `{"x":[{}],"keys":[` + good + `]}`, "1 ES256", ""},
		{"alg said", change(`"use"`, `"alg":"ES256","use"`), "1 ES256", ""},
		{"use missing", change(`"use":"sig",`, ``), "1 ES256", ""},
		{"key_ops verify", change(`"use"`, `"key_ops":["verify"],"use"`), "1 ES256", ""},
		{"key_ops sign", change(`"use"`, `"key_ops":["sign"],"use"`), "", ""},
		{"key_ops empty", change(`"use"`, `"key_ops":[],"use"`), "", ""},
		{"use enc", change(`"sig"`, `"enc"`), "", ""},
		{"use of no string", change(`"sig"`, `1`), "", ""},
		{"alg ECDH-ES", change(`"use"`, `"alg":"ECDH-ES","use"`), "", ""},
		{"RSA", keysOf(`{"kty":"RSA","n":"AQAB","e":"AQAB","kid":"r"}`, good), "1 ES256", ""},
		{"P-384", change(`P-256`, `P-384`), "", ""},
		{"secp256k1", change(`P-256`, `secp256k1`), "", ""},
		{"X25519", keysOf(strings.Replace(rfcOKP, "Ed25519", "X25519", 1)), "", ""},
		{"private RSA", keysOf(`{"kty":"RSA","n":"AQAB","e":"AQAB","d":"AQAB"}`), "", `private member "d"`},
		{"private EC", change(`"use"`, `"d":"870MB6gfuTJ4HtUnUvYMyJpr5eUZNP4Bk43bVdj3eAE","use"`), "", `private member "d"`},
		{"private, of no use", keysOf(`{"kty":"??","d":null}`), "", `private member "d"`},
		{"symmetric", keysOf(`{"kty":"oct","k":"c2VjcmV0"}`), "", `private member "k"`},
		{"D", change(`"use"`, `"D":"x","use"`), "", "stands for"},
		{"kid twice", keysOf(good, good), "", `kid "1" comes twice`},
		{"kid missing", change(`,"kid":"1"`, ``), "", "kid"},
		{"kid a number", change(`"kid":"1"`, `"kid":1`), "", "kid"},
		{"kid with space", change(`"kid":"1"`, `"kid":" 1"`), "", "kid"},
		{"member twice", change(`"x"`, `"x":"","x"`), "", "twice"},
		{"Kty", change(`"kty"`, `"Kty":"RSA","kty"`), "", "stands for"},
		{"alg of another", change(`"use"`, `"alg":"EdDSA","use"`), "", "alg"},
		{"P-384 for ES256", change(`"P-256"`, `"P-384","alg":"ES256"`), "", "alg"},
		{"RSA for ES256", change(`"EC"`, `"RSA","alg":"ES256"`), "", "alg"},
		{"not on the curve", change(`4Etl`, `4Etm`), "", "no point"},
		{"x and y swapped", change(`"x":"MKBC`, `"x":"4KBC`), "", "no point"},
		{"zeros", change(`MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM`,
			strings.Repeat("A", 43)+`","y":"`+strings.Repeat("A", 43)), "", "no point"},
		{"x of the field's size", change(`MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4`,
			b64(string(elliptic.P256().Params().P.Bytes()))), "", "no point"},
		{"x with a tail bit", change(`Aqv7D4`, `Aqv7D5`), "", "x is not"},
		{"x padded", change(`Aqv7D4`, `Aqv7D4=`), "", "x is not"},
		{"x short", change(`MKBC`, ``), "", "x is not"},
		{"x missing", change(`"x"`, `"xx"`), "", "x is not"},
		{"y missing", change(`"y"`, `"yy"`), "", "y is not"},
		{"x with a line feed", change(`MKBC`, `MKB\nC`), "", "x is not"},
		{"keys missing", `{}`, "", "keys is missing"},
		{"keys null", `{"keys":null}`, "", "want"},
		{"Keys", `{"Keys":[]}`, "", "stands for"},
		{"keys twice", `{"keys":[],"keys":[]}`, "", "twice"},
		{"array", `[]`, "", "want"},
		{"HTML", `<html>`, "", "want"},
		{"empty", ``, "", "want"},
		{"data behind", `{"keys":[]} {}`, "", "data after"},
		{"a key of no object", keysOf(`1`), "", "want"},
		{"65 keys", keysOf(strings.Split(strings.Repeat(`{},`, 64)+`{}`, ",")...), "", "over 64"},
		{"64 keys to skip", keysOf(strings.Split(strings.Repeat(`{},`, 63)+`{}`, ",")...), "", ""},
		{"over 64 KiB", `{"keys":[]}` + strings.Repeat(" ", setBytesMax), "", "at most"},
	} {
		s, err := ParseSet([]byte(row.text))
		switch {
		case row.err == "" && err != nil,
			row.err != "" && (err == nil || s != nil || !strings.Contains(err.Error(), row.err)):
			t.Errorf("%s: ParseSet = %v, %v; want an error about %q", row.what, ids(s), err, row.err)
		case ids(s) != row.want:
			t.Errorf("%s: ParseSet = %s; want %s", row.what, ids(s), row.want)
		}
	}
}

func TestSetRoundTrip(t *testing.T) {
	var want Set
	for i := range byte(4) {
		want = append(want, generate(t, ES256, i).Key(), generate(t, EdDSA, i).Key())
	}
	text, err := want.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseSet(text)
	if err != nil {
		t.Fatalf("ParseSet(%s): %v", text, err)
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b *Key) bool { return a.Equal(b) })); diff != "" {
		t.Errorf("ParseSet(Encode(s)) mismatch (-want +got):\n%s", diff)
	}
	for _, k := range got {
		if k.thumbprint() != k.ID || want.Find(k.ID) == nil {
			t.Errorf("key %s: thumbprint %s", k.ID, k.thumbprint())
		}
	}
	if got.Find("") != nil || got.Find(got[0].ID+"x") != nil {
		t.Error("Find finds what is not there")
	}
	for what, bad := range map[string]Set{
		"twice":  {want[0], want[0]},
		"no kid": {{Alg: ES256, Public: want[0].Public}},
		"RSA":    {{ID: "x", Alg: ES256, Public: &rsa.PublicKey{}}},
		"nil":    {{ID: "x", Alg: ES256}},
	} {
		if text, err := bad.Encode(); err == nil {
			t.Errorf("%s: Encode = %s", what, text)
		}
	}
	a, b := want[0], want[2]
	if a.Equal(b) || a.Equal(&Key{a.ID, a.Alg, b.Public}) || a.Equal(&Key{"x", a.Alg, a.Public}) {
		t.Error("Equal takes different keys for equal")
	}
}

// RFC 8037, appendix A.1, A.3 and A.4: the key, its thumbprint, and a signature that it made.
func TestEd25519Vector(t *testing.T) {
	seed, err := hex.DecodeString("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
	if err != nil {
		t.Fatal(err)
	}
	p, err := Generate(EdDSA, bytes.NewReader(seed))
	if err != nil {
		t.Fatal(err)
	}
	if want := "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"; p.Key().ID != want {
		t.Errorf("thumbprint %s, want %s", p.Key().ID, want)
	}
	signature, err := p.sign("eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc")
	if err != nil {
		t.Fatal(err)
	}
	const want = "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"
	if got := base64.RawURLEncoding.EncodeToString(signature); got != want {
		t.Errorf("signature %s, want %s", got, want)
	}
}

// RFC 7515, appendix A.3: a signature of ES256 that somebody else made.
func TestES256Vector(t *testing.T) {
	set, err := ParseSet([]byte(keysOf(`{"kty":"EC","crv":"P-256","kid":"a3",` +
		`"x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",` +
		`"y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}`)))
	if err != nil {
		t.Fatal(err)
	}
	const text = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJl" +
		"eHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ"
	const signed = "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q"
	signature, err := decode(signed)
	if err != nil {
		t.Fatal(err)
	}
	if err := set[0].verify(text, signature); err != nil {
		t.Error(err)
	}
	signature[0] ^= 1
	if err := set[0].verify(text, signature); !errors.Is(err, ErrSignature) {
		t.Errorf("changed signature: %v", err)
	}
}

func TestGenerate(t *testing.T) {
	for _, alg := range []Alg{ES256, EdDSA} {
		a, b, other := generate(t, alg, 1), generate(t, alg, 1), generate(t, alg, 2)
		if a.Key().ID != b.Key().ID || a.Key().ID == other.Key().ID {
			t.Errorf("%s: ids %s, %s, %s", alg, a.Key().ID, b.Key().ID, other.Key().ID)
		}
		der, err := a.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		back, err := ParsePrivate(der)
		if err != nil {
			t.Fatal(err)
		}
		if c := example(); sign(t, back, c) != sign(t, a, c) {
			t.Errorf("%s: ParsePrivate(Marshal(p)) signs otherwise", alg)
		}
		if _, err := ParsePrivate(der[:len(der)-1]); err == nil {
			t.Errorf("%s: ParsePrivate takes a cut key", alg)
		}
	}
	if _, err := Generate("RS256", rand.NewChaCha8([32]byte{})); err == nil {
		t.Error("Generate makes a key for RS256")
	}
	if _, err := Generate(ES256, strings.NewReader("short")); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("Generate from 5 bytes: %v", err)
	}
	if _, err := Generate(ES256, zeros{}); err == nil {
		t.Error("Generate takes a scalar of zero")
	}
	beyond := bytes.NewReader(bytes.Repeat([]byte{0xff}, 32))
	first, err := Generate(ES256, io.MultiReader(beyond, rand.NewChaCha8([32]byte{1})))
	if err != nil || first.Key().ID != generate(t, ES256, 1).Key().ID {
		t.Errorf("Generate does not draw again after a scalar beyond n: %v", err)
	}
	k, err := ecdsa.ParseRawPrivateKey(elliptic.P384(), append([]byte{1}, make([]byte, 47)...))
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ParsePrivate(der); err == nil {
		t.Error("ParsePrivate takes a key on P-384")
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// Every point of small order, every spelling of y beyond the field, and random bytes that are on no curve are
// refused; and crypto/ed25519 takes what they sign, which is why.
func TestSmallOrder(t *testing.T) {
	p, _ := new(big.Int).SetString(fieldDec, 10)
	little := func(y *big.Int, sign byte) []byte {
		b := y.FillBytes(make([]byte, 32))
		b[0] |= sign << 7
		for i, j := 0, 31; i < j; i, j = i+1, j-1 {
			b[i], b[j] = b[j], b[i]
		}
		return b
	}
	y8a, _ := hex.DecodeString("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a")
	y8b, _ := hex.DecodeString("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05")
	bad := [][]byte{y8a, y8b}
	for _, b := range [][]byte{y8a, y8b} {
		b = bytes.Clone(b)
		b[31] |= 0x80
		bad = append(bad, b)
	}
	one := big.NewInt(1)
	for _, y := range []*big.Int{big.NewInt(0), one, new(big.Int).Sub(p, one), p, new(big.Int).Add(p, one)} {
		bad = append(bad, little(y, 0), little(y, 1))
	}
	for _, b := range bad {
		if k, err := NewKey(ed25519.PublicKey(b)); err == nil {
			t.Errorf("NewKey(%x) = %v", b, k)
		}
	}
	spelled := 0
	for k := range int64(19) { // what can be spelled as y and as y + p
		if validEd25519(little(big.NewInt(k), 0)) {
			spelled++
		}
		if validEd25519(little(new(big.Int).Add(p, big.NewInt(k)), 0)) {
			t.Errorf("y = p + %d is taken", k)
		}
	}
	if spelled == 0 {
		t.Error("no y below 19 is a good point: then the other spelling is not tested")
	}
	neutral := ed25519.PublicKey(little(big.NewInt(1), 0))
	forged := append(little(big.NewInt(1), 0), make([]byte, 32)...)
	if !ed25519.Verify(neutral, []byte("anything"), forged) {
		t.Error("the forgery under a key of small order does not hold: then what is the check for?")
	}
	good := 0
	for i := range 400 {
		random := make([]byte, 32)
		if _, err := rand.NewChaCha8([32]byte{byte(i), byte(i >> 8)}).Read(random); err != nil {
			t.Fatal(err)
		}
		if validEd25519(random) {
			good++
		}
	}
	if good < 150 || good > 250 {
		t.Errorf("%d of 400 random texts are points; want about half", good)
	}
	for i := range byte(50) {
		if k := generate(t, EdDSA, i); !validEd25519(k.Key().Public.(ed25519.PublicKey)) {
			t.Errorf("key %d is refused", i)
		}
	}
}

func TestNewKeyRefuses(t *testing.T) {
	off := *generate(t, ES256, 1).Key().Public.(*ecdsa.PublicKey)
	//lint:ignore SA1019 there is no other way to a key that is no point
	off.Y = big.NewInt(1)
	for what, public := range map[string]crypto.PublicKey{
		"nothing":       nil,
		"nil":           (*ecdsa.PublicKey)(nil),
		"off the curve": &off,
		"P-384":         &ecdsa.PublicKey{Curve: elliptic.P384()},
		"RSA":           &rsa.PublicKey{},
		"short":         ed25519.PublicKey("short"),
	} {
		if k, err := NewKey(public); err == nil {
			t.Errorf("%s: NewKey = %v", what, k)
		}
	}
}

// FuzzSet: what ParseSet takes, encoding/json takes; its keys are as there; and it survives Encode.
func FuzzSet(f *testing.F) {
	f.Add(keysOf(rfcEC))
	f.Add(keysOf(rfcEC, rfcOKP, `{"kty":"RSA"}`))
	f.Add(keysOf(strings.Replace(rfcEC, `"kid"`, `"x5c":["a"],"kid"`, 1)))
	f.Add(`{"keys":[{"kty":"EC","Kty":"EC"}]}`)
	f.Fuzz(func(t *testing.T, text string) {
		got, err := ParseSet([]byte(text))
		if err != nil {
			return
		}
		var want struct{ Keys []map[string]any }
		if err := json.Unmarshal([]byte(text), &want); err != nil {
			t.Fatalf("encoding/json refuses %q: %v", text, err)
		}
		for _, k := range got {
			x, y := k.coordinates()
			found := false
			for _, w := range want.Keys {
				found = found || w["kid"] == k.ID && w["x"] == x && (k.Alg == EdDSA || w["y"] == y)
			}
			if !found {
				t.Fatalf("key %v is not in %q", k, text)
			}
		}
		again, err := got.Encode()
		if err != nil {
			t.Fatal(fmt.Errorf("Encode of what ParseSet took: %w", err))
		}
		if back, err := ParseSet(again); err != nil || ids(back) != ids(got) {
			t.Fatalf("ParseSet(Encode(%s)) = %s, %v", ids(got), ids(back), err)
		}
	})
}
