package service

import (
	"context"
	"encoding/base64"
	"errors"
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
func (a *commandAPI[S, C, E]) later(ctx context.Context, name string, c command.Command[C], r *rest.Request) (*rest.Response, error) {
	r.HTTP().Header.Set("Idempotency-Key", c.ID)
	var body []byte
	if r.HasBody() {
		var err error
		if body, err = r.Body(); err != nil {
			return nil, err
		}
	}
	remote := remoteOf(r, body)
	select {
	case a.slots <- struct{}{}:
	default:
		return nil, ErrTooMany.Because("%d", cap(a.slots)).After(time.Second)
	}
	op := operationID(a.name, c.Stream, c.ID, a.host.advertise)
	a.remember(op, errPending)
	a.under.Go(func() {
		defer func() { <-a.slots }()
		resp, err := a.dispatch(context.WithoutCancel(ctx), c.Stream, func(ctx context.Context) (*rest.Response, error) {
			c.Repeat = repeated(ctx, func(string) string { return "" })
			return a.decide(ctx, name, c)
		}, remote)
		if err == nil && resp.Status >= http.StatusBadRequest {
			err = &refusedThere{resp}
		}
		a.remember(op, err)
	})
	return &rest.Response{Status: http.StatusAccepted, Header: http.Header{
		"Location":           {"/v1/operations/" + op},
		"Retry-After":        {"1"},
		"Preference-Applied": {"respond-async"},
		"Vary":               {"Prefer"},
	}}, nil
}

// refusedThere is the outcome of a command that another instance refused: what it answered.
type refusedThere struct{ resp *rest.Response }

func (*refusedThere) Error() string { return "refused by the owner of the stream" }

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

// outcome answers GET /v1/operations/{id}: the receipt, the refusal, 202 while it is under way. What was refused only the instance knows
// that accepted the command; what took effect, the owner of its stream.
func (a *commandAPI[S, C, E]) outcome(ctx context.Context, r *rest.Request, op operationOf) (*rest.Response, error) {
	a.mu.Lock()
	err := a.outcomes[r.Param("id")]
	a.mu.Unlock()
	if err == errPending { //nolint:errorlint // the very value
		return &rest.Response{Status: http.StatusAccepted, Header: http.Header{"Retry-After": {"1"}}}, nil
	}
	remote := remoteOf(r, nil)
	look := func(ctx context.Context) (*rest.Response, error) {
		receipt, err := a.engine.Lookup(ctx, op.stream, op.id)
		if err != nil {
			return nil, err
		}
		return answer(receipt)
	}
	if passedOn(ctx, r) {
		if err != nil {
			return a.refusal(err)
		}
		return look(ctx)
	}
	// Whoever asks may have made the operation up: only an instance that owns something is asked, for it is shown the instances' secret.
	if err == nil && op.at != a.host.advertise && a.engine.Owns(op.at) {
		asking, cancel := context.WithTimeout(ctx, a.timeout/2)
		defer cancel()
		if resp, _, err := a.host.ask(asking, op.at, remote, false); err == nil && resp != nil {
			return resp, nil
		}
	}
	resp, found := a.dispatch(ctx, op.stream, look, remote)
	if err != nil && (found != nil || resp.Status >= http.StatusBadRequest) {
		return a.refusal(err)
	}
	return resp, found
}

// refusal is the answer about a command that was not accepted.
func (*commandAPI[S, C, E]) refusal(err error) (*rest.Response, error) {
	var there *refusedThere
	if errors.As(err, &there) {
		return there.resp, nil
	}
	return nil, err
}

// operationID names a command so that any instance, at any time, can look it up.
func operationID(name string, stream es.StreamID, id, at string) string {
	return base64.RawURLEncoding.EncodeToString([]byte(name + "/" + string(stream) + "/" + url.PathEscape(id) + "/" + at))
}

// An operationOf is what the name of an operation says: which command it is, and where the instance is that accepted it, host:port.
type operationOf struct {
	name   string
	stream es.StreamID
	id, at string
}

func parseOperation(op string) (o operationOf, err error) {
	text, err := base64.RawURLEncoding.DecodeString(op)
	parts := strings.Split(string(text), "/") // ids hold no slash
	if err != nil || len(parts) != 4 {
		return o, ErrOperation.Because("%.60q", op)
	}
	o = operationOf{parts[0], es.StreamID(parts[1]), "", parts[3]}
	if o.id, err = url.PathUnescape(parts[2]); err != nil || es.CheckID(o.id) != nil || es.CheckID(parts[1]) != nil {
		return o, ErrOperation.Because("%.60q", op)
	}
	return o, nil
}

// operations is how the asynchronous commands of one aggregate are looked up.
type operations struct {
	look func(ctx context.Context, r *rest.Request, op operationOf) (*rest.Response, error)
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
			op, err := parseOperation(r.Param("id"))
			return rest.Access{Action: rest.ActOperation, Aggregate: op.name, Stream: op.stream}, err
		},
		may: func(ctx context.Context, a rest.Access) error {
			return rest.Allow(ctx, h.operations[a.Aggregate].may, a)
		},
	})
}

// lookUp answers GET /v1/operations/{id}.
func (h *host) lookUp(ctx context.Context, r *rest.Request) (*rest.Response, error) {
	op, err := parseOperation(r.Param("id"))
	if err != nil {
		return nil, err
	}
	if _, err := r.Only(); err != nil {
		return nil, err
	}
	o, ok := h.operations[op.name]
	if !ok {
		return nil, ErrOperation.Because("%.60q", r.Param("id"))
	}
	return o.look(ctx, r, op)
}
