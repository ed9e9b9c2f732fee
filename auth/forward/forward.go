// Package forward speaks the four dialects in which proxies ask an authentication service about a request that they hold
// back: [Ask] reads the question, [Allow] and [Deny] write the answer. It decides nothing itself, and is pure.
//
// Each dialect has a path of its own and reads, beside Authorization and Cookie, the headers of that dialect alone: what
// a client writes into another dialect's headers changes nothing. The client writes his own dialect's headers too, so
// each proxy must overwrite them; the configurations below do. A question that is not complete, or that two programs
// could read in two ways, is refused.
//
//	dialect      method                 scheme and host       path and query       client's address
//	ext-authz    the request's own      the request's Host    behind the prefix    X-Envoy-External-Address
//	auth-request X-Original-Method      X-Original-URL        X-Original-URL       X-Real-IP
//	traefik      X-Forwarded-Method     X-Forwarded-Proto,    X-Forwarded-Uri      X-Forwarded-For, the last: the
//	caddy                               X-Forwarded-Host                           one that the proxy itself wrote
//
// The address may be left out, everything else must come exactly once. Success is always 200, with X-Auth-Request-User,
// -Email and -Groups (see [Allow]); forward them, and remove what came under these names from outside. A denial has the
// status that the client should see, with WWW-Authenticate of RFC 6750. nginx knows no answers but 2xx, 401 and 403: it
// is answered 403 for anything else, and X-Auth-Request-Status has what it should have been.
//
// # nginx
//
//	location / {
//	    auth_request /_auth;
//	    auth_request_set $auth_user $upstream_http_x_auth_request_user;
//	    auth_request_set $auth_email $upstream_http_x_auth_request_email;
//	    auth_request_set $auth_groups $upstream_http_x_auth_request_groups;
//	    proxy_set_header X-Auth-Request-User $auth_user;
//	    proxy_set_header X-Auth-Request-Email $auth_email;
//	    proxy_set_header X-Auth-Request-Groups $auth_groups;
//	    proxy_pass http://127.0.0.1:8082;
//	}
//	location = /_auth {
//	    internal;
//	    proxy_pass http://127.0.0.1:8081/authz/auth-request;
//	    proxy_pass_request_body off;
//	    proxy_set_header Content-Length "";
//	    proxy_set_header X-Original-Method $request_method;
//	    proxy_set_header X-Original-URL $scheme://$host$request_uri;
//	    proxy_set_header X-Real-IP $remote_addr;
//	}
//
// It is $host and not $http_host: by $host nginx has chosen the server. To show a client 429 or 503 as such, catch 403
// with error_page and look at $upstream_http_x_auth_request_status, taken with auth_request_set.
//
// # Caddy
//
//	example.com {
//	    route {
//	        request_header -X-Auth-Request-*
//	        forward_auth 127.0.0.1:8081 {
//	            uri /authz/caddy
//	            copy_headers X-Auth-Request-User X-Auth-Request-Email X-Auth-Request-Groups
//	        }
//	        reverse_proxy 127.0.0.1:8082
//	    }
//	}
//
// The header is removed because some versions of Caddy leave a client's in place when the answer's is empty; the route
// is there because Caddy would otherwise remove it after the answer was copied.
//
// # Traefik
//
//	http:
//	  middlewares:
//	    dongne:
//	      forwardAuth:
//	        address: http://127.0.0.1:8081/authz/traefik
//	        authResponseHeaders: [X-Auth-Request-User, X-Auth-Request-Email, X-Auth-Request-Groups]
//
// Leave trustForwardHeader false unless another proxy stands in front.
//
// # Envoy and Istio
//
//	name: envoy.filters.http.ext_authz
//	typed_config:
//	  "@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz
//	  http_service:
//	    server_uri: { uri: "http://127.0.0.1:8081", cluster: dongne_auth, timeout: 1s }
//	    path_prefix: /authz/ext-authz
//	    authorization_request:
//	      allowed_headers: { patterns: [{ exact: cookie }, { exact: x-envoy-external-address }] }
//	    authorization_response:
//	      allowed_upstream_headers: { patterns: [{ prefix: x-auth-request- }] }
//	      allowed_client_headers: { patterns: [{ exact: www-authenticate }, { exact: retry-after }] }
//
// Envoy does not tell the scheme.
package forward

import (
	"net/http"
	"net/netip"
	"strings"

	"dongne/internal/edge"
)

// Dialect is how a proxy asks.
type Dialect int

// The dialects.
const (
	ExtAuthz    Dialect = iota // Envoy and Istio, ext_authz over HTTP
	AuthRequest                // nginx, auth_request
	Traefik                    // forwardAuth
	Caddy                      // forward_auth
)

// Dialects are all of them.
var Dialects = [...]Dialect{ExtAuthz, AuthRequest, Traefik, Caddy}

var dialectNames = [...]string{"ext-authz", "auth-request", "traefik", "caddy"}

// String is the dialect's name in its path.
func (d Dialect) String() string { return dialectNames[d] }

// Path is where the dialect's questions go. Those of ExtAuthz have the asked path behind it.
func (d Dialect) Path() string { return "/authz/" + d.String() }

// Of returns the dialect of a request to Path.
func Of(path string) (d Dialect, ok bool) {
	for _, d := range Dialects {
		if path == d.Path() || d == ExtAuthz && strings.HasPrefix(path, d.Path()+"/") {
			return d, true
		}
	}
	return 0, false
}

// Limits of a question.
const (
	TargetBytesMax = 16 << 10 // of path and query as they came
	BearerBytesMax = 8 << 10

	hostBytesMax   = 255
	methodBytesMax = 32
)

// Question is what a proxy asks: may this request pass, and whose is it?
type Question struct {
	Method   string         // A-Z, '_' and '-'
	Scheme   string         // "http" or "https"; "" when the dialect does not say
	Host     string         // in lower case, with the port if it was named
	Path     string         // begins with '/', decoded once; see edge.Path for what is refused
	RawQuery string         // without the '?', not decoded
	Address  netip.Addr     // of the client, as the proxy saw it; the zero Addr when it did not say
	Bearer   string         // token of "Authorization: Bearer"; "" when there is none, or another kind of credentials
	Cookies  []*http.Cookie // in their order, those that are malformed left out
}

// Ask reads the question of a request in a dialect. It reads nothing but the request's line, its Host, Authorization,
// Cookie, and the dialect's headers. The error is a *[Denial].
func Ask(d Dialect, r *http.Request) (Question, error) {
	var q Question
	var target string
	var err error
	switch d {
	case ExtAuthz:
		target, err = q.extAuthz(r)
	case AuthRequest:
		target, err = q.authRequest(r.Header)
	default:
		target, err = q.forwarded(r.Header)
	}
	if err != nil {
		return Question{}, err
	}
	if err := q.judge(target); err != nil {
		return Question{}, err
	}
	if q.Bearer, err = bearer(r.Header["Authorization"]); err != nil {
		return Question{}, err
	}
	q.Cookies = r.Cookies()
	return q, nil
}

// extAuthz reads Envoy's question, which is the request itself with a prefix. It returns the target asked about.
func (q *Question) extAuthz(r *http.Request) (target string, err error) {
	target, found := strings.CutPrefix(r.RequestURI, ExtAuthz.Path())
	if !found || target != "" && target[0] != '/' && target[0] != '?' {
		return "", malformed("the request target")
	}
	q.Method, q.Host = r.Method, r.Host
	if target == "" || target[0] == '?' {
		target = "/" + target
	}
	q.Address, err = address(r.Header, "X-Envoy-External-Address")
	return target, err
}

// authRequest reads nginx's question.
func (q *Question) authRequest(h http.Header) (target string, err error) {
	var whole string
	if q.Method, err = one(h, "X-Original-Method"); err == nil {
		whole, err = one(h, "X-Original-Url")
	}
	if err != nil {
		return "", err
	}
	var rest string
	q.Scheme, rest, _ = strings.Cut(whole, "://")
	end := strings.IndexAny(rest, "/?#")
	if end < 0 {
		end = len(rest)
	}
	q.Host, target = rest[:end], rest[end:]
	if !strings.HasPrefix(target, "/") {
		target = "/" + target
	}
	if err := q.scheme("X-Original-URL"); err != nil {
		return "", err
	}
	q.Address, err = address(h, "X-Real-Ip")
	return target, err
}

// forwarded reads Traefik's and Caddy's question.
func (q *Question) forwarded(h http.Header) (target string, err error) {
	for _, field := range []struct {
		name string
		into *string
	}{
		{"X-Forwarded-Method", &q.Method}, {"X-Forwarded-Proto", &q.Scheme},
		{"X-Forwarded-Host", &q.Host}, {"X-Forwarded-Uri", &target},
	} {
		if *field.into, err = one(h, field.name); err != nil {
			return "", err
		}
	}
	if !strings.HasPrefix(target, "/") {
		return "", malformed("X-Forwarded-Uri")
	}
	if err := q.scheme("X-Forwarded-Proto"); err != nil {
		return "", err
	}
	q.Address, err = address(h, "X-Forwarded-For")
	return target, err
}

// scheme judges the scheme. Traefik says "ws" and "wss" of what becomes a WebSocket.
func (q *Question) scheme(header string) error {
	switch q.Scheme {
	case "http", "ws":
		q.Scheme = "http"
	case "https", "wss":
		q.Scheme = "https"
	default:
		return malformed(header)
	}
	return nil
}

// judge judges method and host, and takes the target apart.
func (q *Question) judge(target string) error {
	if !validMethod(q.Method) {
		return malformed("the method")
	}
	q.Host = strings.ToLower(q.Host)
	if !validHost(q.Host) {
		return malformed("the host")
	}
	if len(target) > TargetBytesMax {
		return &Denial{Status: http.StatusRequestURITooLong, Code: InvalidRequest, Detail: "the path and query are too long"}
	}
	for i := range len(target) {
		if c := target[i]; c <= ' ' || c == 0x7f || c == '#' { // not part of a target; raw bytes of UTF-8 are let be
			return malformed("the path or query")
		}
	}
	path, err := edge.Path(q.Method, target)
	if err != nil {
		return &Denial{Status: http.StatusBadRequest, Code: InvalidRequest, Detail: err.Error()}
	}
	q.Path = path
	_, q.RawQuery, _ = strings.Cut(target, "?")
	return nil
}

// one returns the value of a header that must come once.
func one(h http.Header, name string) (string, error) {
	values := h[name]
	if len(values) != 1 || values[0] == "" {
		return "", &Denial{Status: http.StatusBadRequest, Code: InvalidRequest, Detail: "the proxy must send " + name + " once"}
	}
	return values[0], nil
}

func malformed(what string) *Denial {
	return &Denial{Status: http.StatusBadRequest, Code: InvalidRequest, Detail: what + " is malformed"}
}

// address returns the last address of a header that may be missing: those before it are hearsay.
func address(h http.Header, name string) (netip.Addr, error) {
	values := h[name]
	if len(values) == 0 {
		return netip.Addr{}, nil
	}
	text := values[len(values)-1]
	text = strings.Trim(text[strings.LastIndexByte(text, ',')+1:], " \t")
	if a, err := netip.ParseAddr(text); err == nil {
		return a.Unmap(), nil
	}
	if a, err := netip.ParseAddrPort(text); err == nil {
		return a.Addr().Unmap(), nil
	}
	return netip.Addr{}, malformed(name)
}

// validMethod: what the gateway and nginx take, which is less than HTTP's token.
func validMethod(method string) bool {
	for i := range len(method) {
		if c := method[i]; !('A' <= c && c <= 'Z' || c == '_' || c == '-') {
			return false
		}
	}
	return 1 <= len(method) && len(method) <= methodBytesMax
}

// validHost: a name of letters, digits, '.', '-' and '_', or an IP address, in brackets if it has colons; and a port or none.
func validHost(host string) bool {
	name, port := host, ""
	if i := strings.LastIndexByte(host, ':'); i > strings.LastIndexByte(host, ']') {
		name, port = host[:i], host[i+1:]
		if port == "" || len(port) > 5 || strings.Trim(port, "0123456789") != "" {
			return false
		}
	}
	if inside, ok := strings.CutPrefix(name, "["); ok {
		inside, ok = strings.CutSuffix(inside, "]")
		a, err := netip.ParseAddr(inside)
		return ok && err == nil && a.Is6() && a.Zone() == ""
	}
	return name != "" && len(host) <= hostBytesMax && strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789.-_") == ""
}

// bearer returns the token of an Authorization header (RFC 6750 section 2.1).
func bearer(values []string) (string, error) {
	if len(values) > 1 {
		return "", &Denial{Status: http.StatusBadRequest, Code: InvalidRequest, Detail: "the request has two Authorizations"}
	}
	if len(values) == 0 {
		return "", nil
	}
	scheme, token, _ := strings.Cut(values[0], " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return "", nil // for whoever stands behind the proxy
	}
	token = strings.Trim(token, " ")
	if len(token) > BearerBytesMax || !token68(token) {
		return "", &Denial{Status: http.StatusUnauthorized, Code: InvalidToken, Detail: "the token is malformed"}
	}
	return token, nil
}

// token68 is RFC 9110's, of which a bearer token is one.
func token68(text string) bool {
	text = strings.TrimRight(text, "=")
	for i := range len(text) {
		switch c := text[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte("-._~+/", c) >= 0:
		default:
			return false
		}
	}
	return text != ""
}
