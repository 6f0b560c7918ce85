package forward

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func TestHandlerSeesTheRequest(t *testing.T) {
	type seen struct {
		method, uri, path, query, host, remote, from, body string
		header                                             http.Header
		length                                             int64
		left                                               time.Duration
		deadline                                           bool
	}
	var got seen
	_, addr := serving(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		got = seen{method: r.Method, uri: r.RequestURI, path: r.URL.Path, query: r.URL.RawQuery, host: r.Host, remote: r.RemoteAddr, body: string(body), header: r.Header, length: r.ContentLength}
		got.from, _ = From(r.Context())
		deadline, ok := r.Context().Deadline()
		got.left, got.deadline = time.Until(deadline), ok
		w.Header().Add("Link", "a")
		w.Header().Add("Link", "b")
		w.Header().Set("Connection", "close")
		w.Header().Set("Content-Length", "2")
		w.Header()["Date"] = nil
		w.WriteHeader(http.StatusEarlyHints)
		w.WriteHeader(http.StatusTeapot)
		w.WriteHeader(http.StatusOK)
		_, _ = io.WriteString(w, "no")
	}), ServerOptions{})
	p := pool(t, PoolOptions{Instance: "shop-7"})
	resp, err := p.Do(within(t, wait), addr, &Request{
		Method: "PATCH", Target: "/a%2Fb/c?d=e&f", Body: []byte("body"),
		Header: []Field{{"Accept", "x"}, {"accept", "y"}, {"Connection", "keep-alive"}, {"content-length", "99"}, {"Transfer-Encoding", "chunked"}, {"Host", "orders.example"}, {"Millrace-Instance", "shop-8"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if got.method != "PATCH" || got.uri != "/a%2Fb/c?d=e&f" || got.path != "/a/b/c" || got.query != "d=e&f" || got.host != "orders.example" || got.body != "body" || got.length != 4 {
		t.Errorf("the handler saw %+v", got)
	}
	if got.from != "shop-7" {
		t.Errorf("the request is from %q", got.from)
	}
	if host, _, err := net.SplitHostPort(got.remote); err != nil || host != "127.0.0.1" {
		t.Errorf("the remote address is %q", got.remote)
	}
	if !got.deadline || got.left <= 0 || got.left > wait {
		t.Errorf("the deadline is in %s (%t)", got.left, got.deadline)
	}
	if want := (http.Header{"Accept": {"x", "y"}, "Content-Length": {"4"}, "Millrace-Instance": {"shop-8"}}); fmt.Sprint(got.header) != fmt.Sprint(want) {
		t.Errorf("the header is %v, want %v", got.header, want)
	}
	if resp.Status != http.StatusTeapot || string(resp.Body) != "no" || fmt.Sprint(resp.Header) != "[{Link a} {Link b}]" {
		t.Errorf("got %+v", resp)
	}

	if _, err := p.Do(t.Context(), addr, &Request{Method: "GET", Target: "/"}); err != nil {
		t.Fatal(err)
	}
	if got.deadline || got.length != 0 || got.body != "" || got.host != addr {
		t.Errorf("without deadline and body the handler saw %+v", got)
	}
}

func TestFromIsNotAHeader(t *testing.T) {
	if who, ok := From(t.Context()); ok {
		t.Errorf("a request that came over HTTP is from %q", who)
	}
}

func TestAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		handler http.HandlerFunc
		status  int
		body    string
		err     error
	}{
		"nothing":   {handler: func(http.ResponseWriter, *http.Request) {}, status: 200},
		"body only": {handler: func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("x")) }, status: 200, body: "x"},
		"problem":   {handler: func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusUnprocessableEntity) }, status: http.StatusUnprocessableEntity, body: "no\n"},
		"no content": {handler: func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusNoContent)
			_, _ = w.Write([]byte("x"))
		}, status: http.StatusNoContent},
		"as long as may": {handler: func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, 1000)) }, status: 200, body: strings.Repeat("\x00", 1000)},
		"body too long":  {handler: func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, 1001)) }, err: ErrBroken},
		"in pieces": {handler: func(w http.ResponseWriter, _ *http.Request) {
			for range 101 {
				_, _ = io.WriteString(w, strings.Repeat("x", 10))
			}
		}, err: ErrBroken},
		"header too long": {handler: func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("A", strings.Repeat("x", 70000)) }, err: ErrBroken},
		"fields": {handler: func(w http.ResponseWriter, _ *http.Request) {
			for i := range 256 {
				w.Header().Set(fmt.Sprint("A", i), "x")
			}
		}, err: ErrBroken},
		"panic": {handler: func(http.ResponseWriter, *http.Request) { panic("on purpose") }, err: ErrBroken},
		"abort": {handler: func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusOK)
			panic(http.ErrAbortHandler)
		}, err: ErrBroken},
		"status": {handler: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(1000) }, err: ErrBroken},
	} {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			s, addr := serving(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/fine" {
					return
				}
				c.handler(w, r)
			}), ServerOptions{Logger: texts(&log)})
			p := pool(t, PoolOptions{MaxBody: 1000})
			resp, err := p.Do(within(t, wait), addr, &Request{Method: "GET", Target: "/"})
			if c.err != nil {
				if !errors.Is(err, c.err) || Unsent(err) {
					t.Errorf("got %v, want %v", err, c.err)
				}
			} else if err != nil || resp.Status != c.status || string(resp.Body) != c.body {
				t.Errorf("got %+v, %v", resp, err)
			}
			// The connection is not the worse for it.
			if resp, err := p.Do(within(t, wait), addr, &Request{Method: "GET", Target: "/fine"}); err != nil || resp.Status != http.StatusOK || len(resp.Body) > 0 {
				t.Errorf("afterwards: %+v, %v", resp, err)
			}
			p.mu.Lock()
			made := p.session
			p.mu.Unlock()
			if made != 1 {
				t.Errorf("%d connections were made", made)
			}
			s.Close()
			if got, want := strings.Contains(log.String(), "a handler panicked"), name == "panic" || name == "status"; got != want {
				t.Errorf("a panic was logged: %t\n%s", got, log.String())
			}
		})
	}
}

func TestInvalidRequests(t *testing.T) {
	_, addr := serving(t, echo, ServerOptions{})
	p := pool(t, PoolOptions{})
	for name, r := range map[string]*Request{
		"method":  {Method: "GE T", Target: "/"},
		"target":  {Method: "GET", Target: "orders"},
		"empty":   {Method: "GET"},
		"other":   {Method: "GET", Target: "http://elsewhere/"},
		"escape":  {Method: "GET", Target: "/%zz"},
		"control": {Method: "GET", Target: "/\n"},
		"name":    {Method: "GET", Target: "/", Header: []Field{{"a b", "x"}}},
		"noname":  {Method: "GET", Target: "/", Header: []Field{{"", "x"}}},
		"value":   {Method: "GET", Target: "/", Header: []Field{{"A", "x\r\nB: y"}}},
	} {
		if resp, err := p.Do(within(t, wait), addr, r); !errors.Is(err, ErrInvalid) || !Unsent(err) {
			t.Errorf("%s: %+v, %v", name, resp, err)
		}
	}
}

func TestHandshakeErrors(t *testing.T) {
	answer := func(status int, header ...string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			for i := 0; i < len(header); i += 2 {
				w.Header().Set(header[i], header[i+1])
			}
			w.WriteHeader(status)
		}
	}
	// A closed port that nothing else gets meanwhile: bound and not listening is not to be had in Go, so it is one just given back.
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := free.Addr().String()
	if err := free.Close(); err != nil {
		t.Fatal(err)
	}
	at := func(h http.Handler) string {
		s := httptest.NewServer(h)
		t.Cleanup(s.Close)
		return s.Listener.Addr().String()
	}
	_, forbidding := serving(t, echo, ServerOptions{Authorize: func(*http.Request) error { return errStranger.Because("no token") }})
	shut, shutting := serving(t, echo, ServerOptions{})
	shut.Close()
	for name, c := range map[string]struct {
		addr string
		want error
		text string
	}{
		"nobody listens":   {closed, syscall.ECONNREFUSED, closed},
		"no such route":    {at(http.NotFoundHandler()), ErrRefused, "404"},
		"broken":           {at(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })), io.ErrUnexpectedEOF, ""},
		"not now":          {at(answer(503)), ErrUnsent, "503"},
		"another protocol": {at(hijacking("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: millrace-forward/2\r\nMillrace-Max-Body: 1\r\n\r\n")), ErrRefused, "millrace-forward/2"},
		"no limit":         {at(hijacking("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: millrace-forward/1\r\n\r\n")), ErrRefused, "Millrace-Max-Body"},
		"not HTTP":         {at(hijacking("SSH-2.0-OpenSSH_9.2\r\n\r\n")), ErrUnsent, "malformed"},
		"forbidden":        {forbidding, ErrRefused, "no token"},
		"shut down":        {shutting, ErrUnsent, "shuts down"},
		"no address":       {"nowhere", ErrUnsent, "missing port"},
	} {
		p := pool(t, PoolOptions{})
		_, err := p.Do(within(t, wait), c.addr, place())
		if !errors.Is(err, c.want) || !Unsent(err) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v, want %v, unsent, with %q", name, err, c.want, c.text)
		}
		if !errors.Is(c.want, ErrRefused) && errors.Is(err, ErrRefused) {
			t.Errorf("%s: %v is for ever", name, err)
		}
	}
}

// hijacking answers every request with text and closes the connection.
func hijacking(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		_, _ = io.WriteString(conn, text)
		_ = conn.Close()
	}
}

func TestCredentials(t *testing.T) {
	_, addr := serving(t, echo, ServerOptions{Authorize: func(r *http.Request) error {
		if r.Header.Get("Authorization") != "Bearer x" {
			return errStranger
		}
		return nil
	}})
	if _, err := pool(t, PoolOptions{}).Do(within(t, wait), addr, place()); !errors.Is(err, ErrRefused) {
		t.Errorf("without credentials: %v", err)
	}
	signed := pool(t, PoolOptions{Sign: func(r *http.Request) error { r.Header.Set("Authorization", "Bearer x"); return nil }})
	if _, err := signed.Do(within(t, wait), addr, place()); err != nil {
		t.Errorf("with credentials: %v", err)
	}
	lost := errors.New("no key")
	if _, err := pool(t, PoolOptions{Sign: func(*http.Request) error { return lost }}).Do(within(t, wait), addr, place()); !errors.Is(err, ErrRefused) || !errors.Is(err, lost) || !Unsent(err) {
		t.Errorf("without a key: %v", err)
	}
}

// TestRefusedOften: that a peer is refused is logged once in a while, and again when the reason is another one.
func TestRefusedOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		why := "another secret"
		var log bytes.Buffer
		s := NewServer(echo, ServerOptions{
			Authorize: func(*http.Request) error { return errStranger.Because("%s", why).WithFix("share it") },
			Logger:    slog.New(slog.NewTextHandler(&log, nil)),
		})
		try := func(addr, instance string) {
			r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, Path, nil)
			r.RemoteAddr = addr
			for name, value := range map[string]string{"Connection": "Upgrade", "Upgrade": protocol, instanceHeader: instance} {
				r.Header.Set(name, value)
			}
			w := httptest.NewRecorder()
			s.ServeHTTP(w, r)
			if w.Code != http.StatusForbidden || !strings.Contains(w.Body.String(), `"fix":"share it"`) {
				t.Errorf("%d %s", w.Code, w.Body)
			}
		}
		lines := func(want int, what string) {
			t.Helper()
			if got := strings.Count(log.String(), "a peer was refused"); got != want {
				t.Errorf("%s: %d lines, want %d:\n%s", what, got, want, log.String())
			}
		}
		for port := range 50 {
			try(fmt.Sprint("10.0.0.1:", 4000+port), "shop-1")
		}
		lines(1, "often")
		try("10.0.0.1:1", "shop-2")
		try("10.0.0.2:1", "shop-1")
		lines(3, "others")
		why = "no secret"
		try("10.0.0.1:1", "shop-1")
		lines(4, "another reason")
		time.Sleep(refusedEvery)
		try("10.0.0.1:1", "shop-1")
		lines(5, "later")
		for n := range 3 * refusedMost {
			try("10.0.0.3:1", fmt.Sprint("x-", n))
		}
		if len(s.refused) > refusedMost {
			t.Errorf("%d refused peers are remembered", len(s.refused))
		}
	})
}

func TestLoopbackOnly(t *testing.T) {
	for addr, want := range map[string]bool{"127.0.0.1:80": true, "[::1]:80": true, "127.9.9.9:1": true, "10.0.0.1:80": false, "[::ffff:10.0.0.1]:80": false, "": false, "pipe": false} {
		if got := loopbackOnly(&http.Request{RemoteAddr: addr}) == nil; got != want {
			t.Errorf("%q is let in: %t", addr, got)
		}
	}
}

func TestHandshakesThatAreNone(t *testing.T) {
	s, addr := serving(t, echo, ServerOptions{})
	good := map[string]string{"Connection": "keep-alive, upgrade", "Upgrade": protocol, instanceHeader: "shop-1", sessionHeader: "x-1", bodyHeader: "1000"}
	for name, c := range map[string]struct {
		field, value string
		status       int
	}{
		"good":             {"Accept", "*/*", 101},
		"curl":             {"Connection", "", 426},
		"websocket":        {"Upgrade", "websocket", 426},
		"other version":    {"Upgrade", "millrace-forward/2", 426},
		"no instance":      {instanceHeader, "", 400},
		"instance":         {instanceHeader, "a b", 400},
		"long":             {instanceHeader, strings.Repeat("a", 257), 400},
		"no session":       {sessionHeader, "", 400},
		"session":          {sessionHeader, "x-", 400},
		"negative":         {sessionHeader, "x--1", 400},
		"no body":          {bodyHeader, "", 400},
		"body 0":           {bodyHeader, "0", 400},
		"body of a planet": {bodyHeader, "99999999999", 400},
	} {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		text := "GET " + Path + " HTTP/1.1\r\nHost: x\r\n"
		for k, v := range good {
			if k != c.field && v != "" {
				text += k + ": " + v + "\r\n"
			}
		}
		if c.value != "" {
			text += c.field + ": " + c.value + "\r\n"
		}
		if _, err := io.WriteString(conn, text+"\r\n"); err != nil {
			t.Fatal(err)
		}
		resp := readResponse(t, conn)
		if resp.StatusCode != c.status {
			t.Errorf("%s: status %d, want %d", name, resp.StatusCode, c.status)
		}
		if got := resp.Header.Get("Upgrade"); (c.status == 101 || c.status == 426) && got != protocol {
			t.Errorf("%s: upgrade to %q", name, got)
		}
		if err := conn.Close(); err != nil {
			t.Fatal(err)
		}
	}
	s.Close()
}

func TestFramesBeforeTheHandshakeIsAnswered(t *testing.T) {
	ran := make(chan struct{}, 1)
	s, addr := serving(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { ran <- struct{}{} }), ServerOptions{})
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write(appendRequest([]byte(handshake("shop-1", "x-1")), 1, place(), 0)); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(conn); len(got) > 0 {
		t.Errorf("answered %q, %v", got, err)
	}
	s.Close()
	if len(ran) > 0 {
		t.Error("the request was run")
	}
}

func TestBusy(t *testing.T) {
	entered, release := make(chan struct{}, 10), make(chan struct{})
	_, addr := serving(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { entered <- struct{}{}; <-release }), ServerOptions{MaxInFlight: 2, MaxPending: 5000})
	p := pool(t, PoolOptions{})
	ctx := within(t, wait)
	var running sync.WaitGroup
	ask := func(body int) {
		running.Go(func() {
			if _, err := p.Do(ctx, addr, &Request{Method: "PUT", Target: "/", Body: make([]byte, body)}); err != nil {
				t.Error(err)
			}
		})
		arrives(t, "the handler", entered)
	}
	refused := func(body int, why string) {
		t.Helper()
		if _, err := p.Do(ctx, addr, &Request{Method: "PUT", Target: "/", Body: make([]byte, body)}); !errors.Is(err, ErrBusy) || !Unsent(err) || !strings.Contains(err.Error(), why) {
			t.Errorf("%d bytes while others run: %v", body, err)
		}
	}
	ask(6000) // longer than may be pending, but alone
	refused(1, "bytes")
	release <- struct{}{}
	running.Wait()
	ask(100)
	refused(4900, "bytes")
	ask(100)
	refused(100, "2 requests")
	close(release)
	running.Wait()
	ask(100)
	running.Wait()
}

func TestContextEnds(t *testing.T) {
	entered, left, release := make(chan struct{}), make(chan error), make(chan struct{})
	_, addr := serving(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/fast" {
			return
		}
		entered <- struct{}{}
		if r.URL.Path == "/deaf" {
			<-release
			return
		}
		<-r.Context().Done()
		left <- r.Context().Err()
	}), ServerOptions{})
	p := pool(t, PoolOptions{})
	for _, path := range []string{"/waits", "/deaf"} {
		ctx, cancel := context.WithCancel(t.Context())
		failed := make(chan error, 1)
		go func() {
			_, err := p.Do(ctx, addr, &Request{Method: "GET", Target: path})
			failed <- err
		}()
		arrives(t, "the handler", entered)
		cancel()
		if err := arrives(t, "Do", failed); !errors.Is(err, ErrUnanswered) || !errors.Is(err, context.Canceled) || Unsent(err) {
			t.Errorf("%s: %v", path, err)
		}
		if path == "/waits" {
			if err := arrives(t, "the handler's end", left); !errors.Is(err, context.Canceled) {
				t.Errorf("the handler's context ended with %v", err)
			}
		}
	}
	// The late answer is for nobody, and the memory that the call had is another's now.
	close(release)
	for range 100 {
		if resp, err := p.Do(within(t, wait), addr, &Request{Method: "GET", Target: "/fast"}); err != nil || resp.Status != http.StatusOK {
			t.Fatalf("%+v, %v", resp, err)
		}
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.Do(ended, addr, place()); !Unsent(err) || !errors.Is(err, context.Canceled) {
		t.Errorf("with an ended context: %v", err)
	}
	if _, err := p.Do(ended, "127.0.0.1:1", place()); !Unsent(err) || !errors.Is(err, context.Canceled) {
		t.Errorf("with an ended context and no connection: %v", err)
	}
}

func TestManyAtOnce(t *testing.T) {
	const n = 10_000
	var inside, most atomic.Int64
	all := make(chan struct{})
	_, addr := serving(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		most.Store(max(most.Load(), inside.Add(1)))
		if inside.Load() == n {
			close(all)
		}
		<-all // all of them are running at once
		_, _ = io.WriteString(w, r.URL.Path)
	}), ServerOptions{MaxInFlight: n})
	p := pool(t, PoolOptions{})
	ctx := within(t, time.Minute)
	var callers sync.WaitGroup
	for i := range n {
		callers.Go(func() {
			want := fmt.Sprint("/", i)
			if resp, err := p.Do(ctx, addr, &Request{Method: "GET", Target: want}); err != nil || string(resp.Body) != want {
				t.Errorf("%s: %+v, %v", want, resp, err)
			}
		})
	}
	callers.Wait()
	if p.session != 1 {
		t.Errorf("%d connections were made", p.session)
	}
}

func TestSlowHandlerDoesNotBlockOthers(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	_, addr := serving(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			entered <- struct{}{}
			<-release
		}
		_, _ = io.WriteString(w, r.URL.Path)
	}), ServerOptions{})
	p := pool(t, PoolOptions{})
	ctx := within(t, wait)
	slow := make(chan error, 1)
	go func() {
		resp, err := p.Do(ctx, addr, &Request{Method: "GET", Target: "/slow"})
		if err == nil && string(resp.Body) != "/slow" {
			err = errors.New("it got another's answer")
		}
		slow <- err
	}()
	arrives(t, "the slow handler", entered)
	for range 1000 {
		if resp, err := p.Do(ctx, addr, &Request{Method: "GET", Target: "/fast"}); err != nil || string(resp.Body) != "/fast" {
			t.Fatalf("%+v, %v", resp, err)
		}
	}
	close(release)
	if err := arrives(t, "the slow answer", slow); err != nil {
		t.Error(err)
	}
}

func TestLargeBodiesAmongSmallOnes(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	_, addr := serving(t, echo, ServerOptions{MaxPending: 1 << 30})
	p := pool(t, PoolOptions{})
	ctx := within(t, time.Minute)
	var callers sync.WaitGroup
	for i := range 16 {
		callers.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(i)))
			for j := range 10 {
				size := r.IntN(200)
				switch {
				case j%5 == 0:
					size = 1 << 20
				case j%5 == 1:
					size = readBuffer - 200 + r.IntN(400) // about what the buffer holds
				}
				body := bytes.Repeat(fmt.Appendf(nil, "%d.%d,", i, j), size/4+1)[:size]
				resp, err := p.Do(ctx, addr, &Request{Method: "PUT", Target: "/", Body: body})
				if err != nil || !bytes.Equal(resp.Body, body) {
					t.Errorf("caller %d, %d bytes: %v", i, size, err)
					return
				}
			}
		})
	}
	callers.Wait()
}

func TestOwnAddress(t *testing.T) {
	var p *Pool
	var addr string
	_, addr = serving(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/" {
			resp, err := p.Do(r.Context(), addr, &Request{Method: "GET", Target: "/again"})
			if err != nil {
				t.Error(err)
				return
			}
			_, _ = w.Write(resp.Body)
			return
		}
		who, _ := From(r.Context())
		_, _ = io.WriteString(w, who)
	}), ServerOptions{})
	p = pool(t, PoolOptions{Instance: "itself"})
	if resp, err := p.Do(within(t, wait), addr, &Request{Method: "GET", Target: "/"}); err != nil || string(resp.Body) != "itself" {
		t.Errorf("%+v, %v", resp, err)
	}
}

func TestTLS(t *testing.T) {
	s := NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprint(w, r.TLS != nil)
	}), ServerOptions{})
	h := httptest.NewUnstartedServer(s)
	h.EnableHTTP2 = true
	h.StartTLS()
	t.Cleanup(func() { s.Close(); h.Close() })
	addr := h.Listener.Addr().String()
	trusting := h.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	if resp, err := pool(t, PoolOptions{TLS: trusting}).Do(within(t, wait), addr, place()); err != nil || string(resp.Body) != "true" {
		t.Errorf("%+v, %v", resp, err)
	}
	strict := trusting.Clone()
	strict.RootCAs = nil
	if _, err := pool(t, PoolOptions{TLS: strict}).Do(within(t, wait), addr, place()); !Unsent(err) || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("with a certificate of nobody: %v", err)
	}
	if _, err := pool(t, PoolOptions{}).Do(within(t, wait), addr, place()); !Unsent(err) {
		t.Errorf("in plain text: %v", err)
	}
}

func TestOnForward(t *testing.T) {
	_, addr := serving(t, echo, ServerOptions{})
	var got []string
	p := pool(t, PoolOptions{OnForward: func(to string, status int, err error, took time.Duration) {
		got = append(got, fmt.Sprint(to == addr, status, err != nil, took > 0))
	}})
	if _, err := p.Do(within(t, wait), addr, place()); err != nil {
		t.Error(err)
	}
	if _, err := p.Do(within(t, wait), addr, &Request{}); err == nil {
		t.Error("no error")
	}
	if want := "[true 200 false true true 0 true true]"; fmt.Sprint(got) != want {
		t.Errorf("got %v, want %s", got, want)
	}
}

func TestPoolClose(t *testing.T) {
	entered := make(chan struct{}, 1)
	_, addr := serving(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { entered <- struct{}{}; <-r.Context().Done() }), ServerOptions{})
	p := pool(t, PoolOptions{})
	failed := make(chan error, 1)
	go func() {
		_, err := p.Do(t.Context(), addr, place())
		failed <- err
	}()
	arrives(t, "the handler", entered)
	p.Close()
	if err := arrives(t, "Do", failed); !errors.Is(err, ErrBroken) || Unsent(err) {
		t.Errorf("what was running: %v", err)
	}
	if _, err := p.Do(t.Context(), addr, place()); !Unsent(err) {
		t.Errorf("afterwards: %v", err)
	}
	p.Close()
}
