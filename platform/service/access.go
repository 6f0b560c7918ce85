package service

import (
	"context"
	"errors"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/rest"
)

// A route is something that a process answers to whoever may ask for it.
type route struct {
	method, pattern string                                   // as package rest has them, e.g. "/v1/orders/:id"
	wants           func(*rest.Request) (rest.Access, error) // what a request wants; the guard adds who sends it
	may             rest.Authorizer                          // the role's own rule, beside the application's; nil = none
	handler         rest.Handler
	doc             *operation // for the OpenAPI document; nil = it is not in there
}

// handle adds a route behind the guard: every request to it is authenticated, judged and traced before its handler sees it.
func (h *host) handle(rt route) {
	if rt.doc != nil {
		h.described = append(h.described, rt)
	}
	name := rt.method + " " + template(rt.pattern)
	h.http.Handle(rt.method, rt.pattern, func(ctx context.Context, r *rest.Request) (resp *rest.Response, err error) {
		// Who sends it comes first: a stranger learns nothing of what is allowed here.
		who, err := r.Principal(ctx)
		if err != nil {
			return nil, err
		}
		access, err := rt.wants(r)
		if err != nil {
			return nil, err
		}
		access.Principal, access.Header = who, r.HTTP().Header
		ctx, end := h.begin(ctx, Span{Name: name, TraceParent: traceParent(r.Header("Traceparent")), Access: access})
		err = errPanic // what remains if the handler does not return
		defer func() { end(err) }()
		if err = h.allow(ctx, rt.may, access); err != nil {
			return nil, err
		}
		resp, err = rt.handler(ctx, r)
		return resp, err
	})
}

var errPanic = errors.New("service: the handler panicked")

// allow asks the application's rule, then the role's.
func (h *host) allow(ctx context.Context, may rest.Authorizer, a rest.Access) error {
	if err := rest.Allow(ctx, h.authorize, a); err != nil {
		return err
	}
	return rest.Allow(ctx, may, a)
}

// wants returns what a request to a route without a stream wants.
func wants(a rest.Access) func(*rest.Request) (rest.Access, error) {
	return func(*rest.Request) (rest.Access, error) { return a, nil }
}

// wantsStream returns what a request to a route with a stream's id wants.
func wantsStream(a rest.Access) func(*rest.Request) (rest.Access, error) {
	return func(r *rest.Request) (_ rest.Access, err error) {
		a := a
		a.Stream, err = es.ParseStreamID(r.Param("id"))
		return a, err
	}
}
