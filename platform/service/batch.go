package service

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"reflect"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"

	"github.com/millrace/millrace/platform/command"
	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/fault"
	"github.com/millrace/millrace/platform/forward"
	"github.com/millrace/millrace/platform/rest"
)

// MaxBatch is how many commands one batch may have.
const MaxBatch = 1000

// ErrBatchTooLarge is returned for a batch of more than MaxBatch commands.
var ErrBatchTooLarge = fault.New(fault.TooLarge, "batch_too_large", "the batch has too many commands")

// An entry is one command of a batch, checked.
type entry struct {
	aggregate string
	stream    es.StreamID
	command   string
	id        string // of the command
	expect    *es.Version
	data      json.RawMessage // as it was sent
	payload   any             // the same, decoded
	who       rest.Principal
	header    http.Header // of the batch, whose credentials count for each of its commands; not to be changed
	refused   error       // by an Authorizer
}

// A doer decides one command of a batch. Its answer is that of the command's own route: a receipt with its header fields, or a problem,
// either as an error or as a Response of its status and media type.
type doer func(ctx context.Context, e *entry) (*rest.Response, error)

// batched is what a batch needs of one aggregate.
type batched struct {
	commands []string
	payload  func(command string, data []byte) (any, error) // rest.ErrBody if data is not one; nil, nil = there is no such command
	do       doer
	may      rest.Authorizer
}

// batched returns how the aggregate takes part in batches.
func (a Aggregate[S, C, E]) batched(api *commandAPI[S, C, E]) batched {
	types := map[string]reflect.Type{}
	b := batched{do: api.do, may: a.Authorize}
	for _, c := range a.Commands {
		t := reflect.TypeOf(c)
		types[kebab(t.Name())] = t
		b.commands = append(b.commands, kebab(t.Name()))
	}
	b.payload = func(name string, data []byte) (any, error) {
		t, ok := types[name]
		if !ok {
			return nil, nil
		}
		v := reflect.New(t)
		if len(data) > 0 {
			if err := rest.DecodeJSON(data, v.Interface()); err != nil {
				return nil, err
			}
		}
		return v.Elem().Interface(), nil
	}
	return b
}

// do decides one command of a batch in this process.
func (a *commandAPI[S, C, E]) do(ctx context.Context, e *entry) (*rest.Response, error) {
	remote := &forward.Request{
		Method: http.MethodPost, Target: "/v1/" + e.aggregate + "/" + url.PathEscape(string(e.stream)) + "/" + e.command, Body: e.data,
		Header: []forward.Field{{Name: "Idempotency-Key", Value: `"` + keyEscape.Replace(e.id) + `"`}},
	}
	if at := tracedBy(ctx); at != "" {
		remote.Header = append(remote.Header, forward.Field{Name: "Traceparent", Value: at})
	}
	if e.expect != nil {
		remote.Header = append(remote.Header, forward.Field{Name: "If-Match", Value: `"` + strconv.FormatInt(int64(*e.expect), 10) + `"`})
	}
	if len(e.data) > 0 {
		remote.Header = append(remote.Header, forward.Field{Name: "Content-Type", Value: "application/json"})
	}
	for name, values := range e.header {
		switch name {
		case "Idempotency-Key", "Content-Length", "Content-Type", "Prefer", "Traceparent", headerRepeat:
			continue
		}
		for _, v := range values {
			remote.Header = append(remote.Header, forward.Field{Name: name, Value: v})
		}
	}
	return a.dispatch(ctx, e.stream, func(ctx context.Context) (*rest.Response, error) {
		return a.decide(ctx, e.command, command.Command[C]{
			Stream: e.stream, ID: e.id, Payload: e.payload.(C), Expect: e.expect, Repeat: repeated(ctx, func(string) string { return "" }),
			Meta: es.Meta{Actor: e.who.Name, TraceParent: tracedBy(ctx)},
		})
	}, remote)
}

var keyEscape = strings.NewReplacer(`\`, `\\`, `"`, `\"`)

// batch lets an aggregate take part in batches.
func (h *host) batch(aggregate string, b batched) {
	h.batches[aggregate] = b
	if len(h.batches) > 1 {
		return
	}
	h.handle(route{
		method: http.MethodPost, pattern: "/v1/batch", wants: wants(rest.Access{Action: rest.ActBatch}), doc: h.batchDoc(),
		handler: h.decideBatch,
	})
}

// batchJSON is the body of POST /v1/batch.
type batchJSON struct {
	Commands []commandJSON `json:"commands"`
}

type commandJSON struct {
	Aggregate string          `json:"aggregate"`
	ID        string          `json:"id"` // of the stream
	Command   string          `json:"command"`
	CommandID string          `json:"command_id"`
	Expect    *int64          `json:"expected_version"`
	Data      json.RawMessage `json:"data"`
}

// resultsJSON is the answer of POST /v1/batch: the result of each command in the order of the commands.
type resultsJSON struct {
	Results []resultJSON `json:"results"`
}

type resultJSON struct {
	Status    int             `json:"status"` // as the command's own route answers
	CommandID string          `json:"command_id"`
	Receipt   json.RawMessage `json:"receipt,omitempty"` // of a command that was accepted
	Replayed  bool            `json:"replayed,omitempty"`
	Problem   json.RawMessage `json:"problem,omitempty"` // why it was not
}

// decideBatch answers POST /v1/batch: the commands of one stream are decided in their order, those of different streams at the same time,
// each by itself. Nothing is decided unless the whole body is understood.
func (h *host) decideBatch(ctx context.Context, r *rest.Request) (*rest.Response, error) {
	if _, err := r.Only(); err != nil {
		return nil, err
	}
	if r.Header("If-Match") != "" || r.Header("If-None-Match") != "" {
		return nil, rest.ErrCondition.Because("a batch has no version").WithFix("give commands their own expected_version; 0 = the stream must be new")
	}
	key, err := r.CommandID()
	if err != nil {
		return nil, err
	}
	if key == "" {
		key = rand.Text()
	}
	if longest := len(key) + len(":") + len(strconv.Itoa(MaxBatch-1)); longest > es.MaxIDBytes {
		return nil, rest.ErrIdempotencyKey.Because("with the number of a command it has %d bytes, at most %d are allowed", longest, es.MaxIDBytes)
	}
	r.SetHeader("Idempotency-Key", key)
	entries, err := h.readBatch(ctx, r, key)
	if err != nil {
		return nil, err
	}
	answers := h.doBatch(ctx, entries)
	body := resultsJSON{Results: make([]resultJSON, len(answers))}
	var positions es.Positions
	for i, a := range answers {
		at, err := resultOf(r, &body.Results[i], entries[i], a)
		if err != nil {
			return nil, err
		}
		if !at.IsZero() {
			positions = positions.With(at)
		}
	}
	resp := rest.JSON(http.StatusOK, body)
	if len(positions) > 0 {
		resp.Set("Millrace-Position", positions.String())
	}
	return resp, nil
}

// readBatch reads the body. It tells all that is wrong with it at once.
func (h *host) readBatch(ctx context.Context, r *rest.Request, key string) ([]*entry, error) {
	var body batchJSON
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	if len(body.Commands) > MaxBatch {
		return nil, ErrBatchTooLarge.Because("%d, at most %d are allowed", len(body.Commands), MaxBatch).WithFix("send several batches")
	}
	bad := rest.ErrBody
	if len(body.Commands) == 0 {
		return nil, bad.At("/commands", "must have 1 to %d commands", MaxBatch)
	}
	who, err := r.Principal(ctx)
	if err != nil {
		return nil, err
	}
	entries := make([]*entry, len(body.Commands))
	for i, c := range body.Commands {
		e := &entry{
			aggregate: c.Aggregate, stream: es.StreamID(c.ID), command: c.Command, id: c.CommandID, data: c.Data,
			who: who, header: r.HTTP().Header,
		}
		if e.id == "" {
			e.id = key + ":" + strconv.Itoa(i)
		}
		entries[i] = e
		if bad = h.checkEntry(bad, "/commands/"+strconv.Itoa(i), e, c); len(bad.Fields) >= maxBatchFaults {
			return nil, bad.At("", "there may be more faults than these")
		}
	}
	if len(bad.Fields) > 0 {
		return nil, bad
	}
	// Who may not is told so before anybody's command is decided.
	for _, e := range entries {
		e.refused = h.allow(ctx, h.batches[e.aggregate].may, accessOf(e))
	}
	return entries, nil
}

// maxBatchFaults is how many faults of one batch are reported.
const maxBatchFaults = 32

func accessOf(e *entry) rest.Access {
	return rest.Access{Principal: e.who, Action: rest.ActCommand, Aggregate: e.aggregate, Stream: e.stream, Command: e.command, Header: e.header}
}

// checkEntry adds to bad what is wrong with a command, and fills in what has to be decoded.
func (h *host) checkEntry(bad *fault.Error, at string, e *entry, c commandJSON) *fault.Error {
	if err := es.CheckID(c.ID); err != nil {
		bad = bad.At(at+"/id", "%s", fault.From(err).Detail)
	}
	if c.CommandID != "" {
		// What no Idempotency-Key can be is no command id either: the command may be decided by another instance.
		switch err := es.CheckID(c.CommandID); {
		case err != nil:
			bad = bad.At(at+"/command_id", "%s", fault.From(err).Detail)
		case strings.ContainsFunc(c.CommandID, func(r rune) bool { return r > '~' }):
			bad = bad.At(at+"/command_id", "must be printable ASCII")
		}
	}
	if c.Expect != nil {
		if *c.Expect < 0 {
			bad = bad.At(at+"/expected_version", "must not be negative")
		}
		v := es.Version(*c.Expect)
		e.expect = &v
	}
	b, ok := h.batches[c.Aggregate]
	if !ok {
		return bad.At(at+"/aggregate", "must be one of %s", strings.Join(sortedKeys(h.batches), ", "))
	}
	payload, err := b.payload(c.Command, c.Data)
	switch f := fault.From(err); {
	case f != nil && len(f.Fields) > 0:
		for _, one := range f.Fields {
			bad = bad.At(at+"/data"+one.Pointer, "%s", one.Detail)
		}
	case err != nil:
		bad = bad.At(at+"/data", "cannot be read")
	case payload == nil:
		bad = bad.At(at+"/command", "must be one of %s", strings.Join(b.commands, ", "))
	}
	e.payload = payload
	return bad
}

// A result is what became of one command of a batch.
type result struct {
	resp *rest.Response
	err  error
}

// doBatch decides the commands and returns what became of each.
func (h *host) doBatch(ctx context.Context, entries []*entry) []result {
	type of struct {
		aggregate string
		stream    es.StreamID
	}
	streams := map[of][]int{}
	for i, e := range entries {
		k := of{e.aggregate, e.stream}
		streams[k] = append(streams[k], i)
	}
	results := make([]result, len(entries))
	var wg sync.WaitGroup
	for _, all := range streams {
		wg.Go(func() {
			for _, i := range all {
				results[i] = h.doOne(ctx, entries[i])
			}
		})
	}
	wg.Wait()
	return results
}

func (h *host) doOne(ctx context.Context, e *entry) (r result) {
	if e.refused != nil {
		return result{err: e.refused}
	}
	span := Span{Name: "POST /v1/" + e.aggregate + "/{id}/" + e.command, TraceParent: tracedBy(ctx), Access: accessOf(e)}
	ctx, end := h.begin(ctx, span)
	defer func() {
		if p := recover(); p != nil {
			h.logger.Error("a command of a batch panicked", "aggregate", e.aggregate, "command", e.command, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			r = result{err: errPanic}
		}
		end(r.err)
	}()
	r.resp, r.err = h.batches[e.aggregate].do(ctx, e)
	return r
}

// resultOf writes what became of a command as the client sees it, and returns the position of its last event.
func resultOf(r *rest.Request, into *resultJSON, e *entry, a result) (at es.Position, err error) {
	into.CommandID = e.id
	if a.err != nil {
		p := r.Problem(a.err)
		into.Status = p.Status
		into.Problem, err = json.Marshal(p)
		return at, err
	}
	into.Status = a.resp.Status
	body := bytes.TrimSpace(a.resp.Body)
	if a.resp.ContentType == "application/problem+json" {
		into.Problem = body
		return at, nil
	}
	into.Receipt = body
	into.Replayed = a.resp.Header.Get("Idempotent-Replayed") == "true"
	if position := a.resp.Header.Get("Millrace-Position"); position != "" {
		return es.ParsePosition(position)
	}
	return at, nil
}
