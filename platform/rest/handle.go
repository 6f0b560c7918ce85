package rest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"time"

	"github.com/labstack/echo/v4"
)

// handle runs h and writes its answer.
func (s *Server) handle(c echo.Context, h Handler) {
	defer s.recovered(c)
	r := Request{c: c, r: c.Request(), s: s}
	resp, err := h(r.r.Context(), &r)
	if err != nil {
		s.problem(c.Response(), r.r, err)
		return
	}
	s.write(c, resp)
}

func (s *Server) mounted(c echo.Context, h http.Handler) {
	defer s.recovered(c)
	h.ServeHTTP(c.Response(), c.Request())
}

// recovered turns a panic into an answer without its text. Where the answer has begun already nothing true can be added to it,
// so the connection is cut and the client sees a broken answer instead of a complete-looking one.
func (s *Server) recovered(c echo.Context) {
	p := recover()
	if p == nil {
		return
	}
	if err, ok := p.(error); ok && errors.Is(err, http.ErrAbortHandler) {
		panic(p)
	}
	s.o.Logger.Error("a handler panicked", "method", c.Request().Method, "route", c.Path(), "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
	if c.Response().Committed {
		panic(http.ErrAbortHandler)
	}
	s.writeProblem(c.Response(), c.Request(), errInternal)
}

// routingError answers what Echo itself refuses: a path or a method without a route.
func (s *Server) routingError(err error, c echo.Context) {
	if c.Response().Committed {
		return
	}
	r := c.Request()
	var he *echo.HTTPError
	if errors.As(err, &he) {
		switch he.Code {
		case http.StatusNotFound:
			e := ErrRouteNotFound.Because("%s", clip(r.URL.Path))
			if s.o.Document != "" {
				e = e.WithFix("GET %s lists what is here", s.o.Document)
			}
			err = e
		case http.StatusMethodNotAllowed:
			err = ErrMethod.Because("%.20q is not one of %s", r.Method, c.Response().Header().Get("Allow"))
		}
	}
	s.problem(c.Response(), r, err)
}

// write sends a Response.
func (s *Server) write(c echo.Context, resp *Response) {
	w, r := c.Response(), c.Request()
	if resp == nil {
		resp = &Response{Status: http.StatusNoContent}
	}
	if resp.err != nil {
		s.problem(w, r, resp.err)
		return
	}
	h := w.Header()
	for k, v := range resp.Header {
		h[k] = v
	}
	if _, ok := h["Cache-Control"]; !ok {
		h["Cache-Control"] = noStore
	}
	h["X-Content-Type-Options"] = noSniff
	switch resp.ContentType {
	case "", typeJSON[0]:
		if len(resp.Body) > 0 || resp.Stream != nil {
			h["Content-Type"] = typeJSON
		}
	default:
		h.Set("Content-Type", resp.ContentType)
	}
	status := resp.Status
	if status == 0 {
		status = http.StatusOK
	}
	if resp.Stream != nil {
		s.stream(c, status, resp.Stream)
		return
	}
	w.WriteHeader(status)
	if len(resp.Body) > 0 && r.Method != http.MethodHead {
		// A failed write is the client's broken connection: nobody is left to tell.
		_, _ = w.Write(resp.Body)
	}
}

// stream sends a body of unknown length. Its context ends when the client is gone or the server drains, and no write deadline holds.
func (s *Server) stream(c echo.Context, status int, send func(context.Context, *Stream) error) {
	w, r := c.Response(), c.Request()
	rc := http.NewResponseController(w.Writer)
	if err := rc.SetWriteDeadline(time.Time{}); err != nil && !errors.Is(err, http.ErrNotSupported) {
		s.problem(w, r, err)
		return
	}
	w.WriteHeader(status)
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	if r.Method == http.MethodHead {
		cancel() // send is called all the same: it may hold something that it lets go at its end
	}
	go func() {
		select {
		case <-s.draining:
			cancel()
		case <-ctx.Done():
		}
	}()
	if err := send(ctx, &Stream{w: w, rc: rc}); err != nil && r.Method != http.MethodHead {
		if ctx.Err() == nil {
			s.o.Logger.Error("a stream failed", "route", c.Path(), "error", err.Error())
		}
		panic(http.ErrAbortHandler) // a broken answer must not look like a complete one
	}
}

var (
	typeJSON    = []string{"application/json"}
	typeProblem = []string{"application/problem+json"}
	typeText    = []string{"text/plain; charset=utf-8"}
	noStore     = []string{"no-store"}
	noSniff     = []string{"nosniff"}
)
