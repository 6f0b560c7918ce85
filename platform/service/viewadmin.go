package service

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/fault"
	"github.com/millrace/millrace/platform/projection"
	"github.com/millrace/millrace/platform/rest"
)

// A viewAdmin operates the views of a process, on its admin address:
//
//	GET    /v1/views[/<view>]                     how they are
//	GET    /v1/views/<view>/ranges                of a divided view: who has which range
//	GET    /v1/views/<view>/end                   the positions at which the log ends now, for those who wait until the view has all of it
//	POST   /v1/views/<view>/rebuild               begins a build beside the one that answers queries; {"dry_run":true} says what it would take
//	POST   /v1/views/<view>/verify                compares two builds, or one with a fresh fold of the log, at the same positions
//	POST   /v1/views/<view>/switch, rollback      has another build answer queries
//	POST   /v1/views/<view>/pause, resume, reset
//	DELETE /v1/views/<view>/builds/<build>
//	GET    /v1/views/<view>/backup[?version=N]    a backup of what it shows, at the positions of Millrace-Position
//	GET    /v1/views/<view>/store                 what its store takes
//	GET    /v1/views/<view>/letters               dead letters; ?at=POSITION: one, with its event; POST …/retry, …/discard
type viewAdmin struct{ *viewSet }

// mount adds the routes to the admin server.
func (a *viewAdmin) mount(s *rest.Server) {
	view := "/v1/views/:view"
	s.Handle(http.MethodGet, "/v1/views", a.list)
	s.Handle(http.MethodGet, view, a.describe)
	s.Handle(http.MethodGet, view+"/ranges", a.ranges)
	s.Handle(http.MethodGet, view+"/end", a.end)
	s.Handle(http.MethodPost, view+"/rebuild", a.rebuild)
	s.Handle(http.MethodPost, view+"/verify", a.verify)
	s.Handle(http.MethodPost, view+"/switch", a.switchTo)
	s.Handle(http.MethodPost, view+"/rollback", a.rollback)
	s.Handle(http.MethodPost, view+"/pause", a.pause)
	s.Handle(http.MethodPost, view+"/resume", a.resume)
	s.Handle(http.MethodPost, view+"/reset", a.reset)
	s.Handle(http.MethodDelete, view+"/builds/:build", a.drop)
	s.Handle(http.MethodGet, view+"/backup", a.backup)
	s.Handle(http.MethodGet, view+"/store", a.store)
	s.Handle(http.MethodGet, view+"/letters", a.letters)
	s.Handle(http.MethodPost, view+"/letters/retry", a.retry)
	s.Handle(http.MethodPost, view+"/letters/discard", a.discard)
}

// engine returns the projector of the view that a request names.
func (a *viewAdmin) engine(r *rest.Request) (*projection.Projector, string, error) {
	o, err := a.find(r.Param("view"))
	return o.engine, o.view, err
}

func (a *viewAdmin) list(context.Context, *rest.Request) (*rest.Response, error) {
	out := struct {
		Views []projection.ViewStatus `json:"views"`
	}{[]projection.ViewStatus{}}
	err := a.each(func(name string, o operated) error {
		st, err := o.status(name)
		out.Views = append(out.Views, st)
		return err
	})
	if err != nil {
		return nil, err
	}
	return rest.JSON(http.StatusOK, out), nil
}

func (a *viewAdmin) describe(_ context.Context, r *rest.Request) (*rest.Response, error) {
	name := r.Param("view")
	o, err := a.find(name)
	if err != nil {
		return nil, err
	}
	st, err := o.status(name)
	if err != nil {
		return nil, err
	}
	return rest.JSON(http.StatusOK, st), nil
}

func (a *viewAdmin) end(ctx context.Context, r *rest.Request) (*rest.Response, error) {
	e, name, err := a.engine(r)
	if err != nil {
		return nil, err
	}
	last, err := e.LogEnd(ctx, name)
	if err != nil {
		return nil, err
	}
	return rest.JSON(http.StatusOK, struct {
		Positions string `json:"positions"`
	}{last.String()}), nil
}

// body reads a body that may be left out.
func body(r *rest.Request, v any) error {
	if !r.HasBody() {
		return nil
	}
	return r.JSON(v)
}

// A rebuildRequest is the body of a rebuild.
type rebuildRequest struct {
	Version int        `json:"version,omitempty"` // of the code; 0 = the newest
	Rate    int        `json:"rate,omitempty"`    // events per second; 0 = a third of a processor at most, and less while others wait for one
	Until   string     `json:"until,omitempty"`   // positions
	At      *time.Time `json:"at,omitempty"`
	Switch  bool       `json:"switch,omitempty"`
	Force   bool       `json:"force,omitempty"`
	DryRun  bool       `json:"dry_run,omitempty"`
}

// A rebuildAnswer says what a rebuild takes, and which build it began.
type rebuildAnswer struct {
	Build   string  `json:"build,omitempty"` // absent after a dry run
	Version int     `json:"version"`
	Events  int64   `json:"events"`
	Bytes   int64   `json:"bytes"`
	Free    int64   `json:"free_bytes"`
	Rate    float64 `json:"rate,omitempty"` // events per second as seen of late
	Seconds float64 `json:"seconds,omitempty"`
}

func (a *viewAdmin) rebuild(ctx context.Context, r *rest.Request) (*rest.Response, error) {
	e, name, err := a.engine(r)
	if err != nil {
		return nil, err
	}
	var in rebuildRequest
	if err := body(r, &in); err != nil {
		return nil, err
	}
	o := projection.Rebuild{Version: in.Version, Rate: in.Rate, Switch: in.Switch, Force: in.Force}
	if in.At != nil {
		o.At = *in.At
	}
	if in.Until != "" {
		if o.Until, err = es.ParsePositions(in.Until); err != nil {
			return nil, err
		}
	}
	if in.Until != "" && in.At != nil || in.Rate < 0 {
		return nil, ErrPoint.Because("until and at are two ends, and rate is not negative")
	}
	got, err := e.Estimate(ctx, name, o)
	if err != nil {
		return nil, err
	}
	out := rebuildAnswer{Version: got.Version, Events: got.Events, Bytes: got.Bytes, Free: got.Free, Rate: got.Rate}
	if rate := got.Rate; rate > 0 || in.Rate > 0 {
		if in.Rate > 0 && (rate == 0 || float64(in.Rate) < rate) {
			rate = float64(in.Rate)
		}
		out.Seconds = float64(got.Events) / rate
	}
	if in.DryRun {
		return rest.JSON(http.StatusOK, out), nil
	}
	if out.Build, err = e.Rebuild(ctx, name, o); err != nil {
		return nil, err
	}
	return rest.JSON(http.StatusAccepted, out), nil
}

// A verifyRequest is the body of a verification.
type verifyRequest struct {
	Build string `json:"build,omitempty"` // compared with the one that answers queries; "" = the newest
	Fresh bool   `json:"fresh,omitempty"` // compare with a fresh fold of the log instead
	Rate  int    `json:"rate,omitempty"`  // of the fresh fold, or of the sample
	// Sample compares this part of the rows, 0 to 1, with a fold of their events in memory instead: it writes nothing.
	Sample float64 `json:"sample,omitempty"`
}

// A verifyAnswer is a projection.Report with the rows that differ.
type verifyAnswer struct {
	projection.Report
	Applied string       `json:"applied"` // where both are
	Equal   bool         `json:"equal"`
	Rows    []difference `json:"rows_that_differ"`
}

// A difference is one row as two builds have it; null = it does not.
type difference struct {
	Key string          `json:"key"`
	A   json.RawMessage `json:"a"`
	B   json.RawMessage `json:"b"`
}

// verify answers when it is done, with a space now and then until it is: whoever is between does not take the connection for dead.
func (a *viewAdmin) verify(ctx context.Context, r *rest.Request) (*rest.Response, error) {
	e, name, err := a.engine(r)
	if err != nil {
		return nil, err
	}
	var in verifyRequest
	if err := body(r, &in); err != nil {
		return nil, err
	}
	type outcome struct {
		report projection.Report
		err    error
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan outcome, 1)
	go func() {
		var o outcome
		switch {
		case in.Sample != 0:
			o.report, o.err = e.VerifySample(ctx, name, in.Sample, rand.Uint64(), in.Rate)
		case in.Fresh:
			o.report, o.err = e.VerifyFresh(ctx, name, in.Rate)
		default:
			o.report, o.err = e.Verify(ctx, name, in.Build)
		}
		done <- o
	}()
	// What is wrong with the request is known at once.
	soon := time.NewTimer(200 * time.Millisecond)
	defer soon.Stop()
	select {
	case o := <-done:
		cancel()
		if o.err != nil {
			return nil, o.err
		}
		return rest.JSON(http.StatusOK, verified(&o.report)), nil
	case <-soon.C:
	}
	return &rest.Response{Stream: func(asked context.Context, w *rest.Stream) error {
		defer cancel()
		beat := time.NewTicker(time.Second)
		defer beat.Stop()
		for {
			select {
			case o := <-done:
				var v any
				if v = verified(&o.report); o.err != nil {
					v = r.Problem(o.err)
				}
				text, err := json.Marshal(v)
				if err == nil {
					_, err = w.Write(append(text, '\n'))
				}
				return err
			case <-beat.C:
				if _, err := w.Write([]byte(" ")); err != nil {
					return nil //nolint:nilerr // the client is gone
				}
				if err := w.Flush(); err != nil {
					return nil //nolint:nilerr // as above
				}
			case <-asked.Done():
				return nil
			}
		}
	}}, nil
}

func verified(report *projection.Report) verifyAnswer {
	v := verifyAnswer{Report: *report, Applied: report.Applied.String(), Equal: report.Equal(), Rows: []difference{}}
	for _, d := range report.Samples {
		v.Rows = append(v.Rows, difference{d.Key, rowOrNull(d.A), rowOrNull(d.B)})
	}
	return v
}

func rowOrNull(r *projection.Row) json.RawMessage {
	if r == nil {
		return json.RawMessage("null")
	}
	return r.JSON
}

// A switchRequest is the body of a switch.
type switchRequest struct {
	Build string `json:"build,omitempty"` // "" = the newest
	Force bool   `json:"force,omitempty"`
}

// A buildAnswer names a build.
type buildAnswer struct {
	Build string `json:"build"`
}

func (a *viewAdmin) switchTo(_ context.Context, r *rest.Request) (*rest.Response, error) {
	e, name, err := a.engine(r)
	if err != nil {
		return nil, err
	}
	var in switchRequest
	if err := body(r, &in); err != nil {
		return nil, err
	}
	return build(e.Switch(name, in.Build, in.Force))
}

func build(id string, err error) (*rest.Response, error) {
	if err != nil {
		return nil, err
	}
	return rest.JSON(http.StatusOK, buildAnswer{id}), nil
}

func (a *viewAdmin) rollback(_ context.Context, r *rest.Request) (*rest.Response, error) {
	e, name, err := a.engine(r)
	if err != nil {
		return nil, err
	}
	return build(e.Rollback(name))
}

func (a *viewAdmin) reset(_ context.Context, r *rest.Request) (*rest.Response, error) {
	e, name, err := a.engine(r)
	if err != nil {
		return nil, err
	}
	return build(e.Reset(name))
}

func (a *viewAdmin) pause(ctx context.Context, r *rest.Request) (*rest.Response, error) {
	e, name, err := a.engine(r)
	if err == nil {
		err = e.Pause(name)
	}
	if err != nil {
		return nil, err
	}
	return a.describe(ctx, r)
}

func (a *viewAdmin) resume(ctx context.Context, r *rest.Request) (*rest.Response, error) {
	e, name, err := a.engine(r)
	if err == nil {
		err = e.Resume(name)
	}
	if err != nil {
		return nil, err
	}
	return a.describe(ctx, r)
}

func (a *viewAdmin) drop(_ context.Context, r *rest.Request) (*rest.Response, error) {
	e, name, err := a.engine(r)
	if err == nil {
		err = e.Drop(name, r.Param("build"))
	}
	return nil, err
}

// letters answers dead letters in pages; after is the position of the last one of the page before, with its stream.
func (a *viewAdmin) letters(ctx context.Context, r *rest.Request) (*rest.Response, error) {
	e, name, err := a.engine(r)
	if err != nil {
		return nil, err
	}
	q, err := r.Only("at", "stream", "discarded", "after", "after_stream", "limit")
	if err != nil {
		return nil, err
	}
	if q.Has("at") {
		at, err := es.ParsePosition(q.Get("at"))
		if err != nil {
			return nil, err
		}
		got, err := e.Letter(ctx, name, at)
		if err != nil {
			return nil, err
		}
		return rest.JSON(http.StatusOK, got), nil
	}
	limit := int64(100)
	if q.Has("limit") {
		if limit, err = number(q, "limit", 1, 1000); err != nil {
			return nil, err
		}
	}
	var after *projection.Letter
	if q.Has("after") {
		at, err := es.ParsePosition(q.Get("after"))
		if err != nil {
			return nil, err
		}
		after = &projection.Letter{Stream: q.Get("after_stream"), Position: at}
	}
	got, err := e.Letters(name, q.Get("stream"), q.Has("discarded"), after, int(limit)+1)
	if err != nil {
		return nil, err
	}
	out := struct {
		Letters []projection.Letter `json:"letters"`
		More    bool                `json:"more"`
	}{Letters: []projection.Letter{}, More: len(got) > int(limit)}
	out.Letters = append(out.Letters, got[:min(len(got), int(limit))]...)
	return rest.JSON(http.StatusOK, out), nil
}

func (a *viewAdmin) retry(ctx context.Context, r *rest.Request) (*rest.Response, error) {
	e, name, err := a.engine(r)
	if err != nil {
		return nil, err
	}
	var in struct {
		Stream string `json:"stream,omitempty"` // "" = all
	}
	if err := body(r, &in); err != nil {
		return nil, err
	}
	got, err := e.Retry(ctx, name, in.Stream)
	if err != nil {
		return nil, err
	}
	got.Failed = slices.Clip(append([]projection.Letter{}, got.Failed...))
	return rest.JSON(http.StatusOK, got), nil
}

var errReason = fault.New(fault.Invalid, "reason_missing", "a dead letter is not discarded without a reason").WithFix(`send {"position":"…","reason":"…"}`)

func (a *viewAdmin) discard(ctx context.Context, r *rest.Request) (*rest.Response, error) {
	e, name, err := a.engine(r)
	if err != nil {
		return nil, err
	}
	var in struct {
		Position string `json:"position"`
		Reason   string `json:"reason"`
	}
	if err := r.JSON(&in); err != nil {
		return nil, err
	}
	if strings.TrimSpace(in.Reason) == "" {
		return nil, errReason
	}
	at, err := es.ParsePosition(in.Position)
	if err != nil {
		return nil, err
	}
	got, err := e.Discard(ctx, name, at, in.Reason)
	if err != nil {
		return nil, err
	}
	return rest.JSON(http.StatusOK, got), nil
}
