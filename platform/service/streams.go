package service

import (
	"context"
	"encoding/json"
	"errors"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/platform/command"
	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/fault"
	"github.com/millrace/millrace/platform/rest"
)

// ErrPoint is returned for a query parameter whose value cannot be used.
var ErrPoint = fault.New(fault.Invalid, "invalid_query", "a query parameter has a value that is not allowed")

// The bounds of one page of events.
const (
	pageEvents  = 100  // by default
	pageMost    = 1000 // at most
	pageBytes   = 1 << 20
	categoryMax = 30 // seconds that a reader of a category may wait
)

// state answers GET /v1/<name>/{id}.
func (a *commandAPI[S, C, E]) state(ctx context.Context, r *rest.Request) (*rest.Response, error) {
	id, err := es.ParseStreamID(r.Param("id"))
	if err != nil {
		return nil, err
	}
	q, err := r.Only("version", "at", "diff")
	if err != nil {
		return nil, err
	}
	var at command.Point
	if q.Has("version") && q.Has("at") {
		return nil, ErrPoint.Because("version and at exclude each other")
	}
	if at.Version, err = version(q, "version"); err != nil {
		return nil, err
	}
	if at.Time, err = moment(q, "at"); err != nil {
		return nil, err
	}
	if q.Has("diff") {
		if q.Get("diff") != "next" {
			return nil, ErrPoint.Because("diff=%.40q is not next", q.Get("diff"))
		}
		at.Diff = true
	}
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	m, err := a.engine.At(ctx, id, at)
	if err != nil {
		return nil, err
	}
	etag := `"` + strconv.FormatInt(int64(m.Version), 10) + `"`
	header := http.Header{"Etag": {etag}, "Millrace-Position": {m.Position.String()}}
	if !at.Diff && r.NoneMatch(etag) {
		return &rest.Response{Status: http.StatusNotModified, Header: header}, nil
	}
	resp := rest.JSON(http.StatusOK, m.State)
	if at.Diff {
		body := stateJSON[S]{Version: m.Version, Last: m.Last, State: m.State}
		if m.Next != nil {
			body.Next = &stepJSON{Version: m.Next.Version, Changes: m.Next.Changes}
			if body.Next.Events, err = eventsJSON(m.Next.Events); err != nil {
				return nil, err
			}
		}
		resp = rest.JSON(http.StatusOK, body)
	}
	resp.Header = header
	return resp, nil
}

// stateJSON is a state with what came next.
type stateJSON[S any] struct {
	Version es.Version `json:"version"`
	Last    es.Version `json:"last_version"`
	State   S          `json:"state"`
	Next    *stepJSON  `json:"next,omitempty"` // absent at the end of the stream
}

type stepJSON struct {
	Version es.Version       `json:"version"`
	Events  []eventJSON      `json:"events"`
	Changes []command.Change `json:"changes"`
}

// version reads a version from a query parameter, 0 if it is absent.
func version(q url.Values, name string) (es.Version, error) {
	if !q.Has(name) {
		return 0, nil
	}
	v, err := number(q, name, 1, 1<<62)
	return es.Version(v), err
}

// moment reads a time from a query parameter, the zero time if it is absent.
func moment(q url.Values, name string) (time.Time, error) {
	if !q.Has(name) {
		return time.Time{}, nil
	}
	at, err := time.Parse(time.RFC3339, q.Get(name))
	if err != nil || at.IsZero() {
		return at, ErrPoint.Because("%s=%.40q is not a time like 2026-01-31T12:00:00Z", name, q.Get(name)).WithFix("write + as %%2B, or use the time in UTC")
	}
	return at, nil
}

// number reads a whole number from a query parameter.
func number(q url.Values, name string, least, most int64) (int64, error) {
	v, err := strconv.ParseInt(q.Get(name), 10, 64)
	if err != nil || v < least || v > most || strconv.FormatInt(v, 10) != q.Get(name) {
		return 0, ErrPoint.Because("%s=%.40q is not a number from %d to %d", name, q.Get(name), least, most)
	}
	return v, nil
}

// limit reads how many events a page has, and how many there may be altogether where events are sent one by one; 0 = no bound.
func limit(q url.Values) (page, all int, err error) {
	if !q.Has("limit") {
		return pageEvents, 0, nil
	}
	n, err := number(q, "limit", 1, pageMost)
	return int(n), int(n), err
}

// events answers GET /v1/<name>/{id}/events.
func (a *commandAPI[S, C, E]) events(ctx context.Context, r *rest.Request) (*rest.Response, error) {
	id, err := es.ParseStreamID(r.Param("id"))
	if err != nil {
		return nil, err
	}
	q, err := r.Only("from", "to", "until", "direction", "limit")
	if err != nil {
		return nil, err
	}
	o := command.ReadOptions{Bytes: pageBytes}
	if o.From, err = version(q, "from"); err != nil {
		return nil, err
	}
	if o.To, err = version(q, "to"); err != nil {
		return nil, err
	}
	if o.Until, err = moment(q, "until"); err != nil {
		return nil, err
	}
	switch d := q.Get("direction"); {
	case d == "backward":
		o.Backwards = true
	case d != "forward" && q.Has("direction"):
		return nil, ErrPoint.Because("direction=%.40q is not forward or backward", d)
	}
	if o.From > 0 && o.To > 0 && (o.From > o.To) != o.Backwards && o.From != o.To {
		return nil, ErrPoint.Because("from=%d and to=%d are the wrong way round", o.From, o.To).WithFix("from is where the reading begins; with direction=backward it is the higher one")
	}
	page, all, err := limit(q)
	if err != nil {
		return nil, err
	}
	o.Limit = page
	first, err := a.readPage(ctx, id, o)
	if err != nil {
		return nil, err
	}
	if !lines(r) {
		body := pageJSON{Next: first.Next, Last: first.Last}
		if body.Events, err = eventsJSON(first.Events); err != nil {
			return nil, err
		}
		return rest.JSON(http.StatusOK, body), nil
	}
	return inLines(func(ctx context.Context, w *rest.Stream) error {
		for page, left := first, all; ; {
			if err := writeLines(w, page.Events); err != nil {
				return err
			}
			if page.Next == 0 || all > 0 && left <= versions(page.Events) {
				return nil
			}
			if all > 0 {
				left -= versions(page.Events)
				o.Limit = left
			}
			o.From = page.Next
			if page, err = a.readPage(ctx, id, o); err != nil {
				return err // cuts the connection: what was sent is not the whole
			}
		}
	}), nil
}

func (a *commandAPI[S, C, E]) readPage(ctx context.Context, id es.StreamID, o command.ReadOptions) (command.Page[E], error) {
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	return a.engine.Read(ctx, id, o)
}

// versions counts the stored events among those that they are read as.
func versions[E any](events []es.Envelope[E]) int {
	n := 0
	for i := range events {
		if events[i].Part == 0 {
			n++
		}
	}
	return n
}

// pageJSON is one page of a stream as clients see it.
type pageJSON struct {
	Events []eventJSON `json:"events"`
	Next   es.Version  `json:"next,omitempty"` // the from of the next page; absent at the end
	Last   es.Version  `json:"last_version"`   // of the stream
}

// metadata answers GET /v1/<name>/{id}/metadata.
func (a *commandAPI[S, C, E]) metadata(ctx context.Context, r *rest.Request) (*rest.Response, error) {
	id, err := es.ParseStreamID(r.Param("id"))
	if err != nil {
		return nil, err
	}
	if _, err := r.Only(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	m, err := a.engine.Metadata(ctx, id)
	if err != nil {
		return nil, err
	}
	return rest.JSON(http.StatusOK, m).Set("Etag", `"`+strconv.FormatInt(int64(m.Last), 10)+`"`).Set("Millrace-Position", m.Position.String()), nil
}

// category answers GET /v1/events/<name>. It reads the log, which every instance can.
func (a *commandAPI[S, C, E]) category(ctx context.Context, r *rest.Request) (*rest.Response, error) {
	q, err := r.Only("after", "cursor", "types", "limit", "wait")
	if err != nil {
		return nil, err
	}
	o := command.CategoryOptions{Cursor: q.Get("cursor"), Bytes: pageBytes}
	if q.Has("after") {
		if q.Has("cursor") {
			return nil, ErrPoint.Because("after and cursor exclude each other")
		}
		if o.After, err = es.ParsePositions(q.Get("after")); err != nil {
			return nil, err
		}
	}
	if q.Has("types") {
		o.Types = strings.Split(q.Get("types"), ",")
	}
	page, all, err := limit(q)
	if err != nil {
		return nil, err
	}
	o.Limit = page
	if q.Has("wait") {
		seconds, err := number(q, "wait", 0, categoryMax)
		if err != nil {
			return nil, err
		}
		o.Wait = time.Duration(seconds) * time.Second
	}
	first, err := a.categoryPage(ctx, o)
	if err != nil {
		return nil, err
	}
	if !lines(r) {
		body := categoryJSON{Next: first.Next, End: first.End}
		if body.Events, err = eventsJSON(first.Events); err != nil {
			return nil, err
		}
		resp := rest.JSON(http.StatusOK, body)
		if len(first.Positions) > 0 {
			resp.Set("Millrace-Position", first.Positions.String())
		}
		return resp, nil
	}
	return inLines(func(ctx context.Context, w *rest.Stream) error {
		for page, left := first, all; ; {
			if err := writeLines(w, page.Events); err != nil {
				return err
			}
			if page.End || all > 0 && left <= len(page.Events) {
				return nil
			}
			if all > 0 {
				left -= len(page.Events)
				o.Limit = left
			}
			o.After, o.Cursor, o.Wait = nil, page.Next, 0
			if page, err = a.categoryPage(ctx, o); err != nil {
				return err // cuts the connection: what was sent is not the whole
			}
		}
	}), nil
}

func (a *commandAPI[S, C, E]) categoryPage(ctx context.Context, o command.CategoryOptions) (command.CategoryPage[E], error) {
	ctx, cancel := context.WithTimeout(ctx, a.timeout+o.Wait)
	defer cancel()
	return a.engine.Category(ctx, o)
}

// categoryJSON is one page of all streams as clients see it.
type categoryJSON struct {
	Events []eventJSON `json:"events"`
	Next   string      `json:"next"` // the cursor of the next page, also if there is nothing more now
	End    bool        `json:"end"`  // nothing more was there
}

// eventJSON is one event of a stream as clients see it.
type eventJSON struct {
	ID            string          `json:"id"`
	Stream        es.StreamID     `json:"stream"`
	Type          string          `json:"type"`
	Version       es.Version      `json:"version"`
	Position      es.Position     `json:"position"`
	Time          time.Time       `json:"time"`
	CommandID     string          `json:"command_id"`
	CorrelationID string          `json:"correlation_id,omitempty"`
	CausationID   string          `json:"causation_id,omitempty"`
	Actor         string          `json:"actor,omitempty"`
	TraceParent   string          `json:"traceparent,omitempty"`
	Part          int             `json:"part,omitempty"`  // from 0, of a stored event that is read as several
	Parts         int             `json:"parts,omitempty"` // how many they are
	Data          json.RawMessage `json:"data"`
}

func eventsJSON[E any](envs []es.Envelope[E]) ([]eventJSON, error) {
	all := make([]eventJSON, len(envs))
	for i, env := range envs {
		data, err := json.Marshal(env.Event)
		if err != nil {
			return nil, err
		}
		all[i] = eventJSON{
			ID: env.ID, Stream: env.Stream, Type: env.Type, Version: env.Version, Position: env.Position, Time: env.Time, CommandID: env.Meta.CommandID,
			CorrelationID: env.Meta.CorrelationID, CausationID: env.Meta.CausationID, Actor: env.Meta.Actor, TraceParent: env.Meta.TraceParent, Part: env.Part, Parts: env.Parts, Data: data,
		}
	}
	return all, nil
}

const typeLines = "application/x-ndjson"

// lines reports whether the client wants events one by one, each in a line, instead of pages.
func lines(r *rest.Request) bool {
	for _, accepted := range r.HTTP().Header["Accept"] {
		for one := range strings.SplitSeq(accepted, ",") {
			if media, _, err := mime.ParseMediaType(one); err == nil && media == typeLines {
				return true
			}
		}
	}
	return false
}

func inLines(send func(context.Context, *rest.Stream) error) *rest.Response {
	return &rest.Response{Status: http.StatusOK, ContentType: typeLines, Stream: send}
}

// lineTime is how long a client may take to read one page of lines.
const lineTime = time.Minute

func writeLines[E any](w *rest.Stream, envs []es.Envelope[E]) error {
	events, err := eventsJSON(envs)
	if err != nil {
		return err
	}
	if err := w.SetWriteDeadline(time.Now().Add(lineTime)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	for _, e := range events {
		line, err := json.Marshal(e)
		if err != nil {
			return err
		}
		if _, err := w.Write(append(line, '\n')); err != nil {
			return err
		}
	}
	return w.Flush()
}
