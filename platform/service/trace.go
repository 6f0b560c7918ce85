package service

import (
	"context"

	"github.com/millrace/millrace/platform/rest"
)

// A Span is a piece of work that a Tracer is told of: a request, or one command of a batch.
type Span struct {
	Name        string // e.g. "POST /v1/orders/{id}/place"
	TraceParent string // of the request, W3C trace context version 00; "" = it had none, or none that is valid
	Access      rest.Access
}

// A Tracer is called when a piece of work begins. It returns the context to go on with; the traceparent of what it began, which the
// events of a command then carry ("" = that of the request); and what to call with the outcome when the work is done.
type Tracer func(ctx context.Context, s Span) (context.Context, string, func(error))

type traceKey struct{}

// begin tells the application's tracer of a piece of work.
func (h *host) begin(ctx context.Context, s Span) (context.Context, func(error)) {
	if h.trace == nil {
		if s.TraceParent == "" {
			return ctx, func(error) {}
		}
		return context.WithValue(ctx, traceKey{}, s.TraceParent), func(error) {}
	}
	ctx, parent, end := h.trace(ctx, s)
	if parent = traceParent(parent); parent == "" {
		parent = s.TraceParent
	}
	if end == nil {
		end = func(error) {}
	}
	return context.WithValue(ctx, traceKey{}, parent), end
}

// tracedBy returns the traceparent of the work that ctx belongs to, "" if there is none.
func tracedBy(ctx context.Context) string {
	parent, _ := ctx.Value(traceKey{}).(string)
	return parent
}

// traceParent returns a W3C trace context of version 00, or nothing: what a client makes up does not go into the log.
func traceParent(s string) string {
	if len(s) != 55 || s[:3] != "00-" || s[35] != '-' || s[52] != '-' {
		return ""
	}
	for i := range len(s) {
		if c := s[i]; c != '-' && (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return ""
		}
	}
	return s
}
