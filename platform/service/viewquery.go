package service

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/filter"
	"github.com/millrace/millrace/platform/jsontype"
	"github.com/millrace/millrace/platform/projection"
	"github.com/millrace/millrace/platform/rest"
)

// A viewAPI answers the queries of one view.
type viewAPI struct {
	view     View                 // its newest version
	rows     map[int]reflect.Type // by version of its code
	engine   *projection.Projector
	language func() (*filter.Language, error)
}

func newViewAPI(v View, rows map[int]reflect.Type, engine *projection.Projector) *viewAPI {
	return &viewAPI{view: v, rows: rows, engine: engine, language: sync.OnceValues(func() (*filter.Language, error) { return filter.NewLanguage(v.row) })}
}

// routes returns what is answered over HTTP, by these handlers.
func (a *viewAPI) routes(list, row rest.Handler) []route {
	rows := "/v1/views/" + a.view.name
	return []route{
		{method: http.MethodGet, pattern: rows, wants: wants(rest.Access{Action: rest.ActView, View: a.view.name}), handler: list, doc: listDoc(a.view)},
		{method: http.MethodGet, pattern: rows + "/:key", wants: func(r *rest.Request) (rest.Access, error) {
			return rest.Access{Action: rest.ActView, View: a.view.name, Key: r.Param("key")}, nil
		}, handler: row, doc: rowDoc(a.view)},
	}
}

// What a client accepts, beside JSON.
const (
	typeEvents = "text/event-stream"
	typeNDJSON = "application/x-ndjson"
)

// accepts reports whether the client asked for a media type by name.
func accepts(r *rest.Request, media string) bool {
	for _, line := range r.HTTP().Header["Accept"] {
		for part := range strings.SplitSeq(line, ",") {
			name, _, _ := strings.Cut(part, ";")
			if strings.EqualFold(strings.TrimSpace(name), media) {
				return true
			}
		}
	}
	return false
}

func (a *viewAPI) row(ctx context.Context, r *rest.Request) (*rest.Response, error) {
	given, err := r.Only("explain", "fields")
	if err != nil {
		return nil, err
	}
	form, err := a.form(given)
	if err != nil {
		return nil, err
	}
	atLeast, err := r.AtLeast()
	if err != nil {
		return nil, err
	}
	if accepts(r, typeEvents) {
		w, err := a.engine.WatchRow(a.view.name, r.Param("key"), atLeast, r.Header("Last-Event-Id"))
		if err != nil {
			return nil, err
		}
		return live(ctx, w, form)
	}
	got, err := a.engine.Get(ctx, a.view.name, r.Param("key"), atLeast)
	if err != nil {
		return nil, err
	}
	header := freshness(got.Applied, got.Lag)
	etag := `"` + got.Row.Position.String() + form.tag() + `"`
	header["Etag"] = []string{etag}
	if r.NoneMatch(etag) {
		return &rest.Response{Status: http.StatusNotModified, Header: header}, nil
	}
	body, err := form.append(nil, &got.Row)
	if err != nil {
		return nil, err
	}
	if form.explain {
		if body, err = a.explained(ctx, body, &got); err != nil {
			return nil, err
		}
	}
	return &rest.Response{Status: http.StatusOK, Header: header, Body: append(body, '\n'), ContentType: "application/json"}, nil
}

// explained adds to an explained row which build it is of and what is known of the event that changed it last.
func (a *viewAPI) explained(ctx context.Context, body []byte, got *projection.Answer) ([]byte, error) {
	headers, err := a.engine.HeadersAt(ctx, a.view.name, got.Row.Position)
	if err != nil {
		return nil, err
	}
	more, err := json.Marshal(struct {
		Build   string            `json:"build"`
		Headers map[string]string `json:"headers"`
	}{got.Build, headers})
	if err != nil {
		return nil, err
	}
	return append(append(body[:len(body)-1], ','), more[1:]...), nil
}

// freshness says on which positions an answer is based and how old that is.
func freshness(applied es.Positions, lag time.Duration) http.Header {
	return http.Header{
		"Millrace-Position":    {applied.String()},
		"Millrace-Lag-Seconds": {strconv.FormatFloat(lag.Seconds(), 'f', 3, 64)},
		"Cache-Control":        {"no-store"},
	}
}

func (a *viewAPI) list(ctx context.Context, r *rest.Request) (*rest.Response, error) {
	given, err := r.Only(a.parameters()...)
	if err != nil {
		return nil, err
	}
	atLeast, err := r.AtLeast()
	if err != nil {
		return nil, err
	}
	form, err := a.form(given)
	if err != nil {
		return nil, err
	}
	if given.Has("changed_by") {
		return a.changed(ctx, given, form)
	}
	query, err := a.query(given)
	if err != nil {
		return nil, err
	}
	switch {
	case accepts(r, typeEvents):
		w, err := a.engine.WatchList(a.view.name, query, atLeast, r.Header("Last-Event-Id"))
		if err != nil {
			return nil, err
		}
		return live(ctx, w, form)
	case a.formatOf(r) != nil:
		return a.export(ctx, query, atLeast, form, a.formatOf(r))
	case given.Has("count"):
		return a.count(ctx, query, atLeast)
	}
	// What a page is made of cannot have changed as long as nothing was applied.
	state, err := a.engine.Applied(ctx, a.view.name, atLeast)
	if err != nil {
		return nil, err
	}
	if etag := tagOf(state); r.NoneMatch(etag) {
		header := freshness(state.Applied, state.Lag)
		header["Etag"] = []string{etag}
		return &rest.Response{Status: http.StatusNotModified, Header: header}, nil
	}
	page, err := a.engine.List(ctx, a.view.name, query, atLeast)
	if err != nil {
		return nil, err
	}
	return pageResponse(&page, form, projection.Answer{Applied: page.Applied, Build: page.Build})
}

// pageResponse returns the answer that a page is.
func pageResponse(page *projection.Page, form form, state projection.Answer) (_ *rest.Response, err error) {
	body := append(make([]byte, 0, 4096), `{"rows":[`...)
	for i := range page.Rows {
		if i > 0 {
			body = append(body, ',')
		}
		if body, err = form.append(body, &page.Rows[i]); err != nil {
			return nil, err
		}
	}
	body = append(body, ']')
	if page.Next != "" {
		next, err := json.Marshal(page.Next)
		if err != nil {
			return nil, err
		}
		body = append(append(body, `,"next":`...), next...)
	}
	header := freshness(page.Applied, page.Lag)
	header["Etag"] = []string{tagOf(state)}
	return &rest.Response{Status: http.StatusOK, Header: header, Body: append(body, "}\n"...), ContentType: "application/json"}, nil
}

// tagOf returns the entity tag of everything that a build answers at its positions.
func tagOf(state projection.Answer) string {
	sum := sha256.Sum256([]byte(state.Build + " " + state.Applied.String()))
	return `W/"` + hex.EncodeToString(sum[:12]) + `"`
}

// count answers how many rows there are.
func (a *viewAPI) count(ctx context.Context, q projection.Query, atLeast es.Positions) (*rest.Response, error) {
	got, err := a.engine.Count(ctx, a.view.name, q, atLeast)
	if err != nil {
		return nil, err
	}
	resp := rest.JSON(http.StatusOK, countJSON{Count: got.Rows, More: got.More})
	resp.Header = freshness(got.Applied, got.Lag)
	return resp, nil
}

type countJSON struct {
	Count int  `json:"count"`
	More  bool `json:"more,omitempty" doc:"there may be more: only so many rows were looked at"`
}

// changed answers which rows an event changed.
func (a *viewAPI) changed(ctx context.Context, given url.Values, form form) (*rest.Response, error) {
	at, err := es.ParsePosition(given.Get("changed_by"))
	if err != nil {
		return nil, err
	}
	rows, gone, err := a.engine.Changed(ctx, a.view.name, at)
	if err != nil {
		return nil, err
	}
	form.explain = true
	body := []byte(`{"rows":[`)
	for i := range rows {
		if i > 0 {
			body = append(body, ',')
		}
		if body, err = form.append(body, &rows[i]); err != nil {
			return nil, err
		}
	}
	keys, err := json.Marshal(append([]string{}, gone...))
	if err != nil {
		return nil, err
	}
	body = append(append(append(body, `],"gone":`...), keys...), "}\n"...)
	return &rest.Response{Status: http.StatusOK, Body: body, ContentType: "application/json"}, nil
}

// parameters returns the names that a list takes.
func (a *viewAPI) parameters() []string {
	names := []string{"from", "to", "prefix", "order", "limit", "cursor", "where", "fields", "count", "explain", "changed_by"}
	for _, x := range a.view.indexes {
		name := x.name
		if len(x.kinds) > 1 {
			name += "*"
		}
		names = append(names, name, x.name+".from", x.name+".to", x.name+".prefix")
	}
	return names
}

// query reads a query from the parameters of a request: an index by its name, with a value for each of its first parts, and
// <index>.from, .to and .prefix for the next one, or for the keys if all have one; from, to and prefix for the keys.
func (a *viewAPI) query(given url.Values) (projection.Query, error) {
	q := projection.Query{From: given.Get("from"), To: given.Get("to"), Prefix: given.Get("prefix"), Cursor: given.Get("cursor")}
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
		from, to, prefix := given.Get(x.name+".from"), given.Get(x.name+".to"), given.Get(x.name+".prefix")
		if q.From != "" || q.To != "" || q.Prefix != "" {
			if len(q.Equal) < len(x.kinds) {
				return q, ErrPoint.Because("a range of keys and the index %s", x.name).WithFix("use %s.from, %s.to or %s.prefix", x.name, x.name, x.name)
			}
			if from != "" || to != "" || prefix != "" {
				return q, ErrPoint.Because("all parts of the index %s have a value: what %s.from, .to and .prefix are about are the keys, as from, to and prefix are", x.name, x.name)
			}
			continue
		}
		q.From, q.To, q.Prefix = from, to, prefix
	}
	if !given.Has("where") {
		return q, nil
	}
	language, err := a.language()
	if err != nil {
		return q, err
	}
	where, err := language.Compile(given.Get("where"))
	if err != nil {
		return q, err
	}
	q.Name, q.Where = where.String(), func(row projection.Row) (bool, error) { return where.Matches(row.JSON) }
	return q, nil
}

// A form is how rows are written.
type form struct {
	fields  []string // only these; nil = all
	explain bool     // with their key and the event that changed them last
}

// form reads how rows are to be written.
func (a *viewAPI) form(given url.Values) (form, error) {
	f := form{explain: given.Has("explain")}
	if !given.Has("fields") {
		return f, nil
	}
	known := fieldsOf(a.view.row)
	for name := range strings.SplitSeq(given.Get("fields"), ",") {
		if known != nil && !known[name] {
			return f, ErrPoint.Because("fields: the rows have no field %.60q", name).WithFix("use some of %s", strings.Join(sortedKeys(known), ", "))
		}
		f.fields = append(f.fields, name)
	}
	return f, nil
}

// fieldsOf returns the names that the fields of a row have in JSON, nil for rows that may have any.
func fieldsOf(t reflect.Type) map[string]bool {
	if t.Kind() != reflect.Struct {
		return nil
	}
	names := map[string]bool{}
	for _, m := range jsontype.Members(t) {
		names[m.Name] = true
	}
	return names
}

// tag tells answers of one row apart that are written differently.
func (f *form) tag() string {
	if f.fields == nil && !f.explain {
		return ""
	}
	return "?" + strings.Join(f.fields, ",") + strconv.FormatBool(f.explain)
}

// append appends a row.
func (f *form) append(dst []byte, row *projection.Row) ([]byte, error) {
	if !f.explain {
		return f.json(dst, row)
	}
	head, err := json.Marshal(struct {
		Key      string      `json:"key"`
		Position es.Position `json:"position"`
		EventID  string      `json:"event_id"`
	}{row.Key, row.Position, row.EventID})
	if err != nil {
		return nil, err
	}
	dst = append(append(dst, head[:len(head)-1]...), `,"row":`...)
	if dst, err = f.json(dst, row); err != nil {
		return nil, err
	}
	return append(dst, '}'), nil
}

func (f *form) json(dst []byte, row *projection.Row) ([]byte, error) {
	if f.fields == nil {
		return append(dst, row.JSON...), nil
	}
	var all map[string]json.RawMessage
	if err := json.Unmarshal(row.JSON, &all); err != nil {
		return nil, err
	}
	dst = append(dst, '{')
	n := 0
	for _, name := range f.fields {
		value, ok := all[name]
		if !ok {
			continue // omitted, as it is in the whole row
		}
		if n > 0 {
			dst = append(dst, ',')
		}
		n++
		quoted, err := json.Marshal(name)
		if err != nil {
			return nil, err
		}
		dst = append(append(append(dst, quoted...), ':'), value...)
	}
	return append(dst, '}'), nil
}
