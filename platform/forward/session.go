package forward

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// idleWorkers is how many goroutines wait for further requests of a connection: their stacks have grown to what a handler needs.
const idleWorkers = 64

var errReplaced = errors.New("the sender opened another connection")

// A session is the server's side of a connection.
type session struct {
	*wire
	server   *Server
	instance string
	done     chan struct{} // closed when all handlers have returned
	ctx      context.Context
	cancel   context.CancelFunc
	base     *http.Request // what all requests have in common
	body     int           // longest body that the peer takes

	jobs    chan *job
	idle    atomic.Int32
	workers sync.WaitGroup

	// guarded by wire.mu
	running map[uint64]context.CancelFunc
	pending int // bytes of the bodies of running requests
	last    uint64
	leaving bool // takes no new requests
}

// A job is one request to be run.
type job struct {
	id     uint64
	req    *http.Request
	cancel context.CancelFunc
	size   int
	body   bodyReader
}

type bodyReader struct{ bytes.Reader }

func (*bodyReader) Close() error { return nil }

func newSession(ctx context.Context, s *Server, instance string) *session {
	n := &session{
		wire:   newWire(s.o.MaxBody+maxHeader, s.o.PingInterval, s.o.PingTimeout),
		server: s, instance: instance, done: make(chan struct{}), jobs: make(chan *job), running: map[uint64]context.CancelFunc{},
	}
	n.ctx, n.cancel = context.WithCancel(context.WithValue(ctx, instanceKey{}, instance))
	return n
}

// end cancels what runs and closes the connection, and returns how many requests were running. When it returns, no further handler is begun.
func (n *session) end(reason error) int {
	n.close(reason)
	n.cancel()
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.running)
}

// goAway takes no new requests; the peer closes the connection when it has all answers.
func (n *session) goAway() {
	n.mu.Lock()
	n.leaving = true
	n.mu.Unlock()
	n.send(kindGoaway)
}

// serve answers the handshake r and runs the connection. When it returns, all handlers have.
func (n *session) serve(r *http.Request, conn net.Conn, buffered *bufio.ReadWriter, body int) {
	log := n.server.o.Logger.With("peer", conn.RemoteAddr().String(), "instance", n.instance)
	reason := n.begin(r, conn, buffered, body)
	if reason == nil {
		log.Debug("a peer connected")
		n.workers.Go(n.write)
		n.workers.Go(n.watch)
		reason = n.read()
	}
	if errors.Is(reason, io.EOF) {
		reason = errEnded
	}
	running := n.end(reason)
	_ = conn.Close() // also if it was never attached
	n.workers.Wait()
	n.mu.Lock()
	reason = n.reason
	n.mu.Unlock()
	if running > 0 || !errors.Is(reason, errEnded) {
		log.Warn("the connection of a peer broke", "reason", reason.Error(), "running", running)
		return
	}
	log.Debug("the connection of a peer ended")
}

func (n *session) begin(r *http.Request, conn net.Conn, buffered *bufio.ReadWriter, body int) error {
	n.body = body
	n.base = &http.Request{Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Host: r.Host, RemoteAddr: r.RemoteAddr, TLS: r.TLS}
	if buffered.Reader.Buffered() > 0 {
		return fmt.Errorf("%w: it came before the handshake was answered", errFrame)
	}
	if err := conn.SetDeadline(time.Time{}); err != nil { // the HTTP server's
		return err
	}
	if !n.attach(conn) {
		return errClosed
	}
	_, err := io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+protocol+
		"\r\n"+bodyHeader+": "+strconv.Itoa(n.server.o.MaxBody)+"\r\n\r\n")
	return err
}

func (n *session) read() error {
	for {
		f, err := readFrame(n.in, n.limit)
		if err != nil {
			return err
		}
		switch f.kind {
		case kindRequest:
			err = n.request(f)
		case kindCancel:
			n.mu.Lock()
			cancel := n.running[f.id]
			n.mu.Unlock()
			if cancel != nil {
				cancel()
			}
		case kindPing:
			n.send(kindPong)
		case kindPong:
		default:
			err = fmt.Errorf("%w: kind %d from the peer that asks", errFrame, f.kind)
		}
		if err != nil {
			return err
		}
	}
}

// request begins to run a request, or refuses it. An error ends the connection.
func (n *session) request(f frame) error {
	n.mu.Lock()
	if len(n.buf) >= queueLimit {
		// The peer does not fetch its answers, so it gets no new ones.
		n.paused.Store(true)
		_ = n.awaitRoom(n.ctx) // if it ended, the wire is dead
		n.paused.Store(false)
	}
	reason, leaving, id := n.reason, n.leaving, n.last
	running, pending := len(n.running), n.pending
	n.last = f.id
	n.mu.Unlock()
	switch o := n.server.o; {
	case reason != nil:
		return reason
	case f.id <= id:
		return fmt.Errorf("%w: request %d after %d", errFrame, f.id, id)
	case leaving:
		n.refuse(f.id, reasonDraining, "")
		return nil
	case running >= o.MaxInFlight:
		n.refuse(f.id, reasonBusy, fmt.Sprintf("%d requests are running", running))
		return nil
	case pending > 0 && pending+len(f.payload) > o.MaxPending:
		n.refuse(f.id, reasonBusy, fmt.Sprintf("requests of %d bytes are running", pending))
		return nil
	}
	m, err := parseRequest(f.payload)
	if err != nil {
		return err
	}
	if len(m.body) > n.server.o.MaxBody {
		return fmt.Errorf("%w: a body of %d bytes, at most %d are allowed", errFrame, len(m.body), n.server.o.MaxBody)
	}
	if !f.owned {
		m.body = bytes.Clone(m.body)
	}
	j := &job{id: f.id, size: len(f.payload)}
	if err := n.prepare(j, m); err != nil {
		n.refuse(f.id, reasonInvalid, err.Error())
		return nil
	}
	n.mu.Lock()
	if reason := n.reason; reason != nil {
		n.mu.Unlock()
		j.cancel()
		return reason
	}
	n.running[j.id] = j.cancel
	n.pending += j.size
	n.mu.Unlock()
	select {
	case n.jobs <- j:
	default:
		n.workers.Go(func() { n.work(j) })
	}
	return nil
}

// prepare makes the request that the handler sees.
func (n *session) prepare(j *job, m message) error {
	if !validToken(m.method) {
		return fmt.Errorf("its method is %.40q", m.method)
	}
	if m.target == "" || m.target[0] != '/' {
		return fmt.Errorf("its target %.100q does not begin with a slash", m.target)
	}
	at, err := url.ParseRequestURI(m.target)
	if err != nil {
		return fmt.Errorf("its target %.100q is malformed", m.target)
	}
	h, err := header(m.fields)
	if err != nil {
		return err
	}
	ctx := n.ctx
	var cancel context.CancelFunc
	if m.left > 0 {
		ctx, cancel = context.WithTimeout(ctx, m.left)
	} else {
		ctx, cancel = context.WithCancel(ctx)
	}
	r := n.base.WithContext(ctx)
	r.Method, r.URL, r.RequestURI, r.Header = m.method, at, m.target, h
	if host := h["Host"]; host != nil {
		r.Host = host[0]
		delete(h, "Host")
	}
	r.Body, r.ContentLength = http.NoBody, int64(len(m.body))
	if len(m.body) > 0 {
		j.body.Reset(m.body)
		r.Body = &j.body
		h["Content-Length"] = []string{strconv.Itoa(len(m.body))}
	}
	j.req, j.cancel = r, cancel
	return nil
}

// work runs a request, and then others for as long as there are some.
func (n *session) work(j *job) {
	for {
		n.run(j)
		if n.idle.Add(1) > idleWorkers {
			n.idle.Add(-1)
			return
		}
		select {
		case j = <-n.jobs:
			n.idle.Add(-1)
		case <-n.dead:
			return
		}
	}
}

// run runs one request and sends its answer.
func (n *session) run(j *job) {
	a := n.server.answers.Get().(*answer)
	a.reset(j.id, n.body)
	finished := false
	defer func() {
		if p := recover(); !finished {
			// A nil p is a handler that ended its goroutine.
			if err, ok := p.(error); p != nil && !(ok && errors.Is(err, http.ErrAbortHandler)) {
				n.server.o.Logger.Error("a handler panicked", "method", j.req.Method, "instance", n.instance, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			}
		}
		j.cancel()
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.running, j.id)
		n.pending -= j.size
		if n.reason != nil {
			return
		}
		was := len(n.buf)
		switch {
		case !finished:
			n.buf = appendRefusal(n.buf, j.id, reasonAborted, "")
		case a.failed != "":
			n.buf = appendRefusal(n.buf, j.id, reasonTooLong, a.failed)
		default:
			n.buf = append(n.buf, a.buf...)
		}
		n.wake(was)
		if finished {
			n.server.answers.Put(a) // a handler that did not return may still hold on to it
		}
	}()
	if n.ctx.Err() == nil {
		n.server.next.ServeHTTP(a, j.req)
		a.finish()
		finished = true
	}
}
