package projection

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/millrace/millrace/platform/es"
)

// dividedOrders is the view of orders as one that may be divided: a row has the id of its stream.
func dividedOrders() es.View[orderRow, change] {
	v := ordersView()
	v.Stream = es.SameStream
	return v
}

func TestRangeOf(t *testing.T) {
	for _, tc := range []struct {
		partitions int32
		ranges     int
		want       string
	}{
		{12, 3, "0-3 4-7 8-11"},
		{12, 5, "0-2 3-4 5-7 8-9 10-11"},
		{3, 3, "0-0 1-1 2-2"},
		{7, 2, "0-3 4-6"},
		{4, 1, "0-3"},
	} {
		var got []string
		for n := range tc.ranges {
			var has []int32
			for p := range tc.partitions {
				if (Range{n, tc.ranges}).Has(p, tc.partitions) {
					has = append(has, p)
				}
			}
			if len(has) == 0 || int(has[len(has)-1]-has[0]) != len(has)-1 {
				t.Fatalf("%+v: range %d has %v", tc, n, has)
			}
			got = append(got, fmt.Sprintf("%d-%d", has[0], has[len(has)-1]))
		}
		if strings.Join(got, " ") != tc.want {
			t.Errorf("%d partitions in %d ranges: %s, want %s", tc.partitions, tc.ranges, strings.Join(got, " "), tc.want)
		}
	}
}

// TestDivided has projectors of ranges answer together, page by page, what one of all partitions answers, for queries by chance; each has
// the rows of its range and no others, and waits for positions of its own only.
func TestDivided(t *testing.T) {
	rnd := seed(t)
	const ranges = 3
	whole := newRig(t, 7)
	history(rnd, whole.log, 3000, 300)
	orders := func(r *rig) func(*Projector) error {
		return func(p *Projector) error { return Add(p, dividedOrders(), Input[change]{whole.log.topic, r.dec}) }
	}
	whole.start(orders(whole))
	parts := make([]*rig, ranges)
	for n := range parts {
		parts[n] = newRig(t, 7)
		parts[n].log = whole.log
		parts[n].cfg.Range = Range{n, ranges}
		parts[n].start(orders(parts[n]))
	}
	whole.wait("orders")
	for n, r := range parts {
		r.wait("orders") // for all positions, of which it waits for its own
		st, err := r.p.StatusOf("orders")
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range st.Builds[0].Partitions {
			if RangeOf(p.Partition, 7, ranges) != n {
				t.Errorf("range %d reads partition %d", n, p.Partition)
			}
		}
	}
	rows := 0
	for range 300 {
		q := Query{Limit: 1 + rnd.IntN(40), Reverse: rnd.IntN(2) == 0}
		switch rnd.IntN(4) {
		case 0:
			q.Index, q.Equal = "customer", []string{fmt.Sprintf("c-%03d", rnd.IntN(200))}
		case 1:
			q.Index, q.From = "customer", fmt.Sprintf("c-%03d", rnd.IntN(200))
		case 2:
			q.Index, q.Equal = "status", []string{"placed"}
		default:
			q.From = fmt.Sprintf("o-%05d", rnd.IntN(300))
		}
		if rnd.IntN(3) == 0 {
			q.Name = "few"
			q.Where = func(r Row) (bool, error) { return strings.HasSuffix(r.Key, "7"), nil }
		}
		var want, got []string
		for of := q; ; {
			page, err := whole.p.List(t.Context(), "orders", of, nil)
			if err != nil {
				t.Fatal(err)
			}
			for _, row := range page.Rows {
				want = append(want, row.Key+string(row.JSON)+row.Position.String())
			}
			if of.Cursor = page.Next; of.Cursor == "" {
				break
			}
		}
		for of := q; ; {
			pages := make([]Page, ranges)
			for n, r := range parts {
				of := of
				var err error
				if pages[n], err = r.p.List(t.Context(), "orders", of, nil); err != nil {
					t.Fatal(err)
				}
			}
			page := Merge(&of, pages)
			if len(page.Rows) > q.Limit || page.Last == nil != (pagesEnd(pages) && len(page.Rows) == rowsIn(pages)) {
				t.Fatalf("%d rows of %d, last %q", len(page.Rows), rowsIn(pages), page.Last)
			}
			for _, row := range page.Rows {
				got = append(got, row.Key+string(row.JSON)+row.Position.String())
			}
			if of.After = page.Last; of.After == nil {
				break
			}
		}
		if !slices.Equal(got, want) {
			t.Fatalf("%+v: %d rows in ranges, %d in the whole, or in another order", q, len(got), len(want))
		}
		rows += len(want)
	}
	if rows < 1000 {
		t.Errorf("only %d rows were compared", rows)
	}
	all := whole.log.last()
	if got := Merge(&Query{}, []Page{{Applied: parts[0].p.own(all)}, {Applied: parts[1].p.own(all)}, {Applied: parts[2].p.own(all)}}).Applied; got.String() != all.String() {
		t.Errorf("positions of the ranges %s, of all %s", got, all)
	}
	if _, err := parts[0].p.Get(t.Context(), "orders", "o-00001", es.Positions{{TopicPartition: es.TopicPartition{Topic: "orders.events", Partition: 7}}}); !errors.Is(err, ErrForeignTopic) {
		t.Errorf("a partition that there is not: %v", err)
	}
}

func pagesEnd(pages []Page) bool {
	return !slices.ContainsFunc(pages, func(p Page) bool { return p.Last != nil })
}

func rowsIn(pages []Page) (n int) {
	for _, p := range pages {
		n += len(p.Rows)
	}
	return n
}

// TestMergeStopsAtWhatIsKnown: where a range has looked at as many rows as it may, nothing beyond is shown yet, though others have rows there.
func TestMergeStopsAtWhatIsKnown(t *testing.T) {
	rows := func(places ...string) (rows []Row) {
		for _, p := range places {
			rows = append(rows, Row{Key: p, Place: []byte(p)})
		}
		return rows
	}
	for _, tc := range []struct {
		q     Query
		pages []Page
		want  string
		last  string
	}{
		{Query{}, []Page{{Rows: rows("a", "d")}, {Rows: rows("b", "c")}}, "a b c d", ""},
		{Query{}, []Page{{Rows: rows("a"), Last: []byte("b")}, {Rows: rows("b", "c")}}, "a b", "b"},
		{Query{}, []Page{{Last: []byte("a")}, {Rows: rows("b", "c")}}, "", "a"},
		{Query{Limit: 3}, []Page{{Rows: rows("a", "d")}, {Rows: rows("b", "c")}}, "a b c", "c"},
		{Query{Limit: 4}, []Page{{Rows: rows("a", "d")}, {Rows: rows("b", "c")}}, "a b c d", ""},
		{Query{Reverse: true}, []Page{{Rows: rows("d", "a")}, {Rows: rows("c"), Last: []byte("b")}}, "d c", "b"},
		{Query{}, []Page{{}, {}}, "", ""},
	} {
		got := Merge(&tc.q, tc.pages)
		if keysOf(got.Rows) != tc.want || string(got.Last) != tc.last {
			t.Errorf("%+v: %s, last %q; want %s, %q", tc, keysOf(got.Rows), got.Last, tc.want, tc.last)
		}
	}
}

// TestWrongStream: a row that events of another stream than its own change stops the view, or is parked, divided or not.
func TestWrongStream(t *testing.T) {
	for _, policy := range []es.Policy{es.Halt, es.Park} {
		for _, divided := range []Range{{}, {0, 2}} {
			r := newRig(t, 2)
			v := customersView() // its rows gather the events of any streams
			v.OnError, v.Stream = policy, es.SameStream
			r.cfg.Range = divided
			r.start(func(p *Projector) error { return Add(p, v, Input[change]{r.log.topic, r.dec}) })
			good := r.log.add(0, change{Kind: "placed", Order: "c-1", Customer: "c-1", Amount: 1})
			if _, err := r.p.Get(t.Context(), "customers", "c-1", es.Positions{good}); err != nil {
				t.Fatal(err)
			}
			bad := r.log.add(0, change{Kind: "placed", Order: "o-1", Customer: "c-1", Amount: 5})
			a, err := r.p.Get(t.Context(), "customers", "c-1", es.Positions{bad})
			if policy == es.Halt && (!errors.Is(err, ErrNotCaughtUp) || !strings.Contains(err.Error(), "its Stream says")) || policy == es.Park && err != nil {
				t.Errorf("%v", err)
			}
			if policy == es.Park {
				var row sumRow
				if err := json.Unmarshal(a.Row.JSON, &row); err != nil || row.Orders != 1 {
					t.Errorf("the row is %s, %v", a.Row.JSON, err)
				}
			}
			r.close()
		}
	}
}

// TestUndividable: what cannot be divided is refused, with the reason.
func TestUndividable(t *testing.T) {
	r := newRig(t, 4)
	other := r.log.topic
	other.Name, other.Partitions = "stock.events", 3
	seats := seatsView(es.Halt)
	seats.Stream = es.SameStream
	for want, add := range map[string]func(p *Projector) error{
		"it has no Stream":              func(p *Projector) error { return Add(p, customersView(), Input[change]{r.log.topic, r.dec}) },
		"its index email is unique":     func(p *Projector) error { return Add(p, seats, Input[change]{r.log.topic, r.dec}) },
		"has 4 partitions for 5 ranges": func(p *Projector) error { return Add(p, dividedOrders(), Input[change]{r.log.topic, r.dec}) },
		"would be in different ranges": func(p *Projector) error {
			return Add(p, dividedOrders(), Input[change]{r.log.topic, r.dec}, Input[change]{other, r.dec})
		},
	} {
		divided := Range{0, 2}
		if strings.Contains(want, "5 ranges") {
			divided.Of = 5
		}
		p, err := newProjector(Config{Dir: t.TempDir(), Range: divided}, r.log)
		if err != nil {
			t.Fatal(err)
		}
		if err := add(p); !errors.Is(err, ErrView) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if _, err := newProjector(Config{Dir: t.TempDir(), Range: Range{3, 3}}, r.log); !errors.Is(err, ErrConfig) {
		t.Errorf("range 3/3: %v", err)
	}
}

// TestSnapshotOfAnotherRange is not used: it has the rows of other partitions.
func TestSnapshotOfAnotherRange(t *testing.T) {
	log := newLog(4)
	history(seed(t), log, 200, 40)
	from := newRig(t, 4)
	from.log, from.cfg.Range = log, Range{0, 2}
	orders := func(p *Projector) error { return Add(p, dividedOrders(), Input[change]{log.topic, &jsonDecoder{}}) }
	from.start(orders)
	from.wait("orders")
	for want, divided := range map[string]Range{"v1-1": {1, 2}, "v1-2": {0, 2}} {
		to := newRig(t, 4)
		to.log, to.cfg.Range = log, divided
		to.cfg.Snapshots = []Snapshot{snapshotOf(from.p)}
		to.start(orders)
		to.ready()
		to.wait("orders")
		st, err := to.p.StatusOf("orders")
		if err != nil {
			t.Fatal(err)
		}
		if st.Live != want {
			t.Errorf("range %s begins with the snapshot of 0/2: build %s, want %s", divided, st.Live, want)
		}
		to.close()
	}
}
