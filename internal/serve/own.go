package serve

import (
	"cmp"
	"net/http"
	"runtime/debug"
	"time"
)

// build is what the binary knows about itself.
type build struct {
	version, commit, commitTime string
	dirty                       *bool // nil: unknown
}

const unknown = "unknown"

// readBuild reads the build information; what is not there, as without version control at build time, is "unknown".
func readBuild(info *debug.BuildInfo) build {
	b := build{unknown, unknown, unknown, nil}
	if info == nil {
		return b
	}
	b.version = cmp.Or(info.Main.Version, unknown)
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.commit = s.Value
		case "vcs.time":
			b.commitTime = s.Value
		case "vcs.modified":
			dirty := s.Value == "true"
			b.dirty = &dirty
		}
	}
	return b
}

// health answers what runs here. It is about the process alone, never about what the process needs.
func (s *Server) health(w http.ResponseWriter, r *http.Request) error {
	info, _ := debug.ReadBuildInfo()
	b := readBuild(info)
	return JSON(w, http.StatusOK, struct {
		Service    string  `json:"service"`
		Version    string  `json:"version"`
		Uptime     float64 `json:"uptime_seconds"`
		Commit     string  `json:"commit"`
		CommitTime string  `json:"commit_time"`
		Dirty      *bool   `json:"dirty"` // null: unknown
	}{s.service.Name, b.version, s.now().Sub(s.started).Round(time.Millisecond).Seconds(), b.commit, b.commitTime, b.dirty})
}

// ready answers whether to send requests here.
func (s *Server) ready(w http.ResponseWriter, r *http.Request) error {
	if s.stopping.Load() {
		return Problem(http.StatusServiceUnavailable, "draining", "the service is shutting down").RetryAfter(overloadRetry)
	}
	if s.verifier != nil {
		if err := s.verifier.Ready(); err != nil {
			return Problem(http.StatusServiceUnavailable, "starting", "%v", err).RetryAfter(overloadRetry)
		}
	}
	if s.service.Ready != nil {
		if err := s.service.Ready(r.Context()); err != nil {
			return Problem(http.StatusServiceUnavailable, "starting", "%v", err).RetryAfter(overloadRetry)
		}
	}
	return JSON(w, http.StatusOK, struct {
		Ready bool `json:"ready"`
	}{true})
}

// whoami answers who calls, for pages: in open development mode "" is nobody yet.
func (s *Server) whoami(w http.ResponseWriter, r *http.Request) error {
	answer := struct {
		User   string   `json:"user"`
		Scope  []string `json:"scope"`
		Open   bool     `json:"open"`
		Expiry string   `json:"expires_at,omitempty"`
	}{Open: s.verifier == nil, Scope: []string{}}
	if caller, err := Caller(r); err == nil {
		answer.User = caller.User
		if caller.Claims != nil {
			answer.Scope = append(answer.Scope, caller.Claims.Scope...)
			answer.Expiry = caller.Claims.Expires.UTC().Format(time.RFC3339)
		}
	} else if !answer.Open || len(r.Header["X-User"]) > 0 {
		return err
	}
	return JSON(w, http.StatusOK, answer)
}

// openAPI answers the contract, with the media type of RFC 9512.
func (s *Server) openAPI(w http.ResponseWriter, r *http.Request) error {
	w.Header().Set("Content-Type", "application/yaml")
	_, err := w.Write(s.service.OpenAPI)
	return err
}
