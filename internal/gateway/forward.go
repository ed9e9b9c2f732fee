package gateway

import (
	"io"
	"net/http"
	"net/http/httputil"
	"net/textproto"
	"strings"
)

// hopByHop are the fields that are between the gateway and its neighbour, and end there (RFC 9110, section 7.6.1, with those
// that RFC 2616 named and that are still sent).
var hopByHop = [...]string{"Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Te", "Trailer",
	"Transfer-Encoding", "Upgrade"}

// forward sends a request whose body, if any, was kept, and that wants no upgrade, and passes the answer on. It does what
// httputil.ReverseProxy does, which uploads and upgrades go through, at half of its cost: a header is copied once, without its
// values, and an answer that is all there is written in one piece.
//
// The error is that of the upstream, or of p.answer; nothing was written then. An answer that breaks off cuts the client's
// connection.
func (p *passage) forward(in *http.Request) error {
	answer, err := p.try.RoundTrip(p.outgoing(in))
	if err != nil {
		return err
	}
	endHere(answer.Header)
	if err := p.answer(answer); err != nil {
		answer.Body.Close()
		return err
	}
	header := p.w.Header()
	addAll(header, answer.Header)
	announced := len(answer.Trailer)
	if announced > 0 {
		names := make([]string, 0, announced)
		for name := range answer.Trailer {
			names = append(names, name)
		}
		header.Add("Trailer", strings.Join(names, ", "))
	}
	p.w.WriteHeader(answer.StatusCode)
	if err := copyBody(p.w, answer); err != nil {
		answer.Body.Close()
		panic(http.ErrAbortHandler) // half an answer must not look whole
	}
	answer.Body.Close()
	if len(answer.Trailer) > 0 {
		http.NewResponseController(p.w).Flush() // in chunks: with a length there is no place for trailers
	}
	if len(answer.Trailer) == announced {
		addAll(header, answer.Trailer)
		return nil
	}
	for name, values := range answer.Trailer { // some that were not announced
		header[http.TrailerPrefix+name] = values
	}
	return nil
}

// outgoing is the request to the service; it shares no map with in.
func (p *passage) outgoing(in *http.Request) *http.Request {
	out, to := *in, *in.URL
	out.URL, out.RequestURI, out.Close, out.TransferEncoding = &to, "", false, nil
	if in.ContentLength == 0 {
		out.Body = nil
	}
	out.Header = make(http.Header, len(in.Header)+6)
	for name, values := range in.Header {
		out.Header[name] = values
	}
	trailers := false
	for _, te := range in.Header["Te"] {
		trailers = trailers || hasToken(te, "trailers")
	}
	endHere(out.Header)
	if trailers {
		out.Header["Te"] = []string{"trailers"}
	}
	p.lane.rewrite(&httputil.ProxyRequest{In: in, Out: &out}, p.target, p.subject)
	if out.Header["User-Agent"] == nil {
		out.Header["User-Agent"] = []string{""} // else Request.Write sends one of its own
	}
	return &out
}

// endHere takes the fields out that must not be passed on.
func endHere(h http.Header) {
	for _, list := range h["Connection"] {
		for name := range strings.SplitSeq(list, ",") {
			delete(h, textproto.CanonicalMIMEHeaderKey(textproto.TrimString(name)))
		}
	}
	for _, name := range hopByHop {
		delete(h, name)
	}
}

// hasToken says whether a list has a word.
func hasToken(list, word string) bool {
	for item := range strings.SplitSeq(list, ",") {
		if strings.EqualFold(textproto.TrimString(item), word) {
			return true
		}
	}
	return false
}

// addAll adds the fields of from to h, and may share their values.
func addAll(h, from http.Header) {
	for name, values := range from {
		if old := h[name]; old != nil {
			values = append(old[:len(old):len(old)], values...)
		}
		h[name] = values
	}
}

// copyBody writes an answer's body. What is not all there yet goes to the client as it comes, and the head before it.
func copyBody(w http.ResponseWriter, answer *http.Response) error {
	b := buffers.Get()
	defer buffers.Put(b)
	flush := func() error { return nil }
	if !isWhole(answer) {
		flush = http.NewResponseController(w).Flush
		if err := flush(); err != nil {
			return err
		}
	}
	for {
		n, err := answer.Body.Read(b)
		if n > 0 {
			if _, err := w.Write(b[:n]); err != nil {
				return err
			}
			if err := flush(); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// isWhole says whether a body can be read to its end without waiting for the service.
func isWhole(answer *http.Response) bool {
	body, ok := answer.Body.(interface{ Buffered() int })
	return answer.ContentLength == 0 || ok && answer.ContentLength > 0 && answer.ContentLength <= int64(body.Buffered())
}
