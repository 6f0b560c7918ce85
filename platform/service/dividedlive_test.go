package service

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/eventlog"
	"github.com/millrace/millrace/platform/projection"
)

// watchOf returns a watch of version 1 of a view of two ranges of two partitions each, while some version answers queries, and a context that
// ends when it stops watching, or after a while.
func watchOf(t *testing.T, answers int) (context.Context, *dividedWatch) {
	t.Helper()
	s := &spreader{ranges: 2, topic: eventlog.Topic{Name: "orders.events", Partitions: 4}, look: make(chan struct{}, 1)}
	s.routes.Store(&map[string]*viewRoute{"orders": {version: answers, of: make([][]target, 2)}})
	d := &dividedAPI{viewAPI: &viewAPI{view: View{name: "orders", stream: func(key string) es.StreamID { return es.StreamID(key) }}}, spread: s}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx, &dividedWatch{d: d, version: 1, route: &viewRoute{version: 1}, begun: []bool{true, true}, updates: make(chan rangeUpdate), stop: cancel}
}

// keyIn returns a key whose events are in a partition of such a view.
func keyIn(partition int32) string {
	for i := 0; ; i++ {
		if key := fmt.Sprint("o-", i); eventlog.PartitionOf(es.StreamID(key), 4) == partition {
			return key
		}
	}
}

// ordersAt reads positions as partition@offset.
func ordersAt(t *testing.T, texts ...string) (ps es.Positions) {
	t.Helper()
	for _, text := range texts {
		pos, err := es.ParsePosition("orders.events/" + text)
		if err != nil {
			t.Fatal(err)
		}
		ps = append(ps, pos)
	}
	return ps
}

// TestDividedWatchTakes: after a state, what a copy tells that is as far is told, and what one tells that is behind is not until it is as far:
// it may be older than the state.
//
// G39: Who watches rows is given every change of them, coalesced, and none is lost between the first state and the changes, or over a resumption.
func TestDividedWatchTakes(t *testing.T) {
	a, b, c := keyIn(0), keyIn(1), keyIn(2)
	row := func(key, at string) projection.Row {
		return projection.Row{Key: key, JSON: []byte(at), Position: ordersAt(t, at)[0]}
	}
	type update struct {
		n       int
		rows    []projection.Row
		gone    []string
		applied es.Positions
	}
	for _, tc := range []struct {
		what    string
		state   es.Positions
		updates []update
		told    []int             // what the client is told with each of them: how many rows and keys
		want    map[string]string // what it has in the end, of what it had: a, of before the state
	}{
		{"as far, and further", ordersAt(t, "0@5"), []update{
			{0, []projection.Row{row(a, "0@4")}, nil, ordersAt(t, "0@4")},
			{0, []projection.Row{row(a, "0@5")}, nil, ordersAt(t, "0@5")},
			{0, []projection.Row{row(a, "0@6")}, nil, ordersAt(t, "0@6")},
		}, []int{0, 1, 1}, map[string]string{a: "0@6"}},
		{"a dead letter is applied, and no position moves", ordersAt(t, "0@5", "2@9"), []update{
			{0, []projection.Row{row(a, "0@4")}, nil, ordersAt(t, "0@5")},
			{1, []projection.Row{row(c, "2@3")}, nil, ordersAt(t, "2@9")},
		}, []int{1, 1}, map[string]string{a: "0@4", c: "2@3"}},
		{"a dead letter is applied before the copy is as far", ordersAt(t, "0@5"), []update{
			{0, []projection.Row{row(a, "0@3")}, nil, ordersAt(t, "0@4")},
			{0, []projection.Row{row(b, "1@1")}, nil, ordersAt(t, "0@5", "1@1")},
		}, []int{0, 2}, map[string]string{a: "0@3", b: "1@1"}},
		{"of a copy that is behind, a row goes and comes back", ordersAt(t, "0@9", "1@3"), []update{
			{0, nil, []string{a}, ordersAt(t, "0@5", "1@4")},
			{0, []projection.Row{row(a, "0@7")}, nil, ordersAt(t, "0@9", "1@4")},
		}, []int{0, 1}, map[string]string{a: "0@7"}},
		{"of a copy that is behind, a row comes and goes", ordersAt(t, "0@9"), []update{
			{0, []projection.Row{row(a, "0@7")}, nil, ordersAt(t, "0@7")},
			{0, nil, []string{a}, ordersAt(t, "0@8")},
			{0, []projection.Row{row(b, "1@1")}, nil, ordersAt(t, "0@9", "1@1")},
		}, []int{0, 0, 2}, map[string]string{b: "1@1"}},
		{"behind in one partition only", ordersAt(t, "0@9", "1@3", "2@3"), []update{
			{0, []projection.Row{row(a, "0@8"), row(b, "1@4")}, nil, ordersAt(t, "0@8", "1@4")},
			{1, []projection.Row{row(c, "2@4")}, nil, ordersAt(t, "2@4")},
		}, []int{1, 1}, map[string]string{a: "state", b: "1@4", c: "2@4"}},
	} {
		t.Run(tc.what, func(t *testing.T) {
			ctx, w := watchOf(t, 1)
			w.told(tc.state)
			client, told := map[string]string{a: "state"}, []int{}
			for _, u := range tc.updates {
				out, say, err := w.take(ctx, rangeUpdate{n: u.n, Update: projection.Update{Rows: u.rows, Gone: u.gone, Applied: u.applied}})
				if n := len(out.Rows) + len(out.Gone); err != nil || say != (n > 0) {
					t.Fatalf("%+v, %v, %v", out, say, err)
				}
				told = append(told, len(out.Rows)+len(out.Gone))
				for _, row := range out.Rows {
					client[row.Key] = string(row.JSON)
				}
				for _, key := range out.Gone {
					delete(client, key)
				}
				if !includes(w.seen, tc.state) || !includes(w.seen, u.applied) {
					t.Errorf("the client is said to be at %s, after the state at %s and an update to %s", w.seen, tc.state, u.applied)
				}
			}
			if !slices.Equal(told, tc.told) || !maps.Equal(client, tc.want) {
				t.Errorf("told %v, want %v; the client has %v, want %v", told, tc.told, client, tc.want)
			}
		})
	}
}

// TestDividedWatchHolds: what is held of a copy that is behind is not held for ever, and not forgotten when the copy is watched no more: the client
// is given a new state.
func TestDividedWatchHolds(t *testing.T) {
	for _, how := range []string{"nothing more comes", "the watch ends"} {
		t.Run(how, func(t *testing.T) {
			ctx, w := watchOf(t, 1)
			w.told(ordersAt(t, "0@9"))
			u := rangeUpdate{Update: projection.Update{Gone: []string{keyIn(0)}, Applied: ordersAt(t, "0@5")}}
			if out, say, err := w.take(ctx, u); err != nil || say {
				t.Fatalf("%+v, %v, %v", out, say, err)
			}
			switch how {
			case "nothing more comes":
				w.since = w.since.Add(-heldMost)
			case "the watch ends":
				go func() { w.updates <- rangeUpdate{err: errNoAnswer} }()
			}
			if out, err := w.next(ctx); err == nil {
				t.Errorf("it is told %+v", out)
			}
			if w.goOn {
				t.Error("it goes on from a state that may not have what was held")
			}
			w.close()
		})
	}
}

// TestDividedWatchTurns: a watch turns to the version that answers queries by now before it tells more of the one before, however much of that
// changes.
func TestDividedWatchTurns(t *testing.T) {
	ctx, w := watchOf(t, 2)
	w.told(ordersAt(t, "0@0"))
	updates := w.updates
	go func() {
		for offset := 1; ; offset++ {
			at := ordersAt(t, fmt.Sprint("0@", offset))
			u := projection.Update{Rows: []projection.Row{{Key: keyIn(0), Position: at[0]}}, Applied: at}
			select {
			case updates <- rangeUpdate{Update: u}:
			case <-ctx.Done():
				return
			}
		}
	}()
	if out, err := w.next(ctx); err == nil {
		t.Errorf("it is told of the version before: %+v", out)
	}
	if w.version != 2 || w.goOn {
		t.Errorf("it watches version %d, and goes on: %t", w.version, w.goOn)
	}
	w.close()
}
