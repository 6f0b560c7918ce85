package command

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/platform/contract"
	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/eventlog"
	"github.com/millrace/millrace/platform/store"
)

// TestFollows: an event that cannot be the next of its stream ends the follower before it is in the store.
func TestFollows(t *testing.T) {
	db, err := store.Open(t.TempDir()+"/db", store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	topic := eventlog.Topic{Name: "t", Partitions: 1}
	memory := contract.NewMemory()
	codec, err := contract.Bind(t.Context(), accounts, memory)
	if err != nil {
		t.Fatal(err)
	}
	e := New[account, cmd, event](Config{Topic: topic, Store: db, Source: "/test"}, decider, codec)
	frame := must(codec.Append(nil, credited{Amount: 1}))
	header := func(k, v string) eventlog.Header { return eventlog.Header{Key: k, Value: []byte(v)} }
	// Each step is one fetch of events of the stream "a" (or another), as version@offset.
	type step struct {
		stream   string
		versions []int64
		offset   int64
		bad      bool
	}
	fetch := func(s step) eventlog.Fetched {
		at := es.TopicPartition{Topic: "t"}
		f := eventlog.Fetched{Cursor: topic.Start(0)}
		for i, v := range s.versions {
			f.Records = append(f.Records, eventlog.Record{
				Key: []byte(s.stream), Value: frame, Position: es.Position{TopicPartition: at, Offset: s.offset + int64(i)},
				Headers: []eventlog.Header{
					header("ce_specversion", "1.0"), header("ce_id", "x"), header("ce_type", "test.v1.Credited"), header("ce_subject", s.stream),
					header("ce_time", "2026-01-01T00:00:00Z"), header("ce_streamversion", fmt.Sprint(v)), header("ce_commandid", fmt.Sprint("k-", v)),
					header("ce_commandindex", "0"), header("ce_commandcount", "1"),
				},
			})
		}
		f.Cursor.Next = s.offset + int64(len(s.versions))
		return f
	}
	for i, s := range []step{
		{stream: "a", versions: []int64{1, 2, 3}, offset: 0},
		{stream: "a", versions: []int64{4}, offset: 3},
		{stream: "b", versions: []int64{1}, offset: 4},
		{stream: "a", versions: []int64{2, 3, 4}, offset: 1},         // read again
		{stream: "a", versions: []int64{5}, offset: 5},               // and on
		{stream: "a", versions: []int64{7}, offset: 6, bad: true},    // one is missing
		{stream: "a", versions: []int64{5}, offset: 7, bad: true},    // there twice
		{stream: "a", versions: []int64{1}, offset: 8, bad: true},    // begun twice
		{stream: "c", versions: []int64{2}, offset: 9, bad: true},    // begun with the second
		{stream: "a", versions: []int64{6, 8}, offset: 6, bad: true}, // a hole within a fetch
		{stream: "a", versions: []int64{6, 6}, offset: 6, bad: true}, // twice within one
		{stream: "d", versions: []int64{1, 1}, offset: 6, bad: true}, // begun twice within one
		{stream: "b", versions: []int64{2}, offset: 2, bad: true},    // before its predecessor
		{stream: "a", versions: []int64{6, 7}, offset: 6},
	} {
		err := e.partitions[0].follow(t.Context(), fetch(s))
		if s.bad != errors.Is(err, ErrLog) || !s.bad && err != nil {
			t.Errorf("step %d, %+v: %v", i, s, err)
		}
	}
	e.cfg.Topic.Partitions = 7
	for i := range 20 {
		id := fmt.Sprint("s-", i)
		err := e.partitions[0].follow(t.Context(), fetch(step{stream: id, versions: []int64{1}, offset: 100 + int64(i)}))
		if wrong := eventlog.PartitionOf(es.StreamID(id), 7) != 0; wrong != errors.Is(err, ErrLog) {
			t.Errorf("%s: %v", id, err)
		}
	}
}

// offline calls fn with an engine that is not running, on the rig's store.
func (r *rig) offline(fn func(e *Engine[account, cmd, event])) {
	r.t.Helper()
	if err := r.stopped(); err != nil {
		r.t.Fatal(err)
	}
	log, err := eventlog.Open(r.t.Context(), eventlog.Config{Brokers: []string{r.addr}, Env: r.env})
	if err != nil {
		r.t.Fatal(err)
	}
	defer log.Close()
	db, err := store.Open(filepath.Join(r.dir, "streams"), r.store)
	if err != nil {
		r.t.Fatal(err)
	}
	cfg := r.cfg
	cfg.Log, cfg.Topic, cfg.Store, cfg.Marks, cfg.Source = log, r.topic, db, r.marks, "/test"
	fn(New[account, cmd, event](cfg, r.decider, r.codec))
	if err := db.Close(); err != nil {
		r.t.Fatal(err)
	}
}

// dump returns everything that the store holds, but for snapshots.
func (r *rig) dump(db *store.DB) map[string]string {
	all := map[string]string{}
	err := db.Read(func(rd *store.Reader) error {
		for pair, err := range rd.Scan(store.Range{}) {
			if err != nil {
				return err
			}
			if len(pair.Key) > 0 && pair.Key[0] != 's' && pair.Key[0] != 'w' {
				all[fmt.Sprintf("%c %x", pair.Key[0], pair.Key[1:])] = string(pair.Value)
			}
		}
		return nil
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return all
}

// TestRebuild: a rebuilt store, or part of one, holds what it held before, byte for byte, and tells how far it has come.
func TestRebuild(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	r := newRig(t, func(r *rig) { r.cfg.SnapshotEvery = 20 })
	for i := range 300 {
		stream, id := fmt.Sprint("a-", rnd.IntN(10)), fmt.Sprint("k-", i)
		switch rnd.IntN(4) {
		case 0:
			r.mustSend(stream, id, nothing{})
		case 1:
			_, _ = r.send(stream, id, debit{1})
		default:
			r.mustSend(stream, id, credit{Amount: 1, Times: 1 + rnd.IntN(20)})
		}
	}
	r.restart(false) // so that the last claim is in the store, too
	r.balance("a-1")
	for _, partitions := range [][]int32{nil, {2}, {0, 3}} {
		r.offline(func(e *Engine[account, cmd, event]) {
			if err := e.Rebuild(t.Context(), []int32{0, 1, 2, 3}, func([]Progress) {}); err != nil {
				t.Fatal(err)
			}
			before := r.dump(e.cfg.Store)
			e = New[account, cmd, event](e.cfg, r.decider, r.codec)
			var first, last = map[int32]Progress{}, map[int32]Progress{}
			err := e.Rebuild(t.Context(), partitions, func(all []Progress) {
				for _, p := range all {
					if _, ok := first[p.Partition]; !ok {
						first[p.Partition] = p
					}
					last[p.Partition] = p
				}
			})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(before, r.dump(e.cfg.Store)); diff != "" {
				t.Errorf("partitions %v (-before +after):\n%s", partitions, diff)
			}
			want := len(partitions)
			if partitions == nil {
				want = 4
			}
			if len(last) != want {
				t.Errorf("told of %d partitions, not %d", len(last), want)
			}
			for id, p := range last {
				if p.Offset != p.End || p.Events == 0 || p.PerSecond <= 0 || p.Left != 0 || first[id].Offset != 0 || first[id].End != p.End {
					t.Errorf("partition %d: first %+v, last %+v", id, first[id], p)
				}
			}
			if e.Snapshots().Kept == 0 {
				t.Error("no snapshot was made")
			}
			if err := e.Rebuild(t.Context(), nil, func([]Progress) {}); err == nil {
				t.Error("it was rebuilt twice by one engine")
			}
			e = New[account, cmd, event](e.cfg, r.decider, r.codec)
			if err := e.Rebuild(t.Context(), []int32{4}, func([]Progress) {}); !errors.Is(err, es.ErrPosition) {
				t.Errorf("a partition that is not there: %v", err)
			}
		})
		r.start()
		for id, envs := range r.readLog() {
			if b, v := r.balance(string(id)); b != folded(envs, es.Version(len(envs)), decider.Evolve).Balance || v != es.Version(len(envs)) {
				t.Errorf("%s: balance %d at %d", id, b, v)
			}
		}
	}
}

// TestRebuildInterrupted: a rebuild that was interrupted is finished by the engine that runs next.
func TestRebuildInterrupted(t *testing.T) {
	r := newRig(t)
	for i := range 20 {
		r.mustSend(fmt.Sprint("a-", i), "k", credit{Amount: 1, Times: 50})
	}
	r.offline(func(e *Engine[account, cmd, event]) {
		ctx, cancel := context.WithCancel(t.Context())
		err := e.Rebuild(ctx, nil, func([]Progress) { cancel() })
		if !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
	r.start()
	for i := range 20 {
		if b, v := r.balance(fmt.Sprint("a-", i)); b != 50 || v != 50 {
			t.Errorf("a-%d: balance %d at %d", i, b, v)
		}
	}
}

// TestCheckStore: a store of another log, or of one that was cut off, is told from a good one before anything is served of it.
func TestCheckStore(t *testing.T) {
	r := newRig(t)
	for i := range 40 {
		r.mustSend(fmt.Sprint("a-", i), "k", credit{Amount: 1})
	}
	r.balance("a-1")
	if err := r.stopped(); err != nil {
		t.Fatal(err)
	}
	open := func() (*eventlog.Client, *store.DB) {
		log, err := eventlog.Open(t.Context(), eventlog.Config{Brokers: []string{r.addr}, Env: r.env})
		if err != nil {
			t.Fatal(err)
		}
		db, err := store.Open(filepath.Join(r.dir, "streams"), r.store)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { db.Close(); log.Close() })
		return log, db
	}
	log, db := open()
	check := func(topic eventlog.Topic) error { return CheckStore(t.Context(), log, topic, db) }
	if err := check(r.topic); err != nil {
		t.Fatalf("the good one: %v", err)
	}
	change := func(f func(b *store.Batch) error) {
		t.Helper()
		b := db.NewBatch()
		if err := errors.Join(f(b), b.Commit()); err != nil {
			t.Fatal(err)
		}
	}
	good, err := readCursor(db, r.topic, 1)
	if err != nil {
		t.Fatal(err)
	}
	other, fewer, longer := r.topic, r.topic, good
	other.Name, fewer.Partitions = "other", 2
	longer.Next += 1000
	for name, topic := range map[string]eventlog.Topic{"another topic": other, "fewer partitions": fewer} {
		if err := check(topic); !errors.Is(err, eventlog.ErrCursor) {
			t.Errorf("%s: %v", name, err)
		}
	}
	change(func(b *store.Batch) error { return putCursor(b, longer) })
	if err := check(r.topic); !errors.Is(err, eventlog.ErrCursor) {
		t.Errorf("a log that is shorter than the store: %v", err)
	}
	change(func(b *store.Batch) error { return b.Set(cursorKey(1), []byte("x")) })
	if err := check(r.topic); !errors.Is(err, ErrStore) {
		t.Errorf("a cursor that cannot be read: %v", err)
	}
	change(func(b *store.Batch) error { return b.Delete(cursorKey(1)) })
	if err := check(r.topic); !errors.Is(err, ErrStore) {
		t.Errorf("events without a cursor: %v", err)
	}
	change(func(b *store.Batch) error { return putCursor(b, good) })
	if err := check(r.topic); err != nil {
		t.Fatalf("the good one again: %v", err)
	}
	if os.Getenv("MILLRACE_TEST_KAFKA") == "" {
		deleteTopic(t, r.addr, r.topic.Name)
		again, err := log.EnsureTopic(t.Context(), eventlog.TopicSpec{Name: r.topic.Name, Partitions: r.topic.Partitions})
		if err != nil || again.ID == r.topic.ID {
			t.Fatalf("%+v, %v", again, err)
		}
		if err := check(again); !errors.Is(err, eventlog.ErrCursor) {
			t.Errorf("a topic that was created anew: %v", err)
		}
	}
}

func deleteTopic(t *testing.T, addr, name string) {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(addr))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := kadm.NewClient(client).DeleteTopics(t.Context(), name); err != nil {
		t.Fatal(err)
	}
}
