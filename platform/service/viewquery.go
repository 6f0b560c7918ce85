package service

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"reflect"
	"slices"
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
	view      View // its newest version
	versions  map[int]View
	engine    *projection.Projector
	languages map[int]func() (*filter.Language, error) // by version
	build     string                                   // that another instance asks for; "" = what the request says
}

func newViewAPI(versions map[int]View, engine *projection.Projector) *viewAPI {
	a := &viewAPI{versions: versions, engine: engine, languages: map[int]func() (*filter.Language, error){}}
	for n, v := range versions {
		a.languages[n] = sync.OnceValues(func() (*filter.Language, error) { return filter.NewLanguage(v.row) })
		if a.view.name == "" || n > a.view.version {
			a.view = v
		}
	}
	return a
}

// of returns what a request reads, and the version of the view by which it is understood: that of the build that it names, if the program
// has its code; else the newest one, so that a request is not refused because an older build answers queries, yet or again.
func (a *viewAPI) of(r *rest.Request) (name string, _ View, err error) {
	build := cmp.Or(a.build, r.Query().Get("build"))
	name = projection.Of(a.view.name, build)
	if build == "" {
		return name, a.view, nil
	}
	version, err := a.engine.VersionOf(name)
	if err != nil {
		return "", View{}, err
	}
	if v, ok := a.versions[version]; ok {
		return name, v, nil
	}
	return name, a.view, nil
}

// routes returns what is answered over HTTP, by these handlers.
func (a *viewAPI) routes(list, row rest.Handler) []route {
	rows := "/v1/views/" + a.view.name
	return []route{
		{method: http.MethodGet, pattern: rows, wants: a.wants, handler: list, doc: listDoc(a.view, a.indexes())},
		{method: http.MethodGet, pattern: rows + "/:key", wants: a.wants, handler: row, doc: rowDoc(a.view)},
	}
}

// indexes returns those of all versions: a request may name a build of an older one.
func (a *viewAPI) indexes() []index {
	all := map[string]index{}
	for _, n := range slices.Sorted(maps.Keys(a.versions)) {
		for _, x := range a.versions[n].indexes {
			all[x.name] = x
		}
	}
	out := make([]index, 0, len(all))
	for _, name := range sortedKeys(all) {
		out = append(out, all[name])
	}
	return out
}

// wants returns what a request wants; the key is empty for rows.
func (a *viewAPI) wants(r *rest.Request) (rest.Access, error) {
	return rest.Access{Action: rest.ActView, View: a.view.name, Build: r.Query().Get("build"), Key: r.Param("key")}, nil
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
	given, err := r.Only("explain", "fields", "build")
	if err != nil {
		return nil, err
	}
	name, v, err := a.of(r)
	if err != nil {
		return nil, err
	}
	form, err := v.written(given)
	if err != nil {
		return nil, err
	}
	atLeast, err := r.AtLeast()
	if err != nil {
		return nil, err
	}
	if accepts(r, typeEvents) {
		w, err := a.engine.WatchRow(name, r.Param("key"), atLeast, r.Header("Last-Event-Id"))
		if err != nil {
			return nil, err
		}
		return live(ctx, w, form)
	}
	got, err := a.engine.Get(ctx, name, r.Param("key"), atLeast)
	if err != nil {
		return nil, err
	}
	header := freshness(got.Text, got.Lag)
	// Of another build, or without a dead letter, the row may be another one, though the same event changed it last.
	etag := `"` + got.Row.Position.String() + ";" + got.Build + missing(&got) + form.tag() + `"`
	header["Etag"] = []string{etag}
	if r.NoneMatch(etag) {
		return &rest.Response{Status: http.StatusNotModified, Header: header}, nil
	}
	body, err := form.append(nil, &got.Row)
	if err != nil {
		return nil, err
	}
	if form.explain {
		if body, err = a.explained(ctx, name, body, &got); err != nil {
			return nil, err
		}
	}
	return &rest.Response{Status: http.StatusOK, Header: header, Body: append(body, '\n'), ContentType: "application/json"}, nil
}

// explained adds to an explained row which build it is of and what is known of the event that changed it last.
func (a *viewAPI) explained(ctx context.Context, name string, body []byte, got *projection.Answer) ([]byte, error) {
	headers, err := a.engine.HeadersAt(ctx, name, got.Row.Position)
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
func freshness(applied string, lag time.Duration) http.Header {
	age := "0.000"
	if lag > 0 {
		age = strconv.FormatFloat(lag.Seconds(), 'f', 3, 64)
	}
	values := []string{applied, age, "no-store"}
	return http.Header{"Millrace-Position": values[0:1:1], "Millrace-Lag-Seconds": values[1:2:2], "Cache-Control": values[2:3:3]}
}

// A listing is what a request for rows asks.
type listing struct {
	given   url.Values
	query   projection.Query // of rows by what is in them, not of those that an event changed
	atLeast es.Positions
	form    form
}

// listing reads a request for rows as a version of the view understands it.
func (a *viewAPI) listing(r *rest.Request, v View) (l listing, err error) {
	if l.given, err = r.Only(v.parameters()...); err != nil {
		return l, err
	}
	if l.atLeast, err = r.AtLeast(); err != nil {
		return l, err
	}
	if err := a.fits(r, l.given); err != nil {
		return l, err
	}
	if l.form, err = v.written(l.given); err != nil || l.given.Has("changed_by") {
		return l, err
	}
	l.query, err = v.query(l.given, a.languages[v.version])
	return l, err
}

// fits refuses what does not go together: a parameter that is taken and changes nothing is an answer to another question.
func (a *viewAPI) fits(r *rest.Request, given url.Values) error {
	live, export := accepts(r, typeEvents), a.formatOf(r) != nil
	if given.Has("changed_by") {
		for name := range given {
			if name != "changed_by" && name != "fields" && name != "explain" && name != "build" {
				return ErrPoint.Because("%s beside changed_by, which names all rows that an event changed", name).WithFix("leave one of them out; fields, explain and build go with changed_by")
			}
		}
		if live || export {
			return ErrPoint.Because("changed_by is answered as JSON").WithFix("send Accept: application/json")
		}
	}
	switch {
	case !live && !export:
	case given.Has("count"):
		return ErrPoint.Because("a count cannot be watched or exported").WithFix("send Accept: application/json")
	case given.Has("cursor"):
		return ErrPoint.Because("what is watched or exported has no pages: it begins with the first row").WithFix("leave cursor out, or send Accept: application/json and read page by page")
	}
	return nil
}

func (a *viewAPI) list(ctx context.Context, r *rest.Request) (*rest.Response, error) {
	name, v, err := a.of(r)
	if err != nil {
		return nil, err
	}
	l, err := a.listing(r, v)
	if err != nil {
		return nil, err
	}
	given, query, atLeast, form := l.given, l.query, l.atLeast, l.form
	switch {
	case given.Has("changed_by"):
		return a.changed(ctx, name, given, atLeast, form)
	case accepts(r, typeEvents):
		w, err := a.engine.WatchList(name, query, atLeast, r.Header("Last-Event-Id"))
		if err != nil {
			return nil, err
		}
		return live(ctx, w, form)
	case a.formatOf(r) != nil:
		return a.export(ctx, name, query, atLeast, form, a.formatOf(r))
	case given.Has("count"):
		return a.count(ctx, name, query, atLeast)
	}
	// What a page is made of cannot have changed as long as nothing was applied, dead letters among it.
	state, err := a.engine.Applied(ctx, name, atLeast)
	if err != nil {
		return nil, err
	}
	if etag := tagOf(state); r.NoneMatch(etag) {
		header := freshness(state.Text, state.Lag)
		header["Etag"] = []string{etag}
		return &rest.Response{Status: http.StatusNotModified, Header: header}, nil
	}
	page, err := a.engine.List(ctx, name, query, atLeast)
	if err != nil {
		return nil, err
	}
	return pageResponse(&page, form, projection.Answer{Applied: page.Applied, Build: page.Build, Missing: page.Missing})
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
	header := freshness(page.Applied.String(), page.Lag)
	header["Etag"] = []string{tagOf(state)}
	return &rest.Response{Status: http.StatusOK, Header: header, Body: append(body, "}\n"...), ContentType: "application/json"}, nil
}

// tagOf returns the entity tag of everything that a build answers at its positions. A dead letter that is applied moves none of them.
func tagOf(state projection.Answer) string {
	sum := sha256.Sum256([]byte(state.Build + " " + state.Applied.String() + missing(&state)))
	return `W/"` + hex.EncodeToString(sum[:12]) + `"`
}

// missing tells answers apart that have the same events before them but not in them.
func missing(state *projection.Answer) string {
	if state.Missing == 0 {
		return ""
	}
	return ";" + strconv.FormatUint(state.Missing, 16)
}

// count answers how many rows there are.
func (a *viewAPI) count(ctx context.Context, name string, q projection.Query, atLeast es.Positions) (*rest.Response, error) {
	got, err := a.engine.Count(ctx, name, q, atLeast)
	if err != nil {
		return nil, err
	}
	resp := rest.JSON(http.StatusOK, countJSON{Count: got.Rows, More: got.More})
	resp.Header = freshness(got.Applied.String(), got.Lag)
	return resp, nil
}

type countJSON struct {
	Count int  `json:"count"`
	More  bool `json:"more,omitempty" doc:"there may be more: only so many rows were looked at"`
}

// changed answers which rows an event changed.
func (a *viewAPI) changed(ctx context.Context, name string, given url.Values, atLeast es.Positions, form form) (*rest.Response, error) {
	at, err := es.ParsePosition(given.Get("changed_by"))
	if err != nil {
		return nil, err
	}
	rows, gone, err := a.engine.Changed(ctx, name, at, atLeast)
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
func (v View) parameters() []string {
	names := []string{"from", "to", "prefix", "order", "limit", "cursor", "where", "fields", "count", "explain", "changed_by", "build"}
	for _, x := range v.indexes {
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
func (v View) query(given url.Values, language func() (*filter.Language, error)) (projection.Query, error) {
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
	for _, x := range v.indexes {
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
	cel, err := language()
	if err != nil {
		return q, err
	}
	where, err := cel.Compile(given.Get("where"))
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

// written reads how rows are to be written.
func (v View) written(given url.Values) (form, error) {
	f := form{explain: given.Has("explain")}
	if !given.Has("fields") {
		return f, nil
	}
	known := fieldsOf(v.row)
	for name := range strings.SplitSeq(given.Get("fields"), ",") {
		if known != nil && !known[name] {
			return f, ErrPoint.Because("fields: the rows have no field %.60q", name).WithFix("use some of %s", strings.Join(sortedKeys(known), ", "))
		}
		if !slices.Contains(f.fields, name) {
			f.fields = append(f.fields, name)
		}
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
