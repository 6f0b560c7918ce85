// Package rest is the HTTP face of Millrace: routes, strict JSON bodies, request conditions, problem documents (RFC 9457),
// health and a draining server. It is the only package that imports Echo and the only one that knows status numbers; a service
// author sees Handler, Request and Response. It never binds loosely, never shows the text of an internal error and logs no request.
package rest

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/millrace/millrace/platform/fault"
)

// ErrAddrInUse is returned by Listen for an address that another process listens on; callers add the name of their flag with WithFix.
var ErrAddrInUse = fault.New(fault.Conflict, "address_in_use", "the address is in use already")

// ErrListen is returned by Listen for an address that cannot be listened on for any other reason.
var ErrListen = fault.New(fault.Invalid, "cannot_listen", "cannot listen on the address")

// ErrDrain is returned by Serve if requests were still running at the end of the drain time and were cut off.
var ErrDrain = fault.New(fault.Unavailable, "drain_incomplete", "requests were cut off at shutdown")

// Options are the settings of a Server; each zero field means the default that its comment names.
type Options struct {
	Logger         *slog.Logger  // of panics, internal errors and net/http's own complaints; nothing is logged by default
	MaxBody        int64         // the longest request body in bytes; 256 KiB
	MaxURL         int           // the longest request target in bytes; 8 KiB
	MaxHeader      int           // the longest request header in bytes, the target not counted; 32 KiB
	MaxConnections int           // connections open at once, further ones wait to be accepted; 16,384
	WriteTimeout   time.Duration // from the request's header to the end of its answer, streams excepted; 60 s
	DrainTime      time.Duration // how long Serve lets running requests finish; 10 s
	ProblemBase    string        // what the code is appended to in a problem's type; "urn:millrace:problem:"
	Checks         []Check       // what /readyz asks, in this order
	TLS            *tls.Config   // serve HTTPS with it; nil = HTTP
	Document       string        // path of the document that lists the routes, told to who asks for one that is not there; none by default
	Authenticate   Authenticator // what Request.Principal asks; nil = nobody is asked who they are
}

// A Check is one named condition of readiness. Ready returns nil, or what is missing; it gets a second at most.
type Check struct {
	Name  string
	Ready func(ctx context.Context) error
}

// A Handler answers one request: with a Response, or with an error that becomes a problem document. The Request and what
// it returned that is not a copy are valid until the Handler returns. ctx ends when the client is gone.
type Handler func(ctx context.Context, r *Request) (*Response, error)

// A Server is an HTTP server with its routes. Routes are added first, then come Listen and Serve, each once.
type Server struct {
	o        Options
	echo     *echo.Echo
	http     *http.Server
	listener net.Listener
	routes   map[string]bool
	draining chan struct{} // closed when Serve starts to drain: readiness fails and streams end
	drained  atomic.Bool
}

// NewServer returns a Server with the routes /livez and /readyz and nothing else.
func NewServer(o Options) *Server {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	setDefault(&o.MaxBody, 256<<10)
	setDefault(&o.MaxURL, 8<<10)
	setDefault(&o.MaxHeader, 32<<10)
	setDefault(&o.MaxConnections, 16<<10)
	setDefault(&o.WriteTimeout, time.Minute)
	setDefault(&o.DrainTime, 10*time.Second)
	if o.ProblemBase == "" {
		o.ProblemBase = "urn:millrace:problem:"
	}
	s := &Server{o: o, echo: echo.New(), routes: map[string]bool{}, draining: make(chan struct{})}
	s.echo.HideBanner, s.echo.HidePort = true, true
	s.echo.IPExtractor = echo.ExtractIPDirect()
	s.echo.Logger.SetOutput(io.Discard) // Echo logs nothing that is not answered or logged here
	s.echo.HTTPErrorHandler = s.routingError
	s.http = &http.Server{
		Handler:           s,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       15 * time.Second,
		WriteTimeout:      o.WriteTimeout,
		IdleTimeout:       60 * time.Second,
		MaxHeaderBytes:    o.MaxHeader + o.MaxURL, // the exact limits are checked by ServeHTTP, which can answer a problem document
		ErrorLog:          slog.NewLogLogger(o.Logger.Handler(), slog.LevelDebug),
	}
	s.health()
	return s
}

func setDefault[T int | int64 | time.Duration](v *T, d T) {
	if *v == 0 {
		*v = d
	}
}

// Handle routes a method and a pattern such as "/v1/orders/:id/place" to h; GET answers HEAD too. A route given twice is a bug and panics.
func (s *Server) Handle(method, pattern string, h Handler) {
	s.add(method, pattern, func(c echo.Context) error { s.handle(c, h); return nil })
	if method == http.MethodGet {
		s.add(http.MethodHead, pattern, func(c echo.Context) error { s.handle(c, h); return nil })
	}
}

// Mount routes prefix and everything below it to h, whatever the method; h sees the whole path and has its own errors. "/" mounts h
// for all that has no route of its own.
func (s *Server) Mount(prefix string, h http.Handler) {
	for len(prefix) > 0 && prefix[len(prefix)-1] == '/' {
		prefix = prefix[:len(prefix)-1]
	}
	f := func(c echo.Context) error { s.mounted(c, h); return nil }
	for _, m := range []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions} {
		if prefix != "" {
			s.add(m, prefix, f)
		}
		s.add(m, prefix+"/*", f)
	}
}

func (s *Server) add(method, pattern string, f echo.HandlerFunc) {
	if s.routes[method+" "+pattern] {
		panic("rest: route " + method + " " + pattern + " is given twice")
	}
	s.routes[method+" "+pattern] = true
	s.echo.Add(method, pattern, f)
}

// A Route is a method with a pattern.
type Route struct{ Method, Pattern string }

// Routes returns every route of the server in the order of their patterns, those of HEAD included.
func (s *Server) Routes() []Route {
	all := make([]Route, 0, len(s.routes))
	for r := range s.routes {
		method, pattern, _ := strings.Cut(r, " ")
		all = append(all, Route{method, pattern})
	}
	slices.SortFunc(all, func(a, b Route) int {
		return cmp.Or(strings.Compare(a.Pattern, b.Pattern), strings.Compare(a.Method, b.Method))
	})
	return all
}

// ServeHTTP answers one request; it makes a Server usable without Listen, in tests and inside other servers.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if len(r.RequestURI) > s.o.MaxURL {
		w.Header().Set("Connection", "close")
		s.problem(w, r, ErrURLTooLong.Because("it has %d bytes, at most %d are allowed", len(r.RequestURI), s.o.MaxURL))
		return
	}
	size := 0
	for k, vs := range r.Header {
		for _, v := range vs {
			size += len(k) + len(v) + 4
		}
	}
	if size > s.o.MaxHeader {
		w.Header().Set("Connection", "close")
		s.problem(w, r, ErrHeaderTooLarge.Because("it has %d bytes, at most %d are allowed", size, s.o.MaxHeader))
		return
	}
	s.echo.ServeHTTP(w, r)
}

// Listen binds addr, "host:port" with port 0 for any free one, and returns the address bound; ErrAddrInUse or ErrListen if it cannot.
// Connections wait in the system's queue until Serve.
func (s *Server) Listen(addr string) (net.Addr, error) {
	l, err := net.Listen("tcp", addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, ErrAddrInUse.Because("another process listens on %s", addr).WithFix("stop it, or choose another address").Wrap(err)
	}
	if err != nil {
		return nil, ErrListen.Because("%s", addr).Wrap(err)
	}
	s.listener = newListener(l.(*net.TCPListener), s.o.MaxConnections, s.o.ProblemBase)
	return l.Addr(), nil
}

// Serve answers requests until ctx ends, then drains: it fails readiness, ends streams, takes no new connection, and gives running
// requests DrainTime to finish. It returns nil after a complete drain, else ErrDrain or why serving failed. Listen comes first.
func (s *Server) Serve(ctx context.Context) error {
	if s.listener == nil {
		return ErrListen.Because("Listen was not called")
	}
	s.http.BaseContext = func(net.Listener) context.Context { return context.WithoutCancel(ctx) }
	failed := make(chan error, 1)
	serve := func() error { return s.http.Serve(s.listener) }
	if s.o.TLS != nil {
		serve = func() error { return s.http.Serve(tls.NewListener(s.listener, s.o.TLS)) }
	}
	go func() { failed <- serve() }()
	select {
	case err := <-failed:
		s.drain()
		return ErrListen.Because("serving %s failed", s.listener.Addr()).Wrap(err)
	case <-ctx.Done():
	}
	s.drain()
	limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.o.DrainTime)
	defer cancel()
	err := s.http.Shutdown(limit)
	if err != nil {
		err = ErrDrain.Because("they ran longer than %s", s.o.DrainTime).Wrap(errors.Join(err, s.http.Close()))
	}
	if serveErr := <-failed; !errors.Is(serveErr, http.ErrServerClosed) {
		return errors.Join(serveErr, err)
	}
	return err
}

func (s *Server) drain() {
	if s.drained.CompareAndSwap(false, true) {
		close(s.draining)
	}
}
