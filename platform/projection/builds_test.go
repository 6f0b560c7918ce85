package projection

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/fault"
)

// version returns the orders view as a later version: with another field, and another index.
func version(n int) es.View[orderRow, change] {
	v := ordersView()
	v.Version = n
	apply := v.Apply
	v.Apply = func(row orderRow, e es.Envelope[change]) orderRow {
		row = apply(row, e)
		row.Number = float64(n)
		return row
	}
	v.Indexes["total"] = es.By(es.Number(func(r orderRow) int64 { return r.Total }))
	return v
}

// build waits until a build has caught up.
func (r *rig) build(view, id string) BuildStatus {
	r.t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	late := time.After(time.Minute)
	for {
		st, err := r.p.StatusOf(view)
		if err != nil {
			r.t.Fatal(err)
		}
		for _, b := range st.Builds {
			if b.ID == id && b.CaughtUp {
				return b
			}
		}
		select {
		case <-tick.C:
		case <-late:
			r.t.Fatalf("build %s of %s: %+v", id, view, st)
		}
	}
}

func (r *rig) live(view string) string {
	r.t.Helper()
	st, err := r.p.StatusOf(view)
	if err != nil {
		r.t.Fatal(err)
	}
	return st.Live
}

// turns waits until a build answers queries.
func (r *rig) turns(view, id string) {
	r.t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	late := time.After(time.Minute)
	for r.live(view) != id {
		select {
		case <-tick.C:
		case <-late:
			r.t.Fatalf("%s answers for %s, not %s", r.live(view), view, id)
		}
	}
}

// TestBlueGreen builds a new version beside the one that serves, while events come in: the old one answers until the new one is switched
// to, both are kept up to date, and one can go back and forth; positions and cursors that clients hold stay good.
//
// G36: A view is rebuilt beside the one that serves: queries are answered all the time, and a position that a client holds stays valid over the switch.
func TestBlueGreen(t *testing.T) {
	r := newRig(t, 2)
	rnd := rand.New(rand.NewPCG(8, 9))
	history(rnd, r.log, 3000, 300)
	r.start(r.views()[0])
	r.wait("orders")
	r.close()
	both := []func(*Projector) error{r.views()[0], func(p *Projector) error { return Add(p, version(2), Input[change]{r.log.topic, r.dec}) }}
	r.cfg.Manual = true
	r.start(both...)
	r.build("orders", "v2-1")
	if got := r.live("orders"); got != "v1-1" {
		t.Fatalf("%s answers, want the old version until it is switched", got)
	}
	if _, err := r.p.List(t.Context(), "orders", Query{Index: "total"}, nil); !errors.Is(err, ErrQuery) {
		t.Errorf("an index of the new version: %v, want ErrQuery", err)
	}
	at := r.log.add(0, change{Kind: "placed", Order: "o-new", Customer: "c-new", Amount: 12})
	if _, err := r.p.Get(t.Context(), "orders", "o-new", es.Positions{at}); err != nil {
		t.Fatal(err)
	}
	watch, err := r.p.WatchRow("orders", "o-new", nil, "")
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Close()
	if u, err := watch.Next(t.Context()); err != nil || !u.Anew || len(u.Rows) != 1 {
		t.Fatalf("watch: %+v, %v", u, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	// Both builds keep changes, and reach the same positions with the same event.
	of, err := r.p.WatchRow(Of("orders", "v2-1"), "o-new", nil, "")
	if err != nil {
		t.Fatal(err)
	}
	defer of.Close()
	if _, err := of.Next(ctx); err != nil {
		t.Fatal(err)
	}
	at = r.log.add(0, change{Kind: "confirmed", Order: "o-new", Customer: "c-new"})
	seen, err := watch.Next(ctx)
	if err != nil || seen.Anew {
		t.Fatalf("watch: %+v, %v", seen, err)
	}
	if u, err := of.Next(ctx); err != nil || u.Anew || u.Applied.String() != seen.Applied.String() || u.Version != 2 || seen.Version != 1 {
		t.Fatalf("the watch of the new build: %+v, %v; that of the old one: %+v", u, err, seen)
	}
	if now, err := r.p.Switch("orders", "", false); err != nil || now != "v2-1" {
		t.Fatalf("switch: %s, %v", now, err)
	}
	// Who comes back with rows of the old version has them replaced, though the new one knows the positions; who has rows of the new one goes on.
	back, err := r.p.WatchRow("orders", "o-new", nil, UpdateID(1, seen.Applied))
	if err != nil {
		t.Fatal(err)
	}
	defer back.Close()
	if u, err := back.Next(ctx); err != nil || !u.Anew || u.Version != 2 || len(u.Rows) != 1 || !strings.Contains(string(u.Rows[0].JSON), `"number":2`) {
		t.Errorf("who comes back after the switch: %+v, %v, want the row of the new build", u, err)
	}
	on, err := r.p.WatchRow("orders", "o-new", nil, UpdateID(2, seen.Applied))
	if err != nil {
		t.Fatal(err)
	}
	defer on.Close()
	r.log.add(0, change{Kind: "confirmed", Order: "o-new", Customer: "c-new"})
	if u, err := on.Next(ctx); err != nil || u.Anew || len(u.Rows) != 1 {
		t.Errorf("who comes back with rows of the new version: %+v, %v, want what changed", u, err)
	}
	a, err := r.p.Get(t.Context(), "orders", "o-new", es.Positions{at})
	if err != nil || !strings.Contains(string(a.Row.JSON), `"number":2`) {
		t.Errorf("after the switch: %s, %v", a.Row.JSON, err)
	}
	if u, err := watch.Next(t.Context()); err != nil || !u.Anew || len(u.Rows) != 1 || !strings.Contains(string(u.Rows[0].JSON), `"number":2`) {
		t.Errorf("watch after the switch: %+v, %v, want the row of the new build", u, err)
	}
	page, err := r.p.List(t.Context(), "orders", Query{Index: "total", From: "900", Reverse: true, Limit: 5}, nil)
	if err != nil || len(page.Rows) != 5 {
		t.Fatalf("%d rows, %v", len(page.Rows), err)
	}
	last := int64(1 << 60)
	for _, row := range page.Rows {
		var o orderRow
		if err := json.Unmarshal(row.JSON, &o); err != nil || o.Total > last || o.Total < 900 {
			t.Errorf("row %s after one of %d", row.JSON, last)
		}
		last = o.Total
	}
	at = r.log.add(0, change{Kind: "confirmed", Order: "o-new", Customer: "c-new"})
	if now, err := r.p.Rollback("orders"); err != nil || now != "v1-1" {
		t.Fatalf("rollback: %s, %v", now, err)
	}
	if _, err := r.p.Switch("orders", "", false); !errors.Is(err, ErrBuildNotFound) || !strings.Contains(fault.From(err).Fix, "millrace view switch orders v2-1;") {
		t.Errorf("switched to none after the rollback: %v, want that the one that answered before is named", err)
	}
	if a, err = r.p.Get(t.Context(), "orders", "o-new", es.Positions{at}); err != nil || strings.Contains(string(a.Row.JSON), `"number":2`) {
		t.Errorf("after the rollback: %s, %v", a.Row.JSON, err)
	}
	r.close()
	r.start(both...)
	if got := r.live("orders"); got != "v1-1" {
		t.Errorf("%s answers after a restart", got)
	}
	if err := r.p.Drop("orders", "v1-1"); !errors.Is(err, ErrBuild) {
		t.Errorf("the build that answers is dropped: %v", err)
	}
	if _, err := r.p.Switch("orders", "v2-1", true); err != nil {
		t.Fatal(err)
	}
	if err := r.p.Drop("orders", "v1-1"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(r.dir + "/orders/v1-1"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the dropped build is on the disk: %v", err)
	}
	if _, err := r.p.Rollback("orders"); !errors.Is(err, ErrBuildNotFound) {
		t.Errorf("rollback to what was dropped: %v", err)
	}
}

// TestAutomatic: a program that comes with a new version, and without the code of the old one, answers from what is stored until the new
// one has caught up.
func TestAutomatic(t *testing.T) {
	r := newRig(t, 2)
	history(rand.New(rand.NewPCG(8, 9)), r.log, 3000, 300)
	r.start(r.views()[0])
	r.wait("orders")
	before := r.log.last()
	r.close()
	after := r.log.add(0, change{Kind: "placed", Order: "o-new", Customer: "c-new", Amount: 12})
	r.log.hide(0)
	r.log.hide(1)
	r.cfg.WaitMax = 50 * time.Millisecond
	r.start(func(p *Projector) error { return Add(p, version(2), Input[change]{r.log.topic, r.dec}) })
	if _, err := r.p.Get(t.Context(), "orders", "o-00001", before); err != nil {
		t.Errorf("while the new version is built: %v", err)
	}
	if _, err := r.p.Get(t.Context(), "orders", "o-new", es.Positions{after}); !errors.Is(err, ErrNotCaughtUp) {
		t.Errorf("an event that no build has: %v", err)
	}
	if r.p.CaughtUp() {
		t.Error("ready before the new version is")
	}
	r.log.hide(-1)
	r.ready()
	r.p.cfg.WaitMax = 10 * time.Second
	if a, err := r.p.Get(t.Context(), "orders", "o-new", es.Positions{after}); err != nil || !strings.Contains(string(a.Row.JSON), `"number":2`) {
		t.Errorf("%s, %v", a.Row.JSON, err)
	}
}

// TestVerify compares builds at the same positions while events come in, and finds a row that is wrong in one of them.
//
// G37: What verify compares is two builds at exactly the same positions: it finds every row that differs, and no other.
func TestVerify(t *testing.T) {
	r := newRig(t, 3)
	rnd := rand.New(rand.NewPCG(4, 4))
	history(rnd, r.log, 3000, 300)
	r.start(r.views()...)
	r.wait("orders", "customers", "sales")
	stop := make(chan struct{})
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		rnd := rand.New(rand.NewPCG(5, 5))
		pace := time.NewTicker(time.Millisecond)
		defer pace.Stop()
		for {
			select {
			case <-stop:
				return
			case <-pace.C:
				history(rnd, r.log, 3, 300)
			}
		}
	}()
	for _, view := range []string{"orders", "customers"} {
		report, err := r.p.VerifyFresh(t.Context(), view, 0)
		if err != nil || !report.Equal() || report.Same < 100 || report.Same != report.Rows {
			t.Fatalf("%s against a fresh fold: %+v, %v", view, report, err)
		}
		id, err := r.p.Rebuild(t.Context(), view, Rebuild{Force: true})
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			report, err = r.p.Verify(t.Context(), view, id)
			if err != nil || !report.Equal() || report.Same != report.Rows {
				t.Fatalf("%s: %+v, %v", view, report, err)
			}
		}
	}
	close(stop)
	<-stopped
	st, err := r.p.StatusOf("orders")
	if err != nil || len(st.Builds) != 2 {
		t.Fatalf("%+v, %v: want the fresh fold to be gone", st, err)
	}
	// One row is spoilt, one added, one removed behind the back of the live build.
	r.wait("orders")
	g := r.p.byName["orders"].builds["v1-1"]
	b := g.db.NewBatch()
	spoil := func(key string, text string) {
		t.Helper()
		row := storedRow{event: makeEventID("x"), values: []string{"", ""}, json: []byte(text)}
		if err := b.Set(appendRowKey(nil, key), row.appendBinary(nil)); err != nil {
			t.Fatal(err)
		}
	}
	spoil("o-00001", `{"id":"spoilt"}`)
	spoil("o-added", `{"id":"added"}`)
	if err := b.Delete(appendRowKey(nil, "o-00002")); err != nil {
		t.Fatal(err)
	}
	if err := b.Commit(); err != nil {
		t.Fatal(err)
	}
	r.log.add(0, change{Kind: "placed", Order: "o-z", Customer: "c", Amount: 1}) // a new snapshot
	r.wait("orders")
	report, err := r.p.Verify(t.Context(), "orders", "v1-2")
	if err != nil || report.Different != 1 || report.OnlyA != 1 || report.OnlyB != 1 || len(report.Samples) != 3 {
		t.Fatalf("%+v, %v, want one row of each kind", report, err)
	}
	var keys []string
	for _, d := range report.Samples {
		keys = append(keys, fmt.Sprint(d.Key, d.A != nil, d.B != nil))
	}
	if got, want := strings.Join(keys, " "), "o-00001true true o-00002false true o-addedtrue false"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// TestVerifyInTheWay: a comparison that takes long keeps nobody from asking how the view is, and from queries.
func TestVerifyInTheWay(t *testing.T) {
	r := newRig(t, 2)
	r.log.most = 50
	history(rand.New(rand.NewPCG(4, 4)), r.log, 3000, 300)
	r.start(r.views()[0])
	r.wait("orders")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := r.p.VerifyFresh(ctx, "orders", 10) // five minutes
		done <- err
	}()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		st, err := r.p.StatusOf("orders")
		if err != nil {
			t.Fatal(err)
		}
		if len(st.Builds) == 2 {
			break
		}
		<-tick.C
	}
	at := r.log.add(0, change{Kind: "placed", Order: "o-x", Customer: "c", Amount: 1})
	if _, err := r.p.Get(t.Context(), "orders", "o-x", es.Positions{at}); err != nil {
		t.Error(err)
	}
	if !r.p.CaughtUp() {
		t.Error("not ready while it is compared")
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want context.Canceled", err)
	}
	if st, err := r.p.StatusOf("orders"); err != nil || len(st.Builds) != 1 {
		t.Errorf("%+v, %v: want the build that was made to compare to be gone", st, err)
	}
}

// TestStatusBesideVerbs: whoever looks at the builds while something is done with them sees one state or the other. The race detector says more.
func TestStatusBesideVerbs(t *testing.T) {
	r := newRig(t, 2)
	history(seed(t), r.log, 2000, 100)
	r.start(r.views()[0])
	r.wait("orders")
	ctx, stop := context.WithCancel(t.Context())
	looked := make(chan struct{})
	go func() {
		defer close(looked)
		for ctx.Err() == nil {
			r.p.Status()
			r.p.CaughtUp()
		}
	}()
	for range 5 {
		if rep, err := r.p.VerifyFresh(t.Context(), "orders", 0); err != nil || !rep.Equal() {
			t.Errorf("%+v, %v", rep, err)
		}
		id, err := r.p.Rebuild(t.Context(), "orders", Rebuild{Force: true})
		if err != nil {
			t.Fatal(err)
		}
		r.build("orders", id)
		if rep, err := r.p.Verify(t.Context(), "orders", id); err != nil || !rep.Equal() {
			t.Errorf("%+v, %v", rep, err)
		}
		_, err1 := r.p.Switch("orders", id, false)
		_, err2 := r.p.Rollback("orders")
		if err := errors.Join(err1, err2, r.p.Drop("orders", id)); err != nil {
			t.Error(err)
		}
	}
	stop()
	<-looked
}

// TestVerifyBeforeRun: who compares builds before anything keeps them up to date waits for that, and not the other way round.
func TestVerifyBeforeRun(t *testing.T) {
	r := newRig(t, 2)
	history(rand.New(rand.NewPCG(5, 5)), r.log, 500, 100)
	r.start()
	r.wait("orders")
	if _, err := r.p.Rebuild(t.Context(), "orders", Rebuild{Force: true}); err != nil {
		t.Fatal(err)
	}
	r.close()
	history(rand.New(rand.NewPCG(6, 6)), r.log, 500, 100)
	p, err := newProjector(r.cfg, r.log)
	if err != nil {
		t.Fatal(err)
	}
	for _, add := range r.views() {
		if err := add(p); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Open(); err != nil {
		t.Fatal(err)
	}
	compared := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		report, err := p.Verify(ctx, "orders", "")
		if err == nil && !report.Equal() {
			err = fmt.Errorf("%+v", report)
		}
		compared <- err
	}()
	select {
	case err := <-compared:
		t.Fatal(err)
	case <-time.After(20 * time.Millisecond): // it waits
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	if err := <-compared; err != nil {
		t.Error(err)
	}
	cancel()
	if err := errors.Join(<-ended, p.Close()); err != nil {
		t.Fatal(err)
	}
}

// TestVerifySample folds some of the rows anew while events come in, and finds one that is wrong.
func TestVerifySample(t *testing.T) {
	r := newRig(t, 3)
	rnd := rand.New(rand.NewPCG(4, 4))
	history(rnd, r.log, 3000, 300)
	r.start()
	r.wait("orders", "customers")
	sum := 0
	for number := range uint64(4) {
		report, err := r.p.VerifySample(t.Context(), "orders", 0.1, number, 0)
		if err != nil || !report.Equal() || report.Rows < 5 || report.Rows > 80 {
			t.Fatalf("%+v, %v", report, err)
		}
		sum += report.Rows
		history(rnd, r.log, 100, 300)
	}
	if report, err := r.p.VerifySample(t.Context(), "customers", 1, 0, 0); err != nil || !report.Equal() || report.Rows < 150 {
		t.Errorf("all rows: %+v, %v", report, err)
	}
	r.wait("orders")
	g := r.p.byName["orders"].builds["v1-1"]
	b := g.db.NewBatch()
	row := storedRow{event: makeEventID("x"), values: []string{"", ""}, json: []byte(`{"id":"spoilt"}`)}
	if err := errors.Join(b.Set(appendRowKey(nil, "o-00001"), row.appendBinary(nil)), b.Delete(appendRowKey(nil, "o-00002")), b.Commit()); err != nil {
		t.Fatal(err)
	}
	r.log.add(0, change{Kind: "placed", Order: "o-z", Customer: "c", Amount: 1})
	r.wait("orders")
	report, err := r.p.VerifySample(t.Context(), "orders", 1, 0, 0)
	if err != nil || report.Different != 1 || report.OnlyB != 1 || report.OnlyA != 0 || len(report.Samples) != 2 || report.Samples[0].Key != "o-00001" {
		t.Errorf("%+v, %v", report, err)
	}
	if _, err := r.p.VerifySample(t.Context(), "orders", 1.5, 0, 0); !errors.Is(err, ErrBuild) {
		t.Errorf("more than all: %v", err)
	}
}

// TestVerifySampleDiscarded: a view with an event that was discarded is audited, while its code cannot handle that event and when it can, and what
// is stored is right: the fold of all other events, those of the same stream that were retried since among them.
func TestVerifySampleDiscarded(t *testing.T) {
	r := newRig(t, 1)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	v := ordersView()
	v.OnError = es.Park
	var cured atomic.Bool
	apply := v.Apply
	v.Apply = func(row orderRow, e es.Envelope[change]) orderRow {
		if !cured.Load() && e.Event.Kind == "cancelled" {
			panic("not yet")
		}
		return apply(row, e)
	}
	r.start(func(p *Projector) error { return Add(p, v, Input[change]{r.log.topic, r.dec}) })
	r.log.add(0, change{Kind: "placed", Order: "o-1"}, change{Kind: "placed", Order: "o-2"})
	bad := r.log.add(0, change{Kind: "cancelled", Order: "o-1"})
	r.log.add(0, change{Kind: "confirmed", Order: "o-1"})
	r.wait("orders")
	if _, err := r.p.VerifySample(ctx, "orders", 1, 1, 0); !errors.Is(err, ErrBuild) {
		t.Errorf("with dead letters: %v, want ErrBuild", err)
	}
	if _, err := r.p.Discard(ctx, "orders", bad, "nobody needs it"); err != nil {
		t.Fatal(err)
	}
	if done, err := r.p.Retry(ctx, "orders", ""); err != nil || done.Applied != 1 || done.Left != 0 {
		t.Fatalf("%+v, %v", done, err)
	}
	for _, now := range []bool{false, true} {
		cured.Store(now)
		if report, err := r.p.VerifySample(ctx, "orders", 1, 1, 0); err != nil || !report.Equal() || report.Same != 2 {
			t.Errorf("cured=%v: %+v, %v, want two rows that are the same", now, report, err)
		}
	}
}

// TestUntil builds a view as of a position and as of a time: it stops there, and stays so over a restart.
func TestUntil(t *testing.T) {
	r := newRig(t, 2)
	rnd := rand.New(rand.NewPCG(6, 6))
	history(rnd, r.log, 2000, 300)
	then := r.log.last()
	moment := time.Now()
	for !time.Now().After(moment.Add(time.Millisecond)) {
		continue
	}
	history(rnd, r.log, 2000, 300)
	r.start(r.views()[0])
	r.wait("orders")
	check := func(id string) {
		t.Helper()
		st := r.build("orders", id)
		if st.Applied.String() != then.String() || st.State != Complete {
			t.Errorf("build %s is at %s, %s, want %s, complete", id, st.Applied, st.State, then)
		}
		if _, err := r.p.Switch("orders", id, true); err != nil {
			t.Fatal(err)
		}
		got, applied, err := dump(t.Context(), r.p, "orders", Query{})
		if err != nil {
			t.Fatal(err)
		}
		want, _ := oracle(r.log, ordersView(), applied)
		if err := same("orders", got, want); err != nil {
			t.Error(err)
		}
	}
	byPosition, err := r.p.Rebuild(t.Context(), "orders", Rebuild{Until: then, Force: true})
	if err != nil {
		t.Fatal(err)
	}
	byTime, err := r.p.Rebuild(t.Context(), "orders", Rebuild{At: moment.Add(time.Millisecond / 2), Force: true})
	if err != nil {
		t.Fatal(err)
	}
	check(byPosition)
	check(byTime)
	if _, err := r.p.Switch("orders", "v1-1", false); err != nil {
		t.Fatal(err)
	}
	if _, err := r.p.Switch("orders", byTime, false); !errors.Is(err, ErrBuild) || !strings.HasPrefix(fault.From(err).Fix, "use --force") {
		t.Errorf("switched to a build with an end: %v", err)
	}
	for what, o := range map[string]Rebuild{"ahead": {Until: es.Positions{{TopicPartition: then[0].TopicPartition, Offset: 1 << 40}}}, "other topic": {Until: es.Positions{{TopicPartition: es.TopicPartition{Topic: "x"}}}}, "no such version": {Version: 9}, "an end and a switch": {Until: then, Switch: true}} {
		o.Force = true
		if _, err := r.p.Rebuild(t.Context(), "orders", o); err == nil {
			t.Errorf("%s: no error", what)
		}
	}
	r.close()
	r.start(r.views()[0])
	check(byPosition)
}

// TestPause: a paused view answers from what it has, also after a restart, and goes on where it was.
func TestPause(t *testing.T) {
	r := newRig(t, 2)
	history(rand.New(rand.NewPCG(6, 6)), r.log, 500, 100)
	r.start()
	r.wait("orders")
	if err := r.p.Pause("orders"); err != nil {
		t.Fatal(err)
	}
	at := r.log.add(0, change{Kind: "placed", Order: "o-late", Customer: "c-1", Day: "d", Amount: 1})
	for range 2 {
		r.p.cfg.WaitMax = 20 * time.Millisecond
		if _, err := r.p.Get(t.Context(), "orders", "o-00001", nil); err != nil {
			t.Error(err)
		}
		if _, err := r.p.Get(t.Context(), "orders", "o-late", es.Positions{at}); !errors.Is(err, ErrNotCaughtUp) || !strings.Contains(err.Error(), "is paused at") || fault.From(err).Fix != "resume it: millrace view resume orders" {
			t.Errorf("paused: %v", err)
		}
		if _, err := r.p.Get(t.Context(), Of("orders", "v1-1"), "o-late", nil); !errors.Is(err, ErrRowNotFound) || !strings.Contains(err.Error(), `view orders, key "o-late"`) {
			t.Errorf("from a build: %v", err)
		}
		if _, err := r.p.Retry(t.Context(), "orders", ""); err != nil {
			t.Errorf("nothing to retry: %v", err)
		}
		r.p.cfg.WaitMax = 10 * time.Second
		if _, err := r.p.List(t.Context(), "customers", Query{}, es.Positions{at}); err != nil {
			t.Errorf("another view: %v", err)
		}
		if st, err := r.p.StatusOf("orders"); err != nil || !st.Paused || st.Builds[0].State != Paused {
			t.Errorf("%+v, %v", st, err)
		}
		r.close()
		r.start()
	}
	if err := r.p.Resume("orders"); err != nil {
		t.Fatal(err)
	}
	if _, err := r.p.Get(t.Context(), "orders", "o-late", es.Positions{at}); err != nil {
		t.Error(err)
	}
	if err := checkOrders(t.Context(), r.p, r.log); err != nil {
		t.Error(err)
	}
}

// TestReset builds a view anew in place.
func TestReset(t *testing.T) {
	r := newRig(t, 2)
	history(rand.New(rand.NewPCG(6, 6)), r.log, 500, 100)
	r.start()
	r.wait("orders")
	if _, err := r.p.Rebuild(t.Context(), "orders", Rebuild{Force: true}); err != nil {
		t.Fatal(err)
	}
	id, err := r.p.Reset("orders")
	if err != nil || id != "v1-3" {
		t.Fatalf("%s, %v", id, err)
	}
	r.wait("orders")
	if err := checkOrders(t.Context(), r.p, r.log); err != nil {
		t.Error(err)
	}
	if st, err := r.p.StatusOf("orders"); err != nil || len(st.Builds) != 1 || st.Live != id {
		t.Errorf("%+v, %v", st, err)
	}
	r.close()
	r.start()
	r.wait("orders")
	if got := r.live("orders"); got != id {
		t.Errorf("%s answers after a restart", got)
	}
}

// TestVerbsWhileWriting has verbs called at random while events come in, with restarts: in the end each build that follows is the fold.
func TestVerbsWhileWriting(t *testing.T) {
	rnd := seed(t)
	r := newRig(t, 3)
	r.log.most = 200
	history(rnd, r.log, 500, 100)
	r.start()
	for range 60 {
		history(rnd, r.log, 1+rnd.IntN(200), 100)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		view := []string{"orders", "customers", "sales"}[rnd.IntN(3)]
		var err error
		switch rnd.IntN(9) {
		case 0:
			_, err = r.p.Rebuild(ctx, view, Rebuild{Force: true, Switch: rnd.IntN(2) == 0})
		case 1:
			_, err = r.p.Switch(view, "", rnd.IntN(2) == 0)
		case 2:
			_, err = r.p.Rollback(view)
		case 3:
			err = r.p.Pause(view)
		case 4:
			err = r.p.Resume(view)
		case 5:
			var report Report
			if report, err = r.p.Verify(ctx, view, ""); err == nil && !report.Equal() {
				t.Fatalf("%+v", report)
			}
		case 6:
			if st, e := r.p.StatusOf(view); e == nil && len(st.Builds) > 1 {
				err = r.p.Drop(view, st.Builds[rnd.IntN(len(st.Builds))].ID)
			}
		case 7:
			r.close()
			r.start()
		case 8:
			_, err = r.p.Reset(view)
		}
		cancel()
		for _, fine := range []error{ErrBuildNotFound, ErrBuild, ErrPaused} {
			if errors.Is(err, fine) {
				err = nil
			}
		}
		// A paused view cannot be brought to where another build is.
		if st, e := r.p.StatusOf(view); err != nil && !(errors.Is(err, context.DeadlineExceeded) && e == nil && st.Paused) {
			t.Fatal(err)
		}
	}
	for _, view := range []string{"orders", "customers", "sales"} {
		if err := r.p.Resume(view); err != nil {
			t.Fatal(err)
		}
	}
	r.wait("orders", "customers", "sales")
	if err := checkAll(t.Context(), r.p, r.log); err != nil {
		t.Error(err)
	}
}

// TestManualWithoutOldCode: where somebody has to switch, a process that does not have the code any more of what answers is ready when there is
// something to switch to, and does not switch by itself, after a restart neither.
func TestManualWithoutOldCode(t *testing.T) {
	r := newRig(t, 2)
	history(rand.New(rand.NewPCG(3, 3)), r.log, 500, 100)
	r.start(r.views()[0])
	r.wait("orders")
	r.close()
	r.cfg.Manual = true
	second := func(p *Projector) error { return Add(p, version(2), Input[change]{r.log.topic, r.dec}) }
	for range 2 {
		r.start(second)
		r.ready()
		if got := r.live("orders"); got != "v1-1" {
			t.Fatalf("%s answers, and nobody has switched", got)
		}
		r.close()
	}
	r.start(second)
	if now, err := r.p.Switch("orders", "", true); err != nil || now != "v2-1" {
		t.Fatalf("%s, %v", now, err)
	}
	r.wait("orders")
	r.ready()
}

// TestVerifyRefused: a comparison that cannot be made, for the build that answers has halted behind the other one, leaves that one as it was: kept up to date.
func TestVerifyRefused(t *testing.T) {
	r := newRig(t, 1)
	r.cfg.Manual = true
	v1, v2 := ordersView(), ordersView()
	v2.Version = 2
	apply := v2.Apply
	v2.Apply = func(row orderRow, e es.Envelope[change]) orderRow {
		if e.Event.Kind == "poison" {
			return row
		}
		return apply(row, e)
	}
	in := Input[change]{r.log.topic, r.dec}
	r.log.add(0, change{Kind: "placed", Order: "o-1"})
	r.start(func(p *Projector) error { return Add(p, v1, in) })
	r.wait("orders")
	r.close()
	r.start(func(p *Projector) error { return errors.Join(Add(p, v1, in), Add(p, v2, in)) })
	r.wait("orders", "orders/v2-1")
	r.log.add(0, change{Kind: "poison", Order: "o-2"}, change{Kind: "placed", Order: "o-3"})
	r.wait("orders/v2-1")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := r.p.Verify(ctx, "orders", ""); err == nil {
		t.Error("a build that has halted was compared with one that is further")
	}
	if now, err := r.p.Switch("orders", "", false); err != nil || now != "v2-1" {
		t.Fatalf("switch: %s, %v", now, err)
	}
	r.log.add(0, change{Kind: "placed", Order: "o-4"})
	r.wait("orders")
}

// TestVerifyOverRestart: builds are compared at the same positions also when the one that answers begins to read anew meanwhile.
func TestVerifyOverRestart(t *testing.T) {
	r := newRig(t, 1)
	r.log.most = 50
	for i := range 1000 {
		r.log.add(0, change{Kind: "placed", Order: fmt.Sprintf("o-%05d", i%300)})
	}
	r.start(r.views()[0])
	r.wait("orders")
	v, done, err := r.p.patient(t.Context(), "orders")
	if err != nil {
		t.Fatal(err)
	}
	defer done()
	a, _ := v.serving()
	b, err := v.create(birth{Version: 1, Rate: 5000})
	if err != nil {
		t.Fatal(err)
	}
	a.unsnap() // as between two runners
	end, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for i := 0; ; i++ {
			select {
			case <-end:
				return
			case <-tick.C:
				r.log.add(0, change{Kind: "placed", Order: fmt.Sprintf("o-%05d", i%300)})
			}
		}
	}()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	report, err := v.compare(ctx, a, b)
	close(end)
	<-stopped
	if err != nil || !report.Equal() {
		t.Errorf("%d rows, %d different, %d and %d only in one, %v", report.Rows, report.Different, report.OnlyA, report.OnlyB, err)
	}
	if err := v.drop(b); err != nil {
		t.Fatal(err)
	}
}

// TestFrozenPartitions: a build whose code is gone knows all the positions that it has, though a partition between others never had a record:
// they are neither foreign to it nor missing. Of a topic that the program still reads it knows, too, that it may get the others.
func TestFrozenPartitions(t *testing.T) {
	for _, read := range []bool{true, false} {
		t.Run(fmt.Sprintf("the topic is read=%v", read), func(t *testing.T) {
			r := newRig(t, 4)
			var had es.Positions
			for _, n := range []int32{0, 2} {
				had = had.With(r.log.add(n, change{Kind: "placed", Order: fmt.Sprint("o-", n), Customer: "c-1"}))
			}
			r.start(r.views()[0])
			r.wait("orders")
			r.close()
			topic := r.log.topic
			if !read {
				topic.Name = "orders.changes"
			}
			p := opened(t, Config{Dir: r.dir, Manual: true, WaitMax: 100 * time.Millisecond}, r.log, func(p *Projector) error {
				return Add(p, version(2), Input[change]{topic, r.dec})
			})
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			a, err := p.Get(ctx, "orders", "o-2", had)
			if err != nil || a.Build != "v1-1" || a.Applied.String() != had.String() {
				t.Errorf("%s at %s, %v, want v1-1 at %s", a.Build, a.Applied, err, had)
			}
			want := ErrForeignTopic
			if read {
				want = ErrNotCaughtUp
			}
			for _, n := range []int32{1, 3} {
				at := r.log.add(n, change{Kind: "placed", Order: fmt.Sprint("o-", n), Customer: "c-1"})
				if _, err := p.Get(ctx, "orders", "o-2", es.Positions{at}); !errors.Is(err, want) {
					t.Errorf("a position that it does not have: %v, want %v", err, want)
				}
			}
			outside := es.Position{TopicPartition: es.TopicPartition{Topic: r.log.topic.Name, Partition: 4}}
			if _, err := p.Get(ctx, "orders", "o-2", es.Positions{outside}); !errors.Is(err, ErrForeignTopic) {
				t.Errorf("a partition that there is not: %v, want ErrForeignTopic", err)
			}
		})
	}
}
