package main

import (
	"strings"
	"testing"

	"dongne/bench/authserver"
	"dongne/bench/load"
	"dongne/bench/proc"
)

func TestRunPrintsEveryGoal(t *testing.T) {
	var out strings.Builder
	if err := run(t.Context(), options{seconds: 0.4, rounds: 1, clients: 4, logins: 4, ends: 4}, &out); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	for _, want := range []string{"verify uncached", "verify remembered", "refresh per second and core", "introspect per second and core",
		"p99 beside log-ins ÷ alone, chat", "p99 beside log-ins ÷ alone, auth itself", "revocation p99"} {
		if !strings.Contains(out.String(), "\n"+want) {
			t.Errorf("no line %q", want)
		}
	}
	if strings.Contains(out.String(), "not measured") {
		t.Errorf("a part was not measured:\n%s", &out)
	}
}

// What is checked of every answer fails where the answer is another one.
func TestChecksCatch(t *testing.T) {
	dir := t.TempDir()
	program, err := proc.Build(t.Context(), dir, "dongne/auth")
	if err != nil {
		t.Fatal(err)
	}
	auth, err := authserver.Start(t.Context(), program, dir+"/data", 1)
	if err != nil {
		t.Fatal(err)
	}
	defer auth.Process.Stop()
	sessions, err := auth.Sessions(t.Context(), 2)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := load.DialHTTP(t.Context(), auth.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := active(conn, sessions[0].Access, true); err != nil {
		t.Errorf("a good token: %v", err)
	}
	if active(conn, sessions[0].Access, false) == nil || active(conn, sessions[0].Access+"A", true) == nil {
		t.Error("active takes what it is not told to take")
	}
	if _, err := probe(t.Context(), auth.Addr, authserver.Pair{Access: "no.good.token"}, 50e6); err == nil {
		t.Error("probe takes a refusal for an answer")
	}
}
