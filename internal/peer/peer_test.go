package peer

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// pair is two nodes: what a sends to n2's URL, b verifies by its own clock.
func pair(t *testing.T, now *time.Time) (a, b *Cluster, from *string, verified *error) {
	from, verified = new(string), new(error)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		if *from, *verified = b.Verify(r.Header, body); *verified != nil || r.Method != http.MethodPost || r.URL.Path != "/gossip" {
			http.Error(w, "refused: because", http.StatusUnauthorized)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	}))
	t.Cleanup(server.Close)
	secret := []byte("0123456789abcdef")
	at := time.UnixMilli(1_000_000)
	a = &Cluster{Purpose: "test-1", Self: "n1", URLs: map[string]string{"n2": server.URL}, Secret: secret,
		Now: func() time.Time { return at }, Client: server.Client()}
	b = &Cluster{Purpose: "test-1", Self: "n2", URLs: map[string]string{"n1": "http://n1"}, Secret: secret, Now: func() time.Time { return *now }}
	return a, b, from, verified
}

func TestSendAndVerify(t *testing.T) {
	now := time.UnixMilli(1_000_000)
	a, b, from, verified := pair(t, &now)
	if err := a.Send(t.Context(), "n2", []byte("hello")); err != nil || *from != "n1" {
		t.Fatalf("Send: %v, verified as from %q", err, *from)
	}
	refused := func(what string) {
		t.Helper()
		err := a.Send(t.Context(), "n2", []byte("hello"))
		if err == nil || !strings.Contains(err.Error(), "status 401: refused: because") || !errors.Is(*verified, ErrSignature) {
			t.Errorf("%s: %v, and verified %v; want a refusal and ErrSignature", what, err, *verified)
		}
	}
	for _, age := range []time.Duration{signatureAgeMax + time.Millisecond, -signatureAgeMax - time.Millisecond} {
		now = time.UnixMilli(1_000_000).Add(age)
		refused(age.String())
	}
	now = time.UnixMilli(1_000_000).Add(signatureAgeMax)
	if err := a.Send(t.Context(), "n2", []byte("hello")); err != nil {
		t.Errorf("after %v: %v", signatureAgeMax, err)
	}
	for what, spoil := range map[string]func(){
		"another purpose": func() { b.Purpose = "test-2" },
		"another secret":  func() { b.Secret = []byte("0123456789abcdeg") },
		"for another":     func() { b.Self = "n3" },
		"from a stranger": func() { b.URLs = map[string]string{"n9": ""} },
	} {
		was := *b
		spoil()
		refused(what)
		*b = was
	}
	if err := a.Send(t.Context(), "n2", nil); err == nil {
		t.Error("an empty message is taken")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := a.Send(ctx, "n2", []byte("x")); !errors.Is(err, context.Canceled) {
		t.Errorf("Send after the end of its context: %v", err)
	}
}

// Whatever part of a message is changed on its way, it is refused.
func TestForgery(t *testing.T) {
	c := &Cluster{Purpose: "p", Self: "n2", URLs: map[string]string{"n1": "", "n3": ""}, Secret: []byte("0123456789abcdef"),
		Now: func() time.Time { return time.UnixMilli(5) }}
	var sent http.Header
	sender := &Cluster{Purpose: "p", Self: "n1", URLs: map[string]string{"n2": "http://n2"}, Secret: c.Secret, Now: c.Now,
		Client: &http.Client{Transport: keep{&sent}}}
	sender.Send(t.Context(), "n2", []byte("body"))
	if from, err := c.Verify(sent, []byte("body")); err != nil || from != "n1" {
		t.Fatalf("Verify = %q, %v", from, err)
	}
	for name, value := range map[string]string{headerFrom: "n3", headerTo: "n1", headerTime: "6", headerSignature: strings.Repeat("0", 64)} {
		for _, v := range []string{value, "", "x"} {
			h := sent.Clone()
			h.Set(name, v)
			if _, err := c.Verify(h, []byte("body")); !errors.Is(err, ErrSignature) {
				t.Errorf("%s: %q: %v, want ErrSignature", name, v, err)
			}
		}
	}
	if _, err := c.Verify(sent, []byte("bodY")); !errors.Is(err, ErrSignature) {
		t.Errorf("another body: %v, want ErrSignature", err)
	}
}

type keep struct{ header *http.Header }

func (k keep) RoundTrip(r *http.Request) (*http.Response, error) {
	*k.header = r.Header
	return nil, errors.New("kept")
}

func TestParse(t *testing.T) {
	got, err := Parse(" n2=http://a:1/ ,n3=https://b/x,", "n1")
	if diff := cmp.Diff(map[string]string{"n2": "http://a:1", "n3": "https://b/x"}, got); err != nil || diff != "" {
		t.Errorf("Parse mismatch (-want +got): %v\n%s", err, diff)
	}
	for _, bad := range []string{"n2", "n2=", "n2=a:1", "n2=ftp://a", "n1=http://a", "n2=http://a,n2=http://b"} {
		if got, err := Parse(bad, "n1"); err == nil || !strings.Contains(err.Error(), "PEERS") {
			t.Errorf("Parse(%q) = %v, %v, want an error that names PEERS", bad, got, err)
		}
	}
}

func TestCheck(t *testing.T) {
	good := Cluster{Self: "n1", URLs: map[string]string{"n3": "", "n2": ""}, Secret: make([]byte, secretMin)}
	if err := good.Check(); err != nil || cmp.Diff([]string{"n2", "n3"}, good.Names()) != "" {
		t.Errorf("Check = %v, Names = %v", err, good.Names())
	}
	if err := (&Cluster{Self: "n1"}).Check(); err != nil {
		t.Errorf("alone, without a secret: %v", err)
	}
	for want, bad := range map[string]Cluster{"PEER_SECRET": {Self: "n1", URLs: good.URLs, Secret: make([]byte, secretMin-1)},
		"NODE_ID": {Self: "n 1"}, "PEERS": {Self: "n1", URLs: map[string]string{"": ""}, Secret: good.Secret}} {
		if err := bad.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Check = %v, want an error that names %s", err, want)
		}
	}
}
