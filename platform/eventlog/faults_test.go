package eventlog

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/platform/es"
)

// What only the embedded broker can be made to do.

// Every error code that a broker may answer an append with ends in an acknowledged append, a refusal or the owner's end, and the log
// agrees with what the caller was told.
func TestEveryProduceError(t *testing.T) {
	s := fakeSite(t)
	c := s.open(t)
	topic := topicOf(t, c, 150)
	ends := map[string]int{}
	for code := int16(-1); code < 140; code++ {
		fault := kerr.TypedErrorForCode(code)
		if code == 0 || fault == nil {
			continue
		}
		p := int32(code + 1)
		o := claim(t, c, topic, p, "a")
		mustWrite(t, o, "1")
		s.fake.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: topic.Name, Partitions: []int32{p}, Err: fault, Count: 2})
		base, err := write(t, o, "2")
		want := []string{"claim", "1"}
		switch {
		case err == nil:
			ends["acknowledged"]++
			if base != 2 || o.Err() != nil {
				t.Errorf("%s: base %d, %v", fault.Message, base, o.Err())
			}
			mustWrite(t, o, "3")
			want = append(want, "2", "3")
		case errors.Is(err, ErrTooLarge), errors.Is(err, ErrRefused):
			ends["refused"]++
			if o.Err() != nil {
				t.Errorf("%s: refused, but the owner ended: %v", fault.Message, o.Err())
			}
			eventually(t, "the owner goes on", func() bool { _, err := write(t, o, "3"); return err == nil })
			want = append(want, "3")
		case errors.Is(err, ErrFenced), errors.Is(err, ErrOutcome):
			ends["ended"]++
			lost(t, o, nil2(o.Err()))
		default:
			t.Errorf("%s: %v", fault.Message, err)
		}
		got := readLog(t, c, topic, p)
		if errors.Is(err, ErrOutcome) && len(got) == 3 && got[2] == "2" {
			got = got[:2] // open means that both are right
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: log %q, want %q (append: %v)", fault.Message, got, want, err)
		}
	}
	t.Logf("ends: %v", ends)
	if ends["acknowledged"] < 10 || ends["refused"] != 4 || ends["ended"] < 20 {
		t.Errorf("ends %v", ends)
	}
}

// nil2 makes a missing reason a failure.
func nil2(err error) error {
	if err == nil {
		return errors.New("no reason")
	}
	return err
}

// A partition that the broker refuses must not slow the others down.
func TestSickPartition(t *testing.T) {
	s := fakeSite(t)
	c := s.open(t)
	topic := topicOf(t, c, 3)
	sick, well, other := claim(t, c, topic, 0, "a"), claim(t, c, topic, 1, "a"), claim(t, c, topic, 2, "a")
	var refused atomic.Bool
	refused.Store(true)
	var alone, mixed atomic.Int32
	seen := false
	s.fake.ControlKey(int16(kmsg.Produce), func(k kmsg.Request) (kmsg.Response, error, bool) {
		s.fake.KeepControl()
		n, hasSick := 0, false
		for _, rt := range k.(*kmsg.ProduceRequest).Topics {
			for _, rp := range rt.Partitions {
				n++
				hasSick = hasSick || rp.Partition == 0
			}
		}
		if hasSick && refused.Load() {
			if n > 1 && seen {
				mixed.Add(1)
			}
			if n == 1 && seen {
				alone.Add(1)
			}
			seen = true
		}
		return nil, nil, false
	})
	h := s.fake.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: topic.Name, Partitions: []int32{0}, Err: kerr.NotEnoughReplicas, Count: -1,
		When: func(kmsg.Request) bool { return refused.Load() }})
	defer h.Remove()
	ch := start(sick, batchOf(t, "late"))
	for i := range 500 {
		a, b := start(well, batchOf(t, fmt.Sprint(i))), start(other, batchOf(t, fmt.Sprint(i)))
		if r := <-a; r.err != nil {
			t.Fatal(r.err)
		}
		if r := <-b; r.err != nil {
			t.Fatal(r.err)
		}
	}
	eventually(t, "repetitions", func() bool { return alone.Load() >= 3 })
	if len(ch) != 0 {
		t.Fatalf("the sick partition answered: %+v", <-ch)
	}
	refused.Store(false)
	if r := <-ch; r.err != nil || r.base != 1 {
		t.Errorf("the sick partition, healed: %+v", r)
	}
	mustWrite(t, sick, "next")
	if mixed.Load() > 0 {
		t.Errorf("%d repetitions shared a request with others", mixed.Load())
	}
}

// While a request is under way, the batches of all other partitions gather and go out in the next one.
func TestOneRequestForAll(t *testing.T) {
	s := fakeSite(t)
	c := s.open(t)
	topic := topicOf(t, c, 12)
	owners := make([]*Owner, topic.Partitions)
	for p := range topic.Partitions {
		owners[p] = claim(t, c, topic, p, "a")
	}
	arrived, gathered := make(chan struct{}), make(chan struct{})
	var sizes []int // written by the broker's goroutine, read after the last answer
	s.fake.ControlKey(int16(kmsg.Produce), func(k kmsg.Request) (kmsg.Response, error, bool) {
		s.fake.KeepControl()
		n := 0
		for _, rt := range k.(*kmsg.ProduceRequest).Topics {
			n += len(rt.Partitions)
		}
		sizes = append(sizes, n)
		if len(sizes) == 1 {
			close(arrived)
			<-gathered
		}
		return nil, nil, false
	})
	answers := []<-chan appended{start(owners[0], batchOf(t, "first"))}
	<-arrived
	for _, o := range owners[1:] {
		answers = append(answers, start(o, batchOf(t, "next")))
	}
	close(gathered)
	for _, a := range answers {
		if r := <-a; r.err != nil || r.base != 1 {
			t.Errorf("append: %+v", r)
		}
	}
	if !slices.Equal(sizes, []int{1, 11}) {
		t.Errorf("requests with %v partitions, want 1 and 11", sizes)
	}
}

// Leaders move while events flow; nothing is lost and nothing doubled.
func TestLeaderMoves(t *testing.T) {
	s := fakeSite(t, kfake.NumBrokers(3), kfake.BrokerConfigs(map[string]string{"default.replication.factor": "3"}))
	c := s.open(t)
	topic := topicOf(t, c, 2)
	ctx := ctxOf(t)
	src, err := c.NewSource(ctx, topic.Start(0))
	if err != nil {
		t.Fatal(err)
	}
	o := claim(t, c, topic, 0, "a")
	stop := make(chan struct{})
	n := flow(t, o, stop)
	for i := range 12 {
		at := o.Next()
		if err := s.fake.MoveTopicPartition(topic.Name, 0, int32(i%3)); err != nil {
			t.Fatal(err)
		}
		if i%4 == 3 {
			s.fake.RehashCoordinators()
		}
		eventually(t, "appends go on", func() bool { return o.Next() > at+3 || o.Err() != nil })
	}
	close(stop)
	count := <-n
	if o.Err() != nil {
		t.Fatal(o.Err())
	}
	seen := 0
	for cur := int64(0); cur < o.Next(); {
		fs, err := src.Poll(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range fs {
			for _, r := range f.Records {
				if r.Mark == 0 {
					if string(r.Value) != fmt.Sprint(seen) {
						t.Fatalf("event %q, want %d", r.Value, seen)
					}
					seen++
				}
			}
			cur = f.Cursor.Next
		}
	}
	if seen != count {
		t.Errorf("%d events read, %d acknowledged", seen, count)
	}
}

// A compacted topic has holes, and they are no gap; elsewhere they are.
func TestCompacted(t *testing.T) {
	s := fakeSite(t)
	c := s.open(t)
	ctx := ctxOf(t)
	topic, err := c.EnsureTopic(ctx, TopicSpec{Name: "_schemas", Partitions: 1, Compacted: true})
	if err != nil {
		t.Fatal(err)
	}
	o := claim(t, c, topic, 0, "a")
	for i := range 20 {
		b := NewBatch(0)
		if err := b.Add(fmt.Appendf(nil, "k%d", i%3), fmt.Append(nil, i), nil); err != nil {
			t.Fatal(err)
		}
		if r := <-start(o, b); r.err != nil {
			t.Fatal(r.err)
		}
	}
	short := "1"
	if _, err := c.admin.AlterTopicConfigs(ctx, alter("segment.bytes", short), topic.Name); err != nil {
		t.Fatal(err)
	}
	mustWrite(t, o, "roll")
	o = claim(t, c, topic, 0, "a2") // its claim supersedes the first one, which goes
	mustWrite(t, o, "roll")
	s.fake.Compact()
	rs := records(t, c, topic.Start(0))
	if len(rs) >= 22 || rs[0].Mark != 0 {
		t.Fatalf("the broker did not compact: %d records", len(rs))
	}
	last := map[string]string{}
	for _, r := range rs {
		last[string(r.Key)] = string(r.Value)
	}
	if last["k0"] != "18" || last["k1"] != "19" || last["k2"] != "17" {
		t.Errorf("latest values %v", last)
	}
	b := claim(t, c, topic, 0, "b")
	mustWrite(t, b, "after")
	zombie(t, c, topic, o.pid, o.epoch, o.sequence, "roll")
}

// The coordinator answers late, not at all, or with errors that pass.
func TestClaimThroughErrors(t *testing.T) {
	s := fakeSite(t)
	c := s.open(t)
	topic := topicOf(t, c, 1)
	for _, fault := range []*kerr.Error{kerr.CoordinatorLoadInProgress, kerr.CoordinatorNotAvailable, kerr.NotCoordinator, kerr.ConcurrentTransactions} {
		s.fake.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.InitProducerID}, Err: fault, Count: 3})
		o := claim(t, c, topic, 0, fault.Message)
		mustWrite(t, o, "1")
	}
	for _, fault := range []*kerr.Error{kerr.NotLeaderForPartition, kerr.UnknownServerError, kerr.OffsetNotAvailable} {
		s.fake.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.ListOffsets}, Topic: topic.Name, Err: fault, Count: 1})
		s.fake.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Fetch}, Topic: topic.Name, Err: fault, Count: 1})
		if _, err := c.Claim(ctxOf(t), topic, 0, Identity{}, NoopMarks); err != nil && !errors.Is(err, ErrRead) {
			t.Errorf("%s: %v", fault.Message, err)
		}
	}
	s.fake.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.InitProducerID}, Err: kerr.TransactionalIDAuthorizationFailed, Count: 1})
	if _, err := c.Claim(ctxOf(t), topic, 0, Identity{}, NoopMarks); !errors.Is(err, kerr.TransactionalIDAuthorizationFailed) {
		t.Errorf("claim without permission: %v", err)
	}
	if _, err := c.Claim(ctxOf(t), topic, 1, Identity{}, NoopMarks); !errors.Is(err, ErrTopic) {
		t.Errorf("claim of a partition that is not there: %v", err)
	}
}

// A claim that is broken off leaves nothing running.
func TestClaimBrokenOff(t *testing.T) {
	s := fakeSite(t)
	var w wire
	c := s.open(t, func(cfg *Config) { cfg.Dial = w.dial })
	topic := topicOf(t, c, 1)
	claim(t, c, topic, 0, "a")
	w.set(func() { w.loseRequest = 1 << 30 })
	ctx, cancel := contextAfter(t, 200*time.Millisecond)
	defer cancel()
	if _, err := c.Claim(ctx, topic, 0, Identity{}, NoopMarks); err == nil {
		t.Error("a claim without an answer succeeded")
	}
	eventually(t, "its owner is forgotten", func() bool { c.mu.Lock(); defer c.mu.Unlock(); return len(c.owners) == 1 })
}

func TestUnreachable(t *testing.T) {
	for _, cfg := range []Config{{}, {Brokers: []string{"nowhere"}}, {Brokers: []string{"127.0.0.1:1"}, Env: "a/b"}, {Brokers: []string{"127.0.0.1:1"}, RequestTimeout: time.Hour}} {
		if _, err := Open(t.Context(), cfg); !errors.Is(err, ErrConfig) {
			t.Errorf("%+v: %v, want ErrConfig", cfg, err)
		}
	}
	ctx, cancel := contextAfter(t, 300*time.Millisecond)
	defer cancel()
	_, err := Open(ctx, Config{Brokers: []string{"127.0.0.1:1"}})
	if !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), "127.0.0.1:1") {
		t.Errorf("no broker: %v", err)
	}
	s := fakeSite(t)
	if _, err := Open(t.Context(), Config{Brokers: []string{s.addr}, TransactionalIDExpiration: 1000 * time.Hour}); !errors.Is(err, ErrConfig) {
		t.Errorf("an expiration longer than the broker's: %v, want ErrConfig", err)
	}
}

// A reader sees what is appended at once, and goes on over cut connections.
func TestSourceOverCuts(t *testing.T) {
	s := fakeSite(t)
	var w wire
	c := s.open(t)
	r := s.open(t, func(cfg *Config) { cfg.Dial = w.dial })
	topic := topicOf(t, c, 2)
	ctx := ctxOf(t)
	o := claim(t, c, topic, 0, "a")
	src, err := r.NewSource(ctx, topic.Start(0), topic.Start(1))
	if err != nil {
		t.Fatal(err)
	}
	next := int64(0)
	for i := range 20 {
		at := mustWrite(t, o, fmt.Sprint(i))
		if i%4 == 0 {
			w.cut(false)
		}
		for next <= at {
			fs, err := src.Poll(ctx)
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range fs {
				if f.End < f.Cursor.Next || f.Cursor.TopicPartition != (es.TopicPartition{Topic: topic.Name}) {
					t.Fatalf("fetched %+v", f)
				}
				next = f.Cursor.Next
			}
		}
	}
	short, cancel := contextAfter(t, 50*time.Millisecond)
	defer cancel()
	if fs, err := src.Poll(short); len(fs) != 0 || !errors.Is(err, short.Err()) {
		t.Errorf("poll of nothing: %v, %v", fs, err)
	}
	src.Close()
	if _, err := src.Poll(ctx); !errors.Is(err, ErrRead) {
		t.Errorf("poll of a closed source: %v", err)
	}
}

// The records below a running source are deleted: it stops.
func TestSourceGap(t *testing.T) {
	s := fakeSite(t)
	c := s.open(t, func(cfg *Config) { cfg.FetchBytes = 4000 })
	topic := topicOf(t, c, 1)
	o := claim(t, c, topic, 0, "a")
	big := strings.Repeat("x", 900)
	for range 10 {
		mustWrite(t, o, big)
	}
	ctx := ctxOf(t)
	src, err := c.NewSource(ctx, topic.Start(0))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.fake.DeleteRecords(topic.Name, 0, 10); err != nil {
		t.Fatal(err)
	}
	for {
		_, err := src.Poll(ctx)
		if err == nil {
			continue // what was fetched before
		}
		if !errors.Is(err, ErrGap) {
			t.Errorf("reading over a hole: %v, want ErrGap", err)
		}
		if _, again := src.Poll(ctx); !errors.Is(again, err) {
			t.Errorf("and once more: %v", again)
		}
		return
	}
}
