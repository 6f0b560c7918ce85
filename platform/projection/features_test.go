package projection

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/eventlog"
)

// A seat is a row of a view whose events change several rows, and delete them.
type seat struct {
	Who   string    `json:"who"`
	Since time.Time `json:"since"`
	Row   int64     `json:"row"`
	Email string    `json:"email,omitempty"`
}

// parkingView parks what is poison as long as it is broken, and applies it afterwards.
func parkingView(broken *atomic.Bool) es.View[orderRow, change] {
	v := ordersView()
	v.OnError = es.Park
	apply := v.Apply
	v.Apply = func(row orderRow, e es.Envelope[change]) orderRow {
		if e.Event.Kind == "poison" && !broken.Load() {
			e.Event.Kind = "mended"
		}
		return apply(row, e)
	}
	return v
}

// seatsView has an event "taken" or "left" change the rows of all customers that it names, comma separated.
func seatsView(policy es.Policy) es.View[seat, change] {
	return es.View[seat, change]{
		Name: "seats", Version: 1, OnError: policy,
		Keys: func(e es.Envelope[change]) []string {
			if e.Event.Customer == "" {
				return nil
			}
			return strings.Split(e.Event.Customer, ",")
		},
		ApplyTo: func(key string, row seat, e es.Envelope[change]) seat {
			if e.Event.Kind == "poison "+key {
				panic("cannot sit on " + key)
			}
			row.Who, row.Row, row.Email = e.Event.Order, e.Event.Amount, e.Event.Day
			row.Since = time.Date(2026, 1, 1, 0, 0, int(e.Event.Amount), 0, time.UTC)
			if e.Event.Kind == "left" {
				row.Who = ""
			}
			return row
		},
		Gone: func(row seat) bool { return row.Who == "" },
		Indexes: map[string]es.Index[seat]{
			"who":   es.By(es.Text(func(s seat) string { return s.Who }), es.Descending(es.Time(func(s seat) time.Time { return s.Since }))),
			"row":   es.By(es.Number(func(s seat) int64 { return s.Row })),
			"email": es.UniqueBy(es.Text(func(s seat) string { return s.Email })),
		},
	}
}

func (r *rig) seats(policy es.Policy) func(*Projector) error {
	return func(p *Projector) error { return Add(p, seatsView(policy), Input[change]{r.log.topic, r.dec}) }
}

func keysOf(rows []Row) string {
	keys := make([]string, len(rows))
	for i, row := range rows {
		keys[i] = row.Key
	}
	return strings.Join(keys, " ")
}

// TestManyRows: one event changes several rows together or none, rows are deleted with their index entries and come back new, and indexes of
// several parts are found by ranges in both orders.
func TestManyRows(t *testing.T) {
	for _, behind := range []bool{false, true} {
		t.Run(fmt.Sprint("behind=", behind), func(t *testing.T) {
			r := newRig(t, 1)
			if !behind {
				r.start(r.seats(es.Halt))
			}
			r.log.add(0, change{Kind: "taken", Order: "ann", Customer: "a1,a2,a3", Amount: 5}, change{Kind: "taken", Order: "bob", Customer: "b1,b2", Amount: -7})
			if !behind {
				r.wait("seats")
			}
			r.log.add(0, change{Kind: "taken", Order: "ann", Customer: "a2", Amount: 9}, change{Kind: "left", Customer: "a3,b1"}, change{Kind: "taken", Order: "cid", Customer: "b1", Amount: 1})
			if behind {
				r.start(r.seats(es.Halt))
			}
			r.wait("seats")
			for _, tc := range []struct {
				q    Query
				want string
			}{
				{Query{}, "a1 a2 b1 b2"},
				{Query{Reverse: true, Limit: 3}, "b2 b1 a2"},
				{Query{Prefix: "a"}, "a1 a2"},
				{Query{Prefix: "a", Reverse: true}, "a2 a1"},
				{Query{Index: "who"}, "a2 a1 b2 b1"},
				{Query{Index: "who", Equal: []string{"ann"}}, "a2 a1"}, // the newest first
				{Query{Index: "who", Equal: []string{"ann"}, Reverse: true}, "a1 a2"},
				{Query{Index: "who", Equal: []string{"ann"}, From: "2026-01-01T00:00:06Z"}, "a2"},
				{Query{Index: "who", Equal: []string{"ann"}, To: "2026-01-01T01:00:05+01:00"}, "a1"},
				{Query{Index: "who", Equal: []string{"ann", "2026-01-01T00:00:09Z"}}, "a2"},
				{Query{Index: "who", From: "b"}, "b2 b1"},
				{Query{Index: "who", From: "ann", To: "bob"}, "a2 a1 b2"},
				{Query{Index: "who", Prefix: "b"}, "b2"},
				{Query{Index: "row"}, "b2 b1 a1 a2"},
				{Query{Index: "row", From: "-7", To: "5"}, "b2 b1 a1"},
				{Query{Index: "row", To: "0"}, "b2"},
				{Query{Index: "row", Equal: []string{"9"}}, "a2"},
				{Query{Where: func(r Row) (bool, error) { return strings.HasSuffix(r.Key, "1"), nil }}, "a1 b1"},
			} {
				page, err := r.p.List(t.Context(), "seats", tc.q, nil)
				if got := keysOf(page.Rows); err != nil || got != tc.want {
					t.Errorf("%+v: %q, %v, want %q", tc.q, got, err, tc.want)
				}
				if tc.q.Limit > 0 {
					continue
				}
				n, err := r.p.Count(t.Context(), "seats", tc.q, nil)
				if want := len(strings.Fields(tc.want)); err != nil || n.Rows != want || n.More {
					t.Errorf("count of %+v: %+v, %v, want %d", tc.q, n, err, want)
				}
				var one []string
				for q := tc.q; ; {
					q.Limit = 1
					page, err := r.p.List(t.Context(), "seats", q, nil)
					if err != nil {
						t.Fatal(err)
					}
					one = append(one, strings.Fields(keysOf(page.Rows))...)
					if q.Cursor = page.Next; q.Cursor == "" {
						break
					}
				}
				if got := strings.Join(one, " "); got != tc.want {
					t.Errorf("%+v, one by one: %q, want %q", tc.q, got, tc.want)
				}
				x, err := r.p.Export(t.Context(), "seats", tc.q, nil)
				if err != nil {
					t.Fatal(err)
				}
				var all []Row
				for row, err := range x.Rows() {
					if err != nil {
						t.Fatal(err)
					}
					all = append(all, row)
				}
				x.Close()
				if got := keysOf(all); got != tc.want {
					t.Errorf("export of %+v: %q, want %q", tc.q, got, tc.want)
				}
			}
			for _, q := range []Query{{Index: "row", Equal: []string{"x"}}, {Index: "who", Equal: []string{"ann", "yesterday"}}, {Index: "row", Prefix: "1"}} {
				if _, err := r.p.List(t.Context(), "seats", q, nil); !errors.Is(err, es.ErrValue) {
					t.Errorf("%+v: %v, want ErrValue", q, err)
				}
			}
			at := es.Position{TopicPartition: es.TopicPartition{Topic: r.log.topic.Name, Partition: 0}, Offset: 3}
			rows, gone, err := r.p.Changed(t.Context(), "seats", at, nil)
			if err != nil || keysOf(rows) != "b1" || !slices.Equal(gone, []string{"a3"}) {
				t.Errorf("changed by %s: %v, %v, %v", at, rows, gone, err)
			}
		})
	}
}

// TestUnique refuses a second row with the same value, whenever the first one came, and lets a value go that its row gave up.
func TestUnique(t *testing.T) {
	r := newRig(t, 2)
	r.cfg.WaitMax = 10 * time.Second
	r.start(r.seats(es.Park))
	r.log.add(0, change{Kind: "taken", Order: "ann", Customer: "a1", Day: "ann@x"})
	r.wait("seats")
	r.log.add(0, change{Kind: "taken", Order: "bob", Customer: "b1", Day: "ann@x"}) // taken
	r.log.add(0, change{Kind: "taken", Order: "cid", Customer: "c1,c2", Day: "cid@x"})
	r.log.add(0, change{Kind: "taken", Order: "ann", Customer: "a1", Day: "ann@y"}, change{Kind: "taken", Order: "dan", Customer: "d1", Day: "ann@x"}) // given up, and taken
	r.wait("seats")
	page, err := r.p.List(t.Context(), "seats", Query{Index: "email"}, nil)
	if got, want := keysOf(page.Rows), "d1 a1"; err != nil || got != want {
		t.Errorf("%q, %v, want %q", got, err, want)
	}
	ls, err := r.p.Letters("seats", "", false, nil, 10)
	if err != nil || len(ls) != 2 || ls[0].Stream != "bob" || !strings.Contains(ls[0].Reason, `the row "a1" has the same value of the unique index email`) {
		t.Errorf("%+v, %v", ls, err)
	}
}

// TestPark keeps events that a view cannot handle, with the later ones of their streams, over restarts; the rest goes on. Retried in order
// once the code is mended, they are applied, each once.
//
// G38: A view that parks keeps an event that it cannot handle, and the later ones of its stream, as dead letters, in order and over kills; all other events are applied.
func TestPark(t *testing.T) {
	var broken atomic.Bool
	broken.Store(true)
	view := func() es.View[orderRow, change] { return parkingView(&broken) }
	for _, behind := range []bool{false, true} {
		t.Run(fmt.Sprint("behind=", behind), func(t *testing.T) {
			broken.Store(true)
			r := newRig(t, 2)
			r.cfg.WaitMax = 10 * time.Second
			add := func(p *Projector) error { return Add(p, view(), Input[change]{r.log.topic, r.dec}) }
			if !behind {
				r.start(add)
			}
			first := r.log.add(0, change{Kind: "placed", Order: "o-1", Customer: "c-1", Amount: 5})
			r.log.add(0, change{Kind: "poison", Order: "o-1"}, change{Kind: "confirmed", Order: "o-1"})
			for i := range 200 {
				r.log.add(int32(i%2), change{Kind: "placed", Order: fmt.Sprint("x-", i), Customer: "c", Amount: 1})
			}
			garbage := r.log.append(1, "o-2", "?")
			r.log.add(1, change{Kind: "placed", Order: "o-2", Customer: "c-2", Amount: 2})
			r.log.add(0, change{Kind: "cancelled", Order: "o-1"}, change{Kind: "placed", Order: "o-3", Customer: "c-3", Amount: 3})
			if behind {
				r.start(add)
			}
			check := func(when string) {
				t.Helper()
				r.wait("orders")
				ls, err := r.p.Letters("orders", "", false, nil, 100)
				var got []string
				for _, l := range ls {
					got = append(got, fmt.Sprint(l.Stream, " ", l.Position.Offset, " ", l.Code, " ", l.Attempts > 0))
				}
				want := []string{"o-1 1 view_failed true", "o-1 2 waits_behind false", "o-1 103 waits_behind false",
					fmt.Sprint("o-2 ", garbage.Offset, " undecodable_event true"), fmt.Sprint("o-2 ", garbage.Offset+1, " waits_behind false")}
				if err != nil || !slices.Equal(got, want) {
					t.Errorf("%s: %q, %v, want %q", when, got, err, want)
				}
				a, err := r.p.Get(t.Context(), "orders", "o-1", nil)
				if err != nil || a.Row.Position != first {
					t.Errorf("%s: the row is of %s, %v, want %s", when, a.Row.Position, err, first)
				}
				if _, err := r.p.Get(t.Context(), "orders", "o-3", nil); err != nil {
					t.Errorf("%s: another stream: %v", when, err)
				}
				if st, err := r.p.StatusOf("orders"); err != nil || st.Builds[0].Letters != 5 || st.Builds[0].State != Running {
					t.Errorf("%s: %+v, %v", when, st.Builds[0], err)
				}
			}
			r.ready()
			check("parked")
			r.close()
			r.start(add)
			r.ready()
			check("after a restart")
			page, err := r.p.Letters("orders", "", false, &Letter{Stream: "o-1", Position: es.Position{TopicPartition: first.TopicPartition, Offset: 2}}, 2)
			if err != nil || len(page) != 2 || page[0].Position.Offset != 103 {
				t.Errorf("the next page: %+v, %v", page, err)
			}
			if got, err := r.p.Retry(t.Context(), "orders", ""); err != nil || got.Applied != 0 || got.Left != 5 || len(got.Failed) != 2 {
				t.Errorf("retried while it is broken: %+v, %v", got, err)
			}
			if ls, err := r.p.Letters("orders", "o-1", false, nil, 1); err != nil || ls[0].Attempts < 2 || ls[0].Tried == nil {
				t.Errorf("%+v, %v: want another attempt", ls, err)
			}
			if _, err := r.p.Discard(t.Context(), "orders", es.Position{TopicPartition: garbage.TopicPartition, Offset: garbage.Offset + 1}, "why not"); !errors.Is(err, ErrLetterOrder) {
				t.Errorf("the second one is discarded: %v", err)
			}
			if l, err := r.p.Discard(t.Context(), "orders", garbage, "it was garbage"); err != nil || l.Why != "it was garbage" {
				t.Errorf("discard: %+v, %v", l, err)
			}
			broken.Store(false)
			if got, err := r.p.Retry(t.Context(), "orders", ""); err != nil || got.Applied != 4 || got.Left != 0 || len(got.Failed) != 0 {
				t.Errorf("retried: %+v, %v", got, err)
			}
			r.log.add(0, change{Kind: "confirmed", Order: "o-1"})
			r.wait("orders")
			a, err := r.p.Get(t.Context(), "orders", "o-1", nil)
			var row orderRow
			if err := errors.Join(err, json.Unmarshal(a.Row.JSON, &row)); err != nil || row.Status != "confirmed" ||
				!maps.Equal(row.Extra, map[string]int64{"placed": 1, "mended": 1, "confirmed": 2, "cancelled": 1}) {
				t.Errorf("%s, %v: want every event once", a.Row.JSON, err)
			}
			if ls, err := r.p.Letters("orders", "", true, nil, 10); err != nil || len(ls) != 1 || ls[0].Position != garbage || ls[0].Discarded == nil {
				t.Errorf("discarded: %+v, %v", ls, err)
			}
			if _, err := r.p.Retry(t.Context(), "orders", "o-1"); !errors.Is(err, ErrLetterNotFound) {
				t.Errorf("a stream without letters: %v", err)
			}
			r.close()
			r.start(add)
			r.wait("orders")
			if st, err := r.p.StatusOf("orders"); err != nil || st.Builds[0].Letters != 0 {
				t.Errorf("%+v, %v", st, err)
			}
		})
	}
}

// TestMissing: what a build answers at its positions can be told apart by the events that it does not have though they are before them: dead
// letters that are applied or discarded change it, and move no position. It stays the same over a restart.
func TestMissing(t *testing.T) {
	var broken atomic.Bool
	broken.Store(true)
	v := parkingView(&broken)
	r := newRig(t, 1)
	add := func(p *Projector) error { return Add(p, v, Input[change]{r.log.topic, r.dec}) }
	r.start(add)
	ask := func(when string) (missing uint64, at string) {
		t.Helper()
		r.wait("orders")
		page, err := r.p.List(t.Context(), "orders", Query{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		state, err := r.p.Applied(t.Context(), "orders", nil)
		if err != nil {
			t.Fatal(err)
		}
		row, err := r.p.Get(t.Context(), "orders", "o-1", nil)
		if err != nil {
			t.Fatal(err)
		}
		if state.Missing != page.Missing || row.Missing != page.Missing || state.Text != page.Applied.String() {
			t.Errorf("%s: a page says %d at %s, a row %d, the state %d at %s", when, page.Missing, page.Applied, row.Missing, state.Missing, state.Text)
		}
		return page.Missing, page.Applied.String()
	}
	r.log.add(0, change{Kind: "placed", Order: "o-1"}, change{Kind: "placed", Order: "o-2"})
	if got, _ := ask("nothing is missing"); got != 0 {
		t.Errorf("nothing is missing: %d", got)
	}
	first := r.log.add(0, change{Kind: "poison", Order: "o-1"})
	r.log.add(0, change{Kind: "poison", Order: "o-2"}, change{Kind: "confirmed", Order: "o-2"})
	was, at := ask("parked")
	seen := map[uint64]string{0: "nothing is missing", was: "parked"}
	if was == 0 {
		t.Error("three events are missing")
	}
	for _, step := range []struct {
		what  string
		do    func() error
		other bool // others are missing then
	}{
		{"after a restart", func() error { r.close(); r.start(add); r.ready(); return nil }, false},
		{"tried in vain", func() error { _, err := r.p.Retry(t.Context(), "orders", ""); return err }, false},
		{"one discarded", func() error { _, err := r.p.Discard(t.Context(), "orders", first, "of no use"); return err }, true},
		{"one discarded, after a restart", func() error { r.close(); r.start(add); r.ready(); return nil }, false},
		{"the others applied", func() error {
			broken.Store(false)
			got, err := r.p.Retry(t.Context(), "orders", "")
			if err == nil && got.Applied != 2 {
				err = fmt.Errorf("%+v", got)
			}
			return err
		}, true},
		{"the others applied, after a restart", func() error { r.close(); r.start(add); r.ready(); return nil }, false},
	} {
		if err := step.do(); err != nil {
			t.Fatalf("%s: %v", step.what, err)
		}
		got, where := ask(step.what)
		if where != at {
			t.Errorf("%s: at %s, before at %s", step.what, where, at)
		}
		if before, ok := seen[got]; step.other == ok || !step.other && got != was {
			t.Errorf("%s: %d, before %d; %q", step.what, got, was, before)
		}
		seen[got], was = step.what, got
	}
}

// A topics is several logs in memory as one journal.
type topics map[string]*memLog

func (ts topics) open(ctx context.Context, from []eventlog.Cursor, fetchBytes int32) (source, error) {
	all := topicsSource{}
	for name, l := range ts {
		var own []eventlog.Cursor
		for _, c := range from {
			if c.TopicPartition.Topic == name {
				own = append(own, c)
			}
		}
		s, err := l.open(ctx, own, fetchBytes)
		if err != nil {
			return nil, err
		}
		all = append(all, s.(*memSource))
	}
	return all, nil
}

func (ts topics) Ends(ctx context.Context, t eventlog.Topic) ([]int64, error) {
	return ts[t.Name].Ends(ctx, t)
}

func (ts topics) EndsAt(ctx context.Context, t eventlog.Topic, at time.Time) ([]int64, error) {
	return ts[t.Name].EndsAt(ctx, t, at)
}

func (ts topics) RecordAt(ctx context.Context, t eventlog.Topic, at es.Position) (eventlog.Record, error) {
	return ts[t.Name].RecordAt(ctx, t, at)
}

type topicsSource []*memSource

// Poll asks each log for a moment only.
func (s topicsSource) Poll(ctx context.Context) ([]eventlog.Fetched, error) {
	for ctx.Err() == nil {
		for _, one := range s {
			short, cancel := context.WithTimeout(ctx, time.Millisecond)
			got, err := one.Poll(short)
			cancel()
			if err == nil {
				return got, nil
			}
		}
	}
	return nil, ctx.Err()
}

func (topicsSource) Close() {}

// TestJoin folds the events of two topics into one row by key.
func TestJoin(t *testing.T) {
	type joined struct {
		Orders int64 `json:"orders"`
		Stock  int64 `json:"stock"`
	}
	orders, stock := newLog(2), newLog(3)
	stock.topic.Name, stock.topic.ID = "stock.events", [16]byte{2}
	v := es.View[joined, change]{
		Name: "items", Version: 1,
		Key: func(e es.Envelope[change]) (string, bool) { return e.Event.Customer, e.Event.Customer != "" },
		Apply: func(row joined, e es.Envelope[change]) joined {
			if e.Position.Topic == "stock.events" {
				row.Stock += e.Event.Amount
			} else {
				row.Orders += e.Event.Amount
			}
			return row
		},
	}
	add := func(p *Projector) error {
		return Add(p, v, Input[change]{stock.topic, &jsonDecoder{}}, Input[change]{orders.topic, &jsonDecoder{}})
	}
	dir := t.TempDir() + "/views"
	for round := int64(1); round <= 2; round++ {
		p := opened(t, Config{Dir: dir, WaitMax: 10 * time.Second}, topics{"orders.events": orders, "stock.events": stock}, add)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- p.Run(ctx) }()
		for i := range 30 {
			orders.add(int32(i%2), change{Order: fmt.Sprint("o-", i), Customer: fmt.Sprint("sku-", i%3), Amount: 1})
			stock.add(int32(i%3), change{Order: fmt.Sprint("s-", i), Customer: fmt.Sprint("sku-", i%3), Amount: 10})
		}
		need := orders.last()
		for _, pos := range stock.last() {
			need = need.With(pos)
		}
		for i := range 3 {
			a, err := p.Get(ctx, "items", fmt.Sprint("sku-", i), need)
			if want := fmt.Sprintf(`{"orders":%d,"stock":%d}`, 10*round, 100*round); err != nil || string(a.Row.JSON) != want {
				t.Errorf("%s, %v, want %s", a.Row.JSON, err, want)
			}
			if len(a.Applied) != 5 {
				t.Errorf("applied %s, want all five partitions", a.Applied)
			}
		}
		if _, err := p.Get(ctx, "items", "sku-1", es.Positions{{TopicPartition: es.TopicPartition{Topic: "other"}, Offset: 1}}); !errors.Is(err, ErrForeignTopic) {
			t.Errorf("a foreign position: %v", err)
		}
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestWatch: a watcher is told of every change of what it watches, in the end as it is, with nothing in between lost: also when it is slow,
// comes back with the position that it has seen, or the build is another one.
//
// G39: Who watches rows is given every change of them, coalesced, and none is lost between the first state and the changes, or over a resumption.
func TestWatch(t *testing.T) {
	r := newRig(t, 2)
	r.start(r.seats(es.Halt))
	r.log.add(0, change{Kind: "taken", Order: "ann", Customer: "a1,a2", Amount: 1})
	r.wait("seats")
	next := func(w *Watch) Update {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		u, err := w.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	list, err := r.p.WatchList("seats", Query{Index: "who", Equal: []string{"ann"}}, nil, "")
	if err != nil {
		t.Fatal(err)
	}
	one, err := r.p.WatchRow("seats", "b1", nil, "")
	if err != nil {
		t.Fatal(err)
	}
	defer one.Close()
	if u := next(list); !u.Anew || keysOf(u.Rows) != "a1 a2" {
		t.Errorf("%+v", u)
	}
	if u := next(one); !u.Anew || len(u.Rows) != 0 {
		t.Errorf("%+v", u)
	}
	r.log.add(0, change{Kind: "taken", Order: "bob", Customer: "b1,a1", Amount: 2})
	if u := next(list); u.Anew || len(u.Rows) != 0 || !slices.Equal(u.Gone, []string{"a1"}) {
		t.Errorf("%+v, want a1 to have left", u)
	}
	if u := next(one); u.Anew || keysOf(u.Rows) != "b1" {
		t.Errorf("%+v", u)
	}
	r.log.add(0, change{Kind: "taken", Order: "ann", Customer: "a5", Amount: 2}, change{Kind: "left", Customer: "b1"})
	u := next(list)
	if u.Anew || keysOf(u.Rows) != "a5" || len(u.Gone) != 0 {
		t.Errorf("%+v, want a5 alone", u)
	}
	if u := next(one); len(u.Rows) != 0 || !slices.Equal(u.Gone, []string{"b1"}) {
		t.Errorf("%+v, want b1 to be gone", u)
	}
	// It is away for a while, and comes back with what it has seen.
	seen := UpdateID(u.Version, u.Applied)
	list.Close()
	for i := range 10 {
		r.log.add(0, change{Kind: "taken", Order: "ann", Customer: "a7", Amount: int64(i)})
	}
	// In the partition of what it undoes: the build after this one may fold the partitions in another order.
	r.log.add(0, change{Kind: "left", Customer: "a5"})
	r.wait("seats")
	back, err := r.p.WatchList("seats", Query{Index: "who", Equal: []string{"ann"}}, nil, seen)
	if err != nil {
		t.Fatal(err)
	}
	defer back.Close()
	// b1 left in the batch of a5 or in the one after it; who comes back is told of rows that left, were they its own or not.
	if u := next(back); u.Anew || keysOf(u.Rows) != "a7" || !slices.Contains(u.Gone, "a5") || slices.Contains(u.Gone, "a7") || !strings.Contains(string(u.Rows[0].JSON), `"row":9`) {
		t.Errorf("%+v, want what changed while it was away", u)
	}
	// What it has seen is not known any more.
	lost, err := r.p.WatchList("seats", Query{Index: "who", Equal: []string{"ann"}}, nil, "1 orders.events/0@0")
	if err != nil {
		t.Fatal(err)
	}
	defer lost.Close()
	if u := next(lost); !u.Anew || keysOf(u.Rows) != "a7 a2" {
		t.Errorf("%+v, want everything", u)
	}
	if _, err := r.p.WatchList("seats", Query{Cursor: "x"}, nil, ""); !errors.Is(err, ErrQuery) {
		t.Errorf("a cursor: %v", err)
	}
	if _, err := r.p.Reset("seats"); err != nil {
		t.Fatal(err)
	}
	r.wait("seats")
	// The new build begins empty: what there was is replaced, and comes back.
	rows := map[string]bool{"of the build before": true}
	for !maps.Equal(rows, map[string]bool{"a2": true, "a7": true}) {
		u := next(back)
		if u.Anew {
			clear(rows)
		}
		for _, row := range u.Rows {
			rows[row.Key] = true
		}
		for _, key := range u.Gone {
			delete(rows, key)
		}
	}
}

// TestWatchersConverge has many watchers read at random paces while rows change, and some come back now and then: each has in the end what
// the view has.
func TestWatchersConverge(t *testing.T) {
	rnd := seed(t)
	r := newRig(t, 3)
	r.start(r.seats(es.Halt))
	type seen struct {
		rows map[string]string
		at   string
	}
	people := []string{"ann", "bob", "cid"}
	var watching []chan struct{}
	results := make([]seen, 30)
	end := make(chan struct{})
	for i := range results {
		pauses := make([]time.Duration, 50)
		for k := range pauses {
			pauses[k] = time.Duration(rnd.IntN(3)) * time.Duration(rnd.IntN(3000)) * time.Microsecond
		}
		done := make(chan struct{})
		watching = append(watching, done)
		go func() {
			defer close(done)
			s := &results[i]
			q := Query{Index: "who", Equal: []string{people[i%3]}, Limit: MaxLimit}
			for n := 0; ; n++ {
				w, err := r.p.WatchList("seats", q, nil, s.at)
				if err != nil {
					t.Error(err)
					return
				}
				for k := 0; k < 7; k++ {
					ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
					u, err := w.Next(ctx)
					cancel()
					if err != nil {
						select {
						case <-end:
							w.Close()
							return
						default:
							continue
						}
					}
					if u.Anew {
						s.rows = map[string]string{}
					}
					for _, row := range u.Rows {
						s.rows[row.Key] = string(row.JSON)
					}
					for _, key := range u.Gone {
						delete(s.rows, key)
					}
					s.at = UpdateID(u.Version, u.Applied)
					timer := time.NewTimer(pauses[(n*7+k)%len(pauses)])
					<-timer.C
				}
				w.Close()
			}
		}()
	}
	pace := time.NewTicker(300 * time.Microsecond)
	defer pace.Stop()
	for i := range 3000 {
		<-pace.C
		kind := "taken"
		if rnd.IntN(4) == 0 {
			kind = "left"
		}
		r.log.add(int32(i%3), change{Kind: kind, Order: people[rnd.IntN(3)], Customer: fmt.Sprintf("k-%d,k-%d", rnd.IntN(40), 40+rnd.IntN(40)), Amount: int64(i)})
	}
	r.wait("seats")
	close(end)
	for i, done := range watching {
		<-done
		page, err := r.p.List(t.Context(), "seats", Query{Index: "who", Equal: []string{people[i%3]}, Limit: MaxLimit}, nil)
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]string{}
		for _, row := range page.Rows {
			want[row.Key] = string(row.JSON)
		}
		if !maps.Equal(results[i].rows, want) {
			t.Errorf("watcher %d has %d rows, the view %d, or they differ", i, len(results[i].rows), len(want))
		}
	}
}
