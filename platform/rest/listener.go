package rest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"strconv"
	"sync"

	"github.com/millrace/millrace/platform/fault"
)

// A listener accepts TCP connections, so many at once and no more.
type listener struct {
	*net.TCPListener
	slots  chan struct{}
	closed chan struct{}
	once   sync.Once
	base   string // of problem types
}

func newListener(l *net.TCPListener, connections int, base string) *listener {
	return &listener{TCPListener: l, slots: make(chan struct{}, connections), closed: make(chan struct{}), base: base}
}

// Accept waits for a free slot first: what is over the limit stays in the system's queue and costs nothing here.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case l.slots <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	c, err := l.AcceptTCP()
	if err != nil {
		<-l.slots
		return nil, err
	}
	return &conn{TCPConn: c, l: l}, nil
}

// Close stops accepting.
func (l *listener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.TCPListener.Close()
}

// A conn is an accepted connection. It stays a TCP connection for net/http, which closes its write side first when a request was
// refused before its body was read, so that the answer is not lost.
type conn struct {
	*net.TCPConn
	l    *listener
	once sync.Once
}

// Close closes the connection and frees its slot.
func (c *conn) Close() error {
	c.once.Do(func() { <-c.l.slots })
	return c.TCPConn.Close()
}

// plainError is what net/http puts between the status line and the text of an answer to a request that it cannot parse: the one
// answer that no handler sees.
var plainError = []byte("\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n")

// Write sends p; where p is net/http's own plain-text error it sends a problem document instead.
func (c *conn) Write(p []byte) (int, error) {
	// What was hijacked is no HTTP any more, and passes.
	if len(p) > len("HTTP/1.1 400") && len(p) < 1024 && string(p[:9]) == "HTTP/1.1 " && (p[9] == '4' || p[9] == '5') {
		if i := bytes.Index(p, plainError); i > 0 && bytes.IndexByte(p[:i], '\r') < 0 {
			if _, err := c.TCPConn.Write(c.problem(p, i)); err != nil {
				return 0, err
			}
			return len(p), nil
		}
	}
	return c.TCPConn.Write(p)
}

var errMalformed = fault.New(fault.Invalid, "malformed_request", "the request is not valid HTTP")

func (c *conn) problem(p []byte, statusLine int) []byte {
	status, err := strconv.Atoi(string(p[9:12]))
	if err != nil {
		return p
	}
	e := errMalformed
	if status == Status(ErrHeaderTooLarge) {
		e = ErrHeaderTooLarge
	}
	detail := bytes.TrimSpace(p[statusLine+len(plainError):])
	body, err := json.Marshal(Problem{Type: c.l.base + e.Code, Title: e.Title, Status: status, Detail: string(detail), Code: e.Code})
	if err != nil {
		return p
	}
	return fmt.Appendf(nil, "%s\r\nContent-Type: application/problem+json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", p[:statusLine], len(body), body)
}
