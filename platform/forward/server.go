package forward

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/millrace/millrace/platform/fault"
)

// ServerOptions are the settings of a Server; each zero field means the default that its comment names.
type ServerOptions struct {
	MaxInFlight  int                       // requests of one connection that run at once, further ones are ErrBusy at their sender; 8,192
	MaxPending   int                       // bytes of their bodies, further ones are ErrBusy; 64 MiB
	MaxBody      int                       // longest body of a request in bytes; 4 MiB
	SettleTime   time.Duration             // how long a new connection waits for the handlers of the old one; 10 s
	PingInterval time.Duration             // silence after which the peer is pinged; 1 s
	PingTimeout  time.Duration             // silence after which the connection is given up, found within one more interval; 4 s
	Authorize    func(*http.Request) error // judges a handshake; by default only peers on loopback addresses are let in
	Logger       *slog.Logger              // of connections that come and break, and of panics; nothing is logged by default
}

// A Server takes the connections of peers and runs their requests. It is mounted at Path on an HTTP/1.1 server whose connections can be hijacked.
type Server struct {
	o    ServerOptions
	next http.Handler

	answers sync.Pool // of *answer

	mu       sync.Mutex
	slots    map[string]*slot
	refused  map[string]time.Time // when it was logged last, by peer and reason
	draining bool
	empty    chan struct{} // closed when the last session ended; made by those who wait
}

// A slot is the place of one sending instance: one session that lives, or is being ended, and the newest connection seen.
type slot struct {
	session *session
	waiting int    // handshakes that wait for the session to end
	nonce   string // of the newest connection
	number  uint64
}

// NewServer returns a Server that runs forwarded requests through next: with the deadline of the sender, a context that ends when the sender no
// longer waits, and an answer kept in memory until it is complete; From tells next who sent it.
func NewServer(next http.Handler, o ServerOptions) *Server {
	setDefault(&o.MaxInFlight, 8<<10)
	setDefault(&o.MaxPending, 64<<20)
	setDefault(&o.MaxBody, defaultBody)
	setDefault(&o.SettleTime, 10*time.Second)
	setDefault(&o.PingInterval, time.Second)
	setDefault(&o.PingTimeout, 4*time.Second)
	if o.Authorize == nil {
		o.Authorize = loopbackOnly
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Server{o: o, next: next, answers: sync.Pool{New: newAnswer}, slots: map[string]*slot{}, refused: map[string]time.Time{}}
}

var errStranger = fault.New(fault.Forbidden, "forward_forbidden", "only instances of this service may forward requests")

func loopbackOnly(r *http.Request) error {
	host, _, _ := net.SplitHostPort(r.RemoteAddr)
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return errStranger.Because("this connection does not come from the same machine").WithFix("give the instances credentials for each other")
	}
	return nil
}

// ServeHTTP shakes hands and runs the connection until it ends.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h, status, err := s.hello(r)
	if err != nil {
		if instance := fmt.Sprintf("%.256q", r.Header.Get(instanceHeader)); s.tells(r.RemoteAddr, instance, err) {
			s.o.Logger.Warn("a peer was refused", "peer", r.RemoteAddr, "instance", instance, "error", fault.Line(err))
		}
		refuse(w, status, err)
		return
	}
	n, err := s.enter(r.Context(), h)
	if err != nil {
		s.o.Logger.Warn("a peer has to wait", "peer", r.RemoteAddr, "instance", h.instance, "error", err.Error())
		refuse(w, http.StatusServiceUnavailable, err)
		return
	}
	defer s.leave(n)
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		s.o.Logger.Error("a peer's connection cannot be taken over", "peer", r.RemoteAddr, "error", err.Error())
		n.end(err)
		refuse(w, http.StatusHTTPVersionNotSupported, err)
		return
	}
	n.serve(r, conn, buffered, h.body)
}

const (
	// refusedEvery is how often at most it is logged that the same peer is refused for the same reason: it tries again several times a second.
	refusedEvery = 10 * time.Second
	// refusedMost bounds how many refused peers are remembered, for anybody can be one under any name.
	refusedMost = 1000
)

// tells reports whether it is to be logged that a peer was refused.
func (s *Server) tells(addr, instance string, err error) bool {
	host, _, _ := net.SplitHostPort(addr) // each time it comes from another port
	key := host + " " + instance + " " + err.Error()
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if told, ok := s.refused[key]; ok && now.Sub(told) < refusedEvery {
		return false
	}
	if len(s.refused) >= refusedMost {
		clear(s.refused)
	}
	s.refused[key] = now
	return true
}

// A hello is what a handshake says.
type hello struct {
	instance string
	nonce    string
	number   uint64
	body     int
}

// hello reads and judges a handshake; status is what to answer it with if err is not nil.
func (s *Server) hello(r *http.Request) (h hello, status int, err error) {
	if r.Method != http.MethodGet || r.ProtoMajor != 1 || !hasToken(r.Header, "Connection", "upgrade") || r.Header.Get("Upgrade") != protocol {
		return h, http.StatusUpgradeRequired, errProtocol.Because("this address speaks %s with the other instances of the service, and nothing else", protocol)
	}
	if err := s.o.Authorize(r); err != nil {
		return h, http.StatusForbidden, err
	}
	h.instance = r.Header.Get(instanceHeader)
	if !validInstance(h.instance) {
		return h, http.StatusBadRequest, ErrInstance.Because("%s is %.40q", instanceHeader, h.instance)
	}
	nonce, number, ok := strings.Cut(r.Header.Get(sessionHeader), "-")
	h.nonce = nonce
	if h.number, err = strconv.ParseUint(number, 10, 64); err != nil || !ok || nonce == "" || len(nonce) > 64 {
		return h, http.StatusBadRequest, ErrInstance.Because("%s is %.100q", sessionHeader, r.Header.Get(sessionHeader))
	}
	if h.body, err = strconv.Atoi(r.Header.Get(bodyHeader)); err != nil || h.body <= 0 || h.body > maxBody {
		return h, http.StatusBadRequest, ErrInstance.Because("%s is %.40q", bodyHeader, r.Header.Get(bodyHeader))
	}
	return h, 0, nil
}

var errProtocol = fault.New(fault.Unsupported, "forward_protocol", "this is not a resource")

func hasToken(h http.Header, name, token string) bool {
	for _, v := range h.Values(name) {
		for part := range strings.SplitSeq(v, ",") {
			if strings.EqualFold(strings.TrimSpace(part), token) {
				return true
			}
		}
	}
	return false
}

func validInstance(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return s != "" && len(s) <= 256
}

// refuse answers a handshake with a problem document.
func refuse(w http.ResponseWriter, status int, err error) {
	p := struct {
		Type   string `json:"type"`
		Title  string `json:"title"`
		Status int    `json:"status"`
		Detail string `json:"detail,omitempty"`
		Code   string `json:"code"`
		Fix    string `json:"fix,omitempty"`
	}{Type: "about:blank", Title: http.StatusText(status), Status: status, Code: "internal"}
	if e := fault.From(err); e != nil && e.Kind != fault.Internal {
		p.Type, p.Title, p.Detail, p.Code, p.Fix = "urn:millrace:problem:"+e.Code, e.Title, e.Detail, e.Code, e.Fix
	}
	body, err := json.Marshal(p)
	if err != nil {
		panic(err) // strings and a number always marshal
	}
	h := w.Header()
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	h.Set("Connection", "close")
	switch status {
	case http.StatusUpgradeRequired:
		h.Set("Connection", "Upgrade, close")
		h.Set("Upgrade", protocol)
	case http.StatusServiceUnavailable:
		h.Set("Retry-After", "1")
	}
	w.WriteHeader(status)
	_, _ = w.Write(body) // a failed write is the peer's broken connection
}

// enter makes the session of a new connection the one of its instance, after the one before has come to its end. ctx ends when the peer is gone.
func (s *Server) enter(ctx context.Context, h hello) (*session, error) {
	limit := time.NewTimer(s.o.SettleTime)
	defer limit.Stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	sl := s.slots[h.instance]
	if sl == nil {
		sl = &slot{}
		s.slots[h.instance] = sl
	}
	defer s.tidy(h.instance, sl)
	if sl.nonce != h.nonce && sl.nonce != "" {
		s.o.Logger.Warn("another process with the name of a connected one opens a connection", "instance", h.instance)
	}
	if sl.nonce != h.nonce || h.number > sl.number {
		sl.nonce, sl.number = h.nonce, h.number
	}
	for {
		switch {
		case s.draining:
			return nil, ErrUnsettled.Because("this instance shuts down")
		case sl.nonce != h.nonce || sl.number != h.number:
			// One that was overtaken on its way must not end the session of a later one.
			return nil, ErrUnsettled.Because("a later connection of %s has come", h.instance)
		}
		old := sl.session
		if old == nil {
			n := newSession(ctx, s, h.instance)
			sl.session = n
			return n, nil
		}
		sl.waiting++
		s.mu.Unlock()
		old.end(errReplaced)
		var err error
		select {
		case <-old.done:
		case <-ctx.Done():
			err = ErrUnsettled.Because("%s has left", h.instance)
		case <-limit.C:
			err = ErrUnsettled.Because("requests of the connection before still run after %s", s.o.SettleTime)
		}
		s.mu.Lock()
		sl.waiting--
		if err != nil {
			return nil, err
		}
	}
}

// leave frees the place of a session whose handlers have all returned.
func (s *Server) leave(n *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sl := s.slots[n.instance]
	sl.session = nil
	close(n.done)
	s.tidy(n.instance, sl)
	if s.empty != nil && s.sessions() == 0 {
		close(s.empty)
		s.empty = nil
	}
}

// tidy forgets an instance that nothing is known of any more; mu is held.
func (s *Server) tidy(instance string, sl *slot) {
	if sl.session == nil && sl.waiting == 0 {
		delete(s.slots, instance)
	}
}

func (s *Server) sessions() (n int) {
	for _, sl := range s.slots {
		if sl.session != nil {
			n++
		}
	}
	return n
}

// Shutdown takes no new connections and no new requests, which are ErrUnsent at their sender, and returns nil when all running ones have been answered
// and the connections ended. When ctx ends before, it cuts the rest off and returns ErrShutdown without waiting for their handlers.
func (s *Server) Shutdown(ctx context.Context) error {
	for _, n := range s.drain() {
		n.goAway()
	}
	select {
	case <-s.wait():
		return nil
	case <-ctx.Done():
	}
	running := 0
	for _, n := range s.drain() {
		running += n.end(errClosed)
	}
	return ErrShutdown.Because("%d were running", running).Wrap(ctx.Err())
}

// Close cuts all connections off and waits for the handlers of their requests, which are cancelled.
func (s *Server) Close() {
	for _, n := range s.drain() {
		n.end(errClosed)
	}
	<-s.wait()
}

// drain stops new sessions and returns the present ones.
func (s *Server) drain() (present []*session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.draining = true
	for _, sl := range s.slots {
		if sl.session != nil {
			present = append(present, sl.session)
		}
	}
	return present
}

// wait returns a channel that is closed when no session is left.
func (s *Server) wait() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sessions() == 0 {
		none := make(chan struct{})
		close(none)
		return none
	}
	if s.empty == nil {
		s.empty = make(chan struct{})
	}
	return s.empty
}
