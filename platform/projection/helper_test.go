package projection

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/platform/contract"
	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/eventlog"
	"github.com/millrace/millrace/platform/store"
)

// A change is the event of the test views.
type change struct {
	Kind     string // placed, confirmed, cancelled, ignored, or poison for Apply, Key, JSON, size, index
	Order    string
	Customer string
	Day      string
	Amount   int64
}

type orderRow struct {
	ID       string           `json:"id"`
	Customer string           `json:"customer"`
	Status   string           `json:"status"`
	Total    int64            `json:"total"`
	Log      []string         `json:"log,omitempty"`
	Extra    map[string]int64 `json:"extra,omitempty"`
	Number   float64          `json:"number"`
}

type sumRow struct {
	Orders int64            `json:"orders"`
	Spent  map[string]int64 `json:"spent"`
}

func ordersView() es.View[orderRow, change] {
	return es.View[orderRow, change]{
		Name: "orders", Version: 1,
		Key: func(e es.Envelope[change]) (string, bool) {
			if e.Event.Kind == "poison key" {
				panic("no key for this")
			}
			if e.Event.Kind == "bad key" {
				return "a/b", true
			}
			return string(e.Stream), e.Event.Kind != "ignored"
		},
		Apply: func(r orderRow, e es.Envelope[change]) orderRow {
			r.ID = string(e.Stream)
			if r.Extra == nil {
				r.Extra = map[string]int64{}
			}
			r.Extra[e.Event.Kind]++
			switch e.Event.Kind {
			case "poison":
				r.Total = -1
				panic("cannot apply this")
			case "poison json":
				r.Number = nan
			case "poison size":
				r.Log = append(r.Log, strings.Repeat("x", store.MaxValue))
			case "poison index":
				r.Customer = strings.Repeat("c", MaxIndexValue+1)
			case "placed":
				r.Customer, r.Total, r.Status = e.Event.Customer, r.Total+e.Event.Amount, "placed"
			default:
				r.Status = e.Event.Kind
			}
			r.Log = append(r.Log, fmt.Sprint(e.Version))
			return r
		},
		Indexes: map[string]es.Index[orderRow]{
			"customer": es.By(es.Text(func(r orderRow) string { return r.Customer })),
			"status":   es.By(es.Text(func(r orderRow) string { return r.Status })),
		},
	}
}

var nan = func() float64 { z := 0.0; return z / z }()

// customersView has rows that events of all partitions change.
func customersView() es.View[sumRow, change] {
	return es.View[sumRow, change]{
		Name: "customers", Version: 1,
		Key: func(e es.Envelope[change]) (string, bool) { return e.Event.Customer, e.Event.Customer != "" },
		Apply: func(r sumRow, e es.Envelope[change]) sumRow {
			if r.Spent == nil {
				r.Spent = map[string]int64{}
			}
			r.Orders++
			r.Spent["USD"] += e.Event.Amount
			return r
		},
	}
}

func salesView() es.View[sumRow, change] {
	v := customersView()
	v.Name = "sales"
	v.Key = func(e es.Envelope[change]) (string, bool) { return e.Event.Day, e.Event.Day != "" }
	return v
}

// jsonDecoder reads events whose record value is their JSON; the kind "split a|b" is read as two events of the kinds a and b; "?" cannot be decoded, "!" not just now.
type jsonDecoder struct {
	down func() error // nil = never
}

func (d *jsonDecoder) Envelopes(ctx context.Context, dst []es.Envelope[change], r eventlog.Record) ([]es.Envelope[change], error) {
	env, err := d.Envelope(ctx, r)
	kinds, split := strings.CutPrefix(env.Event.Kind, "split ")
	if !split || err != nil {
		return append(dst, env), err
	}
	parts := strings.Split(kinds, "|")
	for i, kind := range parts {
		env.Event.Kind, env.Part, env.Parts = kind, i, len(parts)
		dst = append(dst, env)
	}
	return dst, nil
}

func (d *jsonDecoder) Envelope(_ context.Context, r eventlog.Record) (es.Envelope[change], error) {
	env := es.Envelope[change]{Position: r.Position, Stream: es.StreamID(r.Key), Time: r.Time, Type: "change"}
	for _, h := range r.Headers {
		if h.Key == "id" {
			env.ID = string(h.Value)
		}
	}
	if string(r.Value) == "?" {
		return env, contract.ErrUndecodable.Because("garbage")
	}
	if d.down != nil {
		if err := d.down(); err != nil {
			return env, err
		}
	}
	if err := json.Unmarshal(r.Value, &env.Event); err != nil {
		return env, contract.ErrUndecodable.Wrap(err)
	}
	env.Version = es.Version(r.Position.Offset)
	return env, nil
}

// memLog is a log in memory.
type memLog struct {
	mu      sync.Mutex
	topic   eventlog.Topic
	records [][]eventlog.Record
	grown   chan struct{}
	most    int // records of a partition in one Poll
	opened  int
	asked   int   // calls of Ends
	fail    error // of Ends
	shut    error // of open
	hidden  int32 // this partition yields nothing new
}

// hide keeps the source from reading a partition on; -1 ends it.
func (l *memLog) hide(partition int32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.hidden = partition
	close(l.grown)
	l.grown = make(chan struct{})
}

func newLog(partitions int32) *memLog {
	return &memLog{topic: eventlog.Topic{Name: "orders.events", ID: [16]byte{1}, Partitions: partitions},
		records: make([][]eventlog.Record, partitions), grown: make(chan struct{}), most: 1000, hidden: -1}
}

// append appends raw records and returns the position of the last one.
func (l *memLog) append(partition int32, key string, values ...string) es.Position {
	l.mu.Lock()
	defer l.mu.Unlock()
	var pos es.Position
	for _, v := range values {
		pos = es.Position{TopicPartition: es.TopicPartition{Topic: l.topic.Name, Partition: partition}, Offset: int64(len(l.records[partition]))}
		r := eventlog.Record{Key: []byte(key), Value: []byte(v), Position: pos, Time: time.Now(), ProducerID: 7, Epoch: 1,
			Headers: []eventlog.Header{{Key: "id", Value: []byte(es.EventID(es.StreamID(key), pos.String(), 0))}}}
		if v == "claim" {
			r.Mark, r.Key, r.Value = eventlog.MarkClaim, nil, nil
		}
		l.records[partition] = append(l.records[partition], r)
	}
	close(l.grown)
	l.grown = make(chan struct{})
	return pos
}

func (l *memLog) add(partition int32, cs ...change) es.Position {
	var pos es.Position
	for _, c := range cs {
		text, err := json.Marshal(c)
		if err != nil {
			panic(err)
		}
		pos = l.append(partition, c.Order, string(text))
	}
	return pos
}

func (l *memLog) open(_ context.Context, from []eventlog.Cursor, _ int32) (source, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.opened++
	if l.shut != nil {
		return nil, l.shut
	}
	for _, c := range from {
		if c.TopicID != l.topic.ID || c.Next > int64(len(l.records[c.TopicPartition.Partition])) {
			return nil, eventlog.ErrCursor.Because("%v", c)
		}
	}
	return &memSource{log: l, at: slices.Clone(from)}, nil
}

func (l *memLog) Ends(context.Context, eventlog.Topic) ([]int64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked++
	if l.fail != nil {
		return nil, l.fail
	}
	ends := make([]int64, len(l.records))
	for i, r := range l.records {
		ends[i] = int64(len(r))
	}
	return ends, nil
}

func (l *memLog) EndsAt(_ context.Context, _ eventlog.Topic, at time.Time) ([]int64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	ends := make([]int64, len(l.records))
	for i, records := range l.records {
		for ends[i] < int64(len(records)) && records[ends[i]].Time.Before(at) {
			ends[i]++
		}
	}
	return ends, nil
}

func (l *memLog) RecordAt(_ context.Context, _ eventlog.Topic, at es.Position) (eventlog.Record, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.records[at.Partition][at.Offset], nil
}

type memSource struct {
	log *memLog
	at  []eventlog.Cursor
}

func (s *memSource) Poll(ctx context.Context) ([]eventlog.Fetched, error) {
	for {
		var out []eventlog.Fetched
		s.log.mu.Lock()
		for i := range s.at {
			c := &s.at[i]
			all := s.log.records[c.TopicPartition.Partition]
			n := min(len(all)-int(c.Next), s.log.most)
			if n == 0 || c.TopicPartition.Partition == s.log.hidden {
				continue
			}
			records := all[c.Next : int(c.Next)+n]
			c.Next += int64(n)
			c.LeaderEpoch, c.ProducerID, c.Epoch = 3, 7, 1
			out = append(out, eventlog.Fetched{Records: records, Cursor: *c, End: int64(len(all))})
		}
		grown := s.log.grown
		s.log.mu.Unlock()
		if out != nil {
			return out, nil
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (*memSource) Close() {}

// ends returns the positions of the last records.
func (l *memLog) last() es.Positions {
	l.mu.Lock()
	defer l.mu.Unlock()
	var ps es.Positions
	for _, r := range l.records {
		if len(r) > 0 {
			ps = ps.With(r[len(r)-1].Position)
		}
	}
	return ps
}

// A rig is a projector with the three test views on a memory log.
type rig struct {
	t    *testing.T
	dir  string
	log  *memLog
	cfg  Config
	dec  *jsonDecoder
	p    *Projector
	done chan error // what Run returned
	stop func() error
}

func newRig(t *testing.T, partitions int32) *rig {
	r := &rig{t: t, dir: t.TempDir() + "/views", log: newLog(partitions), dec: &jsonDecoder{}}
	t.Cleanup(r.close)
	return r
}

// start opens the store and runs a projector.
func (r *rig) start(add ...func(*Projector) error) {
	r.t.Helper()
	r.cfg.Dir = r.dir
	if r.cfg.WaitMax == 0 {
		r.cfg.WaitMax = 20 * time.Second // machines that run tests are slow at times
	}
	p, err := newProjector(r.cfg, r.log)
	if err != nil {
		r.t.Fatal(err)
	}
	if add == nil {
		add = r.views()
	}
	for _, f := range add {
		if err := f(p); err != nil {
			r.t.Fatal(err)
		}
	}
	if err := p.Open(); err != nil {
		r.t.Fatal(err)
	}
	r.p = p
	ctx, cancel := context.WithCancel(r.t.Context())
	done := make(chan error, 1)
	r.done = done
	go func() { done <- p.Run(ctx) }()
	r.stop = func() error { cancel(); return <-done }
}

func (r *rig) views() []func(*Projector) error { return viewsOf(r.log, r.dec) }

func testViews(l *memLog) []func(*Projector) error { return viewsOf(l, &jsonDecoder{}) }

func viewsOf(l *memLog, d *jsonDecoder) []func(*Projector) error {
	return []func(*Projector) error{
		func(p *Projector) error { return Add(p, ordersView(), Input[change]{l.topic, d}) },
		func(p *Projector) error { return Add(p, customersView(), Input[change]{l.topic, d}) },
		func(p *Projector) error { return Add(p, salesView(), Input[change]{l.topic, d}) },
	}
}

// opened returns a projector that is open and closed with the test.
func opened(t testing.TB, cfg Config, log journal, add ...func(*Projector) error) *Projector {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir() + "/views"
	}
	p, err := newProjector(cfg, log)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range add {
		if err := f(p); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Open(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func (r *rig) close() {
	if r.stop == nil {
		return
	}
	if err := r.stop(); err != nil {
		r.t.Errorf("Run: %v", err)
	}
	r.stop = nil
	if err := r.p.Close(); err != nil {
		r.t.Errorf("Close: %v", err)
	}
}

// wait waits until a view has applied the whole log.
func (r *rig) wait(views ...string) {
	r.t.Helper()
	for _, v := range views {
		if _, err := r.p.List(r.t.Context(), v, Query{Limit: 1}, r.log.last()); err != nil {
			r.t.Fatalf("view %s: %v", v, err)
		}
	}
}

// ready waits until all views have caught up, new versions among them.
func (r *rig) ready() {
	r.t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	late := time.After(time.Minute)
	for !r.p.CaughtUp() {
		select {
		case <-tick.C:
		case <-late:
			r.t.Fatalf("not ready: %+v", r.p.Status())
		}
	}
}

// dump returns all rows of a view as "position id json".
func dump(ctx context.Context, p *Projector, view string, q Query) (map[string]string, es.Positions, error) {
	rows := map[string]string{}
	q.Limit = MaxLimit
	var applied es.Positions
	for {
		page, err := p.List(ctx, view, q, nil)
		if err != nil {
			return nil, nil, err
		}
		if applied == nil {
			applied = page.Applied
		}
		for _, row := range page.Rows {
			if _, twice := rows[row.Key]; twice {
				return nil, nil, fmt.Errorf("row %s twice", row.Key)
			}
			rows[row.Key] = fmt.Sprintf("%s %s %s", row.Position, row.EventID, row.JSON)
		}
		if page.Next == "" {
			return rows, applied, nil
		}
		q.Cursor = page.Next
	}
}

// oracle folds the log up to the given positions in the plainest way and returns what dump returns.
func oracle[R any](l *memLog, v es.View[R, change], applied es.Positions) (rows map[string]string, indexed map[string][]string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	type state struct {
		row  R
		text string
	}
	states := map[string]*state{}
	for partition, records := range l.records {
		last, ok := applied.Offset(es.TopicPartition{Topic: l.topic.Name, Partition: int32(partition)})
		if !ok {
			continue
		}
		for _, r := range records[:last+1] {
			if r.Mark != 0 {
				continue
			}
			env, err := (&jsonDecoder{}).Envelope(context.Background(), r)
			if err != nil {
				panic(err)
			}
			key, wanted := v.Key(env)
			if !wanted {
				continue
			}
			if states[key] == nil {
				states[key] = &state{}
			}
			s := states[key]
			s.row = v.Apply(s.row, env)
			text, err := json.Marshal(s.row)
			if err != nil {
				panic(err)
			}
			s.text = fmt.Sprintf("%s %s %s", r.Position, env.ID, text)
		}
	}
	rows, indexed = map[string]string{}, map[string][]string{}
	for key, s := range states {
		rows[key] = s.text
		for name, f := range v.Indexes {
			if value, empty := f.Parts[0].Append(nil, s.row); !empty {
				text := string(value[:len(value)-2])
				indexed[name+"="+text] = append(indexed[name+"="+text], key)
			}
		}
	}
	for _, keys := range indexed {
		slices.Sort(keys)
	}
	return rows, indexed
}

// checkOrders compares the orders view, whose rows belong to one partition each, with the oracle at its own position, byte by byte.
func checkOrders(ctx context.Context, p *Projector, l *memLog) error {
	got, applied, err := dump(ctx, p, "orders", Query{})
	if err != nil {
		return err
	}
	want, indexed := oracle(l, ordersView(), applied)
	if err := same("orders", got, want); err != nil {
		return fmt.Errorf("at %s: %w", applied, err)
	}
	checked := 0
	for at := range indexed {
		if checked++; checked > 8 {
			break
		}
		name, value, _ := strings.Cut(at, "=")
		rows, now, err := dump(ctx, p, "orders", Query{Index: name, Equal: []string{value}})
		if err != nil {
			return err
		}
		if now.String() != applied.String() {
			// Each query has a snapshot of its own.
			_, indexed = oracle(l, ordersView(), now)
			applied = now
		}
		if got := slices.Sorted(maps.Keys(rows)); !slices.Equal(got, indexed[at]) {
			return fmt.Errorf("index %s: %v, want %v", at, got, indexed[at])
		}
	}
	return nil
}

// checkSums compares a view with rows shared by all partitions; which event changed a row last depends on how they interleaved.
func checkSums(ctx context.Context, p *Projector, l *memLog, v es.View[sumRow, change]) error {
	got, applied, err := dump(ctx, p, v.Name, Query{})
	if err != nil {
		return err
	}
	want, _ := oracle(l, v, applied)
	for _, m := range []map[string]string{got, want} {
		for key, text := range m {
			m[key] = text[strings.Index(text, "{"):]
		}
	}
	if err := same(v.Name, got, want); err != nil {
		return fmt.Errorf("at %s: %w", applied, err)
	}
	return nil
}

func checkAll(ctx context.Context, p *Projector, l *memLog) error {
	if err := checkOrders(ctx, p, l); err != nil {
		return err
	}
	if err := checkSums(ctx, p, l, customersView()); err != nil {
		return err
	}
	return checkSums(ctx, p, l, salesView())
}

func same(what string, got, want map[string]string) error {
	if reflect.DeepEqual(got, want) {
		return nil
	}
	for _, key := range slices.Sorted(maps.Keys(want)) {
		if got[key] != want[key] {
			return fmt.Errorf("%s: row %s is\n%s, want\n%s (%d rows, want %d)", what, key, got[key], want[key], len(got), len(want))
		}
	}
	return fmt.Errorf("%s: %d rows, want %d", what, len(got), len(want))
}

// history appends n random changes.
func history(rnd *rand.Rand, l *memLog, n, orders int) {
	kinds := []string{"placed", "placed", "confirmed", "cancelled", "ignored"}
	for range n {
		order := rnd.IntN(orders)
		partition := int32(order) % l.topic.Partitions
		if rnd.IntN(50) == 0 {
			l.append(partition, "", "claim")
			continue
		}
		l.add(partition, change{Kind: kinds[rnd.IntN(len(kinds))], Order: fmt.Sprintf("o-%05d", order), Customer: fmt.Sprintf("c-%03d", rnd.IntN(200)),
			Day: fmt.Sprintf("1997-01-%02d", 1+rnd.IntN(31)), Amount: rnd.Int64N(1000)})
	}
}
