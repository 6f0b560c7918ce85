package service

import (
	"context"
	"encoding/json"
	"net/http"
	"path/filepath"
	"reflect"
	"strconv"
	"time"

	"github.com/millrace/millrace/platform/contract"
	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/eventlog"
	"github.com/millrace/millrace/platform/projection"
	"github.com/millrace/millrace/platform/rest"
	"github.com/millrace/millrace/platform/store"
)

// A Projector is a service that keeps views up to date and answers
//
//	GET /v1/views/<view>/{key}                            one row
//	GET /v1/views/<view>?<index>=…&from=&to=&limit=&cursor=   rows in key order
//
// both with Millrace-At-Least: wait until the view has applied at least that position.
type Projector struct {
	Name  string
	Views []View
}

// A View is an es.View with the contracts of the events it folds.
type View struct {
	name     string
	version  int
	indexes  []index
	subjects []contract.Subject
	row      reflect.Type
	add      func(ctx context.Context, h *host, p *projection.Projector, topic func(name string) (eventlog.Topic, error)) error
}

// An index is an index of a view, for the parameters and the document of its queries.
type index struct {
	name  string
	kinds []es.Kind
}

// ViewOf returns a View over the events of one contract.
func ViewOf[R, E any](events contract.Set[E], v es.View[R, E]) View {
	return viewOver(v, source[E]{
		subjects: events.Subjects(), topic: events.Topic,
		bind: func(ctx context.Context, h *host) (projection.Decoder[E], error) {
			codec, err := contract.Bind(ctx, events, h.registry)
			if err != nil {
				return nil, h.unregistered(err)
			}
			return eventlog.NewEvents(codec, ""), nil
		},
	})
}

// ViewOver returns a View over the events of several contracts, each of a topic of its own: what Key and Apply are given is the event of
// one of them. The events of one partition come in the order of the log; those of different partitions, and topics, in any.
func ViewOver[R any](v es.View[R, any], sources ...Source) View {
	all := make([]source[any], len(sources))
	for i, s := range sources {
		all[i] = s.source
	}
	return viewOver(v, all...)
}

// A Source is a contract among those of a view over several.
type Source struct{ source source[any] }

// From returns the Source of a contract.
func From[E any](events contract.Set[E]) Source {
	return Source{source[any]{
		subjects: events.Subjects(), topic: events.Topic,
		bind: func(ctx context.Context, h *host) (projection.Decoder[any], error) {
			codec, err := contract.Bind(ctx, events, h.registry)
			if err != nil {
				return nil, h.unregistered(err)
			}
			return anyOf[E]{eventlog.NewEvents(codec, "")}, nil
		},
	}}
}

// A source is one topic of a view's events, and what decodes them.
type source[E any] struct {
	subjects []contract.Subject
	topic    string
	bind     func(ctx context.Context, h *host) (projection.Decoder[E], error)
}

// anyOf decodes events as values of any type.
type anyOf[E any] struct{ from projection.Decoder[E] }

func (d anyOf[E]) Envelopes(ctx context.Context, dst []es.Envelope[any], r eventlog.Record) ([]es.Envelope[any], error) {
	got, err := d.from.Envelopes(ctx, nil, r)
	for i := range got {
		e := &got[i]
		dst = append(dst, es.Envelope[any]{ID: e.ID, Type: e.Type, Stream: e.Stream, Version: e.Version, Index: e.Index, Count: e.Count,
			Position: e.Position, Time: e.Time, Meta: e.Meta, Event: e.Event, Part: e.Part, Parts: e.Parts})
	}
	return dst, err
}

func viewOver[R, E any](v es.View[R, E], sources ...source[E]) View {
	out := View{name: v.Name, version: v.Version, row: reflect.TypeFor[R]()}
	for _, name := range sortedKeys(v.Indexes) {
		out.indexes = append(out.indexes, index{name, v.Indexes[name].Shape()})
	}
	for _, s := range sources {
		out.subjects = append(out.subjects, s.subjects...)
	}
	out.add = func(ctx context.Context, h *host, p *projection.Projector, topic func(name string) (eventlog.Topic, error)) error {
		inputs := make([]projection.Input[E], len(sources))
		for i, s := range sources {
			var err error
			if inputs[i].Topic, err = topic(s.topic); err != nil {
				return err
			}
			if inputs[i].Events, err = s.bind(ctx, h); err != nil {
				return err
			}
		}
		return projection.Add(p, v, inputs...)
	}
	return out
}

func (p Projector) role() string { return p.Name }

func (p Projector) check() error {
	type version struct {
		name   string
		number int
	}
	seen := map[version]bool{}
	for _, v := range p.Views {
		if !nameForm.MatchString(v.name) || seen[version{v.name, v.version}] {
			return ErrRole.Because("projector %q: version %d of the view %q is there twice, or its name is not lower case letters, digits and dashes", p.Name, v.version, v.name)
		}
		seen[version{v.name, v.version}] = true
	}
	if !nameForm.MatchString(p.Name) || len(p.Views) == 0 {
		return ErrRole.Because("projector %q: it needs views, and a name of lower case letters, digits and dashes", p.Name)
	}
	return nil
}

func (p Projector) contracts() []contract.Subject {
	var all []contract.Subject
	for _, v := range p.Views {
		all = append(all, v.subjects...)
	}
	return all
}

func (p Projector) start(ctx context.Context, h *host) error {
	engine, err := projection.New(projection.Config{
		Log: h.log, Dir: filepath.Join(h.config.DataDir, p.Name, "read-models"), Logger: h.logger.With("role", p.Name), WaitMax: h.config.QueryWaitMax,
		StoreOptions: store.Options{MemTable: memTable},
	})
	if err != nil {
		return err
	}
	topics := map[string]eventlog.Topic{}
	topic := func(name string) (eventlog.Topic, error) {
		if t, ok := topics[name]; ok {
			return t, nil
		}
		t, err := h.log.EnsureTopic(ctx, eventlog.TopicSpec{Name: name, Replication: int16(h.config.KafkaReplication)})
		topics[name] = t
		return t, err
	}
	newest := map[string]View{}
	for _, v := range p.Views {
		if err := v.add(ctx, h, engine, topic); err != nil {
			return err
		}
		if old, ok := newest[v.name]; !ok || old.version < v.version {
			newest[v.name] = v
		}
	}
	h.closers = append(h.closers, engine.Close)
	if err := engine.Open(); err != nil {
		return err
	}
	for _, name := range sortedKeys(newest) {
		api := viewAPI{view: newest[name], engine: engine}
		for _, r := range api.routes() {
			h.handle(r)
		}
	}
	h.run(p.Name, engine.Run)
	h.metrics.views.engines = append(h.metrics.views.engines, engine)
	h.check(p.Name, func(context.Context) error {
		if !engine.CaughtUp() {
			return projection.ErrNotCaughtUp.Because("the views of %s are being brought up to date", p.Name)
		}
		return nil
	})
	return nil
}

// A viewAPI answers the queries of one view.
type viewAPI struct {
	view   View
	engine *projection.Projector
}

// routes returns what is answered over HTTP.
func (a viewAPI) routes() []route {
	rows := "/v1/views/" + a.view.name
	return []route{
		{method: http.MethodGet, pattern: rows, wants: wants(rest.Access{Action: rest.ActView, View: a.view.name}), handler: a.list, doc: listDoc(a.view)},
		{method: http.MethodGet, pattern: rows + "/:key", wants: func(r *rest.Request) (rest.Access, error) {
			return rest.Access{Action: rest.ActView, View: a.view.name, Key: r.Param("key")}, nil
		}, handler: a.row, doc: rowDoc(a.view)},
	}
}

func (a viewAPI) row(ctx context.Context, r *rest.Request) (*rest.Response, error) {
	if _, err := r.Only(); err != nil {
		return nil, err
	}
	atLeast, err := r.AtLeast()
	if err != nil {
		return nil, err
	}
	got, err := a.engine.Get(ctx, a.view.name, r.Param("key"), atLeast)
	if err != nil {
		return nil, err
	}
	header := freshness(got.Applied, got.Lag)
	etag := `"` + got.Row.Position.String() + `"`
	header["Etag"] = []string{etag}
	if r.NoneMatch(etag) {
		return &rest.Response{Status: http.StatusNotModified, Header: header}, nil
	}
	return &rest.Response{Status: http.StatusOK, Header: header, Body: append(got.Row.JSON, '\n'), ContentType: "application/json"}, nil
}

// freshness says on which positions an answer is based and how old that is.
func freshness(applied es.Positions, lag time.Duration) http.Header {
	return http.Header{
		"Millrace-Position":    {applied.String()},
		"Millrace-Lag-Seconds": {strconv.FormatFloat(lag.Seconds(), 'f', 3, 64)},
		"Cache-Control":        {"no-store"},
	}
}

func (a viewAPI) list(ctx context.Context, r *rest.Request) (*rest.Response, error) {
	query, err := a.query(r)
	if err != nil {
		return nil, err
	}
	atLeast, err := r.AtLeast()
	if err != nil {
		return nil, err
	}
	page, err := a.engine.List(ctx, a.view.name, query, atLeast)
	if err != nil {
		return nil, err
	}
	body := append(make([]byte, 0, 4096), `{"rows":[`...)
	for i, row := range page.Rows {
		if i > 0 {
			body = append(body, ',')
		}
		body = append(body, row.JSON...)
	}
	body = append(body, ']')
	if page.Next != "" {
		next, err := json.Marshal(page.Next)
		if err != nil {
			return nil, err
		}
		body = append(append(body, `,"next":`...), next...)
	}
	body = append(body, "}\n"...)
	return &rest.Response{Status: http.StatusOK, Header: freshness(page.Applied, page.Lag), Body: body, ContentType: "application/json"}, nil
}

// query reads a query from the parameters of a request: an index by its name, with a value for each of its first parts, and
// <index>.from, .to and .prefix for the next one; from, to and prefix for the keys.
func (a viewAPI) query(r *rest.Request) (projection.Query, error) {
	allowed := []string{"from", "to", "prefix", "order", "limit", "cursor"}
	for _, x := range a.view.indexes {
		name := x.name
		if len(x.kinds) > 1 {
			name += "*"
		}
		allowed = append(allowed, name, x.name+".from", x.name+".to", x.name+".prefix")
	}
	var q projection.Query
	given, err := r.Only(allowed...)
	if err != nil {
		return q, err
	}
	q = projection.Query{From: given.Get("from"), To: given.Get("to"), Prefix: given.Get("prefix"), Cursor: given.Get("cursor")}
	switch given.Get("order") {
	case "", "asc":
	case "desc":
		q.Reverse = true
	default:
		return q, ErrPoint.Because("order=%.20q, it must be asc or desc", given.Get("order"))
	}
	if given.Has("limit") {
		limit, err := number(given, "limit", 1, projection.MaxLimit)
		if err != nil {
			return q, err
		}
		q.Limit = int(limit)
	}
	for _, x := range a.view.indexes {
		if !given.Has(x.name) && !given.Has(x.name+".from") && !given.Has(x.name+".to") && !given.Has(x.name+".prefix") {
			continue
		}
		if q.Index != "" {
			return q, ErrPoint.Because("%s and %s: one index at a time", q.Index, x.name)
		}
		q.Index, q.Equal = x.name, given[x.name]
		if len(q.Equal) == len(x.kinds) {
			continue // from, to and prefix are those of the keys
		}
		if q.From != "" || q.To != "" || q.Prefix != "" {
			return q, ErrPoint.Because("a range of keys and the index %s", x.name).WithFix("use %s.from, %s.to or %s.prefix", x.name, x.name, x.name)
		}
		q.From, q.To, q.Prefix = given.Get(x.name+".from"), given.Get(x.name+".to"), given.Get(x.name+".prefix")
	}
	return q, nil
}
