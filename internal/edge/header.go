package edge

import (
	"net/http"
	"strings"
)

// Strip removes from a request's header what only the gateway and the proxies in front of it may say, and returns how
// many fields those were. It is to run before any field is believed, but after [Client], which reads X-Forwarded-For:
//
//   - who the caller is, as proxies of many makes tell it to what is behind them (X-User, X-Auth-Request-*, Remote-User);
//   - from where and to where the request went (Forwarded, X-Forwarded-*, X-Real-Ip, Cf-Connecting-Ip, X-Original-*):
//     a service would take its address, scheme or path from there;
//   - what changes the request's meaning behind the gateway's back: X-Http-Method-Override, X-Rewrite-Url, X-Accel-*,
//     X-Middleware-Subrequest, and Proxy, which CGI makes a configuration of;
//   - every name with '_': CGI and WSGI make the same variable of X_User and X-User;
//   - Expect, which the gateway has met itself, and an offer to upgrade to anything but websocket, such as h2c.
//
// The fields that Connection names, and it itself, are the reverse proxy's to remove.
func Strip(h http.Header) int {
	n := 0
	for name, values := range h {
		if insider(name) || ofThisHop(name, values) {
			delete(h, name)
			n++
		}
	}
	return n
}

func ofThisHop(name string, values []string) bool {
	switch name {
	case "Expect", "Http2-Settings":
		return true
	case "Upgrade":
		return len(values) != 1 || !strings.EqualFold(values[0], "websocket")
	}
	return false
}

// insider tells whether a field name, in canonical form, is one that only a proxy may set.
func insider(name string) bool {
	if strings.IndexByte(name, '_') >= 0 {
		return true
	}
	switch name {
	case "Forwarded", "Proxy", "Client-Ip", "True-Client-Ip", "Fastly-Client-Ip", "Front-End-Https", refusedField:
		return true
	}
	i := strings.IndexByte(name, '-')
	if i < 0 {
		return false
	}
	rest := name[i+1:]
	switch name[:i] {
	case "X":
		return insiderX(rest)
	case "Remote": // Authelia, Caddy, Apache: Remote-User, -Groups, -Name, -Email, -Addr
		return true
	case "Cf":
		return hasAnyPrefix(rest, "Access-", "Connecting-Ip", "Pseudo-Ipv4", "Visitor", "Ipcountry")
	case "Tailscale":
		return hasAnyPrefix(rest, "User-", "App-")
	case "Ssl":
		return hasAnyPrefix(rest, "Client-")
	}
	return false
}

// insiderX is insider for what follows "X-".
func insiderX(rest string) bool {
	switch rest {
	case "User", "Email", "Groups", "Roles", "Client-Ip", "Real-Ip", "Cluster-Client-Ip", "Appengine-User-Ip",
		"Azure-Clientip", "Azure-Socketip", "Proxyuser-Ip", "Host", "Scheme", "Url-Scheme", "Arr-Ssl", "Forwarded",
		"Rewrite-Url", "Http-Method-Override", "Http-Method", "Method-Override", "Middleware-Subrequest",
		"Sendfile-Type", "Wap-Profile":
		return true
	}
	return hasAnyPrefix(rest, "Forwarded-", "Auth-", "Authenticated-", "Authentik-", "Original-", "Envoy-", "User-",
		"Remote-", "Webauth-", "Pomerium-", "Goog-Authenticated-User-", "Goog-Iap-", "Amzn-Oidc-", "Ms-Client-Principal",
		"Client-Cert", "Ssl-", "Accel-")
}

func hasAnyPrefix(s string, prefixes ...string) bool {
	for _, prefix := range prefixes {
		if strings.HasPrefix(s, prefix) {
			return true
		}
	}
	return false
}
