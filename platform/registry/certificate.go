package registry

import (
	"crypto/tls"
	"errors"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/millrace/millrace/platform/fault"
)

// ErrCertificate is returned for a certificate that a server cannot use.
var ErrCertificate = fault.New(fault.Invalid, "invalid_certificate", "the server's certificate cannot be used")

// A Certificate is a server's certificate and key in two files, which are read again when they change, so that it can be renewed while
// the server runs. It is safe for concurrent use.
type Certificate struct {
	cert, key string
	logger    *slog.Logger
	now       func() time.Time

	mu      sync.Mutex
	pair    *tls.Certificate
	stamps  [2]os.FileInfo
	checked time.Time
}

// LoadCertificate reads a certificate chain and its key, PEM. What cannot be used, or is not of each other, is ErrCertificate; the same
// later is logged, and the old pair goes on.
func LoadCertificate(cert, key string, logger *slog.Logger) (*Certificate, error) {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	c := &Certificate{cert: cert, key: key, logger: logger, now: time.Now}
	return c, c.load()
}

// load reads both files. The caller has the lock, or is alone.
func (c *Certificate) load() error {
	c.checked = c.now()
	stamps, err := c.stat()
	if err != nil {
		return ErrCertificate.Wrap(err)
	}
	pair, err := tls.LoadX509KeyPair(c.cert, c.key)
	if err != nil {
		return ErrCertificate.Because("%s with %s", c.cert, c.key).Wrap(err)
	}
	c.pair, c.stamps = &pair, stamps
	return nil
}

func (c *Certificate) stat() (stamps [2]os.FileInfo, err error) {
	var errs [2]error
	for i, path := range []string{c.cert, c.key} {
		stamps[i], errs[i] = os.Stat(path)
	}
	return stamps, errors.Join(errs[:]...)
}

// current returns the pair to serve with; files are looked at every rereadAfter.
func (c *Certificate) current() *tls.Certificate {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.now().Sub(c.checked) < rereadAfter {
		return c.pair
	}
	c.checked = c.now()
	stamps, err := c.stat()
	if err == nil && same(stamps[0], c.stamps[0]) && same(stamps[1], c.stamps[1]) {
		return c.pair
	}
	if err == nil {
		err = c.load()
	}
	if err != nil {
		c.logger.Error("the new certificate of the schema registry cannot be used, the old one goes on", "error", err.Error())
	}
	return c.pair
}

func same(a, b os.FileInfo) bool { return a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size() }

// Config returns the settings of a server with this certificate: TLS 1.2 at least, HTTP/1.1.
func (c *Certificate) Config() *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		NextProtos:     []string{"http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.current(), nil },
	}
}
