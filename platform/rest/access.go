package rest

import (
	"context"
	"net/http"
	"unicode"
	"unicode/utf8"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/fault"
)

// Errors of access. An author's own faults of the kinds Unauthenticated and Forbidden do as well.
var (
	ErrUnauthenticated = fault.New(fault.Unauthenticated, "unauthenticated", "it is not known who you are")
	ErrForbidden       = fault.New(fault.Forbidden, "forbidden", "you are not allowed to do this")
)

// A Principal is who sends a request, as an Authenticator says. The zero Principal is nobody in particular.
type Principal struct {
	Name  string   // up to 256 bytes of UTF-8 without control characters; the actor of the events that its commands cause
	Roles []string // for the author's rules; Millrace itself looks at the name only
}

// An Authenticator says who sends a request. It returns ErrUnauthenticated for credentials that are missing or wrong; any error that is
// not a fault is answered as that, without its text. It must not change the request nor read its body.
type Authenticator func(ctx context.Context, r *http.Request) (Principal, error)

// An Action is the sort of thing that a request wants to do.
type Action string

// The actions, and what of an Access they have.
const (
	ActCommand   Action = "command"   // decide Command on Stream of Aggregate
	ActStream    Action = "stream"    // read Stream of Aggregate: its state, events or metadata
	ActCategory  Action = "category"  // read all streams of Aggregate
	ActOperation Action = "operation" // learn what became of a command sent to Stream of Aggregate
	ActBatch     Action = "batch"     // send commands together, each of which is an ActCommand, too
	ActView      Action = "view"      // read the row Key of View, or several rows if Key is empty
)

// An Access is what a request wants, for an Authorizer to judge.
type Access struct {
	Principal Principal
	Action    Action
	Aggregate string
	Stream    es.StreamID
	Command   string // in kebab case, as in the URL
	View      string
	Build     string // of View, if it is asked for by name; "" = whichever answers queries
	Key       string
	Header    http.Header // of the request; not to be changed
}

// An Authorizer returns nil if an access is allowed, else why not: ErrForbidden or another fault, of the kind Unavailable if it cannot be
// told now. Any error that is not a fault is answered as ErrForbidden, without its text.
type Authorizer func(ctx context.Context, a Access) error

// Principal returns who sends the request, asking the server's Authenticator the first time; the zero Principal without one.
func (r *Request) Principal(ctx context.Context) (Principal, error) {
	if r.s.o.Authenticate == nil || r.known {
		return r.principal, nil
	}
	p, err := r.s.o.Authenticate(ctx, r.r)
	if err != nil {
		if fault.From(err) == nil && ctx.Err() == nil {
			err = ErrUnauthenticated.Wrap(err)
		}
		return Principal{}, err
	}
	if err := checkActor(p.Name); err != nil {
		return Principal{}, err
	}
	r.principal, r.known = p, true
	return p, nil
}

// checkActor refuses names that a log or a header cannot take as they are: the author's mistake, not the client's.
func checkActor(name string) error {
	bad := fault.New(fault.Internal, "invalid_principal", "the authenticator returned a name that cannot be used")
	if len(name) > es.MaxIDBytes || !utf8.ValidString(name) {
		return bad.Because("%.60q", name)
	}
	for _, c := range name {
		if unicode.IsControl(c) {
			return bad.Because("%.60q", name)
		}
	}
	return nil
}

// Allow asks an Authorizer, nil = everything is allowed, and returns a fault if it does not allow the access.
func Allow(ctx context.Context, may Authorizer, a Access) error {
	if may == nil {
		return nil
	}
	err := may(ctx, a)
	if err != nil && fault.From(err) == nil && ctx.Err() == nil {
		return ErrForbidden.Wrap(err)
	}
	return err
}
