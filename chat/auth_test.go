package main

import (
	"testing"
	"time"

	"dongne/internal/serve/servetest"
	"dongne/internal/token"
)

// startGuarded is start with tokens.
func startGuarded(t *testing.T, names ...string) *cluster {
	t.Helper()
	c := newCluster(t)
	c.auth = servetest.NewAuth(t)
	c.start(names...)
	for _, m := range c.nodes {
		servetest.AwaitReady(t, m.server.URL)
	}
	return c
}

// TestTokens: with tokens everything is as without them, but that nobody is who he says.
func TestTokens(t *testing.T) {
	for name, test := range map[string]func(*testing.T, starter){
		"rooms": rooms, "messages": messages, "resumes": streamResumes, "removed": removedInMidStream, "typing": typingAndPresence,
	} {
		t.Run(name, func(t *testing.T) { test(t, startGuarded) })
	}
	c := startGuarded(t, "a")
	minji := c.as("minji", "a")
	id := minji.create("group", "ana")
	said := minji
	said.token = ""
	said.do("GET", "/rooms", nil).want(401, "unauthenticated")
	said.do("POST", "/rooms/"+id.String()+"/messages", `{"text":"x"}`).want(401, "unauthenticated")
	said.do("GET", "/stream", nil).want(401, "unauthenticated")
	c.as("eve", "a").do("POST", "/rooms/"+id.String()+"/messages", `{"text":"x"}`, "X-User", "minji").want(403, "not-a-member")
}

// TestStreamEndsWithItsToken: a stream ends with a last event when its token ends or is revoked, other streams go on, and
// with another token the client resumes behind what it has seen.
func TestStreamEndsWithItsToken(t *testing.T) {
	c := startGuarded(t, "a")
	minji, ana := c.as("minji", "a"), c.as("ana", "a")
	id := minji.create("group", "ana")
	short := ana
	short.token = c.auth.Sign(token.Claims{Subject: "ana", Session: "s_short", Expires: time.Now().Add(2 * time.Second)})
	long, brief, other := ana.stream(""), short.stream(""), minji.stream("")
	minji.post(id, "one")
	for _, s := range []*sse{long, brief, other} {
		s.message("one")
	}
	if e := brief.next("bye"); e.data != "{}" {
		t.Errorf("at the token's end comes %+v", e)
	}
	closed(t, brief)
	short.do("GET", "/rooms", nil).want(401, "token-invalid")

	revoked := time.Now()
	c.auth.Revoke(servetest.SessionOf("ana"))
	long.next("bye")
	t.Logf("%v from the revocation to the last event", time.Since(revoked))
	closed(t, long)
	minji.post(id, "two")
	other.message("two")
	again := ana
	again.do("GET", "/stream", nil).want(401, "token-invalid")
	again.token = c.auth.Sign(token.Claims{Subject: "ana", Session: "s_new"})
	if m := again.stream(long.id).message("two"); m.From != "minji" {
		t.Errorf("behind what was seen comes %+v", m)
	}
	if got := metric(t, minji, "token_watches"); got != "2" { // minji's, and the new one of ana
		t.Errorf("%s streams wait for the end of their tokens, want 2", got)
	}
}

// closed wants the stream's end, and no event before.
func closed(t *testing.T, s *sse) {
	t.Helper()
	if e, more := s.any(); more {
		t.Errorf("behind the last event comes %+v", e)
	}
}
