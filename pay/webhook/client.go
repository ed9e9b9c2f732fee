package webhook

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"syscall"
	"time"
)

// Limits of one attempt.
const (
	attemptTimeout     = 15 * time.Second // from the name's resolution to the last byte that is read
	responseBytesMax   = 64 << 10         // of the body; the rest is not read
	headerBytesMax     = 64 << 10
	idleConnectionsMax = EndpointsMax
)

const contentType = "application/cloudevents+json"

// errNotPublic: the endpoint's name leads to an address that is not reachable from everywhere.
var errNotPublic = errors.New("is not public")

// reserved are the IPv4 networks that are not public, by IANA's registry of special-purpose addresses, and the address of a
// cloud's metadata service that lies outside of them.
var reserved = prefixes("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "168.63.129.16/32", "169.254.0.0/16",
	"172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16",
	"192.175.48.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4")

// global is where public IPv6 addresses lie, and reservedGlobal what of it is not public: IETF protocols (Teredo among
// them), documentation, and 6to4, whose addresses lead to IPv4 ones.
var (
	global         = netip.MustParsePrefix("2000::/3")
	reservedGlobal = prefixes("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")
)

func prefixes(texts ...string) (all []netip.Prefix) {
	for _, text := range texts {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}

// public says whether everybody may be let connect to an address by way of us.
func public(a netip.Addr) bool {
	within := func(networks []netip.Prefix) bool {
		for _, n := range networks {
			if n.Contains(a) {
				return true
			}
		}
		return false
	}
	a = a.Unmap()
	if a.Is4() {
		return !within(reserved)
	}
	return a.Zone() == "" && global.Contains(a) && !within(reservedGlobal)
}

// guard refuses to connect to an address that is not public. It sees the address that is dialled, so a name that resolves
// to something else the second time does not pass.
func guard(_, address string, _ syscall.RawConn) error {
	a, err := netip.ParseAddrPort(address)
	if err != nil || !public(a.Addr()) {
		return errNotPublic
	}
	return nil
}

// newTransport returns a transport without a proxy, which would dial in our place.
func newTransport(allowPrivate bool) *http.Transport {
	dialer := &net.Dialer{Timeout: attemptTimeout}
	if !allowPrivate {
		dialer.Control = guard
	}
	return &http.Transport{
		DialContext:            dialer.DialContext,
		ForceAttemptHTTP2:      true,
		TLSHandshakeTimeout:    attemptTimeout,
		DisableCompression:     true,
		MaxIdleConns:           idleConnectionsMax,
		IdleConnTimeout:        time.Minute,
		MaxResponseHeaderBytes: headerBytesMax,
	}
}

// newClient returns a client that follows no redirect.
func newClient(transport http.RoundTripper) *http.Client {
	return &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// outcome is what became of one attempt.
type outcome struct {
	status     int // 0: there was no answer
	err        error
	retryAfter time.Duration // what the endpoint asked for
}

func (o outcome) delivered() bool { return o.status/100 == 2 }
func (o outcome) gone() bool      { return o.status == http.StatusGone }

// attempt sends an event once.
func (h *Hooks) attempt(ctx context.Context, e endpoint, event Event, now time.Time) outcome {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	if err := checkURL(e.URL, h.config.AllowPrivate); err != nil { // it was registered under another configuration
		return outcome{err: err}
	}
	signed, err := signatures(e.signing(now.UnixNano()), event.ID, now, event.Body)
	if err != nil {
		return outcome{err: err}
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, e.URL, bytes.NewReader(event.Body))
	if err != nil {
		return outcome{err: err}
	}
	r.Header.Set("Content-Type", contentType)
	r.Header.Set("User-Agent", "dongne-webhook/1")
	r.Header.Set(HeaderID, event.ID)
	r.Header.Set(HeaderTimestamp, strconv.FormatInt(now.Unix(), 10))
	r.Header.Set(HeaderSignature, signed)
	response, err := h.client.Do(r)
	if err != nil {
		return outcome{err: err}
	}
	defer response.Body.Close()
	// Read so that the connection can be used again; what it says does not matter, and neither does its end.
	_, _ = io.CopyN(io.Discard, response.Body, responseBytesMax)
	return outcome{status: response.StatusCode, retryAfter: retryAfter(response.Header, now)}
}

// explain says why an attempt failed, in words for the endpoint's owner: nothing of our network, whose resolver and
// addresses the error itself may name.
func (o outcome) explain() string {
	var name *net.DNSError
	var certificate *tls.CertificateVerificationError
	var timeout net.Error
	var invalid *InvalidError
	switch err := o.err; {
	case err == nil && o.status/100 == 3:
		return fmt.Sprintf("answered %d: redirects are not followed", o.status)
	case err == nil:
		return fmt.Sprintf("answered %d", o.status)
	case errors.As(err, &invalid):
		return "the URL " + invalid.Detail
	case errors.Is(err, errNotPublic):
		return "the address " + errNotPublic.Error()
	case errors.As(err, &name):
		return "the host name was not resolved"
	case errors.As(err, &certificate):
		return "the certificate was not accepted"
	case errors.As(err, &timeout) && timeout.Timeout():
		return fmt.Sprintf("no answer within %v", attemptTimeout)
	case errors.Is(err, syscall.ECONNREFUSED):
		return "the connection was refused"
	}
	return "the connection failed"
}
