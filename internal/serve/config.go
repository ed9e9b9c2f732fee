package serve

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"dongne/internal/edge"
)

// Var is one environment variable: its name, its default and one line of help. A variable that is set to the empty
// string counts as unset.
type Var struct{ Name, Default, Help string }

// commonVars are what every service has, in the order of the -h list. A service that declares one of them again gives it
// another default; an empty Help there keeps the help from here.
var commonVars = []Var{
	{"HOST", "127.0.0.1", "address to listen on; without AUTH_URL it must be a loopback address"},
	{"PORT", "0", "TCP port to listen on; 0 picks a free one"},
	{"DATA_DIR", "data", "directory of everything that the service keeps"},
	{"AUTH_URL", "", "base URL of the auth service, whose tokens are then verified; empty: open development mode, the caller is the X-User header"},
	{"TRUSTED_PROXIES", "", "addresses and prefixes, separated by commas, whose X-Forwarded-For is believed; empty: nobody's"},
	{"LOG_LEVEL", "info", "debug, info, warn or error"},
	{"DEBUG_ADDR", "", "loopback host:port for pprof and expvar; empty: off"},
	{"OTEL_EXPORTER_OTLP_ENDPOINT", "", "base URL to which spans are sent as OTLP/HTTP JSON; empty: off"},
}

// Common returns the defaults that differ from service to service, to start a service's list of variables with:
//
//	var vars = append(serve.Common("chat", 8082), serve.Var{Name: "NODE_ID", Default: "n1", Help: "…"})
func Common(name string, port int) []Var {
	return []Var{
		{Name: "PORT", Default: strconv.Itoa(port)},
		{Name: "DATA_DIR", Default: "data/" + name},
	}
}

// withCommon returns vars and the common variables that vars do not name, common ones first. A name given twice is a bug.
func withCommon(vars []Var) []Var {
	all := slices.Clone(commonVars)
	own := map[string]bool{}
	for _, v := range vars {
		if v.Name == "" || own[v.Name] {
			panic(fmt.Sprintf("serve: variable %q is declared twice or has no name", v.Name))
		}
		own[v.Name] = true
		i := slices.IndexFunc(all, func(c Var) bool { return c.Name == v.Name })
		if i < 0 {
			all = append(all, v)
			continue
		}
		all[i].Default = v.Default
		if v.Help != "" {
			all[i].Help = v.Help
		}
	}
	return all
}

// Env returns the getenv that a service's run gets: a value comes from lookup (os.Getenv in Main, a map's in a test), or
// else from the default in vars or in the common variables. Asking for a name that is declared in neither panics, so the
// list that -h prints is complete by construction.
func Env(vars []Var, lookup func(string) string) func(string) string {
	defaults := map[string]string{}
	for _, v := range withCommon(vars) {
		defaults[v.Name] = v.Default
	}
	return func(name string) string {
		def, declared := defaults[name]
		if !declared {
			panic(fmt.Sprintf("serve: environment variable %s is not declared", name))
		}
		if value := lookup(name); value != "" {
			return value
		}
		return def
	}
}

// printHelp writes what -h shows.
func printHelp(w io.Writer, about string, vars []Var) {
	fmt.Fprintf(w, "%s\n\nConfiguration is the environment:\n\n", about)
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, v := range withCommon(vars) {
		fmt.Fprintf(tw, "  %s\t%s\t%s\n", v.Name, v.Default, v.Help)
	}
	tw.Flush()
}

// badValue is the one form of a configuration error: NAME="value": what is wrong.
func badValue(name, value, format string, args ...any) error {
	return fmt.Errorf("%s=%q: %s", name, value, fmt.Sprintf(format, args...))
}

// Int reads a decimal integer in [min, max]. The error names the variable and the value.
func Int(getenv func(string) string, name string, min, max int) (int, error) {
	value := getenv(name)
	n, err := strconv.Atoi(value)
	if err != nil || n < min || n > max {
		return 0, badValue(name, value, "want a whole number from %d to %d", min, max)
	}
	return n, nil
}

// Duration reads a duration in Go's notation ("1.5s") in [min, max]. The error names the variable and the value.
func Duration(getenv func(string) string, name string, min, max time.Duration) (time.Duration, error) {
	value := getenv(name)
	d, err := time.ParseDuration(value)
	if err != nil || d < min || d > max {
		return 0, badValue(name, value, "want a duration from %v to %v, such as %v", min, max, min)
	}
	return d, nil
}

// URL reads an absolute http or https URL without query and fragment; a trailing slash is cut off. It returns nil when
// the variable is empty. The error names the variable and the value, without a password.
func URL(getenv func(string) string, name string) (*url.URL, error) {
	value := getenv(name)
	if value == "" {
		return nil, nil
	}
	u, err := ParseURL(value)
	if err != nil {
		return nil, fmt.Errorf("%s=%w", name, err)
	}
	return u, nil
}

// ParseURL is URL for a value from elsewhere.
func ParseURL(value string) (*url.URL, error) {
	u, err := url.Parse(value)
	switch {
	case err != nil:
		return nil, errors.New(`"…": not a URL`) // url.Error repeats the value, which may hold a password
	case u.Scheme != "http" && u.Scheme != "https", u.Hostname() == "", u.RawQuery != "", u.Fragment != "":
		return nil, fmt.Errorf("%q: want an absolute http:// or https:// URL without query and fragment", u.Redacted())
	}
	if port := u.Port(); port != "" {
		if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
			return nil, fmt.Errorf("%q: port %s is not from 1 to 65535", u.Redacted(), port)
		}
	}
	u.Path = strings.TrimSuffix(u.Path, "/")
	return u, nil
}

// IsLoopback says whether a HOST is one that only this machine reaches.
func IsLoopback(host string) bool { return isLoopback(host) }

// isLoopback reports whether host (no port, no brackets) is a loopback address or the name localhost.
func isLoopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Unmap().IsLoopback()
}

// isLoopbackHost is isLoopback for a Host header or a host:port: the port is optional, an IPv6 address has brackets.
func isLoopbackHost(hostport string) bool {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		host = strings.TrimSuffix(strings.TrimPrefix(hostport, "["), "]")
	}
	return isLoopback(host)
}

// config is what the shell itself reads from the environment.
type config struct {
	addr      string   // host:port to listen on
	auth      *url.URL // who says which tokens are good; nil for nobody
	trusted   []netip.Prefix
	debugAddr string   // "" for off
	otlp      *url.URL // nil for off
}

// readConfig reads it; open says that without AUTH_URL the service is in open development mode.
func readConfig(getenv func(string) string, open bool) (c config, err error) {
	if c.auth, err = URL(getenv, "AUTH_URL"); err != nil {
		return c, err
	}
	host := getenv("HOST")
	if open && c.auth == nil && !isLoopback(host) {
		return c, badValue("HOST", host,
			"without AUTH_URL every caller is believed, so only a loopback address such as 127.0.0.1 is allowed")
	}
	if c.trusted, err = edge.ParsePrefixes(getenv("TRUSTED_PROXIES")); err != nil {
		return c, badValue("TRUSTED_PROXIES", getenv("TRUSTED_PROXIES"), "%v", err)
	}
	port, err := Int(getenv, "PORT", 0, 65535)
	if err != nil {
		return c, err
	}
	c.addr = net.JoinHostPort(host, strconv.Itoa(port))
	c.debugAddr = getenv("DEBUG_ADDR")
	if c.debugAddr != "" {
		if _, _, err := net.SplitHostPort(c.debugAddr); err != nil || !isLoopbackHost(c.debugAddr) {
			return c, badValue("DEBUG_ADDR", c.debugAddr, "want host:port with a loopback host, such as 127.0.0.1:6060")
		}
	}
	c.otlp, err = URL(getenv, "OTEL_EXPORTER_OTLP_ENDPOINT")
	return c, err
}
