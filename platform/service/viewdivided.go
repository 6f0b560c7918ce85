package service

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"net/http"
	"net/url"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/eventlog"
	"github.com/millrace/millrace/platform/fault"
	"github.com/millrace/millrace/platform/forward"
	"github.com/millrace/millrace/platform/projection"
	"github.com/millrace/millrace/platform/rest"
)

// What an instance says to another one that it asks for a range.
const (
	headerRange = "Millrace-Range" // which, as 2/5
	headerBuild = "Millrace-Build" // of which build
	headerAfter = "Millrace-After" // the place, in hexadecimal, after which the rows of a list are wanted
	headerWait  = "Millrace-Wait"  // for how long to wait for positions, at most
)

// headerAtLeast is what rest.Request.AtLeast reads.
const headerAtLeast = "Millrace-At-Least"

// A dividedAPI answers the queries of a view of which each instance has some ranges: a row comes from where its range is, a list from all
// ranges together.
type dividedAPI struct {
	*viewAPI // whose engine only signs cursors
	spread   *spreader
}

// on returns what answers from a build of a range that is here, "" = the one that answers queries.
func (d *dividedAPI) on(h *heldRange, build string) *viewAPI {
	a := *d.viewAPI
	a.engine, a.build = h.engine, build
	return &a
}

// code returns the version of the view by which a request is understood if it is answered from some version.
func (d *dividedAPI) code(version int) View {
	if v, ok := d.versions[version]; ok {
		return v
	}
	return d.view
}

func (d *dividedAPI) row(ctx context.Context, r *rest.Request) (*rest.Response, error) {
	if err := d.nameless(r); err != nil {
		return nil, err
	}
	if r.Header(headerRange) != "" && d.spread.h.fromPeer(ctx, r.HTTP()) {
		return d.asked(ctx, r, func(ctx context.Context, a *viewAPI) (*rest.Response, error) { return a.row(ctx, r) })
	}
	route, _ := d.spread.route(d.view.name)
	id := d.code(route.version).stream(r.Param("key"))
	return d.one(ctx, r, d.spread.rangeOf(eventlog.PartitionOf(id, d.spread.topic.Partitions)), (*viewAPI).row)
}

// nameless returns ErrBuildNotFound for a request that names a build: each range has builds of its own.
func (d *dividedAPI) nameless(r *rest.Request) error {
	if build := r.Query().Get("build"); build != "" {
		return projection.ErrBuildNotFound.Because("view %s, build %.60q: it is divided, and each range has builds of its own", d.view.name, build).
			WithFix("read it from a projector that has the whole view (view.ranges=0)")
	}
	return nil
}

// rangeOf returns the range of a partition.
func (s *spreader) rangeOf(partition int32) int {
	return projection.RangeOf(partition, s.topic.Partitions, s.ranges)
}

// asked answers another instance from the range that it names.
func (d *dividedAPI) asked(ctx context.Context, r *rest.Request, answer func(context.Context, *viewAPI) (*rest.Response, error)) (*rest.Response, error) {
	number, of, _ := strings.Cut(r.Header(headerRange), "/")
	n, err := strconv.Atoi(number)
	if err != nil || of != strconv.Itoa(d.spread.ranges) {
		return nil, errRangeElsewhere.Because("%.20q", r.Header(headerRange))
	}
	h, done, ok := d.spread.use(n)
	if !ok {
		return nil, errRangeElsewhere.Because("range %d of %s", n, d.view.name)
	}
	if wait, err := time.ParseDuration(r.Header(headerWait)); err == nil && wait > 0 {
		ctx = projection.WithPatience(ctx, wait)
	}
	return h.lend(done, func() (*rest.Response, error) { return answer(ctx, d.on(h, r.Header(headerBuild))) })
}

// one has a request answered from one range, here or by the first of the instances that have it and answer.
func (d *dividedAPI) one(ctx context.Context, r *rest.Request, n int, here func(*viewAPI, context.Context, *rest.Request) (*rest.Response, error)) (*rest.Response, error) {
	// That other ranges are missing does not matter.
	route, err := d.spread.route(d.view.name)
	if len(route.of[n]) == 0 {
		return nil, err
	}
	var late *rest.Response
	var lateErr error
	for t := range d.turns(route, n, r.Header(headerAtLeast) != "") {
		var resp *rest.Response
		if t.address == "" {
			h, done, ok := d.spread.use(n)
			if !ok {
				continue
			}
			build := t.build
			if accepts(r, typeEvents) {
				build = "" // whoever watches follows what answers queries
			}
			resp, err = h.lend(done, func() (*rest.Response, error) { return here(d.on(h, build), t.patient(ctx), r) })
			if errors.Is(err, projection.ErrBuildNotFound) {
				err = errRangeElsewhere // it has been replaced meanwhile
			}
		} else {
			resp, err = d.remote(ctx, t, n, r)
		}
		switch {
		case errors.Is(err, projection.ErrNotCaughtUp):
			late, lateErr = resp, err
		case !elsewhere(err):
			return resp, err
		}
	}
	switch {
	case late != nil:
		return late, nil
	case lateErr != nil:
		return nil, lateErr
	}
	d.spread.again()
	return nil, errNobody(n, d.view.name)
}

// turns yields where a range can be read, in the order in which they are to be tried. Those that are asked for positions share the time that a
// query waits for them: one that is behind, say because it is paused or has halted, is left for the next one while the client still waits, and
// if all are behind, that is not more to wait for than with one.
func (d *dividedAPI) turns(route *viewRoute, n int, waits bool) iter.Seq[target] {
	return func(yield func(target) bool) {
		until := time.Now().Add(d.spread.h.config.QueryWaitMax)
		targets := route.targets(n)
		for i, t := range targets {
			if waits && len(targets) > 1 {
				if t.wait = time.Until(until); i < len(targets)-1 {
					t.wait /= 2
				}
				t.wait = max(t.wait, time.Millisecond)
			}
			if !yield(t) {
				return
			}
		}
	}
}

// patient returns the context in which a range that is here is read.
func (t target) patient(ctx context.Context) context.Context {
	if t.wait > 0 {
		return projection.WithPatience(ctx, t.wait)
	}
	return ctx
}

// targets returns where a range can be read, in the order in which they are to be tried: here, then the others, another one first each time.
func (v *viewRoute) targets(n int) []target {
	of := slices.Clone(v.of[n])
	others := of
	if len(of) > 0 && of[0].address == "" {
		others = of[1:]
	}
	rand.Shuffle(len(others), func(i, j int) { others[i], others[j] = others[j], others[i] })
	return of
}

// errNoAnswer is why another instance is asked.
var errNoAnswer = fault.New(fault.Unavailable, "range_unanswered", "the instance that has the range does not answer")

// errNobody is why a request is answered not now.
func errNobody(n int, view string) error {
	return ErrRange.Because("range %d of the view %s: no instance that has it answers", n, view).After(time.Second)
}

func errOtherVersion(n int, view, build string, version int) error {
	return ErrRange.Because("range %d of the view %s answered from build %s, and version %d was asked", n, view, build, version).After(time.Second)
}

// elsewhere reports whether the same may be had from another instance.
func elsewhere(err error) bool {
	return errors.Is(err, errRangeElsewhere) || errors.Is(err, errNoAnswer)
}

// remote has a request answered by another instance, from a range that it has.
func (d *dividedAPI) remote(ctx context.Context, t target, n int, r *rest.Request) (*rest.Response, error) {
	if accepts(r, typeEvents) {
		resp, err := d.spread.h.passOn(ctx, t.address, r, d.about(target{address: t.address, wait: t.wait}, n)...)
		if err != nil {
			return nil, errNoAnswer.Wrap(err)
		}
		return resp, notHere(resp.Status, resp.Body)
	}
	return d.do(ctx, t, remoteOf(r, nil), d.about(t, n)...)
}

// about says to another instance what of it is asked.
func (d *dividedAPI) about(t target, n int) []forward.Field {
	wait := ""
	if t.wait > 0 {
		wait = t.wait.String()
	}
	return []forward.Field{
		{Name: headerRange, Value: projection.Range{Number: n, Of: d.spread.ranges}.String()}, {Name: headerBuild, Value: t.build},
		{Name: headerWait, Value: wait}, {Name: headerPeer, Value: peerToken(d.spread.h.config.PeerToken).proof()},
	}
}

// do sends a request to another instance, with fields in place of those of the same names.
func (d *dividedAPI) do(ctx context.Context, t target, q *forward.Request, fields ...forward.Field) (*rest.Response, error) {
	q.Method = http.MethodGet // of HEAD, too: what an answer says is in its body
	q.Header = slices.DeleteFunc(q.Header, func(f forward.Field) bool {
		return slices.ContainsFunc(fields, func(g forward.Field) bool { return g.Name == f.Name })
	})
	q.Header = append(q.Header, fields...)
	got, err := d.spread.h.peers.Do(ctx, t.address, q)
	switch {
	case errors.Is(err, forward.ErrTooLarge), errors.Is(err, forward.ErrInvalid):
		return nil, err
	case err != nil && ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case err != nil:
		return nil, errNoAnswer.Because("%s", t.address).Wrap(err)
	}
	return fromPeer(got), notHere(got.Status, got.Body)
}

// notHere returns errRangeElsewhere if that is what an answer says, or that it cannot be had there just now, and projection.ErrNotCaughtUp for
// one that is behind.
func notHere(status int, body []byte) error {
	var p struct{ Code string }
	if status != http.StatusServiceUnavailable && status != http.StatusNotFound || json.Unmarshal(body, &p) != nil {
		return nil
	}
	switch p.Code {
	case errRangeElsewhere.Code, errStopping.Code, projection.ErrBuildNotFound.Code:
		return errRangeElsewhere
	case projection.ErrNotCaughtUp.Code:
		return projection.ErrNotCaughtUp
	}
	return nil
}

// A rangePage is a page of one range, as instances tell it each other.
type rangePage struct {
	Rows    []rangeRow `json:"rows"`
	Last    []byte     `json:"last,omitempty"`
	Count   int        `json:"count,omitempty"`
	More    bool       `json:"more,omitempty"`
	Applied string     `json:"applied"`
	Lag     float64    `json:"lag"` // seconds
	Build   string     `json:"build"`
	Missing uint64     `json:"missing,omitempty"`
}

type rangeRow struct {
	Place    []byte          `json:"place"`
	Key      string          `json:"key"`
	Position string          `json:"position"`
	EventID  string          `json:"event_id"`
	Row      json.RawMessage `json:"row"`
}

// rowOf returns a row as it is told.
func rowOf(row *projection.Row) rangeRow {
	return rangeRow{row.Place, row.Key, row.Position.String(), row.EventID, row.JSON}
}

// row returns the row that was told.
func (r *rangeRow) row() (projection.Row, error) {
	at, err := es.ParsePosition(r.Position)
	return projection.Row{Key: r.Key, JSON: r.Row, Position: at, EventID: r.EventID, Place: r.Place}, err
}

func (d *dividedAPI) list(ctx context.Context, r *rest.Request) (*rest.Response, error) {
	if err := d.nameless(r); err != nil {
		return nil, err
	}
	if r.Header(headerRange) != "" && d.spread.h.fromPeer(ctx, r.HTTP()) {
		return d.asked(ctx, r, func(ctx context.Context, a *viewAPI) (*rest.Response, error) { return a.rangeList(ctx, r) })
	}
	route, err := d.spread.route(d.view.name)
	if err != nil {
		return nil, err
	}
	v := d.code(route.version)
	l, err := d.listing(r, v)
	if err != nil {
		return nil, err
	}
	given, query, atLeast, form := l.given, l.query, l.atLeast, l.form
	if given.Has("changed_by") {
		at, err := es.ParsePosition(given.Get("changed_by"))
		if err != nil {
			return nil, err
		}
		if at.Partition < 0 || at.Partition >= d.spread.topic.Partitions {
			return nil, projection.ErrForeignTopic.Because("%s", at)
		}
		return d.one(ctx, r, d.spread.rangeOf(at.Partition), (*viewAPI).list)
	}
	switch {
	case accepts(r, typeEvents):
		return d.live(ctx, r, query, form)
	case d.formatOf(r) != nil:
		return d.export(ctx, r, query, atLeast, route, form, d.formatOf(r))
	}
	if given.Has("count") && query.Cursor != "" {
		return nil, projection.ErrQuery.Because("all rows are counted: a count has no cursor")
	}
	pages, err := d.gather(ctx, r, given, &query, atLeast, route)
	if err != nil {
		return refused(err)
	}
	if given.Has("count") {
		return counted(pages)
	}
	page, state, err := d.merge(&query, pages, route.version)
	if err != nil {
		return nil, err
	}
	if etag := tagOf(state); r.NoneMatch(etag) {
		header := freshness(page.Applied.String(), page.Lag)
		header["Etag"] = []string{etag}
		return &rest.Response{Status: http.StatusNotModified, Header: header}, nil
	}
	return pageResponse(&page, form, state)
}

// rangeList answers another instance that asks for a part of a list.
func (a *viewAPI) rangeList(ctx context.Context, r *rest.Request) (*rest.Response, error) {
	if accepts(r, typeEvents) || r.Query().Has("changed_by") {
		return a.list(ctx, r)
	}
	_, v, err := a.of(r)
	if err != nil {
		return nil, err
	}
	l, err := a.listing(r, v)
	if err != nil {
		return nil, err
	}
	given, query, atLeast := l.given, l.query, l.atLeast
	if query.Cursor, query.After = "", nil; r.Header(headerAfter) != "" {
		if query.After, err = hex.DecodeString(r.Header(headerAfter)); err != nil {
			return nil, projection.ErrCursor.Wrap(err)
		}
	}
	if accepts(r, typeRows) {
		return a.rangeRows(ctx, query, atLeast)
	}
	page, err := a.rangePage(ctx, given, query, atLeast)
	if err != nil {
		return nil, err
	}
	return rest.JSON(http.StatusOK, page), nil
}

// rangePage returns what a range answers to a list, or to a count.
func (a *viewAPI) rangePage(ctx context.Context, given url.Values, q projection.Query, atLeast es.Positions) (out rangePage, err error) {
	name := projection.Of(a.view.name, a.build)
	if given.Has("count") {
		got, err := a.engine.Count(ctx, name, q, atLeast)
		return rangePage{Count: got.Rows, More: got.More, Applied: got.Applied.String(), Lag: got.Lag.Seconds(), Build: got.Build}, err
	}
	page, err := a.engine.List(ctx, name, q, atLeast)
	if err != nil {
		return rangePage{}, err
	}
	out = rangePage{Rows: make([]rangeRow, len(page.Rows)), Last: page.Last, Applied: page.Applied.String(), Lag: page.Lag.Seconds(), Build: page.Build, Missing: page.Missing}
	for i := range page.Rows {
		out.Rows[i] = rowOf(&page.Rows[i])
	}
	return out, nil
}

// gather asks all ranges at once.
func (d *dividedAPI) gather(ctx context.Context, r *rest.Request, given url.Values, q *projection.Query, atLeast es.Positions, route *viewRoute) (pages []rangePage, err error) {
	if q.Cursor != "" {
		// It is of all ranges; each of them is told where to go on.
		if q.After, err = d.engine.After(d.view.name, route.version, q); err != nil {
			return nil, err
		}
	}
	of := *q
	of.Cursor = ""
	pages = make([]rangePage, d.spread.ranges)
	errs := make([]error, d.spread.ranges)
	together(len(pages), func(n int) { pages[n], errs[n] = d.page(ctx, r, given, of, atLeast, route, n) })
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	for n := range pages {
		if got, ok := versionOf(pages[n].Build); !ok || got != route.version {
			return nil, errOtherVersion(n, d.view.name, pages[n].Build, route.version)
		}
	}
	return pages, nil
}

// page asks one range.
func (d *dividedAPI) page(ctx context.Context, r *rest.Request, given url.Values, q projection.Query, atLeast es.Positions, route *viewRoute, n int) (page rangePage, err error) {
	var late error
	for t := range d.turns(route, n, atLeast != nil) {
		if t.address == "" {
			h, done, ok := d.spread.use(n)
			if !ok {
				continue
			}
			page, err = d.pageHere(t.patient(ctx), h, done, t, given, q, atLeast)
			switch {
			case errors.Is(err, projection.ErrBuildNotFound):
				continue // it has been replaced meanwhile
			case errors.Is(err, projection.ErrNotCaughtUp):
				late = err
				continue
			}
			return page, err
		}
		fields := append(d.about(t, n), forward.Field{Name: "Accept", Value: "application/json"})
		if q.After != nil {
			fields = append(fields, forward.Field{Name: headerAfter, Value: hex.EncodeToString(q.After)})
		}
		if atLeast != nil {
			fields = append(fields, forward.Field{Name: headerAtLeast, Value: atLeast.String()})
		}
		resp, err := d.do(ctx, t, remoteOf(r, nil), fields...)
		switch {
		case elsewhere(err):
			continue
		case errors.Is(err, projection.ErrNotCaughtUp):
			late = &refusal{resp}
			continue
		case err != nil:
			return page, err
		case resp.Status != http.StatusOK:
			return page, &refusal{resp}
		}
		if err := json.Unmarshal(resp.Body, &page); err != nil {
			return page, errNoAnswer.Because("%s does not speak as this instance does", t.address).Wrap(err)
		}
		return page, nil
	}
	if late != nil {
		return page, late
	}
	d.spread.again()
	return page, errNobody(n, d.view.name)
}

// pageHere asks a range that is here.
func (d *dividedAPI) pageHere(ctx context.Context, h *heldRange, done func(), t target, given url.Values, q projection.Query, atLeast es.Positions) (rangePage, error) {
	defer done()
	return d.on(h, t.build).rangePage(ctx, given, q, atLeast)
}

// together calls do for each number below n, at once. What panics does so in the caller: elsewhere it would end the process.
func together(n int, do func(int)) {
	panics := make([]any, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			defer func() {
				if p := recover(); p != nil {
					panics[i] = fmt.Sprintf("%v\n%s", p, debug.Stack())
				}
			}()
			do(i)
		})
	}
	all.Wait()
	for _, p := range panics {
		if p != nil {
			panic(p)
		}
	}
}

// A refusal is the answer of another instance that has no page in it, to be passed on as it is.
type refusal struct{ resp *rest.Response }

func (r *refusal) Error() string { return fmt.Sprintf("another instance answers %d", r.resp.Status) }

// refused returns the answer that an error is, if it is one.
func refused(err error) (*rest.Response, error) {
	var r *refusal
	if errors.As(err, &r) {
		return r.resp, nil
	}
	return nil, err
}

// versionOf returns the version of a build's code.
func versionOf(build string) (version int, ok bool) {
	var number int
	n, err := fmt.Sscanf(build, "v%d-%d", &version, &number)
	return version, n == 2 && err == nil
}

// merge puts the pages of all ranges together.
func (d *dividedAPI) merge(q *projection.Query, pages []rangePage, version int) (page projection.Page, state projection.Answer, err error) {
	of := make([]projection.Page, len(pages))
	builds := make([]string, len(pages))
	for n, p := range pages {
		of[n] = projection.Page{Last: p.Last, Lag: time.Duration(p.Lag * float64(time.Second)), Build: p.Build, Missing: p.Missing, Rows: make([]projection.Row, len(p.Rows))}
		builds[n] = p.Build
		if of[n].Applied, err = positions(p.Applied); err != nil {
			return page, state, err
		}
		for i := range p.Rows {
			if of[n].Rows[i], err = p.Rows[i].row(); err != nil {
				return page, state, err
			}
		}
	}
	page = projection.Merge(q, of)
	page.Build = strings.Join(builds, ",")
	if page.Last != nil {
		page.Next = d.engine.CursorAfter(d.view.name, version, q, page.Last)
	}
	return page, projection.Answer{Applied: page.Applied, Build: page.Build, Missing: page.Missing}, nil
}

// positions reads positions as they are told, "" = none.
func positions(text string) (es.Positions, error) {
	if text == "" {
		return nil, nil
	}
	return es.ParsePositions(text)
}

// counted adds the counts of all ranges.
func counted(pages []rangePage) (*rest.Response, error) {
	var sum countJSON
	var applied es.Positions
	lag := 0.0
	for _, p := range pages {
		ps, err := positions(p.Applied)
		if err != nil {
			return nil, err
		}
		for _, pos := range ps {
			applied = applied.With(pos)
		}
		sum.Count, sum.More, lag = sum.Count+p.Count, sum.More || p.More, max(lag, p.Lag)
	}
	resp := rest.JSON(http.StatusOK, sum)
	resp.Header = freshness(applied.String(), time.Duration(lag*float64(time.Second)))
	return resp, nil
}

// A rangeStatus says who has a range.
type rangeStatus struct {
	Range      int      `json:"range"`
	Partitions string   `json:"partitions"`        // e.g. 4-7
	Wanted     []string `json:"wanted"`            // where it should be
	Ready      []string `json:"ready"`             // where it can be read
	Here       string   `json:"here,omitempty"`    // what is here: ready, building, or failed: it should be
	Why        string   `json:"why,omitempty"`     // it failed
	Version    *int     `json:"version,omitempty"` // that queries are answered from
}

// ranges answers who has which range of a divided view.
func (a *viewAdmin) ranges(_ context.Context, r *rest.Request) (*rest.Response, error) {
	name := r.Param("view")
	a.mu.RLock()
	s := a.spreads[name]
	a.mu.RUnlock()
	if s == nil {
		o, err := a.find(name)
		if err != nil {
			return nil, err
		}
		return nil, projection.ErrViewNotFound.Because("%s is not divided: every instance has all of it", o.view)
	}
	return rest.JSON(http.StatusOK, struct {
		View   string        `json:"view"`
		Here   string        `json:"here"` // the address of this instance
		Ranges []rangeStatus `json:"ranges"`
	}{name, s.h.advertise, s.status(name)}), nil
}
