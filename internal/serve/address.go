package serve

import (
	"net/http"
	"net/netip"
	"slices"

	"dongne/internal/edge"
)

// Address returns the address of the client: that of its connection or, where that comes from one of TRUSTED_PROXIES, the one
// for which the proxies speak in X-Forwarded-For. It is not valid outside of a request of this shell.
func Address(r *http.Request) netip.Addr {
	x := exchangeOf(r.Context())
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if x == nil || err != nil {
		return netip.Addr{}
	}
	return edge.Client(peer, r.Header["X-Forwarded-For"], x.server.config.trusted)
}

// Proxied says whether a request comes from one of TRUSTED_PROXIES.
func Proxied(r *http.Request) bool {
	x := exchangeOf(r.Context())
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	return x != nil && err == nil && slices.ContainsFunc(x.server.config.trusted, func(p netip.Prefix) bool { return p.Contains(peer.Addr().Unmap()) })
}
