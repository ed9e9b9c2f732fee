package token

import (
	"bytes"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math/big"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var (
	issued = time.Unix(1_700_000_000, 0).UTC()
	within = issued.Add(time.Minute)
	expect = Expect{Issuer: "https://auth.example", Audience: "dongne", Skew: time.Second}
)

func example() Claims {
	return Claims{
		Issuer: expect.Issuer, Audience: []string{"dongne"}, Subject: "u_0123456789abcdefghij", ID: "AAECAwQFBgcICQoLDA0ODw",
		Session: "s_EBESExQVFhcYGRobHB0eHw", Scope: []string{"chat", "pay:write"},
		Issued: issued, Expires: issued.Add(5 * time.Minute),
	}
}

// generate draws a key from a seed.
func generate(t testing.TB, alg Alg, seed byte) *Private {
	t.Helper()
	p, err := Generate(alg, rand.NewChaCha8([32]byte{seed}))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func sign(t testing.TB, p *Private, c Claims) string {
	t.Helper()
	raw, err := p.Sign(c)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func b64(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

// resign makes a token of any header and payload, well signed.
func resign(t testing.TB, p *Private, header, payload string) string {
	t.Helper()
	text := b64(header) + "." + b64(payload)
	signature, err := p.sign(text)
	if err != nil {
		t.Fatal(err)
	}
	return text + "." + base64.RawURLEncoding.EncodeToString(signature)
}

// parts returns the JSON of a token.
func parts(t testing.TB, raw string) (header, payload string) {
	t.Helper()
	three := strings.Split(raw, ".")
	h, err1 := base64.RawURLEncoding.DecodeString(three[0])
	c, err2 := base64.RawURLEncoding.DecodeString(three[1])
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	return string(h), string(c)
}

func both(t *testing.T, test func(t *testing.T, p *Private)) {
	for _, alg := range []Alg{ES256, EdDSA} {
		t.Run(string(alg), func(t *testing.T) { test(t, generate(t, alg, 1)) })
	}
}

func TestSignVerify(t *testing.T) {
	both(t, func(t *testing.T, p *Private) {
		raw := sign(t, p, example())
		if again := sign(t, p, example()); again != raw {
			t.Errorf("Sign is not deterministic:\n%s\n%s", raw, again)
		}
		got, err := Verify(raw, Set{p.Key()}.Find, expect, within)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(example(), *got); diff != "" {
			t.Errorf("Verify(Sign(c)) mismatch (-want +got):\n%s", diff)
		}
		if !got.Has("chat") || !got.Has("pay:write") || got.Has("pay") || got.Has("chat pay:write") || got.Has("") {
			t.Errorf("Has is wrong about %q", got.Scope)
		}
	})
}

// Each row changes the text of a token's header or claims, and the token is signed again: so nothing but the change can
// be what is wrong with it.
func TestVerifyTable(t *testing.T) {
	const deep = `{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":1}}}}}}}}`
	long := strings.Repeat("x", claimBytesMax+1)
	nulls := strings.Repeat("0", numberBytesMax-10)
	many := strings.Repeat(`,"x"`, audiencesMax)
	rows := []struct {
		what     string
		header   bool // change the header, not the payload
		from, to string
		want     error  // nil: good
		text     string // in the error
	}{
		{"nothing", false, `"sub"`, `"sub"`, nil, ""},
		{"white space", false, `"sub":`, "\r\n\t \"sub\" : ", nil, ""},
		{"white space around", false, `}`, "}\r\n", nil, ""},
		{"unknown claims", false, `"sub"`, `"x":{"y":[1,-2.5e+3,true,false,null,{},[],"\u00e9\/"]},"sub"`, nil, ""},
		{"unknown header", true, `"alg"`, `"cty":"x","x5t":"y","alg"`, nil, ""},
		{"typ in capitals", true, `"at+jwt"`, `"AT+JWT"`, nil, ""},
		{"typ in full", true, `"at+jwt"`, `"Application/at+JWT"`, nil, ""},
		{"escaped name and value", false, `"sub":"u`, `"s\u0075b":"\u0075`, nil, ""},
		{"aud array", false, `"aud":"dongne"`, `"aud":["other","dongne"]`, nil, ""},
		{"nbf now", false, `"sub"`, `"nbf":1700000060,"sub"`, nil, ""},
		{"nbf within skew", false, `"sub"`, `"nbf":1700000061,"sub"`, nil, ""},
		{"exp broken", false, `"exp":1700000300`, `"exp":1700000060.000000001`, nil, ""},
		{"exp with exponent", false, `"exp":1700000300`, `"exp":17000003E+2`, nil, ""},
		{"iat with a negative exponent", false, `"iat":1700000000`, `"iat":1700000000000e-3`, nil, ""},
		{"exp less than a nanosecond away", false, `"exp":1700000300`, `"exp":1700000060.0000000000001`, nil, ""},
		{"no session", false, `"sid":"s_EBESExQVFhcYGRobHB0eHw",`, ``, nil, ""},
		{"no groups in the list", false, `"sub"`, `"groups":[],"sub"`, nil, ""},
		{"8 levels", false, `"sub"`, `"x":` + deep[5:len(deep)-1] + `,"sub"`, nil, ""},

		{"alg none", true, `"alg":"%"`, `"alg":"none"`, ErrAlgorithm, ""},
		{"alg None", true, `"alg":"%"`, `"alg":"None"`, ErrAlgorithm, ""},
		{"alg nOnE", true, `"alg":"%"`, `"alg":"nOnE"`, ErrAlgorithm, ""},
		{"alg empty", true, `"alg":"%"`, `"alg":""`, ErrAlgorithm, ""},
		{"alg missing", true, `"alg":"%",`, ``, ErrAlgorithm, ""},
		{"alg null", true, `"alg":"%"`, `"alg":null`, ErrMalformed, ""},
		{"alg in small letters", true, `"alg":"%"`, `"alg":"es256"`, ErrAlgorithm, ""},
		{"alg HS256", true, `"alg":"%"`, `"alg":"HS256"`, ErrAlgorithm, ""},
		{"alg RS256", true, `"alg":"%"`, `"alg":"RS256"`, ErrAlgorithm, ""},
		{"alg ES384", true, `"alg":"%"`, `"alg":"ES384"`, ErrAlgorithm, ""},
		{"alg ES256K", true, `"alg":"%"`, `"alg":"ES256K"`, ErrAlgorithm, ""},
		{"alg with a space", true, `"alg":"%"`, `"alg":"% "`, ErrAlgorithm, ""},
		{"alg of the other kind", true, `"alg":"%"`, `"alg":"^"`, ErrAlgorithm, ""},
		{"alg twice", true, `"alg":"%"`, `"alg":"%","alg":"%"`, ErrMalformed, "twice"},
		{"alg twice, escaped", true, `"alg":"%"`, `"alg":"%","\u0061lg":"none"`, ErrMalformed, "twice"},
		{"Alg beside alg", true, `"alg":"%"`, `"alg":"%","Alg":"none"`, ErrMalformed, `"Alg" stands for "alg"`},
		{"ALG instead of alg", true, `"alg":"%"`, `"ALG":"%"`, ErrMalformed, "stands for"},
		{"Kelvin kid", true, `"alg"`, "\"\u212Aid\":\"x\",\"alg\"", ErrMalformed, "stands for"},
		{"jwk", true, `"alg"`, `"jwk":{"kty":"EC"},"alg"`, ErrHeader, "jwk"},
		{"jku", true, `"alg"`, `"jku":"https://evil.example/jwks","alg"`, ErrHeader, "jku"},
		{"x5u", true, `"alg"`, `"x5u":"https://evil.example/x","alg"`, ErrHeader, "x5u"},
		{"x5c", true, `"alg"`, `"x5c":["MII"],"alg"`, ErrHeader, "x5c"},
		{"crit", true, `"alg"`, `"crit":["exp"],"alg"`, ErrHeader, "crit"},
		{"crit empty", true, `"alg"`, `"crit":[],"alg"`, ErrHeader, "crit"},
		{"CRIT", true, `"alg"`, `"CRIT":["exp"],"alg"`, ErrMalformed, "stands for"},
		{"b64", true, `"alg"`, `"b64":false,"alg"`, ErrHeader, "b64"},
		{"zip", true, `"alg"`, `"zip":"DEF","alg"`, ErrHeader, "zip"},
		{"typ JWT", true, `"at+jwt"`, `"JWT"`, ErrHeader, "typ"},
		{"typ missing", true, `,"typ":"at+jwt"`, ``, ErrHeader, "typ"},
		{"typ of another thing", true, `"at+jwt"`, `"at+jwt+x"`, ErrHeader, "typ"},
		{"typ with parameter", true, `"at+jwt"`, `"at+jwt;v=1"`, ErrHeader, "typ"},
		{"typ number", true, `"at+jwt"`, `1`, ErrMalformed, ""},
		{"kid missing", true, `"kid"`, `"xid"`, ErrHeader, "kid"},
		{"kid empty", true, `"kid":"`, `"kid":"","xid":"`, ErrHeader, "kid"},
		{"kid of 65", true, `"kid":"`, `"kid":"` + strings.Repeat("k", 65) + `","xid":"`, ErrHeader, "kid"},
		{"kid of 64", true, `"kid":"`, `"kid":"` + strings.Repeat("k", 64) + `","xid":"`, ErrUnknownKey, "kkk"},
		{"kid with a space", true, `"kid":"`, `"kid":" `, ErrHeader, "kid"},
		{"kid with NUL", true, `"kid":"`, `"kid":"\u0000`, ErrHeader, "kid"},
		{"kid of letters beyond ASCII", true, `"kid":"`, `"kid":"é`, ErrHeader, "kid"},
		{"kid of a path", true, `"kid":"`, `"kid":"../../dev/null","xid":"`, ErrUnknownKey, ""},
		{"kid twice", true, `"kid"`, `"kid":"x","kid"`, ErrMalformed, "twice"},
		{"header array", true, `{`, `[{`, ErrMalformed, ""},
		{"header with data behind", true, `}`, `}{}`, ErrMalformed, "data after"},
		{"header with NUL behind", true, `}`, "}\x00", ErrMalformed, "data after"},
		{"header with a byte order mark", true, `{`, "\ufeff{", ErrMalformed, ""},
		{"header of invalid UTF-8", true, `"typ"`, "\"x\":\"\xff\",\"typ\"", ErrMalformed, "UTF-8"},

		{"exp twice", false, `"exp"`, `"exp":9999999999,"exp"`, ErrMalformed, "twice"},
		{"Exp beside exp", false, `"exp"`, `"Exp":9999999999,"exp"`, ErrMalformed, "stands for"},
		{"EXP instead of exp", false, `"exp"`, `"EXP"`, ErrMalformed, "stands for"},
		{"exp twice, escaped", false, `"exp"`, `"\u0065xp":9999999999,"exp"`, ErrMalformed, "twice"},
		{"long s in iss", false, `"iss"`, `"i` + "\u017f" + `s":"x","iss"`, ErrMalformed, "stands for"},
		{"double in an unknown object", false, `"sub"`, `"x":[{"a":1,"a":1}],"sub"`, ErrMalformed, "twice"},
		{"exp missing", false, `"exp"`, `"xxp"`, ErrMalformed, "exp is missing"},
		{"exp a string", false, `"exp":1700000300`, `"exp":"1700000300"`, ErrMalformed, ""},
		{"exp null", false, `"exp":1700000300`, `"exp":null`, ErrMalformed, ""},
		{"exp true", false, `"exp":1700000300`, `"exp":true`, ErrMalformed, ""},
		{"exp now", false, `"exp":1700000300`, `"exp":1700000060`, ErrExpired, ""},
		{"exp now, exactly", false, `"exp":1700000300`, `"exp":170000006000e-2`, ErrExpired, ""},
		{"exp of 1970", false, `"exp":1700000300`, `"exp":0`, ErrExpired, ""},
		{"exp negative", false, `"exp":1700000300`, `"exp":-1`, ErrMalformed, "not a time"},
		{"exp minus zero", false, `"exp":1700000300`, `"exp":-0`, ErrMalformed, "not a time"},
		{"exp of 2^63", false, `"exp":1700000300`, `"exp":9223372036854775808`, ErrMalformed, "not a time"},
		{"exp of 2^64 and a little", false, `"exp":1700000300`, `"exp":18446744073709551999`, ErrMalformed, "not a time"},
		{"exp of 1e400", false, `"exp":1700000300`, `"exp":1e400`, ErrMalformed, "not a time"},
		{"exp with a huge exponent", false, `"exp":1700000300`, `"exp":1e99999999999999999999`, ErrMalformed, "not a time"},
		{"exp with a tiny exponent", false, `"exp":1700000300`, `"exp":1e-99999999999999999999`, ErrMalformed, "not a time"},
		{"exp of the year 10000", false, `"exp":1700000300`, `"exp":253402300800`, ErrMalformed, "not a time"},
		{"exp NaN", false, `"exp":1700000300`, `"exp":NaN`, ErrMalformed, ""},
		{"exp of 65 bytes", false, `"exp":1700000300`, `"exp":1700000300.` + nulls, ErrMalformed, "not a time"},
		{"exp 01700000300", false, `"exp":1`, `"exp":01`, ErrMalformed, ""},
		{"exp hexadecimal", false, `"exp":1700000300`, `"exp":0x7fffffff`, ErrMalformed, ""},
		{"iat missing", false, `"iat"`, `"xat"`, ErrMalformed, "iat is missing"},
		{"iat beyond skew", false, `"iat":1700000000`, `"iat":1700000061.000000001`, ErrNotYet, "iat"},
		{"nbf beyond skew", false, `"sub"`, `"nbf":1700000061.0000000001,"sub"`, ErrNotYet, "nbf"},
		{"nbf null", false, `"sub"`, `"nbf":null,"sub"`, ErrMalformed, ""},
		{"iss of somebody else", false, `"https://auth.example"`, `"https://auth.example.evil"`, ErrIssuer, ""},
		{"iss with a slash", false, `"https://auth.example"`, `"https://auth.example/"`, ErrIssuer, ""},
		{"iss missing", false, `"iss"`, `"xss"`, ErrMalformed, "iss"},
		{"aud of somebody else", false, `"aud":"dongne"`, `"aud":"dongne2"`, ErrAudience, ""},
		{"aud list of others", false, `"aud":"dongne"`, `"aud":["don","gne"]`, ErrAudience, ""},
		{"aud empty list", false, `"aud":"dongne"`, `"aud":[]`, ErrMalformed, "aud"},
		{"aud missing", false, `"aud"`, `"xud"`, ErrMalformed, "aud"},
		{"aud list with a number", false, `"aud":"dongne"`, `"aud":["dongne",1]`, ErrMalformed, ""},
		{"aud nested", false, `"aud":"dongne"`, `"aud":[["dongne"]]`, ErrMalformed, ""},
		{"aud object", false, `"aud":"dongne"`, `"aud":{"dongne":1}`, ErrMalformed, ""},
		{"aud of 17", false, `"aud":"dongne"`, `"aud":["dongne"` + many + `]`, ErrMalformed, ""},
		{"sub missing", false, `"sub"`, `"xub"`, ErrMalformed, "sub"},
		{"sub empty", false, `"sub":"`, `"sub":"","xub":"`, ErrMalformed, "sub"},
		{"sub with a line feed", false, `"sub":"`, `"sub":"x\n`, ErrMalformed, "control"},
		{"sub with a C1 control", false, `"sub":"`, `"sub":"x\u0085`, ErrMalformed, "control"},
		{"sub with a raw line feed", false, `"sub":"`, "\"sub\":\"\n", ErrMalformed, "control"},
		{"sub too long", false, `"sub":"`, `"sub":"` + long + `","xub":"`, ErrMalformed, "bytes"},
		{"sub a number", false, `"sub":"`, `"sub":1,"xub":"`, ErrMalformed, ""},
		{"jti missing", false, `"jti"`, `"xti"`, ErrMalformed, "jti"},
		{"sid empty", false, `"sid":"`, `"sid":"","xid":"`, ErrMalformed, "sid"},
		{"SID", false, `"sid"`, `"SID"`, ErrMalformed, "stands for"},
		{"scope with two spaces", false, `"chat pay:write"`, `"chat  pay:write"`, ErrMalformed, "scope"},
		{"scope with a tab", false, `"chat pay:write"`, `"chat\tpay:write"`, ErrMalformed, "scope"},
		{"scope an array", false, `"chat pay:write"`, `["chat"]`, ErrMalformed, "scope"},
		{"scope of 65", false, `"chat pay:write"`, `"x` + strings.Repeat(" x", scopesMax) + `"`, ErrMalformed, "scope"},
		{"groups a string", false, `"sub"`, `"groups":"admin","sub"`, ErrMalformed, "groups"},
		{"lone high surrogate", false, `"sub"`, `"x":"\ud800","sub"`, ErrMalformed, "surrogate"},
		{"lone low surrogate", false, `"sub"`, `"x":"\udc00","sub"`, ErrMalformed, "surrogate"},
		{"two high surrogates", false, `"sub"`, `"x":"\ud800\ud800","sub"`, ErrMalformed, "surrogate"},
		{"surrogate pair", false, `"sub"`, `"x":"\ud83d\ude00","sub"`, nil, ""},
		{"unknown escape", false, `"sub"`, `"x":"\x41","sub"`, ErrMalformed, "escape"},
		{"escaped line feed", false, `"sub"`, "\"x\":\"\\\n\",\"sub\"", ErrMalformed, "escape"},
		{"escape of three digits", false, `"sub"`, `"x":"\u00e","sub"`, ErrMalformed, "hexadecimal"},
		{"invalid UTF-8", false, `"sub"`, "\"x\":\"\xc0\xaf\",\"sub\"", ErrMalformed, "UTF-8"},
		{"UTF-8 of a surrogate", false, `"sub"`, "\"x\":\"\xed\xa0\x80\",\"sub\"", ErrMalformed, "UTF-8"},
		{"9 levels", false, `"sub"`, `"x":` + deep + `,"sub"`, ErrMalformed, "levels"},
		{"65 members", false, `"sub"`, `"x":{` + members(membersMax+1) + `},"sub"`, ErrMalformed, "members"},
		{"64 members", false, `"sub"`, `"x":{` + members(membersMax) + `},"sub"`, nil, ""},
		{"trailing comma", false, `}`, `,}`, ErrMalformed, ""},
		{"trailing comma in a list", false, `"sub"`, `"x":[1,],"sub"`, ErrMalformed, ""},
		{"two commas", false, `,"sub"`, `,,"sub"`, ErrMalformed, ""},
		{"comment", false, `"sub"`, `/* */"sub"`, ErrMalformed, ""},
		{"single quotes", false, `"sub"`, `'sub'`, ErrMalformed, ""},
		{"capital TRUE", false, `"sub"`, `"x":TRUE,"sub"`, ErrMalformed, ""},
		{"word glued", false, `"sub"`, `"x":nullx,"sub"`, ErrMalformed, ""},
		{"data behind", false, `}`, `}}`, ErrMalformed, "data after"},
		{"no end", false, `}`, ``, ErrMalformed, ""},
	}
	both(t, func(t *testing.T, p *Private) {
		keys := Set{p.Key()}
		other := map[Alg]Alg{ES256: EdDSA, EdDSA: ES256}[p.Key().Alg]
		names := strings.NewReplacer("%", string(p.Key().Alg), "^", string(other))
		for _, row := range rows {
			header, payload := parts(t, sign(t, p, example()))
			part := &payload
			if row.header {
				part = &header
			}
			from := names.Replace(row.from)
			if !strings.Contains(*part, from) {
				t.Fatalf("%s: no %q in %s", row.what, from, *part)
			}
			*part = strings.Replace(*part, from, names.Replace(row.to), 1)
			raw := resign(t, p, header, payload)
			c, err := Verify(raw, keys.Find, expect, within)
			wantError(t, row.what, c, err, row.want, row.text)
			_, peeked := Peek(raw, expect, within)
			if ofKey := errors.Is(err, ErrUnknownKey) || isKeyAlg(err); !ofKey && !sameText(peeked, err) {
				t.Errorf("%s: Peek says %v, Verify %v", row.what, peeked, err)
			}
		}
	})
}

// isKeyAlg says whether an error is about a good alg under a key of another.
func isKeyAlg(err error) bool { return err != nil && strings.Contains(err.Error(), "under a key for") }

func sameText(a, b error) bool {
	return a == nil && b == nil || a != nil && b != nil && a.Error() == b.Error()
}

func members(n int) string {
	var all []string
	for i := range n {
		all = append(all, `"`+strings.Repeat("m", i+1)+`":1`)
	}
	return strings.Join(all, ",")
}

func wantError(t *testing.T, what string, c *Claims, err, want error, text string) {
	t.Helper()
	switch {
	case !errors.Is(err, want):
		t.Errorf("%s: %v; want %v", what, err, want)
	case (c == nil) != (err != nil):
		t.Errorf("%s: claims %v and error %v", what, c, err)
	case err != nil && !strings.Contains(err.Error(), text):
		t.Errorf("%s: error %q does not speak of %q", what, err, text)
	}
}

// What can be done to a token's text without a key.
func TestVerifyTexts(t *testing.T) {
	both(t, func(t *testing.T, p *Private) {
		good := sign(t, p, example())
		three := strings.Split(good, ".")
		mac := hmac.New(sha256.New, mustPKIX(t, p))
		hs := b64(`{"alg":"HS256","kid":"`+p.Key().ID+`","typ":"at+jwt"}`) + "." + three[1]
		mac.Write([]byte(hs))
		none := b64(`{"alg":"none","kid":"` + p.Key().ID + `","typ":"at+jwt"}`)
		for _, row := range []struct {
			what, raw string
			want      error
		}{
			{"empty", "", ErrMalformed},
			{"one part", three[0], ErrMalformed},
			{"two parts", three[0] + "." + three[1], ErrMalformed},
			{"four parts", good + ".", ErrMalformed},
			{"five parts", good + ".AA.AA", ErrMalformed},
			{"dots alone", "..", ErrMalformed},
			{"Bearer in front", "Bearer " + good, ErrMalformed},
			{"a space behind", good + " ", ErrMalformed},
			{"a line feed behind", good + "\n", ErrMalformed},
			{"CR LF within the signature", good[:len(good)-9] + "\r\n" + good[len(good)-9:], ErrMalformed},
			{"a line feed in the header", good[:3] + "\n" + good[3:], ErrMalformed},
			{"NUL", good + "\x00", ErrMalformed},
			{"padding", good + "==", ErrMalformed},
			{"base64 of the other alphabet", three[0] + "." + three[1] + "." + strings.Repeat("+/", 43), ErrMalformed},
			{"beyond ASCII", three[0] + "." + three[1] + "." + strings.Repeat("ä", 43), ErrMalformed},
			{"tail bits", good[:len(good)-1] + string(good[len(good)-1]+1), ErrMalformed},
			{"one character too few", good[:len(good)-1], ErrMalformed},
			{"no signature", three[0] + "." + three[1] + ".", ErrSignature},
			{"none without a signature", none + "." + three[1] + ".", ErrAlgorithm},
			{"none with the signature", none + "." + three[1] + "." + three[2], ErrAlgorithm},
			{"HMAC with the public key", hs + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil)), ErrAlgorithm},
			{"signature of 63 bytes", three[0] + "." + three[1] + "." + b64(strings.Repeat("x", 63)), ErrSignature},
			{"signature of 65 bytes", three[0] + "." + three[1] + "." + b64(strings.Repeat("x", 65)), ErrSignature},
			{"signature with a zero before s", three[0] + "." + three[1] + "." + longer(t, three[2]), ErrSignature},
			{"signature in DER", three[0] + "." + three[1] + "." + derOf(t, three[2]), ErrSignature},
			{"signature of zeros", three[0] + "." + three[1] + "." + b64(strings.Repeat("\x00", 64)), ErrSignature},
			{"signature of ones", three[0] + "." + three[1] + "." + b64(strings.Repeat("\xff", 64)), ErrSignature},
			{"claims of another", three[0] + "." + b64(`{}`) + "." + three[2], ErrSignature},
			{"8193 bytes", three[0] + "." + strings.Repeat("A", tokenBytesMax) + "." + three[2], ErrMalformed},
		} {
			c, err := Verify(row.raw, Set{p.Key()}.Find, expect, within)
			wantError(t, row.what, c, err, row.want, "")
			if err != nil && len(row.raw) > 40 && strings.Contains(err.Error(), row.raw[len(row.raw)-40:]) {
				t.Errorf("%s: the token stands in its error: %v", row.what, err)
			}
		}
	})
}

func mustPKIX(t *testing.T, p *Private) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(p.Key().Public)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// longer writes a zero between r and s.
func longer(t *testing.T, signature string) string {
	t.Helper()
	s, err := base64.RawURLEncoding.DecodeString(signature)
	if err != nil {
		t.Fatal(err)
	}
	return b64(string(slices.Insert(s, 32, 0)))
}

func derOf(t *testing.T, signature string) string {
	t.Helper()
	s, err := base64.RawURLEncoding.DecodeString(signature)
	if err != nil {
		t.Fatal(err)
	}
	return b64(string(encodeDER(s[:32], s[32:])))
}

func TestVerifyKeys(t *testing.T) {
	es, other, ed := generate(t, ES256, 1), generate(t, ES256, 2), generate(t, EdDSA, 1)
	raw := sign(t, es, example())
	for _, row := range []struct {
		what string
		key  *Key
		want error
	}{
		{"the key", es.Key(), nil},
		{"no key", nil, ErrUnknownKey},
		{"another key", other.Key(), ErrSignature},
		{"key of the other algorithm", ed.Key(), ErrAlgorithm},
		{"key that claims the algorithm", &Key{es.Key().ID, ES256, ed.Key().Public}, ErrSignature},
		{"key of nothing", &Key{es.Key().ID, ES256, nil}, ErrSignature},
		{"key of bytes", &Key{es.Key().ID, ES256, []byte("secret")}, ErrSignature},
	} {
		c, err := Verify(raw, func(kid string) *Key {
			if kid != es.Key().ID {
				t.Errorf("%s: asked for %q", row.what, kid)
			}
			return row.key
		}, expect, within)
		wantError(t, row.what, c, err, row.want, "")
	}
	for _, e := range []Expect{{Audience: "dongne"}, {Issuer: expect.Issuer}, {}} {
		if c, err := Verify(raw, Set{es.Key()}.Find, e, within); err == nil {
			t.Errorf("Verify with %+v: %v", e, c)
		}
	}
}

// r and s at and beyond the ends of their range; and (r, n-s), which holds.
func TestES256Range(t *testing.T) {
	p := generate(t, ES256, 1)
	raw := sign(t, p, example())
	text := raw[:strings.LastIndexByte(raw, '.')]
	signature, err := base64.RawURLEncoding.DecodeString(raw[len(text)+1:])
	if err != nil {
		t.Fatal(err)
	}
	n := elliptic.P256().Params().N
	r, s := new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:])
	zero, one, top := new(big.Int), big.NewInt(1), new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 256), big.NewInt(1))
	for _, row := range []struct {
		what string
		r, s *big.Int
		want error
	}{
		{"r, s", r, s, nil},
		{"r, n-s", r, new(big.Int).Sub(n, s), nil},
		{"n-r, s", new(big.Int).Sub(n, r), s, ErrSignature},
		{"0, s", zero, s, ErrSignature}, {"r, 0", r, zero, ErrSignature}, {"0, 0", zero, zero, ErrSignature},
		{"n, s", n, s, ErrSignature}, {"r, n", r, n, ErrSignature}, {"n, n", n, n, ErrSignature},
		{"0, n", zero, n, ErrSignature}, {"1, 1", one, one, ErrSignature}, {"top, top", top, top, ErrSignature},
		{"s, r", s, r, ErrSignature}, {"r, 1", r, one, ErrSignature},
	} {
		changed := append(row.r.FillBytes(make([]byte, 32)), row.s.FillBytes(make([]byte, 32))...)
		c, err := Verify(text+"."+b64(string(changed)), Set{p.Key()}.Find, expect, within)
		wantError(t, row.what, c, err, row.want, "")
	}
}

func TestEveryBitCounts(t *testing.T) {
	both(t, func(t *testing.T, p *Private) {
		raw := sign(t, p, example())
		for i := range len(raw) {
			for bit := range 8 {
				changed := []byte(raw)
				changed[i] ^= 1 << bit
				if c, err := Verify(string(changed), Set{p.Key()}.Find, expect, within); err == nil {
					t.Fatalf("bit %d of byte %d flipped: %+v", bit, i, c)
				}
			}
		}
		for n := range len(raw) {
			if c, err := Verify(raw[:n], Set{p.Key()}.Find, expect, within); err == nil {
				t.Fatalf("cut after %d bytes: %+v", n, c)
			}
		}
	})
}

// TestTimes walks over the borders of a token's life a nanosecond at a time.
func TestTimes(t *testing.T) {
	p := generate(t, EdDSA, 1)
	c := example()
	c.NotBefore = issued.Add(10 * time.Second)
	raw := sign(t, p, c)
	for _, row := range []struct {
		at   time.Time
		skew time.Duration
		want error
	}{
		{c.NotBefore.Add(-1), 0, ErrNotYet}, {c.NotBefore, 0, nil}, {c.Expires.Add(-1), 0, nil}, {c.Expires, 0, ErrExpired},
		{c.NotBefore.Add(-time.Minute - 1), time.Minute, ErrNotYet}, {c.NotBefore.Add(-time.Minute), time.Minute, nil},
		{c.Expires.Add(-1), time.Minute, nil}, {c.Expires, time.Minute, ErrExpired}, {time.Time{}, 0, ErrNotYet},
		{issued.Add(-5 * time.Minute), time.Minute, ErrNotYet}, {issued.Add(5 * time.Minute), time.Minute, ErrExpired},
	} {
		_, err := Verify(raw, Set{p.Key()}.Find, Expect{expect.Issuer, expect.Audience, row.skew}, row.at)
		if !errors.Is(err, row.want) {
			t.Errorf("at %v with skew %v: %v; want %v", row.at, row.skew, err, row.want)
		}
	}
}

func TestSignRefuses(t *testing.T) {
	p := generate(t, ES256, 1)
	for what, change := range map[string]func(c *Claims){
		"no issuer":         func(c *Claims) { c.Issuer = "" },
		"no subject":        func(c *Claims) { c.Subject = "" },
		"no id":             func(c *Claims) { c.ID = "" },
		"no audience":       func(c *Claims) { c.Audience = nil },
		"empty audience":    func(c *Claims) { c.Audience = []string{""} },
		"control character": func(c *Claims) { c.Subject = "u\n" },
		"invalid UTF-8":     func(c *Claims) { c.Subject = "u\xff" },
		"long session":      func(c *Claims) { c.Session = strings.Repeat("s", claimBytesMax+1) },
		"scope with space":  func(c *Claims) { c.Scope = []string{"a b"} },
		"empty scope":       func(c *Claims) { c.Scope = []string{""} },
		"65 groups":         func(c *Claims) { c.Groups = slices.Repeat([]string{"g"}, groupsMax+1) },
		"over 8 KiB":        func(c *Claims) { c.Groups = slices.Repeat([]string{strings.Repeat("g", 400)}, groupsMax) },
		"no iat":            func(c *Claims) { c.Issued = time.Time{} },
		"no exp":            func(c *Claims) { c.Expires = time.Time{} },
		"exp at iat":        func(c *Claims) { c.Expires = c.Issued.Add(time.Second - 1) },
		"exp in 10000":      func(c *Claims) { c.Expires = time.Unix(secondsMax+1, 0) },
	} {
		c := example()
		change(&c)
		if raw, err := p.Sign(c); err == nil {
			t.Errorf("%s: Sign(%+v) = %s", what, c, raw)
		}
	}
}

// genClaims draws claims that can be signed, in whole seconds.
func genClaims(t *rapid.T) Claims {
	text := rapid.StringOfN(rapid.RuneFrom([]rune("aZ09 \"\\/<>&'é\u2028\U0001F600{}[]:,.")), 1, 20, claimBytesMax)
	scope := rapid.StringMatching(`[!#-\[\]-~]{1,12}`)
	maybe := func(label string) string {
		if rapid.Bool().Draw(t, label+"?") {
			return text.Draw(t, label)
		}
		return ""
	}
	list := func(label string, of *rapid.Generator[string], least int) []string {
		all := rapid.SliceOfN(of, least, 5).Draw(t, label)
		if len(all) == 0 {
			return nil
		}
		return all
	}
	iat := rapid.Int64Range(0, secondsMax-1).Draw(t, "iat")
	c := Claims{
		Issuer: text.Draw(t, "iss"), Audience: list("aud", text, 1), Subject: text.Draw(t, "sub"), ID: text.Draw(t, "jti"),
		Session: maybe("sid"), Client: maybe("client_id"), Scope: list("scope", scope, 0), Groups: list("groups", text, 0),
		Issued: time.Unix(iat, 0).UTC(), Expires: time.Unix(rapid.Int64Range(iat+1, secondsMax).Draw(t, "exp"), 0).UTC(),
	}
	if rapid.Bool().Draw(t, "nbf?") {
		c.NotBefore = time.Unix(rapid.Int64Range(iat, c.Expires.Unix()-1).Draw(t, "nbf"), 0).UTC()
	}
	return c
}

func TestRoundTrip(t *testing.T) {
	both(t, func(t *testing.T, p *Private) {
		rapid.Check(t, func(t *rapid.T) {
			want := genClaims(t)
			raw, err := p.Sign(want)
			if err != nil {
				t.Fatalf("Sign(%+v): %v", want, err)
			}
			now := want.Issued
			if want.NotBefore.After(now) {
				now = want.NotBefore
			}
			e := Expect{Issuer: want.Issuer, Audience: rapid.SampledFrom(want.Audience).Draw(t, "audience")}
			got, err := Verify(raw, Set{p.Key()}.Find, e, now)
			if err != nil {
				t.Fatalf("Verify(Sign(%+v)): %v", want, err)
			}
			if diff := cmp.Diff(want, *got); diff != "" {
				t.Fatalf("Verify(Sign(c)) mismatch (-want +got):\n%s", diff)
			}
			if kid, err := Peek(raw, e, now); err != nil || kid != p.Key().ID {
				t.Fatalf("Peek = %q, %v; want %q", kid, err, p.Key().ID)
			}
		})
	})
}

// Broken seconds are signed so that a token says less than was asked.
func TestSignRounds(t *testing.T) {
	p, c := generate(t, ES256, 1), example()
	c.Issued, c.NotBefore, c.Expires = c.Issued.Add(500), c.Issued.Add(500), c.Expires.Add(-500)
	_, payload := parts(t, sign(t, p, c))
	var got struct{ Iat, Nbf, Exp int64 }
	if err := json.Unmarshal([]byte(payload), &got); err != nil {
		t.Fatal(err)
	}
	if want := (struct{ Iat, Nbf, Exp int64 }{1_700_000_000, 1_700_000_001, 1_700_000_299}); got != want {
		t.Errorf("Sign wrote %+v, want %+v", got, want)
	}
}

// FuzzVerify is differential: what is accepted means the same to encoding/json and encoding/base64.
func FuzzVerify(f *testing.F) {
	p := generate(f, ES256, 1)
	header, payload := parts(f, sign(f, p, example()))
	f.Add(header, payload)
	f.Add(strings.ToUpper(header), payload)
	f.Add(header, strings.Replace(payload, `"sub"`, `"Sub":"x","sub"`, 1))
	f.Add(header, strings.Replace(payload, `"sub"`, `"x":{"a":[1,2.5e-3,"\ud83d\ude00"]},"s\u0075b"`, 1))
	f.Add(header, strings.Replace(payload, `1700000300`, `17000003.00e2`, 1))
	f.Add(header, strings.Replace(payload, `"aud":"dongne"`, `"aud":["a","dongne"],"nbf":1700000000.25,"groups":["g"]`, 1))
	f.Fuzz(func(t *testing.T, header, payload string) {
		if len(header)+len(payload) > tokenBytesMax {
			return
		}
		c, err := Verify(resign(t, p, header, payload), Set{p.Key()}.Find, expect, within)
		if err != nil {
			if c != nil {
				t.Fatalf("claims %+v and error %v", c, err)
			}
			return
		}
		var h struct{ Alg, Kid, Typ string }
		if err := json.Unmarshal([]byte(header), &h); err != nil || h.Alg != "ES256" || h.Kid != p.Key().ID {
			t.Fatalf("header %q: %+v, %v", header, h, err)
		}
		if diff := cmp.Diff(jsonClaims(t, payload), *c); diff != "" {
			t.Fatalf("Verify of %q mismatch (-encoding/json +ours):\n%s", payload, diff)
		}
	})
}

// jsonClaims decodes claims with encoding/json, and their times with math/big.
func jsonClaims(t *testing.T, payload string) Claims {
	t.Helper()
	var w struct {
		Iss, Sub, Jti, Sid, Scope string
		Client                    string `json:"client_id"`
		Aud                       json.RawMessage
		Groups                    []string
		Iat, Exp, Nbf             json.Number
	}
	if err := json.Unmarshal([]byte(payload), &w); err != nil {
		t.Fatalf("encoding/json refuses %q: %v", payload, err)
	}
	c := Claims{
		Issuer: w.Iss, Subject: w.Sub, ID: w.Jti, Session: w.Sid, Client: w.Client,
		Issued: bigDate(t, string(w.Iat)), Expires: bigDate(t, string(w.Exp)),
	}
	if len(w.Groups) > 0 {
		c.Groups = w.Groups
	}
	if w.Scope != "" {
		c.Scope = strings.Split(w.Scope, " ")
	}
	if w.Nbf != "" {
		c.NotBefore = bigDate(t, string(w.Nbf))
	}
	var one string
	if err := json.Unmarshal(w.Aud, &one); err == nil {
		c.Audience = []string{one}
	} else if err := json.Unmarshal(w.Aud, &c.Audience); err != nil {
		t.Fatalf("aud %s: %v", w.Aud, err)
	}
	return c
}

// bigDate rounds a number of seconds up to a nanosecond.
func bigDate(t interface {
	Fatalf(string, ...any)
	Helper()
}, number string) time.Time {
	t.Helper()
	r, ok := new(big.Rat).SetString(number)
	if !ok {
		t.Fatalf("math/big does not read %q", number)
	}
	r.Mul(r, big.NewRat(1e9, 1))
	nanos, rest := new(big.Int).DivMod(r.Num(), r.Denom(), new(big.Int))
	if rest.Sign() > 0 {
		nanos.Add(nanos, big.NewInt(1))
	}
	seconds, nanos := new(big.Int).DivMod(nanos, big.NewInt(1e9), new(big.Int))
	return time.Unix(seconds.Int64(), nanos.Int64()).UTC()
}

func TestDates(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		number := rapid.StringMatching(`(0|[1-9][0-9]{0,14})(\.[0-9]{1,14})?([eE][+-]?[0-9]{1,2})?`).Draw(t, "number")
		got, err := parseDate(number)
		want := bigDate(t, number)
		inRange := want.Unix() <= secondsMax && want.Year() < 10000
		if r, _ := new(big.Rat).SetString(number); r.Cmp(big.NewRat(secondsMax+1, 1)) >= 0 {
			inRange = false // and bigDate overflowed
		}
		if (err == nil) != inRange || err == nil && !got.Equal(want) {
			t.Fatalf("parseDate(%s) = %v, %v; want %v", number, got, err, want)
		}
	})
}

// FuzzScan: whatever the scanner takes, encoding/json takes, and finds the same strings in it.
func FuzzScan(f *testing.F) {
	for _, s := range []string{
		`{}`, `{"a":"b"}`, `{"a":1,"\u0061":2}`, "{\"\x00\":1}",
		` {"a\n\u0041\ud83d\ude00":"\"\\\/\b\f\n\r\t","b":[1,-0.5e+7,{}]} `,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got := map[string]string{}
		err := scanObject(text, nil, func(s *scanner, name string) error {
			if s.peek() != '"' {
				return s.skip()
			}
			v, err := s.str()
			got[name] = v
			return err
		})
		if err != nil {
			return
		}
		var all map[string]any
		if err := json.Unmarshal([]byte(text), &all); err != nil {
			t.Fatalf("encoding/json refuses %q: %v", text, err)
		}
		want := map[string]string{}
		for k, v := range all {
			if s, ok := v.(string); ok {
				want[k] = s
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("strings of %q mismatch (-encoding/json +ours):\n%s", text, diff)
		}
	})
}

// FuzzRaw: no text but the signed one is accepted, and none makes Verify or Peek panic.
func FuzzRaw(f *testing.F) {
	es, ed := generate(f, ES256, 1), generate(f, EdDSA, 1)
	good := []string{sign(f, es, example()), sign(f, ed, example())}
	for _, raw := range good {
		f.Add(raw)
		f.Add(strings.ToLower(raw))
	}
	f.Add("..")
	f.Add("e30.e30.e30")
	f.Fuzz(func(t *testing.T, raw string) {
		_, _ = Peek(raw, expect, within)
		c, err := Verify(raw, Set{es.Key(), ed.Key()}.Find, expect, within)
		if err == nil && !slices.Contains(good, raw) && !mirrored(raw, good[0]) {
			t.Fatalf("%q is accepted: %+v", raw, c)
		}
	})
}

// mirrored says whether raw is good with (r, n-s).
func mirrored(raw, good string) bool {
	cut := len(good) - base64.RawURLEncoding.EncodedLen(32)
	return len(raw) == len(good) && raw[:cut-1] == good[:cut-1]
}

func benchmarkVerify(b *testing.B, alg Alg) {
	p := generate(b, alg, 1)
	raw, keys := sign(b, p, example()), Set{p.Key()}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Verify(raw, keys.Find, expect, within); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerifyES256(b *testing.B) { benchmarkVerify(b, ES256) }
func BenchmarkVerifyEdDSA(b *testing.B) { benchmarkVerify(b, EdDSA) }

func BenchmarkPeek(b *testing.B) {
	raw := sign(b, generate(b, ES256, 1), example())
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Peek(raw, expect, within); err != nil {
			b.Fatal(err)
		}
	}
}

func benchmarkSign(b *testing.B, alg Alg) {
	p, c := generate(b, alg, 1), example()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := p.Sign(c); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSignES256(b *testing.B) { benchmarkSign(b, ES256) }
func BenchmarkSignEdDSA(b *testing.B) { benchmarkSign(b, EdDSA) }

func TestDER(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := rapid.SliceOfN(rapid.OneOf(rapid.Just(byte(0)), rapid.Byte()), 64, 64).Draw(t, "r, s")
		if got := decodeDER(encodeDER(want[:32], want[32:])); !bytes.Equal(got, want) {
			t.Fatalf("decodeDER(encodeDER(%x)) = %x", want, got)
		}
	})
}
