package service

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"net/http"
	"reflect"
	"regexp"
	"slices"
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
)

// Errors of command services.
var (
	ErrCommandType = fault.New(fault.NotFound, "command_unknown", "there is no such command")
	ErrRole        = fault.New(fault.Internal, "invalid_role", "the role cannot be used")
)

// An Aggregate is a command service: a decider with its commands C and events E behind
//
//	POST /v1/<name>/{id}/<command-in-kebab-case>           decide a command
//	POST /v1/batch                                         decide many, of all aggregates of the process
//	GET  /v1/<name>/{id}?version=N | ?at=TIME [&diff=next]  the state S, now or then, as JSON
//	GET  /v1/<name>/{id}/events?from=&to=&until=&direction=&limit=   the stream
//	GET  /v1/<name>/{id}/metadata                          what is known of the stream beside its events
//	GET  /v1/events/<name>?after=&cursor=&types=&limit=&wait=        the events of all its streams
//	GET  /v1/operations/{id}                               what became of a command sent with Prefer: respond-async
//
// all of which the OpenAPI document of the process describes. The authentication and the rule of the App hold for each of them.
type Aggregate[S, C, E any] struct {
	Name      string // in URLs: plural, lower case
	Decider   es.Decider[S, C, E]
	Contract  contract.Set[E]
	Commands  []C             // one value of each command type; the type's name gives the route, its JSON form the body
	Authorize rest.Authorizer // who may do what here, beside the App's rule; nil = nothing more is asked
}

// MaxEvents is how many events one command may cause: they are appended together or not at all.
const MaxEvents = 1000

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
	case !nameForm.MatchString(a.Name) || slices.Contains(reservedNames, a.Name):
		return bad("the name must be lower case letters, digits and dashes, and none of %s", strings.Join(reservedNames, ", "))
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
	db, err := h.openStreams(ctx, a.Name, topic)
	if err != nil {
		return err
	}
	engine := command.New[S, C, E](command.Config{
		Log: h.log, Topic: topic, Store: db, Marks: marks, Source: "/" + h.app + "/" + a.Name, Logger: h.logger.With("role", a.Name),
		Group:    h.config.Environment + "/" + topic.Name + "/owners",
		Succeed:  h.succeed(a.Name),
		Identity: eventlog.Identity{Instance: h.instance, Address: h.advertise},
	}, a.bounded(), codec)
	h.run(a.Name, engine.Run)
	h.handOver(engine.HandOver)
	h.confirms[a.Name] = engine.Confirm
	h.check(a.Name, func(context.Context) error {
		if !engine.Ready() {
			return command.ErrUnavailable.Because("partitions of %s are being claimed", topic.Name)
		}
		return nil
	})
	api := &commandAPI[S, C, E]{name: a.Name, engine: engine, host: h, timeout: h.config.CommandTimeout, slots: make(chan struct{}, maxOperations)}
	for _, r := range a.routes(api) {
		h.handle(r)
	}
	h.operation(a.Name, operations{look: api.outcome, may: a.Authorize})
	h.batch(a.Name, a.batched(api))
	// What was answered 202 is decided before the engine stops.
	h.drain(api.under.Wait)
	return nil
}

// bounded is the decider with a limit to what one command may cause.
func (a Aggregate[S, C, E]) bounded() es.Decider[S, C, E] {
	d := a.Decider
	d.Decide = func(s S, c C, m es.Meta) ([]E, error) {
		events, err := a.Decider.Decide(s, c, m)
		if err == nil && len(events) > MaxEvents {
			return nil, command.ErrTooLarge.Because("%d events, at most %d are allowed", len(events), MaxEvents).WithFix("split the command")
		}
		return events, err
	}
	return d
}

// routes returns what is answered over HTTP.
func (a Aggregate[S, C, E]) routes(api *commandAPI[S, C, E]) []route {
	var (
		all     []route
		names   []string
		streams = "/v1/" + a.Name + "/:id"
		stream  = wantsStream(rest.Access{Action: rest.ActStream, Aggregate: a.Name})
		event   = eventSchema(a.Name, a.Contract)
	)
	add := func(method, pattern string, wants func(*rest.Request) (rest.Access, error), f rest.Handler, doc *operation) {
		all = append(all, route{method: method, pattern: pattern, wants: wants, may: a.Authorize, handler: f, doc: doc})
	}
	for _, c := range a.Commands {
		t := reflect.TypeOf(c)
		name := kebab(t.Name())
		names = append(names, name)
		wants := wantsStream(rest.Access{Action: rest.ActCommand, Aggregate: a.Name, Command: name})
		add(http.MethodPost, streams+"/"+name, wants, api.routed(api.command(name, t)), commandDoc(a.Name, name, t))
	}
	unknown := func(r *rest.Request) (rest.Access, error) {
		return wantsStream(rest.Access{Action: rest.ActCommand, Aggregate: a.Name, Command: r.Param("command")})(r)
	}
	add(http.MethodPost, streams+"/:command", unknown, func(_ context.Context, r *rest.Request) (*rest.Response, error) {
		return nil, ErrCommandType.Because("%q", r.Param("command")).WithFix("the commands of %s are %s", a.Name, strings.Join(names, ", "))
	}, nil)
	add(http.MethodGet, streams, stream, api.routed(api.state), stateDoc(a.Name, reflect.TypeFor[S](), event))
	add(http.MethodGet, streams+"/events", stream, api.routed(api.events), eventsDoc(a.Name, event))
	add(http.MethodGet, streams+"/metadata", stream, api.routed(api.metadata), metadataDoc(a.Name))
	add(http.MethodGet, "/v1/events/"+a.Name, wants(rest.Access{Action: rest.ActCategory, Aggregate: a.Name}), api.category, categoryDoc(a.Name, event))
	return all
}

// reservedNames are what follows /v1/ on paths that belong to no aggregate.
var reservedNames = []string{"batch", "events", "operations", "views"}

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

// command answers POST /v1/<name>/{id}/<command>.
func (a *commandAPI[S, C, E]) command(name string, t reflect.Type) rest.Handler {
	return func(ctx context.Context, r *rest.Request) (*rest.Response, error) {
		c, err := a.read(ctx, r, t)
		if err != nil {
			return nil, err
		}
		c.Repeat = repeated(ctx, r.Header)
		if r.Async() {
			return a.later(ctx, name, c, r)
		}
		return a.decide(ctx, name, c)
	}
}

// decide answers a command with its receipt.
func (a *commandAPI[S, C, E]) decide(ctx context.Context, name string, c command.Command[C]) (*rest.Response, error) {
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	receipt, err := a.handle(ctx, name, c)
	if err != nil {
		return nil, err
	}
	return answer(receipt)
}

func (a *commandAPI[S, C, E]) handle(ctx context.Context, name string, c command.Command[C]) (command.Receipt, error) {
	began := time.Now()
	receipt, err := a.engine.Handle(ctx, c)
	a.host.metrics.decided(a.name, name, began, receipt, err)
	return receipt, err
}

func (a *commandAPI[S, C, E]) read(ctx context.Context, r *rest.Request, t reflect.Type) (c command.Command[C], err error) {
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
	who, err := r.Principal(ctx)
	if err != nil {
		return c, err
	}
	c.Meta.Actor, c.Meta.TraceParent = who.Name, tracedBy(ctx)
	payload := reflect.New(t)
	// No body is the command without any of its fields; whether that will do is the domain's to say.
	if r.HasBody() {
		if err = r.JSON(payload.Interface()); err != nil {
			return c, err
		}
	}
	c.Payload = payload.Elem().Interface().(C)
	return c, nil
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
