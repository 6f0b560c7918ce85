package forward

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// wait bounds everything that a test waits for and that should come at once.
const wait = 20 * time.Second

// serving starts an HTTP server on loopback with a Server at Path, and next also at every other path, for comparison.
func serving(t testing.TB, next http.Handler, o ServerOptions) (s *Server, addr string) {
	t.Helper()
	setDefault(&o.PingTimeout, time.Minute) // a busy machine is not what is tested
	s = NewServer(next, o)
	mux := http.NewServeMux()
	mux.Handle("GET "+Path, s)
	mux.Handle("/", next)
	h := httptest.NewServer(mux)
	t.Cleanup(func() { s.Close(); h.Close() })
	return s, h.Listener.Addr().String()
}

func pool(t testing.TB, o PoolOptions) *Pool {
	t.Helper()
	if o.Instance == "" {
		o.Instance = "shop-1"
	}
	setDefault(&o.PingTimeout, time.Minute)
	p := NewPool(o)
	t.Cleanup(p.Close)
	return p
}

func within(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// arrives waits for a value or for the end of a channel.
func arrives[T any](t testing.TB, what string, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(wait):
		t.Fatalf("%s did not come within %s", what, wait)
	}
	return v
}

var echo = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Etag", `"1"`)
	w.Header().Set("Millrace-Position", "orders.events/3@1042")
	w.WriteHeader(http.StatusOK)
	if _, err := w.Write(body); err != nil {
		panic(err)
	}
})

func texts(w io.Writer) *slog.Logger {
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// place is a request as a command service forwards it.
func place() *Request {
	return &Request{
		Method: http.MethodPost, Target: "/v1/orders/o-1001/place",
		Header: []Field{{"Content-Type", "application/json"}, {"Idempotency-Key", "0190e1f8-5a3c-7bbd-9d5e-0f6f6a0f7b11"}, {"Traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}},
		Body:   []byte(`{"customer":"c-7","lines":[{"sku":"` + strings.Repeat("A", 64) + `","quantity":2}]}`),
	}
}

// handshake returns the text with which a peer opens a connection.
func handshake(instance, session string) string {
	return "GET " + Path + " HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: " + protocol + "\r\n" +
		instanceHeader + ": " + instance + "\r\n" + sessionHeader + ": " + session + "\r\n" + bodyHeader + ": 1000000\r\n\r\n"
}

// readResponse reads the answer to a handshake, byte by byte so that nothing after it is taken.
func readResponse(t testing.TB, conn net.Conn) *http.Response {
	t.Helper()
	resp, err := answered(conn)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

func answered(conn io.Reader) (*http.Response, error) {
	var text []byte
	for b := make([]byte, 1); !bytes.HasSuffix(text, []byte("\r\n\r\n")); text = append(text, b[0]) {
		if _, err := conn.Read(b); err != nil {
			return nil, err
		}
	}
	return http.ReadResponse(bufio.NewReader(bytes.NewReader(text)), nil)
}
