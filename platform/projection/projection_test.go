package projection

import (
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/millrace/millrace/platform/es"
)

func seed(t *testing.T) *rand.Rand {
	n := uint64(time.Now().UnixNano())
	t.Logf("seed %d", n)
	return rand.New(rand.NewPCG(n, 1))
}

func TestGetAndList(t *testing.T) {
	r := newRig(t, 3)
	r.start()
	r.log.append(0, "", "claim")
	at := r.log.add(0, change{Kind: "placed", Order: "o-1", Customer: "c-1", Amount: 100})
	a, err := r.p.Get(t.Context(), "orders", "o-1", es.Positions{at})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := string(a.Row.JSON), `{"id":"o-1","customer":"c-1","status":"placed","total":100,"log":["1"],"extra":{"placed":1},"number":0}`; got != want {
		t.Errorf("row %s, want %s", got, want)
	}
	if got, want := a.Applied.String(), "orders.events/0@1"; got != want {
		t.Errorf("applied %s, want %s", got, want)
	}
	if got, want := a.Row.Position.String(), "orders.events/0@1"; got != want {
		t.Errorf("position %s, want %s", got, want)
	}
	if got, want := a.Row.EventID, es.EventID("o-1", at.String(), 0); got != want {
		t.Errorf("event %s, want %s", got, want)
	}
	if a.Lag != 0 {
		t.Errorf("lag %v, want 0", a.Lag)
	}
	if _, err := r.p.Get(t.Context(), "orders", "o-2", nil); !errors.Is(err, ErrRowNotFound) {
		t.Errorf("unknown row: %v", err)
	}
	if _, err := r.p.Get(t.Context(), "nothing", "o-2", nil); !errors.Is(err, ErrViewNotFound) {
		t.Errorf("unknown view: %v", err)
	}
	at = r.log.add(1, change{Kind: "confirmed", Order: "o-1"})
	page, err := r.p.List(t.Context(), "orders", Query{Index: "status", Equal: []string{"confirmed"}}, es.Positions{at})
	if err != nil || len(page.Rows) != 1 || page.Next != "" {
		t.Errorf("confirmed orders: %+v, %v", page, err)
	}
	page, err = r.p.List(t.Context(), "orders", Query{Index: "status", Equal: []string{"placed"}}, es.Positions{at})
	if err != nil || len(page.Rows) != 0 {
		t.Errorf("placed orders: %+v, %v, want none: the old index entry must be gone", page, err)
	}
}

// TestFold compares the stored rows with a plain fold of the log, in pieces of random size, over restarts, with little memory for
// rows.
//
// G14: A row is the fold of exactly the events before the view's position, each once and in the order of its partition.
func TestFold(t *testing.T) {
	rnd := seed(t)
	for round := range 3 {
		r := newRig(t, 1+rnd.Int32N(5))
		r.cfg = Config{CacheBytes: 1 + rnd.Int64N(200_000), BatchEvents: 1 + rnd.IntN(5000), WaitMax: 20 * time.Second}
		r.log.most = 1 + rnd.IntN(3000)
		for range 4 {
			history(rnd, r.log, rnd.IntN(5000), 1+rnd.IntN(900))
			r.start()
			for range rnd.IntN(5) {
				history(rnd, r.log, rnd.IntN(300), 900)
				if err := checkAll(t.Context(), r.p, r.log); err != nil {
					t.Fatalf("round %d: %v", round, err)
				}
			}
			if rnd.IntN(2) == 0 {
				r.wait("orders", "customers", "sales")
				if err := checkAll(t.Context(), r.p, r.log); err != nil {
					t.Fatalf("round %d, at the end: %v", round, err)
				}
			}
			r.close()
		}
	}
}

// TestLittleMemory builds the views from empty with room for no row but those of the last batches, so that rows are read back all
// the time.
func TestLittleMemory(t *testing.T) {
	r := newRig(t, 2)
	r.cfg = Config{CacheBytes: 1, BatchEvents: 50, WaitMax: 20 * time.Second}
	r.log.most = 25
	history(rand.New(rand.NewPCG(5, 6)), r.log, 3000, 400)
	r.start()
	r.wait("orders", "customers", "sales")
	if err := checkAll(t.Context(), r.p, r.log); err != nil {
		t.Error(err)
	}
	rows := 0
	for _, s := range r.p.byName["orders"].builds["v1-1"].fold.(*folding[orderRow, change]).shards {
		rows += len(s.rows)
	}
	if rows > 200 {
		t.Errorf("%d rows are in memory", rows)
	}
}
