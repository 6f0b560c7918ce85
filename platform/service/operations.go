package service

import (
	"context"
	"encoding/base64"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/millrace/millrace/platform/command"
	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/fault"
	"github.com/millrace/millrace/platform/rest"
)

// ErrOperation and ErrTooMany are the errors of asynchronous commands.
var (
	ErrOperation = fault.New(fault.NotFound, "operation_not_found", "there is no such operation")
	ErrTooMany   = fault.New(fault.Unavailable, "overloaded", "too many operations are under way")
)

// maxOperations bounds the asynchronous commands under way, and the refusals that are remembered.
const maxOperations = 4096

// later accepts a command to be decided after the answer; the operation tells what became of it.
func (a *commandAPI[S, C, E]) later(ctx context.Context, name string, c command.Command[C]) (*rest.Response, error) {
	select {
	case a.slots <- struct{}{}:
	default:
		return nil, ErrTooMany.Because("%d", cap(a.slots)).After(time.Second)
	}
	op := operationID(a.name, c.Stream, c.ID)
	a.remember(op, errPending)
	a.under.Go(func() {
		defer func() { <-a.slots }()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), a.timeout)
		defer cancel()
		_, err := a.handle(ctx, name, c)
		a.remember(op, err)
	})
	return &rest.Response{Status: http.StatusAccepted, Header: http.Header{
		"Location":           {"/v1/operations/" + op},
		"Retry-After":        {"1"},
		"Preference-Applied": {"respond-async"},
		"Vary":               {"Prefer"},
	}}, nil
}

var errPending error = fault.New(fault.Unavailable, "operation_pending", "the operation is under way")

// remember keeps the outcome of an asynchronous command; an accepted one (nil) is in the log and needs no memory.
func (a *commandAPI[S, C, E]) remember(op string, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.outcomes == nil {
		a.outcomes = make(map[string]error)
	}
	if err == nil {
		delete(a.outcomes, op)
		return
	}
	a.outcomes[op] = err
	if err == errPending { //nolint:errorlint // the very value
		return
	}
	a.refused = append(a.refused, op)
	for len(a.refused) > maxOperations {
		// A command that is under way again under the same id is not forgotten.
		if a.outcomes[a.refused[0]] != errPending { //nolint:errorlint // the very value
			delete(a.outcomes, a.refused[0])
		}
		a.refused = a.refused[1:]
	}
}

// outcome answers GET /v1/operations/{id}: the receipt, the refusal, 202 while it is under way.
func (a *commandAPI[S, C, E]) outcome(ctx context.Context, op string, stream es.StreamID, id string) (*rest.Response, error) {
	a.mu.Lock()
	err := a.outcomes[op]
	a.mu.Unlock()
	if err == errPending { //nolint:errorlint // the very value
		return &rest.Response{Status: http.StatusAccepted, Header: http.Header{"Retry-After": {"1"}}}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	receipt, found := a.engine.Lookup(ctx, stream, id)
	switch {
	case found == nil:
		return answer(receipt)
	case err != nil:
		return nil, err
	}
	return nil, found
}

// operationID names a command so that any instance, at any time, can look it up.
func operationID(name string, stream es.StreamID, id string) string {
	return base64.RawURLEncoding.EncodeToString([]byte(name + "/" + string(stream) + "/" + url.PathEscape(id)))
}

func parseOperation(op string) (name string, stream es.StreamID, id string, err error) {
	text, err := base64.RawURLEncoding.DecodeString(op)
	parts := strings.Split(string(text), "/") // ids hold no slash
	if err != nil || len(parts) != 3 {
		return "", "", "", ErrOperation.Because("%.60q", op)
	}
	if id, err = url.PathUnescape(parts[2]); err != nil || es.CheckID(id) != nil || es.CheckID(parts[1]) != nil {
		return "", "", "", ErrOperation.Because("%.60q", op)
	}
	return parts[0], es.StreamID(parts[1]), id, nil
}

// operations is how the asynchronous commands of one aggregate are looked up.
type operations struct {
	look func(ctx context.Context, op string, stream es.StreamID, id string) (*rest.Response, error)
	may  rest.Authorizer
}

// operation adds the look-up of an aggregate's asynchronous commands.
func (h *host) operation(aggregate string, o operations) {
	h.operations[aggregate] = o
	if len(h.operations) > 1 {
		return
	}
	h.handle(route{
		method: http.MethodGet, pattern: "/v1/operations/:id", doc: operationDoc(), handler: h.lookUp,
		wants: func(r *rest.Request) (rest.Access, error) {
			name, stream, _, err := parseOperation(r.Param("id"))
			return rest.Access{Action: rest.ActOperation, Aggregate: name, Stream: stream}, err
		},
		may: func(ctx context.Context, a rest.Access) error {
			return rest.Allow(ctx, h.operations[a.Aggregate].may, a)
		},
	})
}

// lookUp answers GET /v1/operations/{id}.
func (h *host) lookUp(ctx context.Context, r *rest.Request) (*rest.Response, error) {
	op := r.Param("id")
	name, stream, id, err := parseOperation(op)
	if err != nil {
		return nil, err
	}
	if _, err := r.Only(); err != nil {
		return nil, err
	}
	o, ok := h.operations[name]
	if !ok {
		return nil, ErrOperation.Because("%.60q", op)
	}
	return o.look(ctx, op, stream, id)
}
