package edge

import (
	"fmt"
	"net/netip"
	"strings"
)

// hopsMax bounds how many proxies in front of the gateway are believed.
const hopsMax = 16

// Client returns the address of the client at the far end of the trusted proxies: the peer's own, unless it is in
// trusted. Then the entries of X-Forwarded-For (forwarded: the field's lines in order) count from the right: each was
// written by the one before it. The first that is not trusted is the client; what is left of it is hearsay. An entry
// that is no address ends the search: the proxy that wrote it is the last one known. An IPv4 address in IPv6 form
// counts as IPv4; zones are dropped.
func Client(peer netip.AddrPort, forwarded []string, trusted []netip.Prefix) netip.Addr {
	client := plain(peer.Addr())
	hops := 0
	for i := len(forwarded) - 1; i >= 0; i-- {
		for rest, more := forwarded[i], true; more; hops++ {
			if hops == hopsMax || !contains(trusted, client) {
				return client
			}
			comma := strings.LastIndexByte(rest, ',')
			addr, ok := parseEntry(strings.Trim(rest[comma+1:], " \t"))
			if !ok {
				return client
			}
			client = addr
			more = comma >= 0
			rest = rest[:max(comma, 0)]
		}
	}
	return client
}

func plain(addr netip.Addr) netip.Addr { return addr.Unmap().WithZone("") }

func contains(prefixes []netip.Prefix, addr netip.Addr) bool {
	for _, prefix := range prefixes {
		if prefix.Contains(addr) {
			return true
		}
	}
	return false
}

// parseEntry reads an address as proxies write it: bare, with a port, or IPv6 in brackets.
func parseEntry(s string) (netip.Addr, bool) {
	if len(s) > len("[ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255]:65535") {
		return netip.Addr{}, false
	}
	if addr, err := netip.ParseAddr(s); err == nil {
		return plain(addr), true
	}
	if peer, err := netip.ParseAddrPort(s); err == nil {
		return plain(peer.Addr()), true
	}
	if inner, ok := strings.CutPrefix(s, "["); ok && strings.HasSuffix(inner, "]") {
		addr, err := netip.ParseAddr(inner[:len(inner)-1])
		return plain(addr), err == nil && addr.Is6()
	}
	return netip.Addr{}, false
}

// ParsePrefixes reads a comma-separated list of prefixes ("10.0.0.0/8, fd00::/8") and single addresses; empty for
// none. Bits behind the prefix are an error, and so are zones and IPv4 in IPv6 form: such a prefix would not match
// what its writer thinks.
func ParsePrefixes(list string) ([]netip.Prefix, error) {
	var prefixes []netip.Prefix
	if strings.TrimSpace(list) == "" {
		return nil, nil
	}
	for item := range strings.SplitSeq(list, ",") {
		item = strings.TrimSpace(item)
		prefix, err := netip.ParsePrefix(item)
		if addr, addrErr := netip.ParseAddr(item); addrErr == nil && addr.Zone() == "" {
			prefix, err = netip.PrefixFrom(addr, addr.BitLen()), nil
		}
		switch {
		case err != nil:
			return nil, fmt.Errorf("%q is neither a prefix like 10.0.0.0/8 nor an address", item)
		case prefix.Addr().Is4In6():
			return nil, fmt.Errorf("%q: write IPv4 as IPv4", item)
		case prefix != prefix.Masked():
			return nil, fmt.Errorf("%q has bits behind its prefix; did you mean %v?", item, prefix.Masked())
		}
		prefixes = append(prefixes, prefix)
	}
	return prefixes, nil
}
