package rest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/fault"
)

// logs is a buffer that the server's goroutines may log to.
type logs struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// serve runs s on a free port until the test ends and returns its URL and what stops it.
func serve(t *testing.T, s *Server) (url string, stop func() error) {
	t.Helper()
	addr, err := s.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	stop = sync.OnceValue(func() error { cancel(); return <-done })
	t.Cleanup(func() { _ = stop() })
	return "http://" + addr.String(), stop
}

func echoServer(l *logs) *Server {
	s := NewServer(Options{Logger: slog.New(slog.NewTextHandler(l, nil))})
	s.Handle("POST", "/v1/orders/:id/place", func(_ context.Context, r *Request) (*Response, error) {
		if _, err := es.ParseStreamID(r.Param("id")); err != nil {
			return nil, err
		}
		if _, err := r.Only(); err != nil {
			return nil, err
		}
		var p place
		if err := r.JSON(&p); err != nil {
			return nil, err
		}
		return JSON(200, map[string]any{"id": r.Param("id"), "lines": len(p.Lines)}).Set("Etag", `"1"`), nil
	})
	s.Handle("GET", "/v1/orders/:id", func(_ context.Context, r *Request) (*Response, error) {
		switch r.Param("id") {
		case "panic":
			panic("secret in a panic")
		case "abort":
			panic(http.ErrAbortHandler)
		case "internal":
			return nil, errors.New("secret in an error")
		case "bug":
			return nil, fault.New(fault.Internal, "secret_code", "secret title")
		case "unmarshalable":
			return JSON(200, func() {}), nil
		case "none":
			return nil, nil
		case "conflict":
			return nil, fault.New(fault.PreconditionFailed, "version_conflict", "the version is another").Because("it is %d", 4).WithCurrent(4).WithFix("read again")
		case "busy":
			return nil, fmt.Errorf("wrapped: %w", fault.New(fault.Busy, "overload", "too much").After(1500*time.Millisecond))
		}
		return JSON(200, r.Param("id")), nil
	})
	s.Handle("GET", "/v1/views/:view", func(_ context.Context, r *Request) (*Response, error) {
		q, err := r.Only("limit", "cursor")
		if err != nil {
			return nil, err
		}
		return JSON(200, q), nil
	})
	s.Mount("/sub", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/sub/late":
			_, _ = io.WriteString(w, "begun")
			panic("secret after the answer began")
		case "/sub/panic":
			panic("secret in a mounted handler")
		}
		fmt.Fprintf(w, "mounted %s %s", r.Method, r.URL.EscapedPath())
	}))
	return s
}

func TestAnswers(t *testing.T) {
	l := new(logs)
	base, _ := serve(t, echoServer(l))
	long := func(n int) string { return strings.Repeat("x", n) }
	type headers map[string]string
	for _, tt := range []struct {
		name, method, path string
		headers            headers
		body               string
		status             int
		want               string // part of the body
		also               string // a header "Name: value"
	}{
		{"ok", "POST", "/v1/orders/o-1/place", nil, goodPlace, 200, `{"id":"o-1","lines":2}`, `Etag: "1"`},
		{"charset", "POST", "/v1/orders/o-1/place", headers{"Content-Type": "Application/JSON; charset=UTF-8"}, goodPlace, 200, `"o-1"`, "Content-Type: application/json"},
		{"no store", "POST", "/v1/orders/o-1/place", nil, goodPlace, 200, ``, "Cache-Control: no-store"},
		{"media type", "POST", "/v1/orders/o-1/place", headers{"Content-Type": "text/plain"}, goodPlace, 415, `"code":"unsupported_media_type"`, "Content-Type: application/problem+json"},
		{"media type missing", "POST", "/v1/orders/o-1/place", headers{"Content-Type": ""}, goodPlace, 415, `no Content-Type`, ""},
		{"media type with another parameter", "POST", "/v1/orders/o-1/place", headers{"Content-Type": "application/json; profile=x"}, goodPlace, 415, `profile`, ""},
		{"odd charset", "POST", "/v1/orders/o-1/place", headers{"Content-Type": "application/json; charset=utf-16"}, goodPlace, 415, `utf-16`, ""},
		{"vendor json", "POST", "/v1/orders/o-1/place", headers{"Content-Type": "application/x+json"}, goodPlace, 415, ``, ""},
		{"compressed", "POST", "/v1/orders/o-1/place", headers{"Content-Encoding": "gzip"}, goodPlace, 415, `"code":"unsupported_encoding"`, ""},
		{"identity", "POST", "/v1/orders/o-1/place", headers{"Content-Encoding": "identity"}, goodPlace, 200, ``, ""},
		{"body", "POST", "/v1/orders/o-1/place", nil, `{"lines":[{"quantity":"2","x":1}]}`, 400,
			`"errors":[{"pointer":"/lines/0/quantity","detail":"must be an integer, not a string"},{"pointer":"/lines/0/x","detail":"unknown field: the fields are sku, quantity, amount"}]`, ""},
		{"empty body", "POST", "/v1/orders/o-1/place", nil, ``, 400, `the body is empty`, ""},
		{"body at the limit", "POST", "/v1/orders/o-1/place", nil, goodPlace + strings.Repeat(" ", 256<<10-len(goodPlace)), 200, `"lines":2`, ""},
		{"body over the limit", "POST", "/v1/orders/o-1/place", nil, goodPlace + strings.Repeat(" ", 256<<10-len(goodPlace)+1), 413, `"code":"body_too_large"`, ""},
		{"id with a space", "POST", "/v1/orders/o%201/place", nil, goodPlace, 200, `"id":"o 1"`, ""},
		{"id escaped twice", "POST", "/v1/orders/%2541/place", nil, goodPlace, 200, `"id":"%41"`, ""},
		{"id escaped twice beside a slash", "POST", "/v1/orders/%2541%2F/place", nil, goodPlace, 400, `slash`, ""},
		{"id with an umlaut", "POST", "/v1/orders/%C3%A4/place", nil, goodPlace, 200, `"id":"ä"`, ""},
		{"id with a slash", "POST", "/v1/orders/o%2F1/place", nil, goodPlace, 400, `"code":"invalid_id"`, ""},
		{"id that looks like a route", "POST", "/v1/orders/o-1%2Fplace", nil, goodPlace, 405, ``, "Allow: OPTIONS, GET, HEAD"},
		{"id of dots", "POST", "/v1/orders/%2e%2e/place", nil, goodPlace, 400, `is a path, not an id`, ""},
		{"id with a control character", "POST", "/v1/orders/a%00b/place", nil, goodPlace, 400, `U+0000`, ""},
		{"id with a bidirectional override", "POST", "/v1/orders/a%E2%80%AEb/place", nil, goodPlace, 400, `U+202E`, ""},
		{"id that is not UTF-8", "POST", "/v1/orders/%FF/place", nil, goodPlace, 400, `not UTF-8`, ""},
		{"id too long", "POST", "/v1/orders/" + long(257) + "/place", nil, goodPlace, 400, `257 bytes`, ""},
		{"empty id", "POST", "/v1/orders//place", nil, goodPlace, 400, `it is empty`, ""},
		{"unknown route", "GET", "/v2/<script>", nil, "", 404, `"code":"route_not_found"`, "Content-Type: application/problem+json"},
		{"unknown method", "DELETE", "/v1/orders/o-1/place", nil, "", 405, `"code":"method_not_allowed"`, "Allow: OPTIONS, POST"},
		{"unexpected parameter", "POST", "/v1/orders/o-1/place?force=true", nil, goodPlace, 400, `unknown parameter \"force\"`, ""},
		{"parameters", "GET", "/v1/views/orders?limit=5&cursor=a%2Fb", nil, "", 200, `{"cursor":["a/b"],"limit":["5"]}`, ""},
		{"unknown parameter", "GET", "/v1/views/orders?limit=5&page=1&Limit=3", nil, "", 400, `unknown parameter \"Limit\"; unknown parameter \"page\"`, ""},
		{"parameter twice", "GET", "/v1/views/orders?limit=5&limit=6", nil, "", 400, `\"limit\" is given more than once`, ""},
		{"parameter not UTF-8", "GET", "/v1/views/orders?limit=%FF", nil, "", 400, `not UTF-8`, ""},
		{"malformed query", "GET", "/v1/views/orders?limit=%zz", nil, "", 400, `"code":"invalid_query"`, ""},
		{"semicolon", "GET", "/v1/views/orders?limit=1;cursor=2", nil, "", 400, `"code":"invalid_query"`, ""},
		{"URL at the limit", "GET", "/v1/orders/" + long(8<<10-11), nil, "", 200, ``, ""},
		{"URL over the limit", "GET", "/v1/orders/" + long(8<<10-10), nil, "", 414, `"code":"url_too_long"`, ""},
		{"header over the limit", "GET", "/v1/orders/o-1", headers{"X-Big": long(32 << 10)}, "", 431, `"code":"header_too_large"`, ""},
		{"header far over the limit", "GET", "/v1/orders/o-1", headers{"X-Big": long(48 << 10)}, "", 431, `"code":"header_too_large"`, "Content-Type: application/problem+json"},
		{"version conflict", "GET", "/v1/orders/conflict", nil, "", 412, `"current_version":4`, ""},
		{"fix", "GET", "/v1/orders/conflict", nil, "", 412, `"fix":"read again"`, ""},
		{"busy", "GET", "/v1/orders/busy", nil, "", 429, `"retryable":true`, "Retry-After: 2"},
		{"trace", "GET", "/v1/orders/conflict", headers{"Traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}, "", 412, `"trace_id":"0af7651916cd43dd8448eb211c80319c"`, ""},
		{"panic", "GET", "/v1/orders/panic", nil, "", 500, `"code":"internal"`, ""},
		{"internal", "GET", "/v1/orders/internal", nil, "", 500, `"code":"internal"`, ""},
		{"internal fault", "GET", "/v1/orders/bug", nil, "", 500, `"code":"internal"`, ""},
		{"answer that is no JSON", "GET", "/v1/orders/unmarshalable", nil, "", 500, `"code":"internal"`, ""},
		{"no answer", "GET", "/v1/orders/none", nil, "", 204, ``, ""},
		{"HEAD", "HEAD", "/v1/orders/o-1", nil, "", 200, ``, "Content-Type: application/json"},
		{"mounted", "PUT", "/sub/a%2Fb", nil, "", 200, `mounted PUT /sub/a%2Fb`, ""},
		{"mounted root", "GET", "/sub", nil, "", 200, `mounted GET /sub`, ""},
		{"mounted panic", "GET", "/sub/panic", nil, "", 500, `"code":"internal"`, ""},
		{"live", "GET", "/livez", nil, "", 200, "live\n", ""},
		{"live verbose", "GET", "/livez?verbose", nil, "", 200, `{"status":"live"`, ""},
		{"ready", "GET", "/readyz", nil, "", 200, "ready\n", "Content-Type: text/plain; charset=utf-8"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			req, err := http.NewRequest(tt.method, base+tt.path, strings.NewReader(tt.body))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Content-Type", "application/json")
			for k, v := range tt.headers {
				if req.Header.Set(k, v); v == "" {
					req.Header.Del(k)
				}
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			if resp.StatusCode != tt.status || !strings.Contains(string(body), tt.want) {
				t.Errorf("got %d %s\nwant %d with %s", resp.StatusCode, body, tt.status, tt.want)
			}
			if strings.Contains(string(body), "secret") {
				t.Errorf("an internal text left the process: %s", body)
			}
			if name, value, ok := strings.Cut(tt.also, ": "); ok && resp.Header.Get(name) != value {
				t.Errorf("%s: got %q, want %q", name, resp.Header.Get(name), value)
			}
			if resp.StatusCode >= 400 {
				var p Problem
				if err := json.Unmarshal(body, &p); err != nil || p.Status != resp.StatusCode || p.Type != "urn:millrace:problem:"+p.Code || p.Title == "" {
					t.Errorf("%s is not a problem document for %d: %v", body, resp.StatusCode, err)
				}
			}
		})
	}
	for _, want := range []string{"secret in a panic", "secret in an error", "secret title", "secret in a mounted handler", "unsupported type"} {
		if !strings.Contains(l.String(), want) {
			t.Errorf("the log lacks %q:\n%s", want, l)
		}
	}
	if n := strings.Count(l.String(), "\n"); n != 5 {
		t.Errorf("got %d log lines, want one for each of the 5 internal errors:\n%s", n, l)
	}
}

// What is cut off looks cut off: no complete answer comes after a panic in its middle, nor after ErrAbortHandler.
func TestAbortedAnswers(t *testing.T) {
	l := new(logs)
	base, _ := serve(t, echoServer(l))
	for _, path := range []string{"/sub/late", "/v1/orders/abort"} {
		resp, err := http.Get(base + path)
		if err == nil {
			_, err = io.ReadAll(resp.Body)
			resp.Body.Close()
		}
		if err == nil {
			t.Errorf("%s: got a complete answer", path)
		}
	}
	if strings.Count(l.String(), "\n") != 1 || !strings.Contains(l.String(), "secret after the answer began") {
		t.Errorf("got log %s", l)
	}
}

// raw sends text as it is and returns the first answer's status line and body.
func raw(t *testing.T, base, text string) (status int, body string) {
	t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(base, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatalf("%.80q: %v", text, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func TestRawRequests(t *testing.T) {
	base, _ := serve(t, echoServer(new(logs)))
	post := "POST /v1/orders/o-1/place HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
	chunked := func(n int) string {
		var b strings.Builder
		b.WriteString(post + "Transfer-Encoding: chunked\r\n\r\n")
		for range n {
			fmt.Fprintf(&b, "10000\r\n%s\r\n", strings.Repeat(" ", 1<<16))
		}
		b.WriteString("2\r\n{}\r\n0\r\n\r\n")
		return b.String()
	}
	for _, tt := range []struct {
		name, text string
		status     int
		code       string
	}{
		{"not HTTP", "hello\r\n\r\n", 400, "malformed_request"},
		{"no host", "GET / HTTP/1.1\r\n\r\n", 400, "malformed_request"},
		{"broken escape", "GET /v1/orders/%zz HTTP/1.1\r\nHost: x\r\n\r\n", 400, "malformed_request"},
		{"HTTP 3.0", "GET / HTTP/3.0\r\nHost: x\r\n\r\n", 505, "malformed_request"},
		{"unknown transfer encoding", post + "Transfer-Encoding: gzip\r\n\r\n", 501, "malformed_request"},
		{"two lengths", post + "Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", 400, "malformed_request"},
		{"header with a space", "GET / HTTP/1.1\r\nHost: x\r\nA : b\r\n\r\n", 400, "malformed_request"},
		{"chunked", chunked(3), 200, ""},
		{"chunked over the limit", chunked(5), 413, "body_too_large"},
		{"length over the limit, nothing sent", post + "Content-Length: 99999999999\r\n\r\n", 413, "body_too_large"},
		{"content type twice", post + "Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}", 415, "unsupported_media_type"},
		{"absolute form", "GET http://other.example/v1/orders/o-1 HTTP/1.1\r\nHost: x\r\n\r\n", 200, ""},
		{"method of its own", "BREW /v1/orders/o-1 HTTP/1.1\r\nHost: x\r\n\r\n", 405, "method_not_allowed"},
		{"star", "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", 200, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			status, body := raw(t, base, tt.text)
			if status != tt.status || (tt.code != "" && !strings.Contains(body, `"code":"`+tt.code+`"`)) {
				t.Errorf("got %d %s, want %d %s", status, body, tt.status, tt.code)
			}
		})
	}
}

// A body that ends early is refused, and the connection with it.
func TestBodyEndsEarly(t *testing.T) {
	base, _ := serve(t, echoServer(new(logs)))
	c, err := net.Dial("tcp", strings.TrimPrefix(base, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "POST /v1/orders/o-1/place HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{}")
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if resp.StatusCode != http.StatusBadRequest || !strings.Contains(string(body), "body_unreadable") || strings.Contains(string(body), "EOF") && !resp.Close {
		t.Errorf("got %d %s", resp.StatusCode, body)
	}
}

func TestListen(t *testing.T) {
	s := NewServer(Options{})
	addr, err := s.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, err = NewServer(Options{}).Listen(addr.String())
	if !errors.Is(err, ErrAddrInUse) || !strings.Contains(err.Error(), addr.String()) || fault.From(err).Fix == "" {
		t.Errorf("got %v, want ErrAddrInUse that names %s", err, addr)
	}
	if _, err := NewServer(Options{}).Listen("127.0.0.1:-1"); !errors.Is(err, ErrListen) {
		t.Errorf("got %v, want ErrListen", err)
	}
	if err := NewServer(Options{}).Serve(t.Context()); !errors.Is(err, ErrListen) {
		t.Errorf("Serve before Listen: got %v, want ErrListen", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Serve(ctx); err != nil {
		t.Errorf("Serve: %v", err)
	}
}

func TestRouteTwiceIsABug(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	echoServer(new(logs)).Handle("GET", "/v1/orders/:id", nil)
}

func TestReadiness(t *testing.T) {
	var caughtUp error = fault.New(fault.Unavailable, "not_caught_up", "the views are behind").Because("1000 events")
	l := new(logs)
	s := NewServer(Options{Logger: slog.New(slog.NewTextHandler(l, nil)), Checks: []Check{
		{"log", func(context.Context) error { return nil }},
		{"views", func(context.Context) error { return caughtUp }},
		{"disk", func(context.Context) error { return errors.New("secret path") }},
	}})
	get := func(path string) (int, string) {
		w := httptest.NewRecorder()
		s.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		return w.Code, w.Body.String()
	}
	if status, body := get("/readyz"); status != 503 || !strings.Contains(body, `"detail":"views: the views are behind: 1000 events; disk: failed"`) {
		t.Errorf("got %d %s", status, body)
	}
	want := `{"status":"not ready","checks":[{"name":"log","ok":true},{"name":"views","ok":false,"detail":"the views are behind: 1000 events"},{"name":"disk","ok":false,"detail":"failed"}]}`
	if status, body := get("/readyz?verbose"); status != 503 || body != want {
		t.Errorf("got %d %s, want %s", status, body, want)
	}
	if status, _ := get("/livez"); status != 200 {
		t.Errorf("a process that is not ready is alive all the same: got %d", status)
	}
	if !strings.Contains(l.String(), "secret path") {
		t.Errorf("the log lacks the hidden reason: %s", l)
	}
	if status, _ := get("/readyz?verbos"); status != 400 {
		t.Errorf("got %d for an unknown parameter", status)
	}
}

// At shutdown running requests finish, streams end, readiness fails, and Serve returns nil.
func TestDrain(t *testing.T) {
	s := NewServer(Options{})
	started, finish := make(chan struct{}), make(chan struct{})
	s.Handle("GET", "/slow", func(ctx context.Context, _ *Request) (*Response, error) {
		close(started)
		<-finish
		return JSON(200, ctx.Err() == nil), nil
	})
	streamEnded := make(chan struct{})
	s.Handle("GET", "/stream", func(context.Context, *Request) (*Response, error) {
		return &Response{ContentType: "text/event-stream", Stream: func(ctx context.Context, w *Stream) error {
			defer close(streamEnded)
			fmt.Fprint(w, "data: first\n\n")
			if err := w.Flush(); err != nil {
				return err
			}
			<-ctx.Done()
			fmt.Fprint(w, "retry: 2000\n\n")
			return nil
		}}, nil
	})
	base, stop := serve(t, s)
	stream, err := http.Get(base + "/stream")
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Body.Close()
	lines := bufio.NewReader(stream.Body)
	if got, err := lines.ReadString('\n'); got != "data: first\n" {
		t.Fatalf("got %q, %v", got, err)
	}
	slow := make(chan string, 1)
	go func() {
		resp, err := http.Get(base + "/slow")
		if err != nil {
			slow <- err.Error()
			return
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		slow <- string(b)
	}()
	<-started
	stopped := make(chan error, 1)
	go func() { stopped <- stop() }()
	<-streamEnded
	if rest, err := io.ReadAll(lines); err != nil || !strings.HasSuffix(string(rest), "retry: 2000\n\n") {
		t.Errorf("the stream ended with %q, %v", rest, err)
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/readyz", nil))
	if w.Code != 503 || !strings.Contains(w.Body.String(), "shutting down") {
		t.Errorf("readiness while draining: got %d %s", w.Code, w.Body)
	}
	close(finish)
	if got := <-slow; got != "true" {
		t.Errorf("the running request got %q", got)
	}
	if err := <-stopped; err != nil {
		t.Errorf("Serve: %v", err)
	}
	if _, err := http.Get(base + "/livez"); err == nil {
		t.Error("a connection was accepted after the drain")
	}
}

func TestDrainIsBounded(t *testing.T) {
	s := NewServer(Options{DrainTime: time.Millisecond})
	started := make(chan struct{})
	s.Handle("GET", "/stuck", func(ctx context.Context, _ *Request) (*Response, error) {
		close(started)
		<-ctx.Done() // the connection is closed at the end of the drain
		return nil, ctx.Err()
	})
	base, stop := serve(t, s)
	go func() {
		if resp, err := http.Get(base + "/stuck"); err == nil {
			resp.Body.Close()
		}
	}()
	<-started
	if err := stop(); !errors.Is(err, ErrDrain) {
		t.Errorf("got %v, want ErrDrain", err)
	}
}

func TestStreamThatFailsIsCutOff(t *testing.T) {
	l := new(logs)
	s := NewServer(Options{Logger: slog.New(slog.NewTextHandler(l, nil))})
	s.Handle("GET", "/stream", func(context.Context, *Request) (*Response, error) {
		return &Response{Stream: func(_ context.Context, w *Stream) error {
			fmt.Fprint(w, "[1,")
			return errors.New("secret store error")
		}}, nil
	})
	base, _ := serve(t, s)
	resp, err := http.Get(base + "/stream")
	if err == nil {
		_, err = io.ReadAll(resp.Body)
		resp.Body.Close()
	}
	if err == nil {
		t.Error("the stream looks complete")
	}
	if !strings.Contains(l.String(), "secret store error") {
		t.Errorf("the log lacks the error: %s", l)
	}
}

// TestHeadEndsStream: what a stream holds is let go after HEAD, too, to which it adds nothing.
func TestHeadEndsStream(t *testing.T) {
	s := NewServer(Options{})
	released := make(chan error, 1)
	s.Handle("GET", "/stream", func(context.Context, *Request) (*Response, error) {
		return &Response{Stream: func(ctx context.Context, w *Stream) error {
			fmt.Fprint(w, "row")
			released <- ctx.Err()
			return nil
		}}, nil
	})
	base, _ := serve(t, s)
	resp, err := http.Head(base + "/stream")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); resp.StatusCode != http.StatusOK || len(body) > 0 || err != nil {
		t.Errorf("%s, %q, %v", resp.Status, body, err)
	}
	if err := <-released; !errors.Is(err, context.Canceled) {
		t.Errorf("its context: %v, want one that has ended", err)
	}
}

// Connections over the limit wait instead of failing, and get their turn.
func TestConnectionLimit(t *testing.T) {
	s := NewServer(Options{MaxConnections: 1})
	base, _ := serve(t, s)
	first, err := net.Dial("tcp", strings.TrimPrefix(base, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(first, "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
	if _, err := bufio.NewReader(first).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	second, err := net.Dial("tcp", strings.TrimPrefix(base, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	fmt.Fprint(second, "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
	if err := second.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := second.Read(make([]byte, 1)); !isTimeout(err) {
		t.Errorf("the second connection got %v while the first is open, want a time-out", err)
	}
	first.Close()
	if err := second.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if got, err := bufio.NewReader(second).ReadString('\n'); got != "HTTP/1.1 200 OK\r\n" {
		t.Errorf("got %q, %v", got, err)
	}
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// Every kind has a status, and no two kinds share one by accident.
func TestStatusOfKinds(t *testing.T) {
	seen := map[int]fault.Kind{}
	for k := fault.Internal; k <= fault.Unknown; k++ {
		status := Status(fault.New(k, "some_code", "x"))
		if other, twice := seen[status]; twice || status < 400 || status > 599 {
			t.Errorf("kind %s: status %d (also of %s)", k, status, other)
		}
		seen[status] = k
	}
	if got := Status(errors.New("x")); got != 500 {
		t.Errorf("got %d", got)
	}
	if got := Status(fault.New(fault.Unknown+1, "x", "x")); got != 500 {
		t.Errorf("got %d for an unknown kind", got)
	}
}
