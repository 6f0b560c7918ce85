package projection

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/fault"
)

func TestListRanges(t *testing.T) {
	r := newRig(t, 2)
	r.start()
	for i := range 20 {
		r.log.add(int32(i%2), change{Kind: []string{"placed", "confirmed"}[i%2], Order: fmt.Sprintf("o-%02d", i), Customer: "c-1", Amount: 5})
	}
	r.log.add(0, change{Kind: "placed", Order: "o-0", Customer: "c-1"}, change{Kind: "placed", Order: "p", Customer: "c-2"})
	r.wait("orders")
	for _, tc := range []struct {
		q    Query
		want string
		next bool
	}{
		{Query{From: "o-03", To: "o-05"}, "o-03 o-04 o-05", false},
		{Query{From: "o-18"}, "o-18 o-19 p", false},
		{Query{To: "o-01"}, "o-0 o-00 o-01", false},
		{Query{From: "o-0", To: "o-0"}, "o-0", false},
		{Query{From: "o-1", Limit: 2}, "o-10 o-11", true},
		{Query{From: "q"}, "", false},
		{Query{Index: "status", Equal: []string{"confirmed"}, From: "o-15"}, "o-15 o-17 o-19", false},
		{Query{Index: "status", Equal: []string{"confirmed"}, To: "o-03", Limit: 2}, "o-01 o-03", false},
		{Query{Index: "status", Equal: []string{"conf"}}, "", false},
		{Query{Index: "customer", Equal: []string{"c-2"}}, "p", false},
	} {
		page, err := r.p.List(t.Context(), "orders", tc.q, nil)
		if err != nil {
			t.Errorf("%+v: %v", tc.q, err)
			continue
		}
		var keys []string
		for _, row := range page.Rows {
			keys = append(keys, row.Key)
		}
		if got := strings.Join(keys, " "); got != tc.want || tc.next != (page.Next != "") {
			t.Errorf("%+v: %q, next %v, want %q, %v", tc.q, got, page.Next != "", tc.want, tc.next)
		}
	}
	for _, tc := range []struct {
		q    Query
		want error
	}{
		{Query{Limit: -1}, ErrLimit}, {Query{Limit: 1001}, ErrLimit}, {Query{Limit: 1 << 31}, ErrLimit},
		{Query{Index: "nothing", Equal: []string{"x"}}, ErrQuery}, {Query{Equal: []string{"x"}}, ErrQuery}, {Query{Index: "status", Equal: []string{""}}, ErrQuery},
		{Query{Index: "status", Equal: []string{"x", "y"}}, ErrQuery}, {Query{Prefix: "x", To: "y"}, ErrQuery},
		{Query{From: "b", To: "a"}, ErrQuery}, {Query{From: strings.Repeat("x", 257)}, ErrQuery},
		{Query{Index: "status", Equal: []string{strings.Repeat("x", MaxIndexValue+1)}}, ErrQuery},
		{Query{Cursor: "x"}, ErrCursor}, {Query{Cursor: "!"}, ErrCursor}, {Query{Cursor: strings.Repeat("A", 5000)}, ErrCursor},
	} {
		if _, err := r.p.List(t.Context(), "orders", tc.q, nil); !errors.Is(err, tc.want) || fault.KindOf(err) != fault.Invalid {
			t.Errorf("%.100v: %v, want %v", tc.q, err, tc.want)
		}
	}
	for _, key := range []string{"", "a/b", "..", strings.Repeat("x", 300), "a\x00", "\xff"} {
		if _, err := r.p.Get(t.Context(), "orders", key, nil); !errors.Is(err, es.ErrID) {
			t.Errorf("Get(%.20q): %v, want ErrID", key, err)
		}
	}
}

// TestPaging goes through pages while rows come, change their index value and new ones are added: what is there all the time
// comes exactly once, in order.
//
// G18: A page's cursor goes on exactly where the page ended, whatever was written in between, and works for no other query.
func TestPaging(t *testing.T) {
	r := newRig(t, 1)
	r.start()
	for i := range 300 {
		r.log.add(0, change{Kind: "placed", Order: fmt.Sprintf("o-%03d", i*2), Customer: "c-1"})
	}
	r.wait("orders")
	q := Query{Index: "customer", Equal: []string{"c-1"}, Limit: 7}
	got := map[string]int{}
	last := ""
	for n := 0; ; n++ {
		page, err := r.p.List(t.Context(), "orders", q, r.log.last())
		if err != nil {
			t.Fatal(err)
		}
		for _, row := range page.Rows {
			if row.Key <= last {
				t.Fatalf("%s after %s", row.Key, last)
			}
			last = row.Key
			got[row.Key]++
		}
		if q.Cursor = page.Next; page.Next == "" {
			break
		}
		q.Limit = 1 + n%9
		r.log.add(0, change{Kind: "placed", Order: fmt.Sprintf("o-%03d", (n*37)%600), Customer: "c-1"},
			change{Kind: "confirmed", Order: fmt.Sprintf("o-%03d", (n*14)%600), Customer: "c-1"})
	}
	for i := range 300 {
		if key := fmt.Sprintf("o-%03d", i*2); got[key] != 1 {
			t.Errorf("row %s came %d times", key, got[key])
		}
	}
}

// G18: A page's cursor goes on exactly where the page ended, whatever was written in between, and works for no other query.
func TestCursors(t *testing.T) {
	r := newRig(t, 1)
	r.start()
	for i := range 10 {
		r.log.add(0, change{Kind: "placed", Order: fmt.Sprintf("o-%d", i), Customer: "c-1"})
	}
	r.wait("orders", "customers")
	q := Query{Index: "customer", Equal: []string{"c-1"}, To: "o-8", Limit: 3}
	page, err := r.p.List(t.Context(), "orders", q, nil)
	if err != nil {
		t.Fatal(err)
	}
	cursor := page.Next
	refused := func(what, view string, q Query) {
		t.Helper()
		if _, err := r.p.List(t.Context(), view, q, nil); !errors.Is(err, ErrCursor) {
			t.Errorf("%s: %v, want ErrCursor", what, err)
		}
	}
	with := func(f func(*Query)) Query { q := q; q.Cursor = cursor; f(&q); return q }
	refused("another value", "orders", with(func(q *Query) { q.Equal = []string{"c-2"} }))
	refused("another index", "orders", with(func(q *Query) { q.Index = "status" }))
	refused("no index", "orders", with(func(q *Query) { q.Index, q.Equal = "", nil }))
	refused("another end", "orders", with(func(q *Query) { q.To = "o-9" }))
	refused("another beginning", "orders", with(func(q *Query) { q.From = "o-0" }))
	refused("another view", "customers", Query{Cursor: cursor})
	raw, err := base64.RawURLEncoding.DecodeString(cursor)
	if err != nil {
		t.Fatal(err)
	}
	for bit := range len(raw) * 8 {
		forged := append([]byte(nil), raw...)
		forged[bit/8] ^= 1 << (bit % 8)
		refused(fmt.Sprintf("bit %d", bit), "orders", with(func(q *Query) { q.Cursor = base64.RawURLEncoding.EncodeToString(forged) }))
	}
	for n := range len(cursor) {
		if n == 0 {
			continue
		}
		refused(fmt.Sprintf("cut at %d", n), "orders", with(func(q *Query) { q.Cursor = cursor[:n] }))
	}
	r.close()
	r.start()
	page, err = r.p.List(t.Context(), "orders", with(func(q *Query) { q.Limit = 100 }), nil)
	if err != nil || len(page.Rows) != 6 || page.Rows[0].Key != "o-3" {
		t.Errorf("after a restart: %+v, %v, want o-3 to o-8", page, err)
	}
	r.close()
	v := ordersView()
	v.Version = 2
	r.start(func(p *Projector) error { return Add(p, v, Input[change]{r.log.topic, r.dec}) })
	r.ready()
	refused("another version", "orders", with(func(*Query) {}))
}

// TestWait is about positions that are not there yet, or cannot be. The bubble's clock makes it exact.
//
// G15: A query with Millrace-At-Least answers from a state that holds that position, or says not_caught_up.
func TestWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 2)
		r.cfg.WaitMax = 2 * time.Second
		r.start()
		at := r.log.add(0, change{Kind: "placed", Order: "o-1", Customer: "c-1"})
		if _, err := r.p.Get(t.Context(), "orders", "o-1", es.Positions{at}); err != nil {
			t.Fatal(err)
		}
		tp := at.TopicPartition
		ask := func(positions ...es.Position) (time.Duration, error) {
			start := time.Now()
			_, err := r.p.Get(t.Context(), "orders", "o-1", positions)
			return time.Since(start), err
		}
		foreign := []es.Position{
			{TopicPartition: es.TopicPartition{Topic: "other.events"}, Offset: 0},
			{TopicPartition: es.TopicPartition{Topic: tp.Topic, Partition: 2}, Offset: 0},
			{TopicPartition: es.TopicPartition{Topic: tp.Topic, Partition: -1}, Offset: 0},
		}
		for _, p := range foreign {
			if took, err := ask(at, p); !errors.Is(err, ErrForeignTopic) || took != 0 {
				t.Errorf("%s: %v after %v, want ErrForeignTopic at once", p, err, took)
			}
		}
		for _, offset := range []int64{1, 2, 1 << 62} {
			if took, err := ask(es.Position{TopicPartition: tp, Offset: offset}); !errors.Is(err, ErrPositionAhead) || took != grace {
				t.Errorf("offset %d: %v after %v, want ErrPositionAhead after %v", offset, err, took, grace)
			}
		}
		asked := r.log.asked
		// The log has it, but it does not come: the source hides it.
		r.log.hide(1)
		hidden := r.log.add(1, change{Kind: "placed", Order: "o-2", Customer: "c-1"})
		took, err := ask(hidden)
		if !errors.Is(err, ErrNotCaughtUp) || took != 2*time.Second || fault.From(err).RetryAfter == 0 {
			t.Errorf("hidden: %v after %v, want ErrNotCaughtUp after 2s", err, took)
		}
		if r.log.asked != asked+1 {
			t.Errorf("the log was asked %d times for its end, want once", r.log.asked-asked)
		}
		if lag := status(t, r.p, "orders", 1).Lag; lag != 0 {
			t.Errorf("lag %v: nothing of the partition is known but its end", lag)
		}
		// It comes while several wait.
		const waiters = 10
		errs := make(chan error, waiters)
		for range waiters {
			go func() { _, err := ask(hidden); errs <- err }()
		}
		synctest.Wait()
		time.Sleep(time.Second)
		r.log.hide(-1)
		for range waiters {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
		// The log's end cannot be asked: then the wait ends as any other.
		r.log.mu.Lock()
		r.log.fail = errors.New("no broker")
		r.log.mu.Unlock()
		if took, err := ask(es.Position{TopicPartition: tp, Offset: 99}); !errors.Is(err, ErrNotCaughtUp) || took != 2*time.Second {
			t.Errorf("no broker: %v after %v", err, took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if _, err := r.p.Get(ctx, "orders", "o-1", es.Positions{{TopicPartition: tp, Offset: 99}}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("cancelled: %v", err)
		}
		if n := len(r.p.byName["orders"].builds["v1-1"].waiters); n != 0 {
			t.Errorf("%d waiters are left", n)
		}
		r.close()
	})
}

// TestLag is the age of the oldest event that is not applied, by its append time.
func TestLag(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 1)
		r.start()
		good := r.log.add(0, change{Kind: "placed", Order: "o-1", Customer: "c-1"})
		r.wait("orders")
		time.Sleep(time.Hour)
		a, err := r.p.Get(t.Context(), "orders", "o-1", es.Positions{good})
		if err != nil || a.Lag != 0 {
			t.Errorf("idle: lag %v, %v, want 0", a.Lag, err)
		}
		r.log.add(0, change{Kind: "poison", Order: "o-1", Customer: "c-1"})
		r.wait("customers")
		time.Sleep(time.Minute)
		a, err = r.p.Get(t.Context(), "orders", "o-1", nil)
		if err != nil || a.Lag != time.Minute {
			t.Errorf("halted for a minute: lag %v, %v", a.Lag, err)
		}
		r.close()
	})
}

// TestLagPaused: a view that is paused says how far it is behind and for how long, also after a restart, and that it is not while nothing comes.
// The log is asked for that now and then, however many queries there are.
func TestLagPaused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 2)
		r.start(r.views()[0])
		r.log.add(0, change{Kind: "placed", Order: "o-1"})
		r.wait("orders")
		if err := r.p.Pause("orders"); err != nil {
			t.Fatal(err)
		}
		check := func(when string, records int64, lag time.Duration) {
			t.Helper()
			a, err := r.p.Get(t.Context(), "orders", "o-1", nil)
			if err != nil || a.Lag != lag {
				t.Errorf("%s: lag %v, %v, want %v", when, a.Lag, err, lag)
			}
			st, err := r.p.StatusOf("orders")
			if err != nil || st.Builds[0].State != Paused || st.Builds[0].Records != records || (st.Builds[0].Progress == 1) != (records == 0) {
				t.Errorf("%s: %+v, %v, want %d records", when, st, err, records)
			}
		}
		time.Sleep(time.Hour)
		check("nothing has come", 0, 0)
		r.log.add(1, change{Kind: "placed", Order: "o-2"})
		time.Sleep(30 * time.Second)
		r.log.add(0, change{Kind: "confirmed", Order: "o-1"}, change{Kind: "cancelled", Order: "o-1"})
		time.Sleep(30 * time.Second)
		check("three events have come", 3, time.Minute)
		r.close()
		r.start(r.views()[0])
		time.Sleep(time.Minute)
		check("after a restart", 3, 2*time.Minute)
		synctest.Wait()
		asked := r.log.asked
		for range 100 {
			check("once more", 3, 2*time.Minute)
		}
		if r.log.asked != asked {
			t.Errorf("the log was asked %d times for its end by queries", r.log.asked-asked)
		}
		if err := r.p.Resume("orders"); err != nil {
			t.Fatal(err)
		}
		r.wait("orders")
		asked = r.log.asked
		time.Sleep(time.Hour)
		if a, err := r.p.Get(t.Context(), "orders", "o-1", nil); err != nil || a.Lag != 0 {
			t.Errorf("resumed: lag %v, %v, want 0", a.Lag, err)
		}
		if r.log.asked != asked {
			t.Errorf("the log was asked %d times for its end, and a lane reads it", r.log.asked-asked)
		}
		r.close()
	})
}

func TestAddRefuses(t *testing.T) {
	dir := t.TempDir() + "/views"
	log := newLog(2)
	p, err := newProjector(Config{Dir: dir}, log)
	if err != nil {
		t.Fatal(err)
	}
	dec := &jsonDecoder{}
	if err := Add(p, ordersView(), Input[change]{log.topic, dec}); err != nil {
		t.Fatal(err)
	}
	for what, f := range map[string]func(*es.View[orderRow, change]){
		"policy":         func(v *es.View[orderRow, change]) { v.OnError = 7 },
		"both keys":      func(v *es.View[orderRow, change]) { v.Keys = func(es.Envelope[change]) []string { return nil } },
		"name twice":     func(v *es.View[orderRow, change]) { v.Name = "orders" },
		"upper case":     func(v *es.View[orderRow, change]) { v.Name = "Orders" },
		"empty name":     func(v *es.View[orderRow, change]) { v.Name = "" },
		"version":        func(v *es.View[orderRow, change]) { v.Version = -1 },
		"no Key":         func(v *es.View[orderRow, change]) { v.Key = nil },
		"no Apply":       func(v *es.View[orderRow, change]) { v.Apply = nil },
		"nil index":      func(v *es.View[orderRow, change]) { v.Indexes["x"] = es.Index[orderRow]{} },
		"reserved index": func(v *es.View[orderRow, change]) { v.Indexes["cursor"] = v.Indexes["status"] },
		"index name":     func(v *es.View[orderRow, change]) { v.Indexes["a-b"] = v.Indexes["status"] },
	} {
		v := ordersView()
		v.Name = "fine"
		f(&v)
		if err := Add(p, v, Input[change]{log.topic, dec}); !errors.Is(err, ErrView) {
			t.Errorf("%s: %v, want ErrView", what, err)
		}
	}
	other := log.topic
	other.ID[0] = 9
	v := ordersView()
	v.Name = "fine"
	if err := Add(p, v, Input[change]{other, dec}); !errors.Is(err, ErrView) {
		t.Errorf("another topic of the same name: %v", err)
	}
	if err := Add(p, v, Input[change]{log.topic, dec}); err != nil {
		t.Errorf("a good view: %v", err)
	}
	// The same version with other indexes would leave old entries behind.
	if err := errors.Join(p.Open(), p.Close()); err != nil {
		t.Fatal(err)
	}
	again, err := newProjector(Config{Dir: dir}, log)
	if err != nil {
		t.Fatal(err)
	}
	changed := ordersView()
	delete(changed.Indexes, "status")
	if err := errors.Join(Add(again, changed, Input[change]{log.topic, dec}), again.Open()); !errors.Is(err, ErrView) || !strings.Contains(fault.Lines(err), "raise the view's Version") {
		t.Errorf("other indexes: %v", err)
	}
	if p, err = newProjector(Config{Dir: dir}, log); err != nil {
		t.Fatal(err)
	}
	type hidden struct{ a int }
	type anything struct{ A any }
	type dropped struct {
		A int `json:"-"`
	}
	type nested struct{ M map[string][]hidden }
	for what, err := range map[string]error{
		"unexported": Add(p, es.View[hidden, change]{Name: "h", Key: v.Key, Apply: func(r hidden, _ es.Envelope[change]) hidden { r.a++; return r }}, Input[change]{log.topic, dec}),
		"interface":  Add(p, es.View[anything, change]{Name: "i", Key: v.Key, Apply: func(r anything, _ es.Envelope[change]) anything { return r }}, Input[change]{log.topic, dec}),
		"dropped":    Add(p, es.View[dropped, change]{Name: "d", Key: v.Key, Apply: func(r dropped, _ es.Envelope[change]) dropped { return r }}, Input[change]{log.topic, dec}),
		"nested":     Add(p, es.View[nested, change]{Name: "n", Key: v.Key, Apply: func(r nested, _ es.Envelope[change]) nested { return r }}, Input[change]{log.topic, dec}),
	} {
		if !errors.Is(err, ErrView) {
			t.Errorf("row type %s: %v, want ErrView", what, err)
		}
	}
}

// TestLagOfAnEnd: a build that has an end is late for what comes after it once it answers queries, and not before.
func TestLagOfAnEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 1)
		r.start(r.views()[0])
		at := r.log.add(0, change{Kind: "placed", Order: "o-1"})
		r.wait("orders")
		id, err := r.p.Rebuild(t.Context(), "orders", Rebuild{Until: es.Positions{at}, Force: true})
		if err != nil {
			t.Fatal(err)
		}
		r.build("orders", id)
		r.log.add(0, change{Kind: "confirmed", Order: "o-1"})
		r.wait("orders")
		time.Sleep(time.Minute)
		lag := func() (time.Duration, int64) {
			a, err := r.p.Get(t.Context(), Of("orders", id), "o-1", nil)
			if err != nil {
				t.Fatal(err)
			}
			st, err := r.p.StatusOf("orders")
			if err != nil {
				t.Fatal(err)
			}
			i := slices.IndexFunc(st.Builds, func(b BuildStatus) bool { return b.ID == id })
			if st.Builds[i].State != Complete {
				t.Errorf("it is %s", st.Builds[i].State)
			}
			return a.Lag, st.Builds[i].Records
		}
		if age, n := lag(); age != 0 || n != 0 {
			t.Errorf("beside the one that answers: lag %v, %d records, want none", age, n)
		}
		if _, err := r.p.Switch("orders", id, true); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if age, n := lag(); age < 2*time.Minute || n != 1 {
			t.Errorf("it answers: lag %v, %d records, want two minutes and one", age, n)
		}
		r.close()
	})
}
