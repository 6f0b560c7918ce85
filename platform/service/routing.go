package service

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"syscall"
	"time"

	"github.com/millrace/millrace/platform/command"
	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/eventlog"
	"github.com/millrace/millrace/platform/forward"
	"github.com/millrace/millrace/platform/rest"
)

// headerRepeat is set by an instance that forwards a command again: an earlier attempt of it may have taken effect. From anybody else it
// means nothing.
const headerRepeat = "Millrace-Repeat"

// headerHop is set on a request that was passed on once, which is not passed on again.
const headerHop = "Millrace-Hop"

// routed has a request about a stream answered by the instance that owns it.
func (a *commandAPI[S, C, E]) routed(next rest.Handler) rest.Handler {
	return func(ctx context.Context, r *rest.Request) (*rest.Response, error) {
		id, err := es.ParseStreamID(r.Param("id"))
		if err != nil || r.Async() || passedOn(ctx, r) {
			return next(ctx, r)
		}
		h := r.HTTP()
		var body []byte
		if r.HasBody() {
			// Kept, for the request may have to be told twice.
			if body, err = r.Body(); err != nil {
				return nil, err
			}
		}
		if h.Method == http.MethodPost && r.Header("Idempotency-Key") == "" {
			key := rand.Text() // each attempt is the same command
			h.Header.Set("Idempotency-Key", key)
			r.SetHeader("Idempotency-Key", key) // also if no owner answers: whoever is told to repeat it must know it
		}
		if h.Method == http.MethodGet && lines(r) {
			return a.lines(ctx, id, r, next)
		}
		return a.dispatch(ctx, id, func(ctx context.Context) (*rest.Response, error) { return next(ctx, r) }, remoteOf(r, body))
	}
}

// lines has a request that is answered with lines, of which there may be any number, answered by the owner of the stream, whoever that is
// in the end: the protocol between instances is for answers that have an end.
func (a *commandAPI[S, C, E]) lines(ctx context.Context, id es.StreamID, r *rest.Request, next rest.Handler) (resp *rest.Response, err error) {
	late := time.NewTimer(a.timeout)
	defer late.Stop()
	for {
		at := a.engine.Route(id)
		moved := true // as long as nobody is known
		switch {
		case at.Here:
			resp, err = next(ctx, r)
			moved = errors.Is(err, command.ErrElsewhere) || errors.Is(err, command.ErrMoved)
		case at.Owner.Address != "":
			resp, err = a.host.passOn(ctx, at.Owner.Address, r)
			moved = err == nil && changedHands(at.Owner.Address, resp.Status, resp.Body) != nil
		}
		if !moved {
			return resp, err
		}
		select {
		case <-at.Changed:
		case <-time.After(50 * time.Millisecond):
		case <-late.C:
			if resp == nil && err == nil {
				err = command.ErrUnavailable.Because("nobody owns the partition of the stream")
			}
			return resp, err
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// changedHands returns ErrElsewhere or ErrMoved if an answer of another instance says that the partition is, or may be by now, somebody
// else's, and nil if it is an answer.
func changedHands(address string, status int, body []byte) error {
	if status != http.StatusServiceUnavailable && status != http.StatusGatewayTimeout {
		return nil
	}
	var problem struct{ Code string }
	if json.Unmarshal(body, &problem) != nil {
		return nil
	}
	switch problem.Code {
	case command.ErrElsewhere.Code:
		return command.ErrElsewhere.Because("%s", address)
	case command.ErrMoved.Code:
		return command.ErrMoved.Because("%s", address)
	}
	return nil
}

// passedOn reports whether a request comes from another instance, which has looked for the owner already.
func passedOn(ctx context.Context, r *rest.Request) bool {
	_, ok := forward.From(ctx)
	return ok || r.Header(headerHop) != ""
}

// remoteOf returns a request as another instance is to answer it.
func remoteOf(r *rest.Request, body []byte) *forward.Request {
	h := r.HTTP()
	remote := &forward.Request{Method: h.Method, Target: h.URL.RequestURI(), Header: make([]forward.Field, 0, len(h.Header)+1), Body: body}
	for name, values := range h.Header {
		if name == headerRepeat || name == "Prefer" {
			continue
		}
		for _, v := range values {
			remote.Header = append(remote.Header, forward.Field{Name: name, Value: v})
		}
	}
	return remote
}

type repeatKey struct{}

// repeated reports whether an earlier attempt to have a command decided, for the same caller, may have had an effect.
func repeated(ctx context.Context, header func(string) string) bool {
	if ctx.Value(repeatKey{}) != nil {
		return true
	}
	_, forwarded := forward.From(ctx)
	return forwarded && header(headerRepeat) != ""
}

// dispatch has a request about a stream answered here if this instance owns it, else by the one that does.
func (a *commandAPI[S, C, E]) dispatch(ctx context.Context, id es.StreamID, here func(context.Context) (*rest.Response, error), remote *forward.Request) (resp *rest.Response, err error) {
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	var refused error
	err = a.engine.Dispatch(ctx, id, func(repeat bool) (err error) {
		ctx := ctx
		if repeat {
			ctx = context.WithValue(ctx, repeatKey{}, true)
		}
		resp, err = here(ctx)
		return err
	}, func(ctx context.Context, owner eventlog.Identity, repeat bool) (err error) {
		r := *remote
		if repeat {
			r.Header = append(r.Header[:len(r.Header):len(r.Header)], forward.Field{Name: headerRepeat, Value: "1"})
		}
		resp, refused, err = a.host.ask(ctx, owner.Address, &r, repeat)
		return err
	})
	if err == nil {
		err = refused
	}
	return resp, err
}

// ask forwards a request to another instance. It returns the answer, or why the request can never be forwarded, or an error as
// command.Engine.Dispatch wants it. Of a repeat, "not now" is no answer: it says nothing of the attempt before.
func (h *host) ask(ctx context.Context, address string, r *forward.Request, repeat bool) (resp *rest.Response, refused, err error) {
	got, err := h.peers.Do(ctx, address, r)
	switch {
	case errors.Is(err, forward.ErrTooLarge), errors.Is(err, forward.ErrInvalid):
		return nil, err, nil
	case err != nil && forward.Unsent(err):
		if errors.Is(err, syscall.ECONNREFUSED) {
			return nil, nil, command.ErrGone.Wrap(err)
		}
		return nil, nil, command.ErrElsewhere.Wrap(err)
	case err != nil:
		return nil, nil, err
	}
	if err := changedHands(address, got.Status, got.Body); err != nil {
		return nil, nil, err
	}
	if repeat && got.Status == http.StatusServiceUnavailable {
		return nil, nil, command.ErrUnavailable.Because("%s", address)
	}
	return fromPeer(got), nil, nil
}

// fromPeer returns the answer of another instance as one of ours.
func fromPeer(got *forward.Response) *rest.Response {
	resp := &rest.Response{Status: got.Status, Header: make(http.Header, len(got.Header)), Body: got.Body, ContentType: got.Get("Content-Type")}
	for _, f := range got.Header {
		resp.Header[f.Name] = append(resp.Header[f.Name], f.Value)
	}
	return resp
}

// succeedPath is where an instance tells another that it has claimed a partition of an aggregate: an owner that was deposed and is idle
// would not notice, and refuse commands on what it knows.
const succeedPath = forward.Path + "/:aggregate/:partition"

// succeed tells the instance that owned a partition before to look whether it still does.
func (h *host) succeed(aggregate string) func(context.Context, eventlog.Identity, int32) {
	return func(ctx context.Context, before eventlog.Identity, partition int32) {
		if before.Address == "" || before.Address == h.advertise {
			return
		}
		target := forward.Path + "/" + aggregate + "/" + strconv.Itoa(int(partition))
		if _, err := h.peers.Do(ctx, before.Address, &forward.Request{Method: http.MethodPost, Target: target}); err != nil {
			h.logger.Debug("the owner before could not be told", "address", before.Address, "partition", partition, "reason", err)
		}
	}
}

// succeeded answers POST succeedPath.
func (h *host) succeeded(ctx context.Context, r *rest.Request) (*rest.Response, error) {
	confirm := h.confirms[r.Param("aggregate")]
	partition, err := strconv.ParseInt(r.Param("partition"), 10, 32)
	if _, ok := forward.From(ctx); !ok || confirm == nil || err != nil {
		return nil, rest.ErrRouteNotFound
	}
	return &rest.Response{Status: http.StatusNoContent}, confirm(ctx, int32(partition))
}

// passOn has a request whose answer has no bound answered by another instance, and passes the answer on as it comes.
func (h *host) passOn(_ context.Context, address string, r *rest.Request, more ...forward.Field) (*rest.Response, error) {
	in := r.HTTP()
	ask := func(ctx context.Context) (*http.Response, error) {
		out, err := http.NewRequestWithContext(ctx, in.Method, "http://"+address+in.URL.RequestURI(), nil)
		if err != nil {
			return nil, err
		}
		out.Header = in.Header.Clone()
		out.Header.Set(headerHop, h.instance)
		for _, f := range more {
			out.Header.Set(f.Name, f.Value)
		}
		return h.streams.RoundTrip(out)
	}
	ctx, cancel := context.WithCancel(in.Context())
	got, err := ask(ctx) //nolint:bodyclose // closed with the answer, or when its stream ends
	if err != nil {
		cancel()
		return nil, command.ErrUnavailable.Because("the owner of the stream does not answer").Wrap(err)
	}
	resp := &rest.Response{Status: got.StatusCode, Header: got.Header, ContentType: got.Header.Get("Content-Type")}
	if got.StatusCode != http.StatusOK {
		defer cancel()
		defer got.Body.Close()
		resp.Body, err = io.ReadAll(io.LimitReader(got.Body, problemBytes))
		return resp, err
	}
	resp.Stream = func(_ context.Context, w *rest.Stream) error {
		defer cancel()
		defer got.Body.Close()
		buf := make([]byte, 32<<10)
		for {
			n, err := got.Body.Read(buf)
			if n > 0 {
				if _, err := w.Write(buf[:n]); err != nil {
					return err
				}
				if err := w.Flush(); err != nil {
					return err
				}
			}
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
		}
	}
	return resp, nil
}

// problemBytes is as much of another instance's problem document as is passed on.
const problemBytes = 64 << 10

// A peerToken is the secret that the instances of a service share.
type peerToken string

// key returns a key for a purpose that all instances have who share the secret, or nil without one.
func (t peerToken) key(purpose string) []byte {
	if t == "" {
		return nil
	}
	h := hmac.New(sha256.New, []byte(t))
	h.Write([]byte(purpose))
	return h.Sum(nil)
}

func (t peerToken) sign(r *http.Request) error {
	if t != "" {
		r.Header.Set("Authorization", "Bearer "+string(t))
	}
	return nil
}

func (t peerToken) check(r *http.Request) error {
	if subtle.ConstantTimeCompare([]byte(r.Header.Get("Authorization")), []byte("Bearer "+string(t))) != 1 {
		return rest.ErrUnauthenticated.Because("the instances of this service share another secret").WithFix("set MILLRACE_PEER_TOKEN to the same value everywhere")
	}
	return nil
}
