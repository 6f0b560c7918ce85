package forward

import (
	"context"
	"io"
	"log/slog"
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
