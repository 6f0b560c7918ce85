package projection

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/fault"
)

// TestOf reads a build as of a position while another one answers queries: rows, pages, counts, exports and watches are of it alone.
func TestOf(t *testing.T) {
	r := newRig(t, 2)
	r.cfg.WaitMax = time.Hour // who waits for what never comes does not end
	rnd := rand.New(rand.NewPCG(7, 7))
	history(rnd, r.log, 2000, 300)
	then := r.log.last()
	history(rnd, r.log, 2000, 300)
	now := r.log.last()
	r.start(r.views()[0])
	r.wait("orders")
	ctx := t.Context()
	id, err := r.p.Rebuild(ctx, "orders", Rebuild{Until: then, Force: true})
	if err != nil {
		t.Fatal(err)
	}
	r.build("orders", id)
	at := Of("orders", id)
	if at != "orders/v1-2" || Of("orders", "") != "orders" {
		t.Fatal(at)
	}
	want, _ := oracle(r.log, ordersView(), then)
	got, applied, err := dump(ctx, r.p, at, Query{})
	if err != nil || applied.String() != then.String() {
		t.Fatalf("at %s, want %s: %v", applied, then, err)
	}
	if err := same("orders then", got, want); err != nil {
		t.Error(err)
	}
	today, _ := oracle(r.log, ordersView(), now)
	if same("orders", want, today) == nil {
		t.Fatal("nothing has changed since")
	}
	if got, _, err = dump(ctx, r.p, "orders", Query{}); err != nil || same("orders", got, today) != nil {
		t.Errorf("the build that answers queries has other rows: %v", err)
	}

	// What is read otherwise is of it, too, and it is as fresh as it is to be.
	byIndex, _, err := dump(ctx, r.p, at, Query{Index: "status", Equal: []string{"placed"}})
	if err != nil {
		t.Fatal(err)
	}
	count, err := r.p.Count(ctx, at, Query{Index: "status", Equal: []string{"placed"}}, then)
	if err != nil || count.Rows != len(byIndex) || count.Lag != 0 {
		t.Errorf("%+v, %v; there are %d rows", count, err, len(byIndex))
	}
	x, err := r.p.Export(ctx, at, Query{}, nil)
	if err != nil || x.Build != id || x.Version != 1 || x.Applied.String() != then.String() {
		t.Fatalf("%+v, %v", x, err)
	}
	exported := 0
	for row, err := range x.Rows() {
		if err != nil || !strings.HasSuffix(want[row.Key], string(row.JSON)) {
			t.Fatalf("%s: %s, %v", row.Key, row.JSON, err)
		}
		exported++
	}
	x.Close()
	if exported != len(want) {
		t.Errorf("%d rows are exported of %d", exported, len(want))
	}
	var key string
	for k := range want {
		if want[k] != today[k] {
			key = k
		}
	}
	answer, err := r.p.Get(ctx, at, key, then)
	if err != nil || answer.Build != id || answer.Lag != 0 || !strings.HasPrefix(want[key], answer.Row.Position.String()+" ") {
		t.Errorf("%+v, %v; want %s", answer, err, want[key])
	}
	if headers, err := r.p.HeadersAt(ctx, at, answer.Row.Position); err != nil || len(headers) == 0 {
		t.Errorf("%v, %v", headers, err)
	}
	if version, err := r.p.VersionOf(at); version != 1 || err != nil {
		t.Errorf("version %d, %v", version, err)
	}

	// Beyond its end nothing comes, and nobody waits.
	for _, tp := range now {
		if _, err := r.p.Get(ctx, at, key, es.Positions{tp}); !errors.Is(err, ErrBuildEnds) {
			t.Errorf("at least %s: %v", tp, err)
		}
	}
	if _, err := r.p.Applied(ctx, at, es.Positions{{TopicPartition: now[0].TopicPartition, Offset: 1 << 40}}); !errors.Is(err, ErrBuildEnds) {
		t.Error(err)
	}

	// A cursor is for the build that its query named.
	page, err := r.p.List(ctx, at, Query{Limit: 10}, nil)
	if err != nil || page.Next == "" {
		t.Fatal(err)
	}
	if _, err := r.p.List(ctx, at, Query{Limit: 20, Cursor: page.Next}, nil); err != nil {
		t.Error(err)
	}
	for _, other := range []string{"orders", Of("orders", "v1-1")} {
		if _, err := r.p.List(ctx, other, Query{Cursor: page.Next}, nil); !errors.Is(err, ErrCursor) {
			t.Errorf("%s: %v", other, err)
		}
	}
	if page, err = r.p.List(ctx, "orders", Query{Limit: 10}, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := r.p.List(ctx, at, Query{Cursor: page.Next}, nil); !errors.Is(err, ErrCursor) {
		t.Error(err)
	}

	// What there is not.
	for name, want := range map[string]error{"orders/v9-9": ErrBuildNotFound, "orders/": ErrBuildNotFound, "orders/v1-2/": ErrBuildNotFound, "none/v1-2": ErrViewNotFound, "/v1-2": ErrViewNotFound} {
		if _, err := r.p.Get(ctx, name, key, nil); !errors.Is(err, want) {
			t.Errorf("%q: %v", name, err)
		}
		if _, err := r.p.WatchList(name, Query{}, nil, ""); !errors.Is(err, want) {
			t.Errorf("%q: %v", name, err)
		}
	}
	if _, err := r.p.Get(ctx, "orders/v9-9", key, nil); !strings.Contains(fault.Line(err), `build "v9-9"`) || !strings.Contains(fault.From(err).Fix, "v1-1, v1-2") {
		t.Error(fault.Line(err))
	}
}

// TestOfDropped drops a build that is being read: exports and watches of it end, and do not hold the drop up.
func TestOfDropped(t *testing.T) {
	r := newRig(t, 2)
	history(rand.New(rand.NewPCG(8, 8)), r.log, 2000, 300)
	r.start(r.views()[0])
	r.wait("orders")
	ctx := t.Context()
	id, err := r.p.Rebuild(ctx, "orders", Rebuild{Force: true})
	if err != nil {
		t.Fatal(err)
	}
	r.build("orders", id)
	at := Of("orders", id)
	w, err := r.p.WatchRow(at, "o-00001", nil, "")
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, err := w.Next(ctx); err != nil {
		t.Fatal(err)
	}
	// Another build that answers queries is nothing to it.
	for _, to := range []string{id, "v1-1"} {
		if _, err := r.p.Switch("orders", to, false); err != nil {
			t.Fatal(err)
		}
	}
	quiet, cancel := context.WithCancel(ctx)
	cancel()
	if u, err := w.Next(quiet); !errors.Is(err, context.Canceled) {
		t.Errorf("%+v, %v", u, err)
	}
	x, err := r.p.Export(ctx, at, Query{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	dropped := make(chan error, 1)
	rows := 0
	for _, err := range x.Rows() {
		if rows++; rows == 1 {
			go func() { dropped <- r.p.Drop("orders", id) }()
			for {
				if _, err := r.p.Get(ctx, at, "o-00001", nil); errors.Is(err, ErrBuildNotFound) {
					break
				}
				time.Sleep(time.Millisecond)
			}
			// It is not found from when it is dropped; what reads it is ended next.
			select {
			case <-x.ctx.Done():
			case <-time.After(time.Minute):
				t.Fatal("nobody ends the export")
			}
			continue
		}
		if !errors.Is(err, ErrBuild) {
			t.Errorf("after %d rows: %v", rows, err)
		}
	}
	x.Close()
	if rows != 2 {
		t.Errorf("%d rows and errors", rows)
	}
	if err := <-dropped; err != nil {
		t.Error(err)
	}
	if u, err := w.Next(ctx); err == nil {
		t.Errorf("%+v of a build that is gone", u)
	}
}
