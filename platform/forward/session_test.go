package forward

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// pipes is a listener whose connections are in memory, and so in the fake time of a bubble.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}
func (p *pipes) Close() error   { p.once.Do(func() { close(p.closed) }); return nil }
func (p *pipes) Addr() net.Addr { return pipeAddr{} }

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "pipe" }

func (p *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case p.conns <- theirs:
		return ours, nil
	case <-p.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// piped starts an HTTP server on connections in memory.
func piped(t *testing.T, next http.Handler, o ServerOptions) (*Server, *pipes) {
	t.Helper()
	o.Authorize = func(*http.Request) error { return nil }
	s := NewServer(next, o)
	l := &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
	h := &http.Server{Handler: s}
	served := make(chan error, 1)
	go func() { served <- h.Serve(l) }()
	t.Cleanup(func() {
		s.Close()
		if err := h.Close(); err != nil {
			t.Error(err)
		}
		<-served
	})
	return s, l
}

// A sender opens connections by hand, which a Pool would not do at the wrong time.
type sender struct {
	t        *testing.T
	instance string
	dial     func(ctx context.Context, network, addr string) (net.Conn, error)
}

// open sends a handshake, and what is to follow it once it is accepted; the answer's status arrives at the channel.
func (s sender) open(session string) (net.Conn, <-chan int) {
	s.t.Helper()
	conn, err := s.dial(s.t.Context(), "tcp", "")
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = conn.Close() })
	status := make(chan int, 1)
	go func() {
		if _, err := io.WriteString(conn, handshake(s.instance, session)); err != nil {
			status <- 0
			return
		}
		resp, err := answered(conn)
		if err != nil {
			status <- 0
			return
		}
		status <- resp.StatusCode
	}()
	return conn, status
}

// A request of a connection whose outcome the sender does not know must not take effect after a request of a later connection. Senders
// break off in the middle of many requests, again and again, and open the next connection; handlers do not listen to their contexts.
func TestSessionsAreStrict(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	const connections, requests = 150, 40
	var mu sync.Mutex
	running, newest, begun := map[string]int{}, 0, 0
	_, addr := serving(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		of := r.Header.Get("Connection-Number")
		var number int
		if _, err := fmt.Sscan(of, &number); err != nil {
			t.Error(err)
		}
		mu.Lock()
		for other, n := range running {
			if other != of && n > 0 {
				t.Errorf("a request of connection %s begins while %d of connection %s run", of, n, other)
			}
		}
		if number < newest {
			t.Errorf("a request of connection %d begins after one of connection %d", number, newest)
		}
		newest = max(newest, number)
		running[of]++
		begun++
		mu.Unlock()
		if of != fmt.Sprint(connections) {
			<-r.Context().Done()
			for range 2000 { // some time after its context has ended
				_, _ = From(r.Context())
			}
		}
		mu.Lock()
		running[of]--
		mu.Unlock()
	}), ServerOptions{})
	s := sender{t, "shop-1", func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", addr)
	}}
	for c := 1; c <= connections; c++ {
		conn, status := s.open(fmt.Sprint("x-", c))
		if got := arrives(t, "the answer to the handshake", status); got != http.StatusSwitchingProtocols {
			t.Fatalf("connection %d: status %d", c, got)
		}
		var frames []byte
		for id := 1; id <= requests; id++ {
			frames = appendRequest(frames, uint64(id), &Request{Method: "GET", Target: "/", Header: []Field{{"Connection-Number", fmt.Sprint(c)}}}, 0)
		}
		if c < connections {
			frames = frames[:random.IntN(len(frames)+1)]
		}
		if _, err := conn.Write(frames); err != nil {
			t.Fatal(err)
		}
		if c == connections { // all of the last one are run
			in := bufio.NewReader(conn)
			for range requests {
				if f, err := readFrame(in, 1000); err != nil || f.kind != kindResponse {
					t.Fatalf("kind %d, %v", f.kind, err)
				}
			}
		}
	}
	mu.Lock()
	defer mu.Unlock()
	t.Logf("%d of at most %d requests were begun", begun, connections*requests)
	if begun <= requests {
		t.Error("no request of a broken connection was ever begun: this test shows nothing")
	}
}

func TestNextConnectionWaitsForHandlers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var events []string
		note := func(format string, args ...any) {
			mu.Lock()
			defer mu.Unlock()
			events = append(events, fmt.Sprintf(format, args...))
		}
		_, l := piped(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			note("begin %s", r.URL.Path)
			<-r.Context().Done()
			note("cancelled %s", r.URL.Path)
			<-time.After(2 * time.Second) // it has to undo something
			note("end %s", r.URL.Path)
		}), ServerOptions{PingInterval: time.Hour})
		s := sender{t, "shop-1", l.dial}
		first, status := s.open("x-1")
		if got := <-status; got != http.StatusSwitchingProtocols {
			t.Fatal(got)
		}
		if _, err := first.Write(appendRequest(nil, 1, &Request{Method: "GET", Target: "/1"}, 0)); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		began := time.Now()
		_, status = s.open("x-2")
		synctest.Wait()
		if _, err := first.Write(appendRequest(nil, 2, &Request{Method: "GET", Target: "/2"}, 0)); err == nil {
			t.Error("the first connection still takes requests")
		}
		got := <-status
		note("accepted")
		if got != http.StatusSwitchingProtocols || time.Since(began) != 2*time.Second {
			t.Errorf("status %d after %s", got, time.Since(began))
		}
		mu.Lock()
		defer mu.Unlock()
		if want := "begin /1, cancelled /1, end /1, accepted"; strings.Join(events, ", ") != want {
			t.Errorf("got %v, want %s", events, want)
		}
	})
}

func TestHandlersThatDoNotReturn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		server, l := piped(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-release }), ServerOptions{PingInterval: time.Hour})
		s := sender{t, "shop-1", l.dial}
		first, status := s.open("x-1")
		if got := <-status; got != http.StatusSwitchingProtocols {
			t.Fatal(got)
		}
		if _, err := first.Write(appendRequest(nil, 1, place(), 0)); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()

		began := time.Now()
		_, second := s.open("x-2")
		if got := <-second; got != http.StatusServiceUnavailable || time.Since(began) != 10*time.Second {
			t.Errorf("the second connection: status %d after %s", got, time.Since(began))
		}
		if _, other := (sender{t, "shop-2", l.dial}).open("y-1"); <-other != http.StatusSwitchingProtocols {
			t.Error("another instance has to wait, too")
		}

		// The third waits and the fourth overtakes it. The second comes late, and must not end what the fourth will be.
		_, third := s.open("x-3")
		synctest.Wait()
		_, fourth := s.open("x-4")
		synctest.Wait()
		if _, late := s.open("x-2"); <-late != http.StatusServiceUnavailable {
			t.Error("a connection that was overtaken on its way is accepted")
		}
		close(release)
		if got := <-third; got != http.StatusServiceUnavailable {
			t.Errorf("the third connection: status %d", got)
		}
		if got := <-fourth; got != http.StatusSwitchingProtocols {
			t.Errorf("the fourth connection: status %d", got)
		}
		if _, late := s.open("x-3"); <-late != http.StatusServiceUnavailable {
			t.Error("a connection that was overtaken on its way ends a live one")
		}
		// A process that was started again counts from one.
		if _, again := s.open("z-1"); <-again != http.StatusSwitchingProtocols {
			t.Error("a process that was started again is not let in")
		}

		server.Close()
		if _, late := (sender{t, "shop-3", l.dial}).open("y-1"); <-late != http.StatusServiceUnavailable {
			t.Error("a closed server takes connections")
		}
		server.mu.Lock()
		defer server.mu.Unlock()
		if len(server.slots) != 0 {
			t.Errorf("%d instances are remembered", len(server.slots))
		}
	})
}

func TestWaitingPeerLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		server, l := piped(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-release }), ServerOptions{PingInterval: time.Hour})
		s := sender{t, "shop-1", l.dial}
		first, status := s.open("x-1")
		if got := <-status; got != http.StatusSwitchingProtocols {
			t.Fatal(got)
		}
		if _, err := first.Write(appendRequest(nil, 1, place(), 0)); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		second, _ := s.open("x-2")
		synctest.Wait()
		if err := second.Close(); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		close(release)
		synctest.Wait()
		server.mu.Lock()
		defer server.mu.Unlock()
		if len(server.slots) != 0 {
			t.Error("a peer that left has a session")
		}
	})
}

// What was read already when the connection ended is not begun any more.
func TestEndedSessionBeginsNothing(t *testing.T) {
	n := newSession(t.Context(), NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("it was run") }), ServerOptions{}), "shop-1")
	n.base = &http.Request{}
	in := appendRequest(nil, 1, place(), 0)
	n.end(errReplaced)
	if err := n.request(frame{kind: kindRequest, id: 1, payload: in[frameHeader:]}); !errors.Is(err, errReplaced) {
		t.Errorf("got %v", err)
	}
	n.workers.Wait()
}

func TestViolationsEndTheConnection(t *testing.T) {
	_, addr := serving(t, echo, ServerOptions{})
	s := sender{t, "shop-1", func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", addr)
	}}
	number := 0
	for name, frames := range map[string][]byte{
		"twice":        appendRequest(appendRequest(nil, 1, place(), 0), 1, place(), 0),
		"backwards":    appendRequest(appendRequest(nil, 2, place(), 0), 1, place(), 0),
		"response":     []byte(raw(kindResponse, 1, "xx")),
		"goaway":       []byte(raw(kindGoaway, 0, "")),
		"unknown kind": []byte(raw(9, 1, "")),
		"malformed":    []byte(raw(kindRequest, 1, "xx")),
	} {
		number++
		conn, status := s.open(fmt.Sprint("x-", number))
		if got := arrives(t, "the answer to the handshake", status); got != http.StatusSwitchingProtocols {
			t.Fatalf("%s: status %d", name, got)
		}
		if _, err := conn.Write(frames); err != nil {
			t.Fatal(err)
		}
		if err := conn.SetReadDeadline(time.Now().Add(wait)); err != nil {
			t.Fatal(err)
		}
		var timeout net.Error
		if _, err := io.Copy(io.Discard, conn); errors.As(err, &timeout) && timeout.Timeout() {
			t.Errorf("%s: the connection stays open", name)
		}
	}
}
