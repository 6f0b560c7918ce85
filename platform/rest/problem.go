package rest

import (
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/millrace/millrace/platform/fault"
)

// Errors of the HTTP layer itself.
var (
	ErrRouteNotFound  = fault.New(fault.NotFound, "route_not_found", "there is nothing at this path")
	ErrMethod         = fault.New(fault.Unsupported, "method_not_allowed", "the method is not allowed here")
	ErrURLTooLong     = fault.New(fault.TooLarge, "url_too_long", "the URL is too long")
	ErrHeaderTooLarge = fault.New(fault.TooLarge, "header_too_large", "the request header is too large")
	ErrBodyTooLarge   = fault.New(fault.TooLarge, "body_too_large", "the request body is too large")
	ErrMediaType      = fault.New(fault.Unsupported, "unsupported_media_type", "the body's media type is not supported")
	ErrEncoding       = fault.New(fault.Unsupported, "unsupported_encoding", "compressed request bodies are not accepted")
	ErrBodyUnreadable = fault.New(fault.Invalid, "body_unreadable", "the request body ended early or came too slowly")
	ErrNotReady       = fault.New(fault.Unavailable, "not_ready", "the service is not ready")

	errInternal = fault.New(fault.Internal, "internal", "an internal error occurred")
)

// statusOfKind and statusOfCode are the one place that maps errors to status numbers; the codes are the few that HTTP has an own number for.
var (
	statusOfKind = [...]int{
		fault.Internal:             http.StatusInternalServerError,
		fault.Invalid:              http.StatusBadRequest,
		fault.Unauthenticated:      http.StatusUnauthorized,
		fault.Forbidden:            http.StatusForbidden,
		fault.NotFound:             http.StatusNotFound,
		fault.Conflict:             http.StatusConflict,
		fault.PreconditionFailed:   http.StatusPreconditionFailed,
		fault.PreconditionRequired: http.StatusPreconditionRequired,
		fault.Rejected:             http.StatusUnprocessableEntity,
		fault.TooLarge:             http.StatusRequestEntityTooLarge,
		fault.Unsupported:          http.StatusUnsupportedMediaType,
		fault.Busy:                 http.StatusTooManyRequests,
		fault.Unavailable:          http.StatusServiceUnavailable,
		fault.Unknown:              http.StatusGatewayTimeout,
	}
	statusOfCode = map[string]int{
		ErrMethod.Code:         http.StatusMethodNotAllowed,
		ErrURLTooLong.Code:     http.StatusRequestURITooLong,
		ErrHeaderTooLarge.Code: http.StatusRequestHeaderFieldsTooLarge,
	}
)

// Status returns the status number that err is answered with: 500 for anything that is not a fault.Error.
func Status(err error) int {
	e := fault.From(err)
	if e == nil || int(e.Kind) >= len(statusOfKind) {
		return http.StatusInternalServerError
	}
	if n, ok := statusOfCode[e.Code]; ok {
		return n
	}
	return statusOfKind[e.Kind]
}

// A Problem is the body of every error answer, RFC 9457 with Millrace's extension members.
type Problem struct {
	Type           string        `json:"type"`
	Title          string        `json:"title"`
	Status         int           `json:"status"`
	Detail         string        `json:"detail,omitempty"`
	Instance       string        `json:"instance,omitempty"` // the path of the request
	Code           string        `json:"code"`
	Fix            string        `json:"fix,omitempty"`
	Errors         []fault.Field `json:"errors,omitempty"`
	TraceID        string        `json:"trace_id,omitempty"`
	Retryable      bool          `json:"retryable"`
	CurrentVersion *int64        `json:"current_version,omitempty"`
}

// problem answers err, logging it first if its text must not be seen.
func (s *Server) problem(w http.ResponseWriter, r *http.Request, err error) {
	s.writeProblem(w, r, s.presentable(r, err))
}

// Problem returns the document that err is answered with, for an answer that holds several; it has no instance. What must not be seen of
// err is logged.
func (r *Request) Problem(err error) Problem {
	p := r.s.document(r.r, r.s.presentable(r.r, err))
	p.Instance = ""
	return p
}

// presentable returns err as far as its text may leave the process, and logs the rest.
func (s *Server) presentable(r *http.Request, err error) *fault.Error {
	e := fault.From(err)
	if e == nil || e.Kind == fault.Internal {
		if r.Context().Err() != nil && errors.Is(err, r.Context().Err()) {
			s.o.Logger.Debug("the client left", "method", r.Method, "path", clip(r.URL.Path))
		} else {
			s.o.Logger.Error("internal error", "method", r.Method, "path", clip(r.URL.Path), "error", err.Error())
		}
		e = errInternal
	}
	return e
}

func (s *Server) document(r *http.Request, e *fault.Error) Problem {
	return Problem{
		Type:           s.o.ProblemBase + e.Code,
		Title:          e.Title,
		Status:         Status(e),
		Detail:         e.Detail,
		Instance:       clip(r.URL.EscapedPath()),
		Code:           e.Code,
		Fix:            e.Fix,
		Errors:         e.Fields,
		TraceID:        traceID(r.Header),
		Retryable:      e.Kind.Retryable(),
		CurrentVersion: e.Current,
	}
}

func (s *Server) writeProblem(w http.ResponseWriter, r *http.Request, e *fault.Error) {
	p := s.document(r, e)
	body, err := json.Marshal(p)
	if err != nil {
		panic(err) // strings, numbers and a slice of strings always marshal
	}
	h := w.Header()
	h["Content-Type"] = typeProblem
	h["Cache-Control"] = noStore
	h["X-Content-Type-Options"] = noSniff
	retry := e.RetryAfter
	if retry == 0 && p.Retryable {
		retry = time.Second
	}
	if retry > 0 {
		h.Set("Retry-After", strconv.Itoa(int(math.Ceil(retry.Seconds()))))
	}
	if p.Status == http.StatusUnauthorized && h.Get("Www-Authenticate") == "" {
		h.Set("Www-Authenticate", "Bearer")
	}
	w.WriteHeader(p.Status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(body) // a failed write is the client's broken connection
	}
}

// traceID takes the trace id out of a W3C traceparent, "" if there is no valid one.
func traceID(h http.Header) string {
	v := h["Traceparent"]
	if len(v) != 1 || len(v[0]) < 55 || v[0][2] != '-' || v[0][35] != '-' {
		return ""
	}
	id := v[0][3:35]
	for i := range len(id) {
		if c := id[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return ""
		}
	}
	return id
}

// clip shortens what a client sent to what is worth repeating.
func clip(s string) string {
	if len(s) > 200 {
		return s[:200] + "…"
	}
	return s
}
