package edge

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// pair returns a certificate for localhost with this serial number, and its key, in PEM.
func pair(t *testing.T, serial int64) (certPEM, keyPEM []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial),
		Subject:      pkix.Name{CommonName: "localhost"},
		DNSNames:     []string{"localhost"},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
}

// startTLS returns the address of a front behind a TLSListener, and what its clients must trust.
func startTLS(t *testing.T, o TLSOptions) (*front, *x509.CertPool) {
	t.Helper()
	certPEM, keyPEM := pair(t, 1)
	certificate, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &front{addr: inner.Addr().String()}
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS == nil || !r.TLS.HandshakeComplete {
			t.Errorf("%s %s over %s has no Request.TLS", r.Method, r.RequestURI, r.Proto)
		}
		w.Header().Set("Proto", r.Proto)
		f.ServeHTTP(w, r)
	})
	server := &http.Server{Handler: handler}
	done := make(chan error, 1)
	go func() {
		done <- server.Serve(TLSListener(inner, &tls.Config{Certificates: []tls.Certificate{certificate}}, o))
	}()
	t.Cleanup(func() {
		server.Close()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("Serve = %v", err)
		}
	})
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(certPEM)
	return f, roots
}

func dialTLS(t *testing.T, addr string, roots *x509.CertPool, protos ...string) *tls.Conn {
	t.Helper()
	conn, err := tls.Dial("tcp", addr, &tls.Config{RootCAs: roots, ServerName: "localhost", NextProtos: protos})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	return conn
}

func TestTLSListenerServesBothProtocols(t *testing.T) {
	f, roots := startTLS(t, TLSOptions{})
	for _, h2 := range []bool{true, false} {
		protocols := new(http.Protocols)
		protocols.SetHTTP1(!h2)
		protocols.SetHTTP2(h2)
		client := &http.Client{Transport: &http.Transport{
			TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: "localhost"}, Protocols: protocols,
		}}
		answer, err := client.Post("https://"+f.addr+"/a", "text/plain", strings.NewReader("hello"))
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		client.CloseIdleConnections()
		want := "HTTP/1.1"
		if h2 {
			want = "HTTP/2.0"
		}
		if answer.StatusCode != 200 || answer.Header.Get("Proto") != want {
			t.Errorf("answer %d over %s, want 200 over %s", answer.StatusCode, answer.Header.Get("Proto"), want)
		}
	}
}

func TestHTTP1OverTLSIsScanned(t *testing.T) {
	f, roots := startTLS(t, TLSOptions{})
	for _, protos := range [][]string{nil, {"http/1.1"}} {
		conn := dialTLS(t, f.addr, roots, protos...)
		io.WriteString(conn, before+"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"+after)
		answers, err := io.ReadAll(conn)
		if err != nil {
			t.Fatal(err)
		}
		codes, _, body := statuses(t, string(answers))
		if diff := cmp.Diff([]int{200, 400}, codes); diff != "" || body != "duplicate-host\n" {
			t.Errorf("ALPN %v: last body %q, statuses mismatch (-want +got):\n%s", protos, body, diff)
		}
	}
}

// A client that does not finish its handshake holds up nobody else, and is cut.
func TestSlowHandshakesAreCut(t *testing.T) {
	f, roots := startTLS(t, TLSOptions{HandshakeTimeout: 100 * time.Millisecond, Handshakes: 2})
	var slow []net.Conn
	for range 5 { // more than handshakes at a time
		conn, err := net.Dial("tcp", f.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(20 * time.Second))
		io.WriteString(conn, "\x16\x03\x01")
		slow = append(slow, conn)
	}
	for tries := 1; ; tries++ { // on a loaded machine a good client may be too slow, too
		conn, err := tls.Dial("tcp", f.addr, &tls.Config{RootCAs: roots, ServerName: "localhost"})
		if err != nil && tries < 50 {
			continue
		} else if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(20 * time.Second))
		io.WriteString(conn, after)
		answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || answer.StatusCode != 200 {
			t.Errorf("behind slow handshakes: %v, %v; want 200", answer, err)
		}
		break
	}
	for _, conn := range slow {
		if _, err := conn.Read(make([]byte, 1)); err != io.EOF && !strings.Contains(err.Error(), "reset") {
			t.Errorf("slow handshake: %v, want the end of the connection", err)
		}
	}
}

func TestHTTPOnATLSPortIsToldSo(t *testing.T) {
	f, _ := startTLS(t, TLSOptions{})
	answer := talk(t, f.addr, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	if !strings.HasPrefix(answer, "HTTP/1.0 400 ") || !strings.Contains(answer, "HTTPS only") {
		t.Errorf("answer %q, want a 400", answer)
	}
}

// errListener is a listener whose Accept fails.
type errListener struct {
	net.Listener
	errs chan error
}

func (l errListener) Accept() (net.Conn, error) { return nil, <-l.errs }

func TestTLSListenerPassesErrorsOn(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	errs := make(chan error, 2)
	listener := TLSListener(errListener{inner, errs}, &tls.Config{}, TLSOptions{})
	for _, want := range []error{errors.New("one"), errors.New("two")} {
		errs <- want
		if _, err := listener.Accept(); err != want {
			t.Errorf("Accept = %v, want %v", err, want)
		}
	}
	errs <- net.ErrClosed // for the goroutine
	listener.Close()
	if _, err := listener.Accept(); err != nil && !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept of a closed listener = %v", err)
	}
}

func TestCertificateReload(t *testing.T) {
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	replace := func(name string, content []byte) {
		t.Helper()
		if err := os.WriteFile(name+".new", content, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(name+".new", name); err != nil {
			t.Fatal(err)
		}
	}
	now := time.Unix(1_700_000_000, 0)
	var reports []error
	load := func() (*Certificate, error) {
		report := func(err error) { reports = append(reports, err) }
		return LoadCertificate(certFile, keyFile, report, func() time.Time { return now })
	}
	if _, err := load(); err == nil || !strings.Contains(err.Error(), certFile) {
		t.Fatalf("LoadCertificate of nothing: %v, want an error that names the file", err)
	}
	cert1, key1 := pair(t, 1)
	cert2, key2 := pair(t, 2)
	replace(certFile, cert1)
	replace(keyFile, key1)
	c, err := load()
	if err != nil {
		t.Fatal(err)
	}
	check := func(when string, serial int64, reported int) {
		t.Helper()
		got, err := c.Get(nil)
		if err != nil {
			t.Fatal(err)
		}
		leaf, err := x509.ParseCertificate(got.Certificate[0])
		if err != nil {
			t.Fatal(err)
		}
		if leaf.SerialNumber.Int64() != serial || len(reports) != reported {
			t.Errorf("%s: certificate %v and %d reports (%v), want %d and %d",
				when, leaf.SerialNumber, len(reports), reports, serial, reported)
		}
	}
	check("at first", 1, 0)
	replace(certFile, cert2)
	check("within the second", 1, 0)
	now = now.Add(checkEvery)
	check("with the new certificate and the old key", 1, 1)
	now = now.Add(checkEvery)
	check("still", 1, 1)
	replace(keyFile, key2)
	now = now.Add(checkEvery)
	check("with both new", 2, 1)
	replace(certFile, []byte("broken"))
	now = now.Add(checkEvery)
	check("broken", 2, 2)
	if err := os.Remove(certFile); err != nil {
		t.Fatal(err)
	}
	now = now.Add(checkEvery)
	check("gone", 2, 3)
	replace(certFile, cert1)
	replace(keyFile, key1)
	now = now.Add(checkEvery)
	check("back", 1, 3)
}
