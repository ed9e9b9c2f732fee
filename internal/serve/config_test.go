package serve

import (
	"bytes"
	"context"
	"io"
	"strings"
	"testing"
	"time"
)

func TestEnv(t *testing.T) {
	vars := append(Common("chat", 8082), Var{"NODE_ID", "n1", "name of this node"})
	getenv := Env(vars, func(name string) string { return map[string]string{"HOST": "::1", "LOG_LEVEL": ""}[name] })
	for name, want := range map[string]string{
		"HOST": "::1", "LOG_LEVEL": "info", "PORT": "8082", "DATA_DIR": "data/chat", "NODE_ID": "n1", "AUTH_URL": "",
	} {
		if got := getenv(name); got != want {
			t.Errorf("getenv(%s) = %q, want %q", name, got, want)
		}
	}
}

func mustPanic(t *testing.T, want string, f func()) {
	t.Helper()
	defer func() {
		if p, _ := recover().(string); !strings.Contains(p, want) {
			t.Errorf("panic = %q, want one with %q", p, want)
		}
	}()
	f()
}

func TestEnvPanicsAtUndeclaredName(t *testing.T) {
	mustPanic(t, "PEERS is not declared", func() { Env(nil, func(string) string { return "x" })("PEERS") })
	mustPanic(t, "declared twice", func() { Env([]Var{{Name: "A"}, {Name: "A"}}, nil) })
}

func TestHelpListsEveryVariable(t *testing.T) {
	vars := append(Common("chat", 8082), Var{"NODE_ID", "n1", "name of this node"})
	var out bytes.Buffer
	if code := runMain([]string{"-h"}, &out, io.Discard, "chat: rooms", vars, nil); code != 0 {
		t.Errorf("exit code of -h = %d, want 0", code)
	}
	for _, v := range withCommon(vars) {
		if !strings.Contains(out.String(), v.Name) || !strings.Contains(out.String(), v.Default) || v.Help == "" || !strings.Contains(out.String(), v.Help) {
			t.Errorf("-h does not show %+v:\n%s", v, out.String())
		}
	}
	if !strings.HasPrefix(out.String(), "chat: rooms\n") {
		t.Errorf("-h does not begin with what the service is:\n%s", out.String())
	}
}

func TestArgumentsAreRefused(t *testing.T) {
	var errs bytes.Buffer
	if code := runMain([]string{"--port=1"}, io.Discard, &errs, "", nil, nil); code != 2 {
		t.Errorf("exit code = %d, want 2", code)
	}
	if !strings.Contains(errs.String(), `"--port=1"`) {
		t.Errorf("stderr = %q, want the argument named", errs.String())
	}
}

func TestValues(t *testing.T) {
	get := func(value string) func(string) string { return func(string) string { return value } }
	for _, value := range []string{"", "x", "1.5", "0", "11", "99999999999999999999"} {
		if n, err := Int(get(value), "N", 1, 10); err == nil || !strings.Contains(err.Error(), `N="`+value+`"`) {
			t.Errorf("Int(%q) = %d, %v; want an error that names N and the value", value, n, err)
		}
		if d, err := Duration(get(value), "D", time.Second, time.Minute); err == nil || !strings.Contains(err.Error(), `D="`+value+`"`) {
			t.Errorf("Duration(%q) = %v, %v; want an error that names D and the value", value, d, err)
		}
	}
	if n, err := Int(get("10"), "N", 1, 10); n != 10 || err != nil {
		t.Errorf("Int(10) = %d, %v", n, err)
	}
	if d, err := Duration(get("1.5s"), "D", time.Second, time.Minute); d != 1500*time.Millisecond || err != nil {
		t.Errorf("Duration(1.5s) = %v, %v", d, err)
	}
	if u, err := URL(get(""), "U"); u != nil || err != nil {
		t.Errorf("URL() = %v, %v; want nil, nil", u, err)
	}
	if u, err := URL(get("http://h:80/x/"), "U"); err != nil || u.String() != "http://h:80/x" {
		t.Errorf("URL = %v, %v", u, err)
	}
	for _, value := range []string{"h:80", "ftp://h", "http://", "http://h:0", "http://h:99999", "http://h?a=b", "http://h#f", "http://%zz", "http://u:secret@h?x=1"} {
		if u, err := URL(get(value), "U"); err == nil || !strings.Contains(err.Error(), "U") || strings.Contains(err.Error(), "secret") {
			t.Errorf("URL(%q) = %v, %v; want an error that names U and tells no password", value, u, err)
		}
	}
}

func TestBadVariableStopsTheStart(t *testing.T) {
	for _, tt := range []struct{ name, value, want string }{
		{"PORT", "http", "whole number"},
		{"PORT", "65536", "65535"},
		{"HOST", "0.0.0.0", "loopback"},
		{"HOST", "example.com", "loopback"},
		{"AUTH_URL", "localhost:8081", "http"},
		{"TRUSTED_PROXIES", "10.0.0.1,proxy", "neither a prefix"},
		{"LOG_LEVEL", "loud", "debug, info"},
		{"DEBUG_ADDR", "0.0.0.0:6060", "loopback"},
		{"DEBUG_ADDR", "6060", "host:port"},
		{"OTEL_EXPORTER_OTLP_ENDPOINT", "localhost:4318", "http"},
	} {
		err := Run(context.Background(), env(tt.name, tt.value), io.Discard, Service{Name: "test"})
		if err == nil || !strings.Contains(err.Error(), tt.name+`="`+tt.value+`"`) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s=%q: Run = %v, want an error that names both and says %q", tt.name, tt.value, err, tt.want)
		}
	}
}

func TestBadServiceStopsTheStart(t *testing.T) {
	for name, tt := range map[string]struct {
		service Service
		want    string
	}{
		"bad pattern":    {Service{Routes: map[string]Handler{"GET rooms": ok}}, "GET rooms"},
		"conflict":       {Service{Routes: map[string]Handler{"GET /a/{x}/b": ok, "GET /a/b/{y}": ok}}, "conflicts"},
		"shell's own":    {Service{Routes: map[string]Handler{"GET /health": ok}}, "conflicts"},
		"no handler":     {Service{Routes: map[string]Handler{"GET /a": nil}}, "no handler"},
		"unknown stream": {Service{Streams: []string{"GET /s"}}, "GET /s"},
	} {
		if _, err := New(t.Context(), env(), io.Discard, tt.service); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: New = %v, want an error with %q", name, err, tt.want)
		}
	}
}

func TestPortInUseNamesTheVariable(t *testing.T) {
	first := start(t, defaultLimits, Service{Name: "first"})
	_, port, _ := strings.Cut(strings.TrimPrefix(first.url, "http://"), ":")
	err := Run(t.Context(), env("PORT", port), io.Discard, Service{Name: "second"})
	if err == nil || !strings.Contains(err.Error(), "PORT") || !strings.Contains(err.Error(), port) {
		t.Errorf("Run on a port in use = %v, want an error that names PORT and %s", err, port)
	}
}
