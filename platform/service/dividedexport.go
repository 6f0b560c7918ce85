package service

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"net/http"
	"sync"
	"time"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/projection"
	"github.com/millrace/millrace/platform/rest"
)

// typeRows is what instances send each other all rows of a range as: a line of JSON for each, a rangeHead before and a rangeEnd after them.
const typeRows = "application/vnd.millrace.rows"

// A rangeHead is the first line.
type rangeHead struct {
	Applied string  `json:"applied"`
	Lag     float64 `json:"lag"` // seconds
	Build   string  `json:"build"`
}

// A rangeLine is a row, or the last line, which says how many rows there were.
type rangeLine struct {
	rangeRow
	End *int `json:"end,omitempty"`
}

type rangeEnd struct {
	End int `json:"end"`
}

// rangeRows answers another instance that exports.
func (a *viewAPI) rangeRows(ctx context.Context, q projection.Query, atLeast es.Positions) (*rest.Response, error) {
	x, err := a.engine.Export(ctx, projection.Of(a.view.name, a.build), q, atLeast)
	if err != nil {
		return nil, err
	}
	return &rest.Response{ContentType: typeRows, Stream: func(ctx context.Context, w *rest.Stream) error {
		defer x.Close()
		c := &client{w: w}
		out := json.NewEncoder(c)
		out.SetEscapeHTML(false)
		err := out.Encode(rangeHead{x.Applied.String(), x.Lag.Seconds(), x.Build})
		n := 0
		if err == nil {
			for row, e := range x.Rows() {
				if err = errors.Join(e, context.Cause(ctx)); err != nil {
					break
				}
				n++
				if err = out.Encode(rowOf(&row)); err != nil {
					break
				}
			}
		}
		if err == nil {
			err = out.Encode(rangeEnd{n})
		}
		if c.gone {
			return nil
		}
		return err
	}}, nil
}

// export streams the rows of all ranges in the order of the query, each range from one state.
func (d *dividedAPI) export(_ context.Context, r *rest.Request, q projection.Query, atLeast es.Positions, route *viewRoute, form form, as format) (*rest.Response, error) {
	q.Limit, q.Cursor = 0, ""
	parts := make([]*extract, 0, d.spread.ranges)
	// It outlives the request's handling, and ends as a whole when one of the ranges has to go from here: its turn may be long to come.
	ctx, cancel := context.WithCancelCause(r.HTTP().Context())
	whole := &extract{version: route.version, close: sync.OnceFunc(func() {
		cancel(nil)
		for _, p := range parts {
			p.close()
		}
	})}
	begun := false
	defer func() {
		if !begun {
			whole.close()
		}
	}()
	for n := range d.spread.ranges {
		x, err := d.extract(ctx, cancel, r, q, atLeast, route, n)
		if err != nil {
			return refused(err)
		}
		parts = append(parts, x)
		for _, pos := range x.applied {
			whole.applied = whole.applied.With(pos)
		}
		whole.lag = max(whole.lag, x.lag)
		if version, ok := versionOf(x.build); !ok || version != route.version {
			return nil, errOtherVersion(n, d.view.name, x.build, route.version)
		}
		if n > 0 {
			whole.build += ","
		}
		whole.build += x.build
	}
	whole.rows = func() iter.Seq2[projection.Row, error] {
		return func(yield func(projection.Row, error) bool) {
			all := make([]iter.Seq2[projection.Row, error], len(parts))
			for n, p := range parts {
				all[n] = p.rows()
			}
			for row, err := range projection.MergeRows(&q, all) {
				if ctx.Err() != nil {
					row, err = projection.Row{}, context.Cause(ctx)
				}
				if !yield(row, err) || err != nil {
					return
				}
			}
		}
	}
	resp, err := sheetOf(whole, form, as)
	begun = err == nil
	return resp, err
}

// extract begins to read one range; end ends the whole.
func (d *dividedAPI) extract(ctx context.Context, end context.CancelCauseFunc, r *rest.Request, q projection.Query, atLeast es.Positions, route *viewRoute, n int) (*extract, error) {
	var late error
	for t := range d.turns(route, n, atLeast != nil) {
		if t.address != "" {
			x, err := d.extractThere(ctx, r, t, n, atLeast)
			switch {
			case elsewhere(err):
				continue
			case errors.Is(err, projection.ErrNotCaughtUp):
				late = err
				continue
			}
			return x, err
		}
		h, done, ok := d.spread.use(n)
		if !ok {
			continue
		}
		x, err := d.extractHere(t.patient(ctx), end, h, done, t, q, atLeast)
		switch {
		case errors.Is(err, projection.ErrBuildNotFound):
			continue // it has been replaced meanwhile
		case errors.Is(err, projection.ErrNotCaughtUp):
			late = err
			continue
		}
		return x, err
	}
	if late != nil {
		return nil, late
	}
	d.spread.again()
	return nil, errNobody(n, d.view.name)
}

// extractHere begins to read a range that is here, which stays until the extract is closed.
func (d *dividedAPI) extractHere(ctx context.Context, end context.CancelCauseFunc, h *heldRange, done func(), t target, q projection.Query, atLeast es.Positions) (*extract, error) {
	begun := false
	defer func() {
		if !begun {
			done()
		}
	}()
	x, err := h.engine.Export(ctx, projection.Of(d.view.name, t.build), q, atLeast)
	if err != nil {
		return nil, err
	}
	stay := context.AfterFunc(h.ctx, func() { end(errRangeElsewhere.Because("range %d was given up meanwhile", h.number)) })
	begun = true
	return &extract{applied: x.Applied, lag: x.Lag, build: x.Build, rows: x.Rows, close: func() { stay(); x.Close(); done() }}, nil
}

// extractThere begins to read a range that another instance has.
func (d *dividedAPI) extractThere(ctx context.Context, r *rest.Request, t target, n int, atLeast es.Positions) (_ *extract, err error) {
	h := d.spread.h
	ctx, cancel := context.WithCancel(ctx)
	defer func() {
		if err != nil {
			cancel()
		}
	}()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+t.address+r.HTTP().URL.RequestURI(), nil)
	if err != nil {
		return nil, err
	}
	req.Header = r.HTTP().Header.Clone()
	req.Header.Set(headerHop, h.instance)
	for _, f := range d.about(t, n) {
		req.Header.Set(f.Name, f.Value)
	}
	req.Header.Set("Accept", typeRows)
	if atLeast != nil {
		req.Header.Set(headerAtLeast, atLeast.String())
	}
	resp, err := h.streams.RoundTrip(req)
	if err != nil {
		return nil, errNoAnswer.Because("%s", t.address).Wrap(err)
	}
	defer func() {
		if err != nil {
			resp.Body.Close()
		}
	}()
	if resp.StatusCode != http.StatusOK {
		body, err := io.ReadAll(io.LimitReader(resp.Body, problemBytes))
		if err != nil {
			return nil, errNoAnswer.Because("%s", t.address).Wrap(err)
		}
		answer := &refusal{&rest.Response{Status: resp.StatusCode, Header: resp.Header, Body: body, ContentType: resp.Header.Get("Content-Type")}}
		switch err := notHere(resp.StatusCode, body); {
		case errors.Is(err, projection.ErrNotCaughtUp):
			return nil, projection.ErrNotCaughtUp.Wrap(answer)
		case err != nil:
			return nil, err
		}
		return nil, answer
	}
	in := json.NewDecoder(bufio.NewReaderSize(resp.Body, 64<<10))
	var head rangeHead
	if err := in.Decode(&head); err != nil {
		return nil, errNoAnswer.Because("%s", t.address).Wrap(err)
	}
	x := &extract{lag: time.Duration(head.Lag * float64(time.Second)), build: head.Build, close: func() { cancel(); resp.Body.Close() }}
	if x.applied, err = positions(head.Applied); err != nil {
		return nil, err
	}
	x.rows = func() iter.Seq2[projection.Row, error] {
		return func(yield func(projection.Row, error) bool) { readRows(in, yield) }
	}
	return x, nil
}

// readRows yields the rows that another instance sends. If it does not say that they were all, the last thing is an error.
func readRows(in *json.Decoder, yield func(projection.Row, error) bool) {
	for n := 0; ; n++ {
		var line rangeLine
		err := in.Decode(&line)
		switch {
		case err == nil && line.End != nil && *line.End == n:
			return
		case err == nil && line.End != nil:
			err = errNoAnswer.Because("it says that there were other rows than it has sent")
		case err != nil:
			err = errNoAnswer.Because("it broke off after %d rows", n).Wrap(err)
		}
		var row projection.Row
		if err == nil {
			row, err = line.row()
		}
		if !yield(row, err) || err != nil {
			return
		}
	}
}
