package service

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/eventlog"
	"github.com/millrace/millrace/platform/projection"
	"github.com/millrace/millrace/platform/rest"
)

// A rangeUpdate is what a watch of one range says.
type rangeUpdate struct {
	n int
	projection.Update
	err error // the watch has ended
}

// live answers with server-sent events of all ranges, as one: whoever watches a view does not see that it is divided. A range whose state
// comes anew, or that is watched elsewhere from then on, has all of it come anew.
func (d *dividedAPI) live(ctx context.Context, r *rest.Request, q projection.Query, form form) (*rest.Response, error) {
	given := r.Query()
	// What is not understood is as if it were not there.
	version, resume, _ := projection.ParseUpdateID(r.Header("Last-Event-Id"))
	w := &dividedWatch{d: d, r: r, given: given, q: q, version: version, seen: resume, goOn: resume != nil}
	// What is wrong with the query is known at once.
	atLeast, err := r.AtLeast()
	if err != nil {
		return nil, err
	}
	w.atLeast = atLeast
	route, err := d.spread.route(d.view.name)
	if err != nil {
		return nil, err
	}
	one := q
	one.Limit = 1
	if _, err := d.gather(ctx, r, given, &one, atLeast, route); err != nil {
		return refused(err)
	}
	form.explain = true
	return streamed(form, func() { w.close() }, w.next), nil
}

// A dividedWatch is a watch of all ranges of a view.
type dividedWatch struct {
	d       *dividedAPI
	r       *rest.Request
	given   url.Values
	q       projection.Query
	atLeast es.Positions

	version int          // of the view that the client's rows are of
	seen    es.Positions // how far the client is
	goOn    bool         // it is, and need not begin anew
	stop    context.CancelFunc
	updates chan rangeUpdate
	all     sync.WaitGroup
	route   *viewRoute
	begun   []bool                     // by range: what comes is a change
	ahead   es.Positions               // of the state that was told, what the copies that are watched are not known to have reached
	held    map[string]*projection.Row // by key: what is told when they have; nil = the row is gone
	since   time.Time                  // when something was held that still may be
}

// heldMost is for how long what a copy of a range says is held because the state that was told is ahead of it.
const heldMost = 10 * time.Second

// next returns what the client is to be told next.
func (w *dividedWatch) next(ctx context.Context) (projection.Update, error) {
	for {
		if w.updates == nil {
			if err := w.begin(ctx); err != nil {
				return projection.Update{}, err
			}
		}
		var u *rangeUpdate
		select {
		case got := <-w.updates:
			u = &got
		case <-time.After(spreadEvery):
		case <-ctx.Done():
			return projection.Update{}, context.Cause(ctx)
		}
		switch {
		case w.outdated():
			w.end() // before more is told of the version that answered until now, however much of it changes
		case len(w.held) > 0 && time.Since(w.since) > heldMost:
			// It may be news: the client is given a state that has it.
			w.end()
			w.goOn = false
		case u != nil:
			out, say, err := w.take(ctx, *u)
			if err != nil || say {
				return out, err
			}
		}
	}
}

// outdated reports whether another version than the one that is watched answers queries by now.
func (w *dividedWatch) outdated() bool {
	now := (*w.d.spread.routes.Load())[w.d.view.name]
	return now.err == nil && now.version != w.route.version
}

// begin watches all ranges.
func (w *dividedWatch) begin(ctx context.Context) error {
	route, err := w.d.spread.route(w.d.view.name)
	if err != nil {
		return err
	}
	if w.version != route.version {
		w.goOn = false // other rows
	}
	w.version, w.route = route.version, route
	// Longer than one look at what comes next.
	watching, stop := context.WithCancel(context.WithoutCancel(ctx))
	w.stop, w.updates = stop, make(chan rangeUpdate)
	w.begun = make([]bool, w.d.spread.ranges)
	for n := range w.begun {
		resume := ""
		if w.goOn {
			resume = projection.UpdateID(w.version, w.of(n, w.seen))
			w.begun[n] = true // until it says otherwise
		}
		updates := w.updates
		w.all.Go(func() {
			err := w.d.watch(watching, w.r, w.q, route, n, resume, func(ctx context.Context, u projection.Update) error {
				select {
				case updates <- rangeUpdate{n: n, Update: u}:
					return nil
				case <-ctx.Done():
					return context.Cause(ctx)
				}
			})
			select {
			case updates <- rangeUpdate{n: n, err: err}:
			case <-watching.Done():
			}
		})
	}
	return nil
}

// of returns the positions of a range.
func (w *dividedWatch) of(n int, ps es.Positions) (own es.Positions) {
	for _, pos := range ps {
		if w.d.spread.rangeOf(pos.Partition) == n {
			own = append(own, pos)
		}
	}
	return own
}

// take makes of what a range says what the client is told, if anything.
func (w *dividedWatch) take(ctx context.Context, u rangeUpdate) (out projection.Update, say bool, err error) {
	var r *refusal
	switch {
	case errors.As(u.err, &r):
		w.end()
		return out, false, u.err
	case u.err != nil:
		// It is watched elsewhere, from where the client is.
		w.end()
		w.goOn = w.goOn && w.seen != nil && len(w.held) == 0
		return out, false, sleepFor(ctx, liveInterval)
	case u.Anew && w.goOn:
		// The client cannot go on from where it is.
		w.end()
		w.goOn = false
		return out, false, nil
	case u.Anew:
		w.begun[u.n] = true
		w.need(u.Applied)
		for _, begun := range w.begun {
			if !begun {
				return out, false, nil
			}
		}
		// All ranges are watched: whatever happens from now on is told. What is there is asked now, and includes what was told before.
		pages, err := w.d.gather(ctx, w.r, w.given, &w.q, w.atLeast, w.route)
		var page projection.Page
		if err == nil {
			page, _, err = w.d.merge(&w.q, pages, w.route.version)
		}
		if err != nil {
			w.end() // to be begun anew, if it is only that this took too long
			return out, false, err
		}
		w.told(page.Applied)
		return projection.Update{Anew: true, Rows: page.Rows, Version: w.version, Applied: copied(w.seen)}, true, nil
	case !w.goOn:
		w.need(u.Applied)
		return out, false, nil // the state that will be told has it
	}
	for _, pos := range u.Applied {
		w.seen = w.seen.With(pos)
	}
	w.ahead = slices.DeleteFunc(w.ahead, func(pos es.Position) bool { return includes(u.Applied, es.Positions{pos}) })
	if len(w.ahead)+len(w.held) > 0 {
		w.hold(&u.Update)
	}
	u.Version, u.Applied = w.version, copied(w.seen)
	return u.Update, len(u.Rows)+len(u.Gone) > 0, nil
}

// hold leaves of an update, and of what was held, what can be told. The state may be of a copy of a range that was ahead of the one that is
// watched: what that one says of the rows of a partition may be older than the state until it is as far. Whether it is cannot be told from the
// positions of rows, which those that went have not, and which a dead letter that is applied does not move.
func (w *dividedWatch) hold(u *projection.Update) {
	if len(w.held) == 0 {
		w.since = time.Now()
	}
	for _, row := range u.Rows {
		w.held[row.Key] = &row
	}
	for _, key := range u.Gone {
		w.held[key] = nil
	}
	u.Rows, u.Gone = nil, nil
	stream, partitions := w.d.code(w.version).stream, w.d.spread.topic.Partitions
	for _, key := range sortedKeys(w.held) {
		// Of a divided view, events of one partition change a row.
		partition := eventlog.PartitionOf(stream(key), partitions)
		if slices.ContainsFunc(w.ahead, func(pos es.Position) bool { return pos.Partition == partition }) {
			continue
		}
		if row := w.held[key]; row != nil {
			u.Rows = append(u.Rows, *row)
		} else {
			u.Gone = append(u.Gone, key)
		}
		delete(w.held, key)
	}
}

// told notes that the client has all that is at positions.
func (w *dividedWatch) told(ps es.Positions) {
	w.goOn, w.seen, w.ahead, w.held = true, copied(ps), copied(ps), map[string]*projection.Row{} // seen goes on
}

// need has the state that will be told have all that is at positions.
func (w *dividedWatch) need(ps es.Positions) {
	w.atLeast = copied(w.atLeast)
	for _, pos := range ps {
		w.atLeast = w.atLeast.With(pos)
	}
}

func copied(ps es.Positions) es.Positions { return append(es.Positions(nil), ps...) }

// includes reports whether what is at positions has all that is at others.
func includes(ps, others es.Positions) bool {
	for _, pos := range others {
		if offset, ok := ps.Offset(pos.TopicPartition); !ok || offset < pos.Offset {
			return false
		}
	}
	return true
}

func (w *dividedWatch) end() {
	w.stop()
	w.all.Wait()
	w.updates = nil
}

func (w *dividedWatch) close() {
	if w.updates != nil {
		w.end()
	}
}

// watch tells what changes in one range, first its state unless it can go on from what the client has, until ctx ends or nobody tells any more.
func (d *dividedAPI) watch(ctx context.Context, r *rest.Request, q projection.Query, route *viewRoute, n int, resume string, tell func(context.Context, projection.Update) error) error {
	err := errNobody(n, d.view.name)
	for _, t := range route.targets(n) {
		if t.address == "" {
			h, done, ok := d.spread.use(n)
			if !ok {
				continue
			}
			return h.watch(ctx, projection.Of(d.view.name, t.build), q, resume, done, tell)
		}
		if err = d.watchThere(ctx, t, n, r, resume, tell); !elsewhere(err) {
			return err
		}
	}
	d.spread.again()
	return err
}

// watch watches a range that is here.
func (h *heldRange) watch(ctx context.Context, view string, q projection.Query, resume string, done func(), tell func(context.Context, projection.Update) error) error {
	defer done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(h.ctx, cancel)()
	watch, err := h.engine.WatchList(view, q, nil, resume)
	if err != nil {
		return err
	}
	defer watch.Close()
	for {
		u, err := watch.Next(ctx)
		if err == nil {
			err = tell(ctx, u)
		}
		if err == nil {
			err = sleepFor(ctx, liveInterval)
		}
		if err != nil {
			return err
		}
	}
}

// watchThere watches a range that another instance has.
func (d *dividedAPI) watchThere(ctx context.Context, t target, n int, r *rest.Request, resume string, tell func(context.Context, projection.Update) error) error {
	h := d.spread.h
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+t.address+r.HTTP().URL.RequestURI(), nil)
	if err != nil {
		return err
	}
	req.Header = r.HTTP().Header.Clone()
	req.Header.Set(headerHop, h.instance)
	for _, f := range d.about(t, n) {
		req.Header.Set(f.Name, f.Value)
	}
	req.Header.Del(headerAtLeast) // the state that is told has it
	req.Header.Del("Last-Event-Id")
	if resume != "" {
		req.Header.Set("Last-Event-Id", resume)
	}
	resp, err := h.streams.RoundTrip(req)
	if err != nil {
		return errNoAnswer.Because("%s", t.address).Wrap(err)
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusOK:
	case resp.StatusCode/100 == 4 && resp.StatusCode != http.StatusNotFound:
		return &refusal{&rest.Response{Status: resp.StatusCode}} // as everybody would: the query cannot be any more, or the client has to say anew who it is
	default:
		return errNoAnswer.Because("%s answers %s", t.address, resp.Status)
	}
	return events(resp.Body, func(u projection.Update) error { return tell(ctx, u) })
}

// events reads the frames that live writes.
func events(from interface{ Read([]byte) (int, error) }, tell func(projection.Update) error) error {
	lines := bufio.NewReaderSize(from, 64<<10)
	var event, id string
	var data strings.Builder
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			return errNoAnswer.Wrap(err)
		}
		line = strings.TrimSuffix(line, "\n")
		field, value, _ := strings.Cut(line, ": ")
		switch {
		case line == "":
			if event == "error" {
				return errNoAnswer.Because("%s", data.String())
			}
			if event != "" {
				u, err := parseUpdate(event, id, data.String())
				if err == nil {
					err = tell(u)
				}
				if err != nil {
					return err
				}
			}
			event, id = "", ""
			data.Reset()
		case field == "event":
			event = value
		case field == "id":
			id = value
		case field == "data":
			data.WriteString(value)
		}
	}
}

// parseUpdate reads what appendUpdate writes.
func parseUpdate(event, id, data string) (u projection.Update, err error) {
	var got struct {
		Rows []rangeRow `json:"rows"`
		Gone []string   `json:"gone"`
	}
	if event != "state" && event != "change" {
		return u, fmt.Errorf("service: an event %.20q", event)
	}
	if err := json.Unmarshal([]byte(data), &got); err != nil {
		return u, err
	}
	u.Anew, u.Gone = event == "state", got.Gone
	if u.Version, u.Applied, err = projection.ParseUpdateID(id); err != nil {
		return u, err
	}
	for i := range got.Rows {
		row, err := got.Rows[i].row()
		if err != nil {
			return u, err
		}
		u.Rows = append(u.Rows, row)
	}
	return u, nil
}

func sleepFor(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
