package service

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/projection"
	"github.com/millrace/millrace/platform/rest"
)

// engine returns what keeps a view up to date.
func (h *host) engine(t testing.TB, view string) *projection.Projector {
	t.Helper()
	o, err := h.views.find(view)
	if err != nil {
		t.Fatal(err)
	}
	return o.engine
}

type purse struct {
	Owner   string `json:"owner"`
	Balance int64  `json:"balance"`
}

// purses is a view that can be divided, and gone is one that cannot, of the same events.
func purses(name string, version int) Projector { return pursesOf(name, version, new(atomic.Int64)) }

// pursesOf counts the events that the view that can be divided folds.
func pursesOf(name string, version int, folded *atomic.Int64) Projector {
	view := es.View[purse, accountEvent]{
		Name: name, Version: version, Stream: es.SameStream,
		Key: func(e es.Envelope[accountEvent]) (string, bool) { return string(e.Stream), true },
		Apply: func(p purse, e es.Envelope[accountEvent]) purse {
			folded.Add(1)
			p.Owner = string(e.Stream)
			if version > 1 {
				p.Owner = fmt.Sprint("v", version, " ", e.Stream)
			}
			switch e := e.Event.(type) {
			case paidIn:
				p.Balance += e.Amount
			case takenOut:
				p.Balance -= e.Amount
			}
			return p
		},
		Gone:    func(p purse) bool { return p.Balance == 0 },
		Indexes: map[string]es.Index[purse]{"balance": es.By(es.Descending(es.Number(func(p purse) int64 { return p.Balance })))},
	}
	total := es.View[purse, accountEvent]{
		Name: name + "-total", Version: 1,
		Key: func(es.Envelope[accountEvent]) (string, bool) { return "all", true },
		Apply: func(p purse, e es.Envelope[accountEvent]) purse {
			if in, ok := e.Event.(paidIn); ok {
				p.Balance += in.Amount
			}
			return p
		},
	}
	events := accounts("accounts").Contract
	return Projector{Name: name + "-views", Views: []View{ViewOf(events, view), ViewOf(events, total)}}
}

// A bank is a broker, a registry and accounts in one process, with one whole view to compare with, and instances of divided views beside it.
type bank struct {
	*running
	need      es.Positions
	instances []*running
	dirs      []string
}

const divisions = 4

func newBank(t *testing.T) *bank {
	return &bank{running: launch(t, App{Short: "A bank", Roles: []Role{accounts("accounts"), purses("whole", 1)}})}
}

// start starts an instance of the divided view, in the directory of a former one or a new one.
func (b *bank) start(dir string, version int, env ...string) *running {
	b.t.Helper()
	return b.startWith(dir, purses("purses", version), env...)
}

func (b *bank) startWith(dir string, views Projector, env ...string) *running {
	b.t.Helper()
	if dir == "" {
		dir = b.t.TempDir()
	}
	r := launchWith(b.t, App{Short: "Views", Roles: []Role{views}}, false, append([]string{"MILLRACE_DATA_DIR=" + dir, "MILLRACE_KAFKA_BROKERS=" + b.all.Kafka,
		"MILLRACE_REGISTRY_URL=" + b.all.Registry, fmt.Sprint("MILLRACE_VIEW_RANGES=", divisions)}, env...)...)
	b.instances, b.dirs = append(b.instances, r), append(b.dirs, dir)
	return r
}

// pay changes accounts by chance.
func (b *bank) pay(rnd *rand.Rand, n int) {
	b.t.Helper()
	for range n {
		at := fmt.Sprintf("/v1/accounts/a-%d", rnd.IntN(60))
		a := b.send("POST", at+"/pay-in", fmt.Sprintf(`{"amount":%d}`, 1+rnd.IntN(50)))
		if rnd.IntN(4) == 0 {
			var s account
			b.send("GET", at, "").want(b.t, 200, &s)
			a = b.send("POST", at+"/take-out", fmt.Sprintf(`{"amount":%d}`, s.Balance))
		}
		got, err := es.ParsePositions(a.want(b.t, 200, nil).header.Get("Millrace-Position"))
		if err != nil {
			b.t.Fatal(err)
		}
		for _, p := range got {
			b.need = b.need.With(p)
		}
	}
}

// pages reads all pages of a list. A part that is not there just now is asked for again.
func (b *bank) pages(r *running, path string, atLeast es.Positions) (rows []string) {
	b.t.Helper()
	cursor := ""
	for {
		at := path
		if cursor != "" {
			at += "&cursor=" + cursor
		}
		var page struct {
			Rows []json.RawMessage `json:"rows"`
			Next string            `json:"next"`
		}
		b.get(r, at, atLeast).want(b.t, 200, &page)
		for _, row := range page.Rows {
			rows = append(rows, string(row))
		}
		if cursor = page.Next; cursor == "" {
			return rows
		}
	}
}

// get asks again as long as it is told to come back.
func (b *bank) get(r *running, path string, atLeast es.Positions, header ...string) reply {
	b.t.Helper()
	if atLeast != nil {
		header = append(header, "Millrace-At-Least: "+atLeast.String())
	}
	for late := time.Now().Add(30 * time.Second); ; {
		a := r.send("GET", path, "", header...)
		if a.status != http.StatusServiceUnavailable || a.header.Get("Retry-After") == "" || time.Now().After(late) {
			return a
		}
		<-time.After(50 * time.Millisecond)
	}
}

// compare asks an instance of the divided view what it asks the whole one.
func (b *bank) compare(r *running) {
	b.t.Helper()
	for _, q := range []string{"?limit=7", "?limit=1000", "?limit=5&order=desc", "?from=a-2&to=a-40&limit=3", "?balance.from=100&limit=4", "?balance.from=10&balance.to=100&order=desc&limit=3",
		"?balance.to=20&explain", "?where=balance+%3E+30&limit=2", "?prefix=a-1&fields=balance&limit=100"} {
		want := b.pages(b.running, "/v1/views/whole"+q, b.need)
		if got := b.pages(r, "/v1/views/purses"+q, b.need); !slices.Equal(got, want) {
			b.t.Errorf("%s: %d rows, in the whole %d, or in another order\n%s\n%s", q, len(got), len(want), got, want)
		}
	}
	for _, q := range []string{"?count", "?balance.from=100&count", "?where=balance+%3E+30&count"} {
		want := b.get(b.running, "/v1/views/whole"+q, b.need).want(b.t, 200, nil).body
		if got := b.get(r, "/v1/views/purses"+q, b.need).want(b.t, 200, nil).body; got != want {
			b.t.Errorf("%s: %s, in the whole %s", q, got, want)
		}
	}
	for _, q := range []string{"", "?balance.from=100&explain", "?order=desc&where=balance+%3E+30", "?fields=owner&prefix=a-1"} {
		const accept = "Accept: application/x-ndjson"
		want := b.get(b.running, "/v1/views/whole"+q, b.need, accept).want(b.t, 200, nil).body
		if got := b.get(r, "/v1/views/purses"+q, b.need, accept).want(b.t, 200, nil).body; got != want {
			b.t.Errorf("the lines of %s:\n%s\nin the whole:\n%s", q, got, want)
		}
		const avro = "Accept: application/avro"
		if a := b.get(r, "/v1/views/purses"+q, b.need, avro).want(b.t, 200, nil); a.trailer.Get("Millrace-Rows") != strconv.Itoa(strings.Count(want, "\n")) {
			b.t.Errorf("as Avro %s has %q rows, %d as lines", q, a.trailer.Get("Millrace-Rows"), strings.Count(want, "\n"))
		}
	}
	for i := range 60 {
		key := fmt.Sprintf("/a-%d", i)
		want, got := b.get(b.running, "/v1/views/whole"+key, b.need), b.get(r, "/v1/views/purses"+key, b.need)
		if got.status != want.status || got.status == 200 && got.body != want.body {
			b.t.Errorf("%s: %d %s, in the whole %d %s", key, got.status, got.body, want.status, want.body)
		}
	}
}

// holders returns who has which range ready, as an instance sees it.
func (b *bank) holders(r *running) (ready [][]string) {
	b.t.Helper()
	resp, err := http.Get(r.all.Admin + "/v1/views/purses/ranges") //nolint:noctx // a test
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	var got struct {
		Ranges []rangeStatus `json:"ranges"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&got); err != nil || len(got.Ranges) != divisions {
		b.t.Fatalf("%+v, %v", got, err)
	}
	for _, st := range got.Ranges {
		ready = append(ready, st.Ready)
	}
	return ready
}

// settles waits until each range is at so many instances, as all of these see it, and they have nothing else.
func (b *bank) settles(copies int, instances ...*running) {
	b.t.Helper()
	late := time.Now().Add(60 * time.Second)
	for {
		good := true
		var seen [][]string
		for _, r := range instances {
			seen = b.holders(r)
			for _, who := range seen {
				good = good && len(who) == copies && !slices.ContainsFunc(who, func(at string) bool {
					return !slices.ContainsFunc(instances, func(r *running) bool { return r.at == "http://"+at })
				})
			}
		}
		if good {
			return
		}
		if time.Now().After(late) {
			b.t.Fatalf("the ranges are at %v", seen)
		}
		<-time.After(100 * time.Millisecond)
	}
}

// TestDividedView divides a view among instances that come, go and are killed, and asks each of them for rows, lists, counts and exports: they
// are those of the same view as a whole.
//
// G41: A view that is divided among instances answers at each of them what it would answer as a whole, from rows that include the positions asked for.
func TestDividedView(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 2))
	b := newBank(t)
	b.pay(rnd, 150)
	one := b.start("", 1, "MILLRACE_VIEW_COPIES=1")
	b.settles(1, one)
	b.compare(one)
	// Another one comes: half of the ranges move to it, while both answer.
	two := b.start("", 1, "MILLRACE_VIEW_COPIES=1")
	b.compare(two)
	b.settles(1, one, two)
	if here := len(one.host.views.spreads["purses"].all()); here != divisions/2 {
		t.Errorf("the first instance has %d ranges, want %d of %d", here, divisions/2, divisions)
	}
	left, err := os.ReadDir(filepath.Join(b.dirs[0], "purses-views", "ranges", fmt.Sprint(divisions)))
	if err != nil || len(left) != divisions/2 {
		t.Errorf("its directory has %v, %v", left, err)
	}
	for range 3 {
		b.pay(rnd, 20)
		b.compare(one)
		b.compare(two)
	}
	// What an event changed is known where its range is.
	var receipt struct{ Position string }
	b.send("POST", "/v1/accounts/a-7/pay-in", `{"amount":5}`).want(t, 200, &receipt)
	at, err := es.ParsePosition(receipt.Position)
	if err != nil {
		t.Fatal(err)
	}
	b.need = b.need.With(at)
	for _, r := range []*running{one, two} {
		changed := b.get(r, "/v1/views/purses?changed_by="+receipt.Position, nil).want(t, 200, nil)
		if !strings.Contains(changed.body, `"key":"a-7"`) {
			t.Errorf("changed by %s: %s", receipt.Position, changed.body)
		}
		etag := b.get(r, "/v1/views/purses?limit=3", nil).want(t, 200, nil).header.Get("Etag")
		if a := r.send("GET", "/v1/views/purses?limit=3", "", "If-None-Match: "+etag); a.status != http.StatusNotModified {
			t.Errorf("nothing has changed: %d %s", a.status, a.body)
		}
		r.send("GET", "/v1/views/purses?balance.from=x", "").want(t, 400, nil)
		r.send("GET", "/v1/views/purses?balance.from=x", "", "Accept: text/event-stream", "Last-Event-ID: "+b.need.String()).want(t, 400, nil)
		r.send("GET", "/v1/views/purses?count", "", "Accept: text/event-stream").want(t, 400, nil)
		var page struct{ Next string }
		b.get(r, "/v1/views/purses?limit=3", nil).want(t, 200, &page)
		r.send("GET", "/v1/views/purses?limit=3&count&cursor="+page.Next, "").want(t, 400, nil)
		for _, path := range []string{"?limit=3", "?count", "/a-7"} {
			if a := r.send("HEAD", "/v1/views/purses"+path, ""); a.status != 200 || a.header.Get("Millrace-Position") == "" {
				t.Errorf("HEAD %s: %d %v", path, a.status, a.header)
			}
		}
		r.send("GET", "/v1/views/purses?cursor=x", "").want(t, 400, nil)
		r.send("GET", "/v1/views/purses/a-7", "", "Millrace-At-Least: other.events/0@1").want(t, 400, nil)
		r.send("GET", "/v1/views/purses-total/all", "").want(t, 200, nil) // cannot be divided: it is at both
	}
	// One leaves as planned: the other one takes what it had, before it is gone.
	stopped := make(chan struct{})
	go func() { defer close(stopped); two.stop() }()
	for end := false; !end; {
		select {
		case <-stopped:
			end = true
		default:
			b.compare(one)
		}
	}
	b.settles(1, one)
	b.pay(rnd, 20)
	b.compare(one)
}

// TestDividedCopies has two copies of each range: an instance that dies is not missed, and finds its ranges when it comes back.
func TestDividedCopies(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 3))
	b := newBank(t)
	b.pay(rnd, 100)
	for range 3 {
		b.start("", 1)
	}
	b.settles(2, b.instances...)
	one, three := b.instances[0], b.instances[2]
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	watched := []*follower{follow(one.at + "/v1/views/purses?limit=1000"), follow(one.at + "/v1/views/purses?limit=1000&balance.from=60")}
	watching, stop := context.WithCancel(ctx)
	ended := make(chan error, len(watched))
	for _, f := range watched {
		go func() {
			for watching.Err() == nil {
				if err := f.run(watching, func() bool { return false }); err != nil && watching.Err() == nil && !errors.Is(err, io.EOF) {
					ended <- err
					return
				}
			}
			ended <- nil
		}()
	}
	b.pay(rnd, 30)
	// It is cut off and gone, without a word.
	three.stop()
	b.pay(rnd, 30)
	b.compare(one)
	b.compare(b.instances[1])
	four := b.start(b.dirs[2], 1)
	b.pay(rnd, 30)
	b.compare(four)
	b.settles(2, one, b.instances[1], four)
	b.compare(one)
	stop()
	for range watched {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	// The watchers have in the end what there is.
	for i, q := range []string{"?limit=1000", "?limit=1000&balance.from=60"} {
		want := map[string]string{}
		for _, row := range b.pages(b.running, "/v1/views/whole"+q+"&explain", b.need) {
			var x struct {
				Key string          `json:"key"`
				Row json.RawMessage `json:"row"`
			}
			if err := json.Unmarshal([]byte(row), &x); err != nil {
				t.Fatal(err)
			}
			want[x.Key] = string(x.Row)
		}
		if f := watched[i]; !maps.Equal(f.rows, want) {
			patience, cancel := context.WithTimeout(ctx, 20*time.Second)
			err := f.run(patience, func() bool { return maps.Equal(f.rows, want) })
			cancel()
			if err != nil {
				t.Errorf("%s: %v; rows (-query +followed):\n%s", q, err, cmp.Diff(want, f.rows))
			}
		}
		t.Logf("%s: %d states, went on %d times", q, watched[i].states, watched[i].resumed)
	}
}

// TestDividedLate: what a copy of a range does not have in time is had from another one, within the time that a query waits; if none has it, that
// is said as late as of one copy.
func TestDividedLate(t *testing.T) {
	b := newBank(t)
	rnd := rand.New(rand.NewPCG(1, 2))
	b.pay(rnd, 40)
	one, two := b.start("", 1, "MILLRACE_QUERY_WAIT_MAX=1s"), b.start("", 1, "MILLRACE_QUERY_WAIT_MAX=1s")
	b.settles(2, one, two)
	pause := func(r *running) {
		for _, h := range r.host.views.spreads["purses"].all() {
			if err := h.engine.Pause("purses"); err != nil {
				t.Fatal(err)
			}
		}
	}
	// changed asks which rows an event changed that is not among those of before.
	changed := func(before es.Positions) string {
		i := slices.IndexFunc(b.need, func(pos es.Position) bool { return !includes(before, es.Positions{pos}) })
		return "?changed_by=" + b.need[i].String()
	}
	pause(one)
	before := copied(b.need)
	b.pay(rnd, 40)
	asks := map[string][]string{"/a-7": nil, "?limit=1000": nil, "?count": nil, "?prefix=a-1": {"Accept: application/x-ndjson"}}
	asks[changed(before)] = nil
	for path, header := range asks {
		header = append(header, "Millrace-At-Least: "+b.need.String())
		want := b.send("GET", "/v1/views/whole"+path, "", header...)
		// The other one does not wait for the first one at all.
		for _, r := range []*running{one, two} {
			began := time.Now()
			if got := r.send("GET", "/v1/views/purses"+path, "", header...); got.status != want.status || want.status == 200 && got.body != want.body {
				t.Errorf("%s: %d %s, want %d %s", path, got.status, got.body, want.status, want.body)
			}
			if took := time.Since(began); r == two && took > 400*time.Millisecond {
				t.Errorf("%s took %s at an instance that is up to date", path, took)
			}
		}
	}
	delete(asks, changed(before))
	pause(two)
	before = copied(b.need)
	b.pay(rnd, 10)
	asks[changed(before)] = nil
	for path, header := range asks {
		began := time.Now()
		a := one.send("GET", "/v1/views/purses"+path, "", append(header, "Millrace-At-Least: "+b.need.String())...)
		if took := time.Since(began); a.status != 503 || !strings.Contains(a.body, "not_caught_up") || a.header.Get("Retry-After") == "" || took > 1900*time.Millisecond {
			t.Errorf("%s: no copy has it: %d %s, after %s", path, a.status, a.body, took)
		}
	}
}

// TestDividedSnapshot: a range that comes to an instance begins with what the one has folded that had it, and not with the log: of that it gets only what
// is newer.
func TestDividedSnapshot(t *testing.T) {
	b := newBank(t)
	rnd := rand.New(rand.NewPCG(1, 2))
	b.pay(rnd, 120)
	var first, second atomic.Int64
	one := b.startWith("", pursesOf("purses", 1, &first), "MILLRACE_VIEW_COPIES=1")
	b.settles(1, one)
	b.compare(one)
	if first.Load() < 120 {
		t.Fatalf("the one that reads the log has folded %d events of it, of at least 120", first.Load())
	}
	two := b.startWith("", pursesOf("purses", 1, &second), "MILLRACE_VIEW_COPIES=1")
	b.settles(1, one, two)
	if ranges := len(two.host.views.spreads["purses"].all()); ranges != divisions/2 || second.Load() != 0 {
		t.Errorf("the second instance has %d ranges, and has folded %d events of before they came to it", ranges, second.Load())
	}
	b.compare(two)
	// From there on it folds what comes.
	before := first.Load()
	b.pay(rnd, 60)
	b.compare(two)
	if b.compare(one); second.Load() == 0 || second.Load() > 120 || first.Load() == before {
		t.Errorf("of 60 payments and more the first one has folded %d events, the second one %d", first.Load()-before, second.Load())
	}
}

// TestDividedSetback: an instance that cannot take a range goes on with those that it has, says so, and takes it when it can.
func TestDividedSetback(t *testing.T) {
	b := newBank(t)
	b.pay(rand.New(rand.NewPCG(1, 2)), 60)
	one, two := b.start("", 1, "MILLRACE_VIEW_COPIES=1", "MILLRACE_HANDOVER_TIMEOUT=1s"), b.start("", 1, "MILLRACE_VIEW_COPIES=1")
	b.settles(1, one, two)
	s := two.host.views.spreads["purses"]
	var blocked []string
	for n := range divisions {
		if s.here(n) == nil {
			blocked = append(blocked, filepath.Join(s.dir, strconv.Itoa(n)))
			if err := os.WriteFile(blocked[len(blocked)-1], nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	one.stop()
	for late := time.Now().Add(30 * time.Second); len(blocked) == 0 || strings.Count(s.setbacks(), "cannot be taken") < len(blocked); <-time.After(50 * time.Millisecond) {
		if time.Now().After(late) {
			t.Fatalf("ranges %v are taken: %s", blocked, s.setbacks())
		}
	}
	answered, missing := 0, 0
	for i := range 60 {
		switch a := two.send("GET", fmt.Sprintf("/v1/views/purses/a-%d", i), ""); a.status {
		case 200, 404:
			answered++
		case 503:
			missing++
		}
	}
	if answered == 0 || missing == 0 {
		t.Errorf("of 60 rows %d are answered, and %d are not there", answered, missing)
	}
	var failed []string
	for _, st := range s.status("purses") {
		if st.Here == "failed" && strings.Contains(st.Why, "cannot be used") {
			failed = append(failed, filepath.Join(s.dir, strconv.Itoa(st.Range)))
		}
	}
	if !slices.Equal(failed, blocked) {
		t.Errorf("it is said of %v, want %v", failed, blocked)
	}
	if got := testutil.ToFloat64(two.host.metrics.setbacks.WithLabelValues("purses-views", filepath.Base(blocked[0]))); got < 1 {
		t.Error("it is not counted")
	}
	for _, path := range blocked {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	b.settles(1, two)
	b.compare(two)
}

// TestDividedSwitch has operators switch a divided view to another version range by range, and back: each answer is of one version on the way, of
// the old one until every range has the new one, and none is refused.
func TestDividedSwitch(t *testing.T) {
	b := newBank(t)
	b.pay(rand.New(rand.NewPCG(1, 2)), 60)
	one, two := b.start("", 1), b.start("", 1)
	b.settles(2, one, two)
	one.stop()
	two.stop()
	views := purses("purses", 1)
	views.Views = append(views.Views, purses("purses", 2).Views[0])
	one, two = b.startWith(b.dirs[0], views, "MILLRACE_VIEW_SWITCH=manual"), b.startWith(b.dirs[1], views, "MILLRACE_VIEW_SWITCH=manual")
	b.settles(2, one, two)
	read := func(r *running) int {
		t.Helper()
		got := r.send("GET", "/v1/views/purses?limit=1000", "").want(t, 200, nil).body
		rows, n := strings.Count(got, `"owner"`), strings.Count(got, `"v2 `)
		if rows == 0 || n > 0 && n != rows {
			t.Fatalf("of %d rows %d are of the new version", rows, n)
		}
		if n > 0 {
			return 2
		}
		return 1
	}
	// verb does something with each range at each instance, while both are asked.
	verb := func(do func(*projection.Projector) error, done func(n int, of []int)) {
		t.Helper()
		for n, h := range slices.Concat(one.host.views.spreads["purses"].all(), two.host.views.spreads["purses"].all()) {
			if err := do(h.engine); err != nil {
				t.Fatal(err)
			}
			done(n, []int{read(one), read(two)})
		}
	}
	until := func(version int) {
		t.Helper()
		for late := time.Now().Add(30 * time.Second); read(one) != version || read(two) != version; {
			if time.Now().After(late) {
				t.Fatalf("version %d does not answer", version)
			}
		}
	}
	for _, r := range []*running{one, two} {
		for _, h := range r.host.views.spreads["purses"].all() {
			for late := time.Now().Add(30 * time.Second); ; <-time.After(20 * time.Millisecond) {
				st, err := h.engine.StatusOf("purses")
				if err == nil && len(st.Builds) == 2 && st.Builds[1].CaughtUp {
					break
				}
				if time.Now().After(late) {
					t.Fatalf("%+v, %v", st, err)
				}
			}
		}
	}
	verb(func(p *projection.Projector) error {
		_, err := p.Switch("purses", "", false)
		return err
	}, func(n int, of []int) {
		if n < divisions-1 && !slices.Equal(of, []int{1, 1}) {
			t.Errorf("after %d ranges the answers are of versions %v", n+1, of)
		}
	})
	until(2)
	verb(func(p *projection.Projector) error {
		_, err := p.Rollback("purses")
		return err
	}, func(int, []int) {})
	until(1)
}

// TestDividedUpgrade starts instances of a divided view one after the other with a new version of it: each answer is of one version as a whole, and
// once all have it, of the new one, which those who watch are told.
//
// G42: All of an answer of a divided view is of one version of its code, also while instances are replaced.
func TestDividedUpgrade(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 4))
	b := newBank(t)
	b.pay(rnd, 100)
	one, two := b.start("", 1), b.start("", 1)
	b.settles(2, one, two)
	versions := func(rows []string) string {
		t.Helper()
		seen := map[string]bool{}
		for _, row := range rows {
			var p purse
			if err := json.Unmarshal([]byte(row), &p); err != nil {
				t.Fatal(err)
			}
			version, _, found := strings.Cut(p.Owner, " ")
			if !found {
				version = "v1"
			}
			seen[version] = true
		}
		if len(seen) != 1 {
			t.Errorf("one answer has rows of %v", sortedKeys(seen))
		}
		return sortedKeys(seen)[0]
	}
	page := func(r *running) string {
		t.Helper()
		var got struct{ Rows []json.RawMessage }
		b.get(r, "/v1/views/purses?limit=1000", nil).want(t, 200, &got)
		var rows []string
		for _, row := range got.Rows {
			rows = append(rows, string(row))
		}
		return versions(rows)
	}
	two.stop()
	two = b.start(b.dirs[1], 2)
	// A build of the new version is beside the old one, which still answers from what is stored until the first instance is replaced, too.
	if got := page(one); got != "v1" {
		t.Errorf("the instance that has version 1 only answers from %s", got)
	}
	b.settles(2, one, two)
	page(two)
	f := follow(two.at + "/v1/views/purses?limit=1000")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	watched := make(chan error, 1)
	go func() {
		watched <- f.run(ctx, func() bool {
			for _, row := range f.rows {
				if !strings.Contains(row, `"v2 `) {
					return false
				}
			}
			return len(f.rows) > 0
		})
	}()
	one.stop()
	for late := time.Now().Add(30 * time.Second); page(two) != "v2"; {
		if time.Now().After(late) {
			t.Fatal("the new version does not answer")
		}
	}
	one = b.start(b.dirs[0], 2)
	b.settles(2, one, two)
	for _, r := range []*running{one, two} {
		if got := page(r); got != "v2" {
			t.Errorf("all have version 2, and %s answers", got)
		}
	}
	if err := <-watched; err != nil {
		t.Errorf("a watcher: %v", err)
	}
}

// TestDividedExportEnds: an export ends at once when one of its ranges has to go from here, whichever it is at. Else the instance would wait for the
// client, and neither take nor give up anything meanwhile.
func TestDividedExportEnds(t *testing.T) {
	b := newBank(t)
	b.pay(rand.New(rand.NewPCG(1, 2)), 40)
	one := b.start("", 1, "MILLRACE_VIEW_COPIES=1")
	b.settles(1, one)
	s := one.host.views.spreads["purses"]
	d := &dividedAPI{viewAPI: newViewAPI(versionsOf(s.views, "purses"), one.host.engine(t, "purses-total")), spread: s}
	route, err := s.route("purses")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	var first *extract
	for n := range divisions {
		x, err := d.extract(ctx, cancel, nil, projection.Query{}, nil, route, n)
		if err != nil {
			t.Fatal(err)
		}
		defer x.close()
		if n == 0 {
			first = x
		}
	}
	s.here(divisions - 1).cancel()
	select {
	case <-ctx.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("the export goes on")
	}
	if !errors.Is(context.Cause(ctx), errRangeElsewhere) {
		t.Error(context.Cause(ctx))
	}
	for _, err := range first.rows() {
		if !errors.Is(err, errRangeElsewhere) {
			t.Errorf("of a range that stays: %v", err)
		}
	}
}

// TestDividedUpgradeOneCopy has one copy of each range, at instances of two versions: the view can be read all the time, and of one version.
func TestDividedUpgradeOneCopy(t *testing.T) {
	b := newBank(t)
	b.pay(rand.New(rand.NewPCG(1, 2)), 60)
	one, two := b.start("", 1, "MILLRACE_VIEW_COPIES=1"), b.start("", 1, "MILLRACE_VIEW_COPIES=1")
	b.settles(1, one, two)
	two.stop()
	two = b.start(b.dirs[1], 2, "MILLRACE_VIEW_COPIES=1")
	// What is at the second one in version 2 would have been given up by the first one.
	for late := time.Now().Add(spreadSpare + 4*spreadEvery); time.Now().Before(late); <-time.After(50 * time.Millisecond) {
		for _, r := range []*running{one, two} {
			// Addresses are by chance: the second one may happen to have all ranges, and then the new version answers.
			got := r.send("GET", "/v1/views/purses?limit=1000", "").want(t, 200, nil).body
			if n := strings.Count(got, `"v2 `); n > 0 && n != strings.Count(got, `"owner"`) {
				t.Fatalf("one answer has rows of both versions: %s", got)
			}
		}
	}
}

// TestDividedSecrets: with a secret, what instances say to each other means nothing from a stranger, and an application that does not let
// everybody read is not divided without one.
// TestDividedOtherSecret: an instance that does not share the secret of the others is told so by whoever asks it for what it cannot have.
func TestDividedOtherSecret(t *testing.T) {
	b := newBank(t)
	one := b.start("", 1, "MILLRACE_VIEW_COPIES=1", "MILLRACE_PEER_TOKEN=s3cret")
	b.settles(1, one)
	other := b.start("", 1, "MILLRACE_VIEW_COPIES=1", "MILLRACE_PEER_TOKEN=another")
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		var p struct{ Code, Fix string }
		a := other.send("GET", "/v1/views/purses", "")
		if err := json.Unmarshal([]byte(a.body), &p); err != nil {
			t.Fatal(err)
		}
		if a.status == http.StatusServiceUnavailable && p.Code == ErrRange.Code && strings.Contains(p.Fix, "MILLRACE_PEER_TOKEN") {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%d %s, want that the secret is named", a.status, a.body)
		}
	}
}

func TestDividedSecrets(t *testing.T) {
	h := newHost(App{Name: "bank"}, Config{PeerToken: "s3cret"}, slog.New(slog.DiscardHandler))
	defer h.close()
	r := httptest.NewRequest(http.MethodGet, "/v1/views/purses", nil)
	r.RemoteAddr = "127.0.0.1:1"
	if h.fromPeer(t.Context(), r) || h.peer(r) == nil {
		t.Error("a stranger on this machine passes for an instance")
	}
	r.Header.Set(headerPeer, peerToken("s3cret").proof())
	if !h.fromPeer(t.Context(), r) {
		t.Error("an instance is not believed")
	}
	r.Header.Set(headerPeer, peerToken("other").proof())
	if h.fromPeer(t.Context(), r) {
		t.Error("an instance with another secret is believed")
	}
	open := newHost(App{Name: "bank"}, Config{}, slog.New(slog.DiscardHandler))
	defer open.close()
	r.Header.Del(headerPeer)
	if !open.fromPeer(t.Context(), r) {
		t.Error("without a secret, whoever is on this machine is one of them")
	}
	r.RemoteAddr = "10.0.0.7:1"
	if open.fromPeer(t.Context(), r) || open.peer(r) == nil {
		t.Error("without a secret, somebody elsewhere is not")
	}
	secured := newHost(App{Name: "bank", Authorize: func(context.Context, rest.Access) error { return nil }}, Config{ViewRanges: 2}, slog.New(slog.DiscardHandler))
	defer secured.close()
	if _, err := newSpreader(secured, purses("purses", 1), nil, nil); !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), "everybody") {
		t.Errorf("an application that judges who reads: %v", err)
	}
}
