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
// changes; with application/x-ndjson the second one is all rows. The admin address has what operates views: see viewAdmin.
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
	form     projection.Form
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
	var topics []string
	for _, s := range sources {
		out.subjects = append(out.subjects, s.subjects...)
		topics = append(topics, s.topic)
	}
	out.form = projection.FormOf(v, topics...)
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
	engine, err := projection.New(projection.Config{
		Log: h.log, Dir: filepath.Join(h.config.DataDir, p.dir()), Logger: h.logger.With("role", p.Name), WaitMax: h.config.QueryWaitMax,
		Manual: h.config.ViewSwitch == "manual", StoreOptions: store.Options{MemTable: memTable},
		ScrubRate: int64(h.config.ViewScrubRate), Snapshots: h.snapshots(), CursorKey: peerToken(h.config.PeerToken).key("cursors of lists"),
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
		if h.views.engines[name] != nil {
			return ErrRole.Because("projector %q: another projector of this process has a view %q", p.Name, name)
		}
		h.views.engines[name] = engine
		api := newViewAPI(newest[name], engine)
		for _, r := range api.routes() {
			h.handle(r)
		}
	}
	h.run(p.Name, engine.Run)
	if h.config.ViewAuditInterval > 0 {
		audit := &viewAudit{engine: engine, views: sortedKeys(newest), share: auditShare, interval: h.config.ViewAuditInterval, rate: h.config.ViewAuditRate, logger: h.logger.With("role", p.Name), metrics: h.metrics}
		h.run(p.Name+" audit", audit.run)
	}
	h.metrics.views.engines = append(h.metrics.views.engines, engine)
	h.check(p.Name, func(context.Context) error {
		if !engine.CaughtUp() {
			return projection.ErrNotCaughtUp.Because("the views of %s are being brought up to date", p.Name)
		}
		return nil
	})
	return nil
}
