package gateway

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// writePair writes a certificate for 127.0.0.1, signed by itself, and its key, each as a file that is there at once.
func writePair(t *testing.T, dir string, serial int64, roots *x509.CertPool) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "gateway"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots.AddCert(parsed)
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, kind string, bytes []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path+".new", pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: bytes}), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
		return path
	}
	return write("cert.pem", "CERTIFICATE", der), write("key.pem", "PRIVATE KEY", secret)
}

// TLS, HTTP/2 and HTTP/1.1 over it, secure cookies, and a new certificate without a new start.
func TestTLS(t *testing.T) {
	dir, roots := t.TempDir(), x509.NewCertPool()
	cert, key := writePair(t, dir, 1, roots)
	g := open(t, setup{targets: map[string]*url.URL{"chat": echo(t)}, env: map[string]string{"TLS_CERT": cert, "TLS_KEY": key}})
	if !strings.HasPrefix(g.url, "https://") {
		t.Fatalf("it is at %s", g.url)
	}
	ask := func(http2 bool, method, path, body string, header ...string) (*http.Response, string) {
		t.Helper()
		transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: http2}
		defer transport.CloseIdleConnections()
		r, err := http.NewRequestWithContext(t.Context(), method, g.url+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range header {
			name, value, _ := strings.Cut(line, ": ")
			r.Header.Add(name, value)
		}
		answer, err := transport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		text, err := io.ReadAll(answer.Body)
		if err != nil {
			t.Fatal(err)
		}
		return answer, string(text)
	}
	for _, http2 := range []bool{true, false} {
		answer, body := ask(http2, "GET", "/chat/", "", "X-User: root", "X-Forwarded-Proto: http")
		if (answer.ProtoMajor == 2) != http2 || body != "X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: https\r\n" {
			t.Errorf("HTTP/2 %v: %s %d %s", http2, answer.Proto, answer.StatusCode, body)
		}
		answer, body = ask(http2, "GET", "/chat/a%2Fb", "")
		wantProblem(t, answer, body, http.StatusBadRequest, "path-encoded-slash")
		answer, _ = ask(http2, "POST", "/login", "login=minji&password=right", form, "Origin: "+g.url)
		if line := cookieLine(answer); !strings.HasPrefix(line, "Cookie: __Host-dongne_access=") {
			t.Errorf("HTTP/2 %v: cookies %q", http2, line)
		} else if _, body := ask(http2, "GET", "/chat/", "", line, "Cookie: a=b"); !strings.Contains(body, "X-Auth-Request-User: minji") ||
			!strings.Contains(body, "Cookie: a=b\r\n") || strings.Contains(body, "dongne_") {
			t.Errorf("HTTP/2 %v: with cookies: %s", http2, body)
		}
		for _, c := range answer.Cookies() {
			if !c.Secure || !c.HttpOnly || c.Path != "/" || c.Domain != "" {
				t.Errorf("HTTP/2 %v: cookie %v", http2, c)
			}
		}
	}
	writePair(t, dir, 2, roots)
	soon(t, "the new certificate is shown", func() bool {
		answer, _ := ask(true, "GET", "/health", "")
		return answer.TLS.PeerCertificates[0].SerialNumber.Int64() == 2
	})
	plain, err := http.Get(strings.Replace(g.url, "https", "http", 1) + "/chat/")
	if err == nil {
		plain.Body.Close()
		if plain.StatusCode != http.StatusBadRequest {
			t.Errorf("without TLS: %d", plain.StatusCode)
		}
	}
}

func TestTLSRefuses(t *testing.T) {
	dir := t.TempDir()
	cert, key := writePair(t, dir, 1, x509.NewCertPool())
	for _, c := range []struct{ cert, key string }{{cert, ""}, {"", key}, {cert, cert}, {filepath.Join(dir, "none"), key}} {
		env := map[string]string{"TLS_CERT": c.cert, "TLS_KEY": c.key, "LOG_LEVEL": "error"}
		if _, err := Open(t.Context(), func(name string) string { return env[name] }, nil, nil, io.Discard); err == nil || !strings.HasPrefix(err.Error(), "TLS_CERT and TLS_KEY: ") {
			t.Errorf("Open with %+v: %v", c, err)
		}
	}
}
