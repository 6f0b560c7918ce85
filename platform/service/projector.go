package service

import (
	"context"
	"path/filepath"
	"reflect"

	"github.com/millrace/millrace/platform/contract"
	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/eventlog"
	"github.com/millrace/millrace/platform/projection"
	"github.com/millrace/millrace/platform/store"
)

// A Projector is a service that keeps views up to date and answers
//
//	GET /v1/views/<view>/{key}                                       one row
//	GET /v1/views/<view>?<index>=…&where=…&order=&limit=&cursor=     rows in the order of an index, or of their keys
//
// both with Millrace-At-Least: wait until the view has applied at least that position. With Accept: text/event-stream both go on with what
// changes; with application/x-ndjson or application/avro the second one is all rows. The admin address has what operates views: see viewAdmin.
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
	topics   []string
	form     projection.Form
	stream   func(key string) es.StreamID // whose events change a row; nil = those of any
	whole    string                       // why it cannot be divided; "" = it can
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
	out := View{name: v.Name, version: v.Version, row: reflect.TypeFor[R](), stream: v.Stream, whole: projection.Undividable(v)}
	for _, name := range sortedKeys(v.Indexes) {
		out.indexes = append(out.indexes, index{name, v.Indexes[name].Shape()})
	}
	for _, s := range sources {
		out.subjects = append(out.subjects, s.subjects...)
		out.topics = append(out.topics, s.topic)
	}
	out.form = projection.FormOf(v, out.topics...)
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

// dir is where the views are, below the data directory.
func (p Projector) dir() string { return filepath.Join(p.Name, "read-models") }

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
	topics := map[string]eventlog.Topic{}
	topic := func(name string) (eventlog.Topic, error) {
		if t, ok := topics[name]; ok {
			return t, nil
		}
		t, err := h.log.EnsureTopic(ctx, eventlog.TopicSpec{Name: name, Replication: int16(h.config.KafkaReplication)})
		topics[name] = t
		return t, err
	}
	whole, divided := p.divide(h)
	// Without views it still signs the cursors of those that are divided.
	engine, err := p.open(ctx, h, whole, topic, func(c *projection.Config) {
		c.Dir, c.Snapshots = filepath.Join(h.config.DataDir, p.dir()), h.snapshots()
	})
	if err != nil {
		return err
	}
	h.closers = append(h.closers, engine.Close)
	for _, v := range newest(whole) {
		if !h.views.add(v.name, operated{engine, v.name}) {
			return errTwice(p.Name, v.name)
		}
		api := newViewAPI(versionsOf(p.Views, v.name), engine)
		for _, r := range api.routes(api.list, api.row) {
			h.handle(r)
		}
	}
	h.run(p.Name, engine.Run)
	if h.config.ViewAuditInterval > 0 && len(whole) > 0 {
		h.run(p.Name+" audit", p.audit(h, engine, whole).run)
	}
	h.check(p.Name, func(context.Context) error {
		if !engine.CaughtUp() {
			return projection.ErrNotCaughtUp.Because("the views of %s are being brought up to date", p.Name)
		}
		return nil
	})
	if len(divided) == 0 {
		return nil
	}
	s, err := newSpreader(h, p, divided, topic)
	if err != nil {
		return err
	}
	for _, v := range newest(divided) {
		if !h.views.spread(v.name, s) {
			return errTwice(p.Name, v.name)
		}
		api := &dividedAPI{viewAPI: newViewAPI(versionsOf(p.Views, v.name), engine), spread: s}
		for _, r := range api.routes(api.list, api.row) {
			h.handle(r)
		}
	}
	s.begin()
	return nil
}

func errTwice(projector, view string) error {
	return ErrRole.Because("projector %q: another projector of this process has a view %q", projector, view)
}

// divide tells views that every instance has as a whole from those of which each has some ranges.
func (p Projector) divide(h *host) (whole, divided []View) {
	if h.config.ViewRanges <= 1 {
		return p.Views, nil
	}
	why := map[string]string{}
	for _, v := range p.Views {
		if v.whole != "" {
			why[v.name] = v.whole
		}
	}
	for _, v := range p.Views {
		if why[v.name] == "" {
			divided = append(divided, v)
			continue
		}
		whole = append(whole, v)
	}
	for _, name := range sortedKeys(why) {
		h.logger.Info("every instance has the whole view: it cannot be divided", "view", name, "reason", why[name])
	}
	return whole, divided
}

// newest returns the newest version of each view, by name.
func newest(views []View) []View {
	of := map[string]View{}
	for _, v := range views {
		if old, ok := of[v.name]; !ok || old.version < v.version {
			of[v.name] = v
		}
	}
	out := make([]View, 0, len(of))
	for _, name := range sortedKeys(of) {
		out = append(out, of[name])
	}
	return out
}

// versionsOf returns all versions of a view.
func versionsOf(views []View, name string) map[int]View {
	all := map[int]View{}
	for _, v := range views {
		if v.name == name {
			all[v.version] = v
		}
	}
	return all
}

// open opens the engine of some of the views.
func (p Projector) open(ctx context.Context, h *host, views []View, topic func(string) (eventlog.Topic, error), set func(*projection.Config)) (*projection.Projector, error) {
	c := projection.Config{
		Log: h.log, Logger: h.logger.With("role", p.Name), WaitMax: h.config.QueryWaitMax,
		Manual: h.config.ViewSwitch == "manual", StoreOptions: store.Options{MemTable: memTable},
		ScrubRate: int64(h.config.ViewScrubRate), CursorKey: peerToken(h.config.PeerToken).key("cursors of lists"), Crowded: h.crowd.change,
	}
	set(&c)
	engine, err := projection.New(c)
	if err != nil {
		return nil, err
	}
	for _, v := range views {
		if err := v.add(ctx, h, engine, topic); err != nil {
			return nil, err
		}
	}
	return engine, engine.Open()
}

// audit returns the audit of an engine's views.
func (p Projector) audit(h *host, engine *projection.Projector, views []View) *viewAudit {
	a := &viewAudit{engine: engine, share: auditShare, interval: h.config.ViewAuditInterval, rate: h.config.ViewAuditRate, logger: h.logger.With("role", p.Name), metrics: h.metrics}
	for _, v := range newest(views) {
		a.views = append(a.views, v.name)
	}
	return a
}
