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

// A View is an es.View with the contract of the events it folds.
type View struct {
	name     string
	indexes  []string
	subjects []contract.Subject
	topic    string
	row      reflect.Type
	add      func(ctx context.Context, h *host, p *projection.Projector, t eventlog.Topic) error
}

// ViewOf returns a View over the events of one contract.
func ViewOf[R, E any](events contract.Set[E], v es.View[R, E]) View {
	return View{
		name: v.Name, indexes: sortedKeys(v.Indexes), subjects: events.Subjects(), topic: events.Topic, row: reflect.TypeFor[R](),
		add: func(ctx context.Context, h *host, p *projection.Projector, t eventlog.Topic) error {
			codec, err := contract.Bind(ctx, events, h.registry)
			if err != nil {
				return h.unregistered(err)
			}
			return projection.Add(p, v, t, eventlog.NewEvents(codec, ""))
		},
	}
}

func (p Projector) role() string { return p.Name }

func (p Projector) check() error {
	seen := map[string]bool{}
	for _, v := range p.Views {
		if !nameForm.MatchString(v.name) || seen[v.name] {
			return ErrRole.Because("projector %q: the view %q is there twice, or its name is not lower case letters, digits and dashes", p.Name, v.name)
		}
		seen[v.name] = true
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
	db, err := h.openStore(filepath.Join(p.Name, "views"), store.Options{MemTable: memTable})
	if err != nil {
		return err
	}
	engine, err := projection.New(projection.Config{Log: h.log, Store: db, Logger: h.logger.With("role", p.Name), WaitMax: h.config.QueryWaitMax})
	if err != nil {
		return err
	}
	topics := map[string]eventlog.Topic{}
	for _, v := range p.Views {
		t, ok := topics[v.topic]
		if !ok {
			if t, err = h.log.EnsureTopic(ctx, eventlog.TopicSpec{Name: v.topic, Replication: int16(h.config.KafkaReplication)}); err != nil {
				return err
			}
			topics[v.topic] = t
		}
		if err := v.add(ctx, h, engine, t); err != nil {
			return err
		}
		api := viewAPI{view: v, engine: engine}
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
	q, err := r.Only(append([]string{"from", "to", "limit", "cursor"}, a.view.indexes...)...)
	if err != nil {
		return nil, err
	}
	atLeast, err := r.AtLeast()
	if err != nil {
		return nil, err
	}
	query := projection.Query{From: q.Get("from"), To: q.Get("to"), Cursor: q.Get("cursor")}
	if q.Has("limit") {
		limit, err := number(q, "limit", 1, projection.MaxLimit)
		if err != nil {
			return nil, err
		}
		query.Limit = int(limit)
	}
	for _, name := range a.view.indexes {
		if !q.Has(name) {
			continue
		}
		if query.Index != "" {
			return nil, ErrPoint.Because("%s and %s: one index at a time", query.Index, name)
		}
		query.Index, query.Value = name, q.Get(name)
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
