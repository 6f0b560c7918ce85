package registry

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/platform/contract"
)

// issue writes a new certificate for 127.0.0.1 that vouches for itself, and its key, and returns a pool that trusts it.
func issue(t testing.TB, cert, key string, serial int64) *x509.CertPool {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "registry"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	for path, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(parsed)
	return pool
}

func TestCertificate(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	if _, err := LoadCertificate(cert, key, nil); !errors.Is(err, ErrCertificate) {
		t.Errorf("no files: got %v", err)
	}
	issue(t, cert, key, 1)
	c, err := LoadCertificate(cert, key, nil)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	c.now = func() time.Time { return now }
	serial := func() int64 {
		t.Helper()
		pair, err := c.Config().GetCertificate(nil)
		if err != nil {
			t.Fatal(err)
		}
		return pair.Leaf.SerialNumber.Int64()
	}
	step := func(what string, want int64) {
		t.Helper()
		later := now.Add(time.Minute)
		for _, path := range []string{cert, key} {
			if _, err := os.Stat(path); err == nil {
				if err := os.Chtimes(path, later, later); err != nil {
					t.Fatal(err)
				}
			}
		}
		now = later
		if got := serial(); got != want {
			t.Errorf("%s: got certificate %d, want %d", what, got, want)
		}
	}
	step("at first", 1)
	issue(t, cert, key, 2)
	if got := serial(); got != 1 {
		t.Errorf("within the pause: got certificate %d", got)
	}
	step("renewed", 2)
	if err := os.WriteFile(cert, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	step("damaged", 2)
	issue(t, cert, filepath.Join(dir, "other.pem"), 3)
	step("with the key of another", 2)
	if err := os.Remove(cert); err != nil {
		t.Fatal(err)
	}
	step("gone", 2)
	issue(t, cert, key, 4)
	step("right again", 4)
	if _, err := LoadCertificate(cert, filepath.Join(dir, "other.pem"), nil); !errors.Is(err, ErrCertificate) {
		t.Errorf("the key of another: got %v", err)
	}
}

// secure runs a registry that serves HTTPS only.
func secure(t testing.TB, addr, name string, c *Certificate, trust *x509.CertPool) *instance {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	url := "https://" + l.Addr().String()
	s, err := NewServer(t.Context(), ServerConfig{Log: connect(t, addr), Instance: name, Address: url, TLS: &tls.Config{RootCAs: trust, MinVersion: tls.VersionTLS12}})
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: s.Handler(), ReadHeaderTimeout: time.Second, ErrorLog: log.New(io.Discard, "", 0)}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 2)
	go func() { done <- s.Run(ctx) }()
	go func() { done <- server.Serve(tls.NewListener(l, c.Config())) }()
	t.Cleanup(func() {
		cancel()
		server.Close()
		<-done
		<-done
	})
	i := &instance{Server: s, url: url}
	i.claims(t)
	return i
}

// Instances that serve HTTPS forward to each other over it, and only to whom they trust; one that serves HTTP forwards to them, too.
func TestForwardOverTLS(t *testing.T) {
	addr := broker(t, "").Addr()
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	pool := issue(t, cert, key, 1)
	c, err := LoadCertificate(cert, key, nil)
	if err != nil {
		t.Fatal(err)
	}
	plain := startWith(t, addr, "plain", ServerConfig{TLS: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}})
	doubtful := start(t, addr, "doubtful") // knows nobody who vouches for the others
	one := secure(t, addr, "one", c, pool)
	two := secure(t, addr, "two", c, pool)
	for _, i := range []*instance{plain, doubtful, one} {
		eventually(t, "the others have stepped down", func() bool { standby, _, leader := i.role(); return standby && leader.Address == two.url })
	}
	trusting := &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	for n, i := range []*instance{plain, one, two} {
		client := dial(t, ClientConfig{URLs: []string{i.url}, TLS: trusting})
		id, err := client.Register(t.Context(), contract.Subject{Name: "s", Schema: recordSchema("R", "a", []string{"x=0", "y=0", "z=0"}[n])})
		if err != nil || int(id) != n+1 {
			t.Errorf("%s: got id %d, %v", i.cfg.Instance, id, err)
		}
	}
	if status, got, _ := do(t, "POST", doubtful.url+"/subjects/s/versions", body(recordSchema("R", "a", "w=0"))); status != 500 || !strings.Contains(got, "certificate") {
		t.Errorf("to one that is not trusted: %d %s", status, got)
	}
	if standby, _, _ := two.role(); standby {
		t.Error("who does not trust the writer has taken over")
	}
}
