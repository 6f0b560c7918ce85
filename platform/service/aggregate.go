package service

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/millrace/millrace/platform/command"
	"github.com/millrace/millrace/platform/contract"
	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/eventlog"
	"github.com/millrace/millrace/platform/fault"
	"github.com/millrace/millrace/platform/rest"
	"github.com/millrace/millrace/platform/store"
)

// Errors of command services.
var (
	ErrCommandType = fault.New(fault.NotFound, "command_unknown", "there is no such command")
	ErrRole        = fault.New(fault.Internal, "invalid_role", "the role cannot be used")
	ErrPoint       = fault.New(fault.Invalid, "invalid_query", "a query parameter has a value that is not allowed")
	ErrOperation   = fault.New(fault.NotFound, "operation_not_found", "there is no such operation")
	ErrTooMany     = fault.New(fault.Unavailable, "overloaded", "too many operations are under way")
)

// An Aggregate is a command service: a decider with its commands C and events E behind
//
//	POST /v1/<name>/{id}/<command-in-kebab-case>    decide a command
//	GET  /v1/<name>/{id}?version=N | ?at=TIME       the state S, now or then, as JSON
//	GET  /v1/<name>/{id}/events?from=N&limit=M      the stream
//	GET  /v1/operations/{id}                        what became of a command sent with Prefer: respond-async
type Aggregate[S, C, E any] struct {
	Name     string // in URLs: plural, lower case
	Decider  es.Decider[S, C, E]
	Contract contract.Set[E]
	Commands []C // one value of each command type; the type's name gives the route, its JSON form the body
}

func (a Aggregate[S, C, E]) role() string { return a.Name }

func (a Aggregate[S, C, E]) contracts() []contract.Subject {
	return append(a.Contract.Subjects(), eventlog.MarkSubjects(a.Contract.Topic)...)
}

// check finds what could only fail later, request by request.
func (a Aggregate[S, C, E]) check() error {
	bad := func(format string, args ...any) error {
		return ErrRole.Because("aggregate %q: "+format, append([]any{a.Name}, args...)...)
	}
	switch {
	case !nameForm.MatchString(a.Name) || a.Name == "views" || a.Name == "operations":
		return bad("the name must be lower case letters, digits and dashes, and not views or operations")
	case a.Decider.Decide == nil || a.Decider.Evolve == nil:
		return bad("Decide and Evolve must be set")
	case len(a.Commands) == 0:
		return bad("it has no commands")
	}
	seen := map[string]bool{}
	for _, c := range a.Commands {
		t := reflect.TypeOf(c)
		if t == nil || t.Kind() != reflect.Struct || t.Name() == "" {
			return bad("%v is not a command: a value of a named struct type is needed", t)
		}
		if name := kebab(t.Name()); seen[name] || name == "events" {
			return bad("command %s is there twice, or is called events", name)
		}
		seen[kebab(t.Name())] = true
	}
	return nil
}

func (a Aggregate[S, C, E]) start(ctx context.Context, h *host) error {
	topic, err := h.log.EnsureTopic(ctx, eventlog.TopicSpec{Name: a.Contract.Topic, Replication: int16(h.config.KafkaReplication)})
	if err != nil {
		return err
	}
	codec, err := contract.Bind(ctx, a.Contract, h.registry)
	if err != nil {
		return h.unregistered(err)
	}
	marks, err := eventlog.AvroMarks(ctx, a.Contract.Topic, h.registry)
	if err != nil {
		return h.unregistered(err)
	}
	db, err := h.openStore(filepath.Join(a.Name, "streams"), store.Options{MemTable: memTable})
	if err != nil {
		return err
	}
	engine := command.New[S, C, E](command.Config{
		Log: h.log, Topic: topic, Store: db, Marks: marks, Source: "/" + h.app + "/" + a.Name, Logger: h.logger.With("role", a.Name),
		Identity: eventlog.Identity{Instance: h.instance, Address: h.advertise},
	}, a.Decider, codec)
	h.run(a.Name, engine.Run)
	h.check(a.Name, func(context.Context) error {
		if !engine.Ready() {
			return command.ErrUnavailable.Because("partitions of %s are being claimed", topic.Name)
		}
		return nil
	})
	api := &commandAPI[S, C, E]{name: a.Name, engine: engine, host: h, timeout: h.config.CommandTimeout, slots: make(chan struct{}, maxOperations)}
	names := make([]string, 0, len(a.Commands))
	for _, c := range a.Commands {
		t := reflect.TypeOf(c)
		name := kebab(t.Name())
		names = append(names, name)
		h.http.Handle(http.MethodPost, "/v1/"+a.Name+"/:id/"+name, api.command(name, t))
	}
	h.http.Handle(http.MethodPost, "/v1/"+a.Name+"/:id/:command", func(_ context.Context, r *rest.Request) (*rest.Response, error) {
		return nil, ErrCommandType.Because("%q", r.Param("command")).WithFix("the commands of %s are %s", a.Name, strings.Join(names, ", "))
	})
	h.http.Handle(http.MethodGet, "/v1/"+a.Name+"/:id", api.state)
	h.http.Handle(http.MethodGet, "/v1/"+a.Name+"/:id/events", api.events)
	h.operation(a.Name, api.outcome)
	// What was answered 202 is decided before the engine stops.
	h.drain(api.under.Wait)
	return nil
}

var nameForm = regexp.MustCompile("^[a-z][a-z0-9-]{0,62}$")

// kebab turns a Go name into kebab case: AddLine → add-line.
func kebab(name string) string {
	var b strings.Builder
	for i, r := range name {
		if unicode.IsUpper(r) && i > 0 {
			b.WriteByte('-')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}

// A commandAPI answers the HTTP requests of one aggregate.
type commandAPI[S, C, E any] struct {
	name    string
	engine  *command.Engine[S, C, E]
	host    *host
	timeout time.Duration

	slots    chan struct{} // asynchronous commands under way
	mu       sync.Mutex
	outcomes map[string]error // of asynchronous commands that were not accepted: the log knows the others
	refused  []string         // the latest refusals among them, the oldest first
	under    sync.WaitGroup   // asynchronous commands under way
}

// maxOperations bounds the asynchronous commands under way, and the refusals that are remembered.
const maxOperations = 4096

func (a *commandAPI[S, C, E]) command(name string, t reflect.Type) rest.Handler {
	return func(ctx context.Context, r *rest.Request) (*rest.Response, error) {
		c, err := a.read(r, t)
		if err != nil {
			return nil, err
		}
		if r.Async() {
			return a.later(ctx, name, c)
		}
		ctx, cancel := context.WithTimeout(ctx, a.timeout)
		defer cancel()
		receipt, err := a.handle(ctx, name, c)
		if err != nil {
			return nil, err
		}
		return answer(receipt)
	}
}

func (a *commandAPI[S, C, E]) handle(ctx context.Context, name string, c command.Command[C]) (command.Receipt, error) {
	began := time.Now()
	receipt, err := a.engine.Handle(ctx, c)
	a.host.metrics.decided(name, began, receipt, err)
	return receipt, err
}

func (a *commandAPI[S, C, E]) read(r *rest.Request, t reflect.Type) (c command.Command[C], err error) {
	if c.Stream, err = es.ParseStreamID(r.Param("id")); err != nil {
		return c, err
	}
	if _, err = r.Only(); err != nil {
		return c, err
	}
	if c.ID, err = r.CommandID(); err != nil {
		return c, err
	}
	if c.ID == "" {
		c.ID = rand.Text()
	}
	// Also on errors: whoever is told to repeat the command must know under which id.
	r.SetHeader("Idempotency-Key", c.ID)
	if c.Expect, err = r.IfMatch(); err != nil {
		return c, err
	}
	create, err := r.IfNoneMatchAny()
	if err != nil {
		return c, err
	}
	if create {
		c.Expect = new(es.Version)
	}
	payload := reflect.New(t)
	// No body is the command without any of its fields; whether that will do is the domain's to say.
	if r.HasBody() {
		if err = r.JSON(payload.Interface()); err != nil {
			return c, err
		}
	}
	c.Payload = payload.Elem().Interface().(C)
	c.Meta.TraceParent = traceParent(r.Header("Traceparent"))
	return c, nil
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

// answer writes a receipt.
func answer(receipt command.Receipt) (*rest.Response, error) {
	body, err := json.Marshal(receipt)
	if err != nil {
		return nil, err
	}
	header := http.Header{
		"Etag": {`"` + strconv.FormatInt(int64(receipt.Version), 10) + `"`},
	}
	if !receipt.Position.IsZero() {
		header["Millrace-Position"] = []string{receipt.Position.String()}
	}
	if receipt.Replayed {
		header["Idempotent-Replayed"] = []string{"true"}
	}
	return &rest.Response{Status: http.StatusOK, Header: header, Body: append(body, '\n'), ContentType: "application/json"}, nil
}

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

// state answers GET /v1/<name>/{id}.
func (a *commandAPI[S, C, E]) state(ctx context.Context, r *rest.Request) (*rest.Response, error) {
	id, err := es.ParseStreamID(r.Param("id"))
	if err != nil {
		return nil, err
	}
	q, err := r.Only("version", "at")
	if err != nil {
		return nil, err
	}
	var upTo func(es.Envelope[E]) bool
	switch {
	case q.Has("version") && q.Has("at"):
		return nil, ErrPoint.Because("version and at exclude each other")
	case q.Has("version"):
		v, err := number(q, "version", 1, 1<<62)
		if err != nil {
			return nil, err
		}
		upTo = func(env es.Envelope[E]) bool { return env.Version <= es.Version(v) }
	case q.Has("at"):
		at, err := time.Parse(time.RFC3339, q.Get("at"))
		if err != nil {
			return nil, ErrPoint.Because("at=%.40q is not a time like 2026-01-31T12:00:00Z", q.Get("at"))
		}
		upTo = func(env es.Envelope[E]) bool { return !env.Time.After(at) }
	}
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	state, version, err := a.engine.State(ctx, id, upTo)
	if err != nil {
		return nil, err
	}
	if version == 0 || (q.Has("version") && q.Get("version") != strconv.FormatInt(int64(version), 10)) {
		return nil, command.ErrStreamNotFound.Because("%q was not there yet, or is not that long: it is at version %d", id, version)
	}
	resp := rest.JSON(http.StatusOK, state)
	return resp.Set("Etag", `"`+strconv.FormatInt(int64(version), 10)+`"`), nil
}

// number reads a whole number from a query parameter.
func number(q url.Values, name string, least, most int64) (int64, error) {
	v, err := strconv.ParseInt(q.Get(name), 10, 64)
	if err != nil || v < least || v > most || strconv.FormatInt(v, 10) != q.Get(name) {
		return 0, ErrPoint.Because("%s=%.40q is not a number from %d to %d", name, q.Get(name), least, most)
	}
	return v, nil
}

// events answers GET /v1/<name>/{id}/events.
func (a *commandAPI[S, C, E]) events(ctx context.Context, r *rest.Request) (*rest.Response, error) {
	id, err := es.ParseStreamID(r.Param("id"))
	if err != nil {
		return nil, err
	}
	q, err := r.Only("from", "limit")
	if err != nil {
		return nil, err
	}
	from, limit := int64(1), int64(100)
	if q.Has("from") {
		if from, err = number(q, "from", 1, 1<<62); err != nil {
			return nil, err
		}
	}
	if q.Has("limit") {
		if limit, err = number(q, "limit", 1, 1000); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	envs, err := a.engine.Events(ctx, id, es.Version(from), int(limit)+1)
	if err != nil {
		return nil, err
	}
	page := struct {
		Events []eventJSON `json:"events"`
		Next   int64       `json:"next,omitempty"` // the from of the next page; absent at the end
	}{Events: []eventJSON{}}
	for _, env := range envs {
		if int64(env.Version)-from == limit {
			page.Next = int64(env.Version)
			break
		}
		data, err := json.Marshal(env.Event)
		if err != nil {
			return nil, err
		}
		page.Events = append(page.Events, eventJSON{
			ID: env.ID, Type: env.Type, Version: env.Version, Position: env.Position, Time: env.Time, CommandID: env.Meta.CommandID,
			CorrelationID: env.Meta.CorrelationID, CausationID: env.Meta.CausationID, Actor: env.Meta.Actor, Part: env.Part, Parts: env.Parts, Data: data,
		})
	}
	return rest.JSON(http.StatusOK, page), nil
}

// eventJSON is one event of a stream as clients see it.
type eventJSON struct {
	ID            string          `json:"id"`
	Type          string          `json:"type"`
	Version       es.Version      `json:"version"`
	Position      es.Position     `json:"position"`
	Time          time.Time       `json:"time"`
	CommandID     string          `json:"command_id"`
	CorrelationID string          `json:"correlation_id,omitempty"`
	CausationID   string          `json:"causation_id,omitempty"`
	Actor         string          `json:"actor,omitempty"`
	Part          int             `json:"part,omitempty"`  // from 0, of a stored event that is read as several
	Parts         int             `json:"parts,omitempty"` // how many they are
	Data          json.RawMessage `json:"data"`
}
