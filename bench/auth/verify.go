package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"runtime"
	"time"

	"dongne/bench/proc"
	"dongne/bench/report"
	"dongne/internal/token"
	"dongne/internal/verify"
)

const (
	issuer        = "http://127.0.0.1/auth"
	uncachedGoal  = 80.0 // µs of CPU, at most
	cachedGoal    = 1.0
	cachedTokens  = 1000 // that the verifier remembers and is asked for in turn
	callsPerCheck = 64   // between two looks at the clock
)

// verify measures the verification of tokens in this process.
func (b *bench) verify(ctx context.Context) {
	const raw, uncached, cached = "the signature alone (crypto/ecdsa)", "a token, uncached", "a token, remembered"
	rows := []report.Row{{Name: raw}, {Name: uncached, Ours: true}, {Name: cached, Ours: true}}
	calls, closeAll, err := verifications(ctx)
	if err != nil {
		b.Failed = errors.Join(b.Failed, err)
		return
	}
	defer closeAll()
	results, remarks := report.Rounds(ctx, &b.Report, b.options.rounds, rows, func(i int) (float64, error) {
		return cpuOf(b.options.duration()/2, calls[i])
	})
	same := func(nanos float64) float64 { return nanos }
	b.Table(b.title("ES256 verification, one thread"), []string{"CPU", ""}, rows, remarks, func(name string) []string {
		picked := report.Pick(results[name], same)
		return []string{micros(report.Mid(picked)), report.Span(picked, micros)}
	})
	b.Goal("verify uncached, µs of CPU", "≤", report.Median(results[uncached], same)/1000, uncachedGoal)
	b.Goal("verify remembered, µs of CPU", "≤", report.Median(results[cached], same)/1000, cachedGoal)
}

// micros writes nanoseconds as microseconds.
func micros(nanos float64) string { return fmt.Sprintf("%.2f µs", nanos/1000) }

// cpuOf is what a call costs, in nanoseconds of this process's time, the garbage collector's included.
func cpuOf(d time.Duration, call func(i int) error) (float64, error) {
	runtime.GC()
	began, before, n := time.Now(), time.Duration(0), 0
	before, err := proc.Own()
	if err != nil {
		return 0, err
	}
	for time.Since(began) < d {
		for range callsPerCheck {
			if err := call(n); err != nil {
				return 0, err
			}
			n++
		}
	}
	after, err := proc.Own()
	return float64(after-before) / float64(n), err
}

// verifications are a bare signature's, an uncached token's and a remembered one's.
func verifications(ctx context.Context) (calls [3]func(i int) error, closeAll func(), err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return calls, nil, err
	}
	hash := sha256.Sum256([]byte("what is signed"))
	signature, err := ecdsa.SignASN1(rand.Reader, private, hash[:])
	if err != nil {
		return calls, nil, err
	}
	calls[0] = func(int) error {
		if !ecdsa.VerifyASN1(&private.PublicKey, hash[:], signature) {
			return errors.New("a good signature is refused")
		}
		return nil
	}
	key, err := token.Generate(token.ES256, rand.Reader)
	if err != nil {
		return calls, nil, err
	}
	tokens := make([]string, cachedTokens)
	for i := range tokens {
		now := time.Now().Truncate(time.Second)
		tokens[i], err = key.Sign(token.Claims{Issuer: issuer, Audience: []string{"dongne"}, Subject: fmt.Sprintf("u_%020d", i),
			Session: fmt.Sprintf("s_%022d", i), ID: fmt.Sprintf("%022d", i), Issued: now, Expires: now.Add(time.Hour)})
		if err != nil {
			return calls, nil, err
		}
	}
	expect := token.Expect{Issuer: issuer, Audience: "dongne", Skew: time.Minute}
	calls[1] = func(i int) error {
		_, err := token.Verify(tokens[i%cachedTokens], func(string) *token.Key { return key.Key() }, expect, time.Now())
		return err
	}
	v := verify.Start(ctx, fixedSource{key.Key()}, verify.Options{Audience: "dongne"})
	for v.Ready() != nil {
		if err := ctx.Err(); err != nil {
			v.Close()
			return calls, nil, err
		}
		runtime.Gosched()
	}
	calls[2] = func(i int) error { _, err := v.Verify(tokens[i%cachedTokens]); return err }
	for i := range tokens {
		if err := calls[2](i); err != nil {
			v.Close()
			return calls, nil, err
		}
	}
	return calls, v.Close, nil
}

// fixedSource is an auth with one key and no revocations.
type fixedSource struct{ key *token.Key }

func (s fixedSource) Metadata(context.Context) (string, error) { return issuer, nil }

func (s fixedSource) Keys(context.Context) (token.Set, time.Duration, error) {
	return token.Set{s.key}, time.Hour, nil
}

func (s fixedSource) Follow(ctx context.Context, _ uint64, on func(verify.Event)) error {
	on(verify.Event{Kind: verify.Reset})
	on(verify.Event{Kind: verify.Alive})
	<-ctx.Done()
	return ctx.Err()
}
