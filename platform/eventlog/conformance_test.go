package eventlog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/fault"
)

func adminOf(k *kgo.Client) *kadm.Client { return kadm.NewClient(k) }

// conformance is what the protocol promises, on every broker.
var conformance = []struct {
	name string
	test func(t *testing.T, s site)
}{
	{"an append is read back in order", testAppend},
	{"a read goes on from a stored cursor", testCursor},
	{"a deposed owner that keeps writing is refused", testDeposed},
	{"the fence begins with the claim", testLazyFence},
	{"a stale epoch is refused", testStaleEpoch},
	{"a sequence gap is refused", testGap},
	{"a repetition gets the first offset", testDuplicate},
	{"the sequence wraps", testWrap},
	{"a lost reply is repeated", testLostReply},
	{"a lost request is repeated", testLostRequest},
	{"a lost reply before a takeover leaves the outcome open", testOpenOutcome},
	{"a held request after a takeover is refused", testHeld},
	{"a foreign record is dropped and stops the owner", testForeign},
	{"oversize is refused before a sequence number is used", testOversize},
	{"a topic created anew is another log", testRecreated},
	{"a cursor outside the log is refused", testCursorBounds},
	{"deleted records are a gap", testDeletedRecords},
	{"another producer id is shut out", testClosing},
	{"the producer id is renewed while events flow", testRenewal},
	{"a renewal by a deposed owner is refused", testDeposedRenewal},
	{"an idle owner writes barriers", testBarrier},
	{"a silent owner ends with its lease", testLease},
	{"of many claimants one survives", testClaimants},
	{"partitions share requests", testCoalescing},
	{"release and close end everything", testRelease},
	{"topic settings are verified", testTopicSettings},
}

func TestConformance(t *testing.T) {
	for _, c := range conformance {
		t.Run(strings.ReplaceAll(c.name, " ", "_"), func(t *testing.T) { everywhere(t, c.test) })
	}
}

func testAppend(t *testing.T, s site) {
	c := s.open(t)
	topic := topicOf(t, c, 2)
	o := claim(t, c, topic, 1, "a")
	if got, want := o.Claimed(), (es.Position{TopicPartition: es.TopicPartition{Topic: topic.Name, Partition: 1}}); got != want {
		t.Errorf("claimed %v, want %v", got, want)
	}
	before := time.Now().Add(-time.Minute)
	if got := mustWrite(t, o, "x", "y"); got != 1 {
		t.Errorf("base %d, want 1", got)
	}
	if got := mustWrite(t, o, "z"); got != 3 {
		t.Errorf("base %d, want 3", got)
	}
	rs := records(t, c, topic.Start(1))
	if got, want := readLog(t, c, topic, 1), []string{"claim", "x", "y", "z"}; !slices.Equal(got, want) {
		t.Fatalf("log %q, want %q", got, want)
	}
	if rs[0].Owner != (Identity{"a", "a:1"}) {
		t.Errorf("the claim is by %+v", rs[0].Owner)
	}
	for i, r := range rs {
		if r.Position.Offset != int64(i) || r.Time.Before(before) || r.Time.After(time.Now().Add(time.Minute)) {
			t.Errorf("record %d is at %v, %v", i, r.Position, r.Time)
		}
	}
	ends, err := c.Ends(ctxOf(t), topic)
	if err != nil || !slices.Equal(ends, []int64{0, 4}) {
		t.Errorf("ends %v, %v", ends, err)
	}
	if o.Next() != 4 || o.LastAck().IsZero() || o.Err() != nil {
		t.Errorf("next %d, last ack %v, %v", o.Next(), o.LastAck(), o.Err())
	}
}

func testCursor(t *testing.T, s site) {
	c := s.open(t)
	topic := topicOf(t, c, 1)
	ctx := ctxOf(t)
	src, err := c.NewSource(ctx, topic.Start(0))
	if err != nil {
		t.Fatal(err)
	}
	o := claim(t, c, topic, 0, "a")
	mustWrite(t, o, "x", "y")
	var cur Cursor
	for cur.Next < 3 {
		fs, err := src.Poll(ctx)
		if err != nil {
			t.Fatal(err)
		}
		cur = fs[0].Cursor
	}
	src.Close()
	b, err := cur.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	var back Cursor
	if err := back.UnmarshalBinary(b); err != nil || back != cur {
		t.Fatalf("cursor %+v came back as %+v, %v", cur, back, err)
	}
	mustWrite(t, o, "z")
	got := records(t, c, back)
	if len(got) != 1 || string(got[0].Value) != "z" {
		t.Errorf("read %v after the cursor", got)
	}
}

// zombie sends what a deposed owner could: its last batch again, the next one, and a new one from 0.
func zombie(t *testing.T, c *Client, topic Topic, pid int64, epoch int16, sequence int32, last string) {
	t.Helper()
	for name, try := range map[string]func() (int64, error){
		"the identical batch": func() (int64, error) { return raw(t, c, topic, 0, pid, epoch, sequence-1, last) },
		"the next batch":      func() (int64, error) { return raw(t, c, topic, 0, pid, epoch, sequence, "zombie") },
		"a batch from 0":      func() (int64, error) { return raw(t, c, topic, 0, pid, epoch, 0, "zombie") },
	} {
		if base, err := try(); !errors.Is(err, kerr.InvalidProducerEpoch) {
			t.Errorf("%s of a zombie was answered with offset %d, %v", name, base, err)
		}
	}
}

// G1: Only the latest claimant of a partition can append to it: the brokers refuse every batch of an earlier owner once the new claim is in
// the log.
// G3: An owner that was deposed, or that cannot know what became of a write, never appends again under its claim.
func testDeposed(t *testing.T, s site) {
	c1, c2 := s.open(t), s.open(t)
	topic := topicOf(t, c1, 1)
	a := claim(t, c1, topic, 0, "a")
	mustWrite(t, a, "1")
	mustWrite(t, a, "2")
	b := claim(t, c2, topic, 0, "b")
	mustWrite(t, b, "3")
	zombie(t, c1, topic, a.pid, a.epoch, a.sequence, "2")
	if _, err := write(t, a, "no"); !errors.Is(err, ErrFenced) {
		t.Errorf("the deposed owner's append: %v, want ErrFenced", err)
	}
	lost(t, a, ErrDeposed)
	if _, err := write(t, a, "never"); !errors.Is(err, ErrFenced) {
		t.Errorf("an append after that: %v, want ErrFenced", err)
	}
	zombie(t, c1, topic, a.pid, a.epoch, a.sequence, "2")
	mustWrite(t, b, "4")
	if got, want := readLog(t, c1, topic, 0), []string{"claim", "1", "2", "claim", "3", "4"}; !slices.Equal(got, want) {
		t.Errorf("log %q, want %q", got, want)
	}
}

func testLazyFence(t *testing.T, s site) {
	c := s.open(t)
	topic := topicOf(t, c, 1)
	a := claim(t, c, topic, 0, "a")
	if _, _, err := c.initProducerID(ctxOf(t), a.txn, -1, -1); err != nil {
		t.Fatal(err)
	}
	_, err := write(t, a, "between")
	if s.fake != nil {
		// The embedded broker is stricter than Kafka: it fences at once.
		if !errors.Is(err, ErrFenced) {
			t.Errorf("append after the epoch was raised: %v", err)
		}
		return
	}
	if err != nil {
		t.Errorf("append after the epoch was raised, before the claim: %v", err)
	}
	b := claim(t, c, topic, 0, "b")
	zombie(t, c, topic, a.pid, a.epoch, a.sequence, "between")
	mustWrite(t, b, "after")
	if got, want := readLog(t, c, topic, 0), []string{"claim", "between", "claim", "after"}; !slices.Equal(got, want) {
		t.Errorf("log %q, want %q", got, want)
	}
}

func testStaleEpoch(t *testing.T, s site) {
	c := s.open(t)
	topic := topicOf(t, c, 1)
	first := claim(t, c, topic, 0, "a")
	pid, epoch := first.pid, first.epoch
	for range 5 {
		claim(t, c, topic, 0, "b")
	}
	zombie(t, c, topic, pid, epoch, 1, "claim")
}

func testGap(t *testing.T, s site) {
	c := s.open(t)
	topic := topicOf(t, c, 1)
	a := claim(t, c, topic, 0, "a")
	mustWrite(t, a, "1")
	if _, err := raw(t, c, topic, 0, a.pid, a.epoch, a.sequence+1, "gap"); !errors.Is(err, kerr.OutOfOrderSequenceNumber) {
		t.Errorf("a batch after a gap: %v", err)
	}
	a.mu.Lock()
	a.sequence += 7
	a.mu.Unlock()
	if _, err := write(t, a, "gap"); !errors.Is(err, ErrFenced) {
		t.Errorf("an append after a gap: %v, want ErrFenced", err)
	}
	lost(t, a, ErrForeign)
}

func testDuplicate(t *testing.T, s site) {
	c := s.open(t)
	topic := topicOf(t, c, 1)
	a := claim(t, c, topic, 0, "a")
	base := mustWrite(t, a, "1", "2")
	mustWrite(t, a, "3")
	if got, err := raw(t, c, topic, 0, a.pid, a.epoch, a.sequence-3, "1", "2"); err != nil || got != base {
		t.Errorf("the repetition is at %d, %v, want %d", got, err, base)
	}
	if got, want := readLog(t, c, topic, 0), []string{"claim", "1", "2", "3"}; !slices.Equal(got, want) {
		t.Errorf("log %q, want %q", got, want)
	}
}

func testWrap(t *testing.T, s site) {
	if s.fake != nil {
		// The embedded broker wraps one number early; no owner of ours comes near, for it renews its epoch at half the way.
		return
	}
	c := s.open(t)
	topic := topicOf(t, c, 1)
	claim(t, c, topic, 0, "a")
	pid, epoch, err := c.initProducerID(ctxOf(t), "test/wrap/"+topic.Name, -1, -1)
	if err != nil {
		t.Fatal(err)
	}
	sequence := int32(math.MaxInt32 - 3)
	for i := range 4 {
		if _, err := raw(t, c, topic, 0, pid, epoch, sequence, "x", "y", "z"); err != nil {
			t.Fatalf("batch %d at sequence %d: %v", i, sequence, err)
		}
		sequence = nextSequence(sequence, 3)
	}
	if sequence != 8 {
		t.Errorf("sequence %d after the wrap, want 8", sequence)
	}
}

// G2: A batch is in the log once or not at all, also when its answer was lost and it was sent again.
func testLostReply(t *testing.T, s site) {
	var w wire
	var resent int
	c := s.open(t, func(cfg *Config) {
		cfg.Dial = w.dial
		cfg.OnResend = func(es.TopicPartition, error) { resent++ }
	})
	topic := topicOf(t, c, 1)
	a := claim(t, c, topic, 0, "a")
	mustWrite(t, a, "1")
	w.set(func() { w.loseReply, w.record = 3, true })
	if got := mustWrite(t, a, "2", "3"); got != 2 {
		t.Errorf("base %d, want 2", got)
	}
	w.set(func() { w.record = false })
	sent := w.batches(t)
	if len(sent) != 4 {
		t.Errorf("sent %d times, want 4", len(sent))
	}
	for _, b := range sent {
		if !bytes.Equal(b, sent[0]) {
			t.Errorf("sent %x, then %x", sent[0], b)
		}
	}
	mustWrite(t, a, "4")
	if resent != 3 {
		t.Errorf("sent again %d times, want 3", resent)
	}
	if got, want := readLog(t, c, topic, 0), []string{"claim", "1", "2", "3", "4"}; !slices.Equal(got, want) {
		t.Errorf("log %q, want %q", got, want)
	}
}

func testLostRequest(t *testing.T, s site) {
	var w wire
	c := s.open(t, func(cfg *Config) { cfg.Dial = w.dial })
	topic := topicOf(t, c, 1)
	w.set(func() { w.loseRequest = 2; w.loseReply = 1 })
	a := claim(t, c, topic, 0, "a") // the claim itself is lost at first
	w.set(func() { w.loseRequest = 2 })
	mustWrite(t, a, "1")
	w.cut(true)
	ch := start(a, batchOf(t, "2"))
	w.cut(false)
	if r := <-ch; r.err != nil || r.base != 2 {
		t.Errorf("append over a cut: %+v", r)
	}
	if got, want := readLog(t, c, topic, 0), []string{"claim", "1", "2"}; !slices.Equal(got, want) {
		t.Errorf("log %q, want %q", got, want)
	}
}

// G3: An owner that was deposed, or that cannot know what became of a write, never appends again under its claim.
func testOpenOutcome(t *testing.T, s site) {
	for _, delivered := range []bool{true, false} {
		t.Run(fmt.Sprintf("delivered=%v", delivered), func(t *testing.T) {
			var w wire
			c1, c2 := s.open(t, func(cfg *Config) { cfg.Dial = w.dial }), s.open(t)
			topic := topicOf(t, c2, 1)
			a := claim(t, c1, topic, 0, "a")
			mustWrite(t, a, "1")
			taken := make(chan *Owner, 1)
			takeover := func() {
				b, err := c2.Claim(context.WithoutCancel(t.Context()), topic, 0, Identity{"b", ""}, NoopMarks)
				if err != nil {
					t.Error(err)
				}
				taken <- b
			}
			want := []string{"claim", "1", "claim"}
			if delivered {
				want = []string{"claim", "1", "2", "claim"}
				w.set(func() { w.loseReply, w.onProduce = 1, takeover })
			} else {
				w.set(func() { w.loseRequest = 1 << 30 })
				defer w.cut(false)
			}
			ch := start(a, batchOf(t, "2"))
			if !delivered {
				eventually(t, "the request is lost", func() bool { w.mu.Lock(); defer w.mu.Unlock(); return w.loseRequest < 1<<30 })
				takeover()
				w.set(func() { w.loseRequest = 0 })
			}
			r := <-ch
			if !errors.Is(r.err, ErrOutcome) || errors.Is(r.err, ErrFenced) || !errors.Is(r.err, ErrDeposed) || fault.KindOf(r.err) != fault.Unknown {
				t.Errorf("append across a takeover: %v, want ErrOutcome because of ErrDeposed", r.err)
			}
			lost(t, a, ErrDeposed)
			<-taken
			if got := readLog(t, c2, topic, 0); !slices.Equal(got, want) {
				t.Errorf("log %q, want %q", got, want)
			}
		})
	}
}

func testHeld(t *testing.T, s site) {
	var w wire
	c1, c2 := s.open(t, func(cfg *Config) { cfg.Dial = w.dial }), s.open(t)
	topic := topicOf(t, c2, 1)
	a := claim(t, c1, topic, 0, "a")
	mustWrite(t, a, "1")
	w.set(func() { w.hold = true })
	ch := start(a, batchOf(t, "late"))
	eventually(t, "a request is held", func() bool { w.mu.Lock(); defer w.mu.Unlock(); return len(w.held) > 0 })
	b := claim(t, c2, topic, 0, "b")
	if err := w.deliver(); err != nil {
		t.Fatal(err)
	}
	if r := <-ch; !errors.Is(r.err, ErrOutcome) {
		t.Errorf("append that was held: %v, want ErrOutcome", r.err)
	}
	mustWrite(t, b, "2")
	if got, want := readLog(t, c2, topic, 0), []string{"claim", "1", "claim", "2"}; !slices.Equal(got, want) {
		t.Errorf("log %q, want %q", got, want)
	}
}

// G4: A record that an owner did not write is dropped by our readers and reported, and never changes a state or a row.
func testForeign(t *testing.T, s site) {
	var rogue []es.Position
	c := s.open(t, func(cfg *Config) { cfg.OnRogue = func(at es.Position, _ int64, _ int16) { rogue = append(rogue, at) } })
	topic := topicOf(t, c, 1)
	a := claim(t, c, topic, 0, "a")
	mustWrite(t, a, "1")
	k, err := kgo.NewClient(kgo.SeedBrokers(c.cfg.Brokers...), kgo.DefaultProduceTopic(topic.Name))
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	// A foreign producer, and one that even forges a claim.
	forged := &kgo.Record{Value: []byte("forged"), Headers: markHeaders(nil, MarkBarrier, Identity{"f", ""})}
	if err := k.ProduceSync(ctxOf(t), kgo.StringRecord("foreign"), forged).FirstErr(); err != nil {
		t.Fatal(err)
	}
	if _, err := write(t, a, "2"); !errors.Is(err, ErrOutcome) || !errors.Is(err, ErrForeign) {
		t.Errorf("append after a foreign record: %v, want ErrOutcome because of ErrForeign", err)
	}
	lost(t, a, ErrForeign)
	b := claim(t, c, topic, 0, "b")
	mustWrite(t, b, "3")
	if got, want := readLog(t, c, topic, 0), []string{"claim", "1", "2", "close", "claim", "3"}; !slices.Equal(got, want) {
		t.Errorf("log %q, want %q", got, want)
	}
	if len(rogue) != 2 || rogue[0].Offset != 2 || rogue[1].Offset != 3 {
		t.Errorf("dropped %v, want offsets 2 and 3", rogue)
	}
}

func testOversize(t *testing.T, s site) {
	c := s.open(t)
	topic := topicOf(t, c, 1)
	if topic.MaxBytes < 1_000_000 {
		t.Fatalf("max bytes %d", topic.MaxBytes)
	}
	a := claim(t, c, topic, 0, "a")
	big := func() *Batch {
		b := NewBatch(2 * topic.MaxBytes)
		for range 3 {
			if err := b.Add(nil, make([]byte, topic.MaxBytes/2), nil); err != nil {
				t.Fatal(err)
			}
		}
		return b
	}
	if r := <-start(a, big()); !errors.Is(r.err, ErrTooLarge) {
		t.Errorf("a batch over the limit: %v, want ErrTooLarge", r.err)
	}
	mustWrite(t, a, "1")
	a.topic.MaxBytes = 0 // now the broker has to say it
	if r := <-start(a, big()); !errors.Is(r.err, ErrTooLarge) {
		t.Errorf("a batch over the broker's limit: %v, want ErrTooLarge", r.err)
	}
	mustWrite(t, a, "2")
	if err := NewBatch(100).Add(nil, make([]byte, 100), nil); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a record over the batch's limit: %v, want ErrTooLarge", err)
	}
	if r := <-start(a, NewBatch(0)); !errors.Is(r.err, ErrRefused) {
		t.Errorf("an empty batch: %v, want ErrRefused", r.err)
	}
	if got, want := readLog(t, c, topic, 0), []string{"claim", "1", "2"}; !slices.Equal(got, want) {
		t.Errorf("log %q, want %q", got, want)
	}
}

func testRecreated(t *testing.T, s site) {
	c := s.open(t)
	topic := topicOf(t, c, 1)
	a := claim(t, c, topic, 0, "a")
	mustWrite(t, a, "1")
	ctx := ctxOf(t)
	src, err := c.NewSource(ctx, topic.Start(0))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := src.Poll(ctx); err != nil {
		t.Fatal(err)
	}
	deleteTopic(t, c.cfg.Brokers, topic.Name)
	var again Topic
	eventually(t, "the topic can be created anew", func() bool {
		again, err = c.EnsureTopic(ctx, TopicSpec{Name: topic.Name, Partitions: 1})
		return err == nil && again.ID != topic.ID
	})
	if _, err := write(t, a, "2"); !errors.Is(err, ErrFenced) || !errors.Is(err, ErrTopic) {
		t.Errorf("append to a topic that was created anew: %v, want ErrFenced because of ErrTopic", err)
	}
	if _, err := c.NewSource(ctx, topic.Start(0)); !errors.Is(err, ErrCursor) {
		t.Errorf("a cursor of the old topic: %v, want ErrCursor", err)
	}
	if fs, err := src.Poll(ctx); !errors.Is(err, ErrGap) {
		t.Errorf("reading on in the old topic: %v, %v, want ErrGap", fs, err)
	}
	b := claim(t, c, again, 0, "b")
	mustWrite(t, b, "3")
	if got, want := readLog(t, c, again, 0), []string{"claim", "3"}; !slices.Equal(got, want) {
		t.Errorf("log %q, want %q", got, want)
	}
}

func testCursorBounds(t *testing.T, s site) {
	c := s.open(t)
	topic := topicOf(t, c, 1)
	a := claim(t, c, topic, 0, "a")
	mustWrite(t, a, "1", "2", "3")
	ctx := ctxOf(t)
	at := func(f func(*Cursor)) Cursor {
		cur := topic.Start(0)
		f(&cur)
		return cur
	}
	for name, cur := range map[string]Cursor{
		"beyond the end":    at(func(c *Cursor) { c.Next = 5 }),
		"unknown partition": at(func(c *Cursor) { c.TopicPartition.Partition = 1 }),
		"another topic id":  at(func(c *Cursor) { c.TopicID[3]++ }),
		"unknown topic":     at(func(c *Cursor) { c.TopicPartition.Topic = "nowhere" }),
		"negative offset":   at(func(c *Cursor) { c.Next = -1 }),
	} {
		if _, err := c.NewSource(ctx, cur); !errors.Is(err, ErrCursor) {
			t.Errorf("%s: %v, want ErrCursor", name, err)
		}
	}
	if _, err := c.NewSource(ctx, topic.Start(0), topic.Start(0)); !errors.Is(err, ErrCursor) {
		t.Errorf("two cursors of one partition: %v, want ErrCursor", err)
	}
	end := at(func(c *Cursor) { c.Next, c.ProducerID, c.Epoch, c.LeaderEpoch = 4, a.pid, a.epoch, 0 })
	if got := records(t, c, end); len(got) != 0 {
		t.Errorf("read %v at the end", got)
	}
}

func testDeletedRecords(t *testing.T, s site) {
	c := s.open(t)
	topic := topicOf(t, c, 1)
	a := claim(t, c, topic, 0, "a")
	mustWrite(t, a, "1", "2", "3")
	ctx := ctxOf(t)
	offsets := kadm.Offsets{}
	offsets.AddOffset(topic.Name, 0, 2, -1)
	if _, err := c.admin.DeleteRecords(ctx, offsets); err != nil {
		t.Fatal(err)
	}
	if _, err := c.NewSource(ctx, topic.Start(0)); !errors.Is(err, ErrCursor) {
		t.Errorf("a cursor below the start of the log: %v, want ErrCursor", err)
	}
	// The claim is gone, the fence is not; and a claim works on a log that begins late.
	b := claim(t, c, topic, 0, "b")
	zombie(t, c, topic, a.pid, a.epoch, a.sequence, "3")
	mustWrite(t, b, "4")
	cur := topic.Start(0)
	cur.Next, cur.ProducerID, cur.Epoch = 2, a.pid, a.epoch
	var got []string
	for _, r := range records(t, c, cur) {
		got = append(got, string(r.Value))
	}
	if len(got) != 4 || got[0] != "2" || got[3] != "4" {
		t.Errorf("read %q", got)
	}
}

func testClosing(t *testing.T, s site) {
	c1, c2 := s.open(t), s.open(t, func(cfg *Config) { cfg.Env = "other" })
	topic := topicOf(t, c1, 1)
	a := claim(t, c1, topic, 0, "a")
	mustWrite(t, a, "1")
	b := claim(t, c2, topic, 0, "b") // another transactional id, so another producer id
	if a.pid == b.pid {
		t.Fatal("the producer ids do not differ")
	}
	mustWrite(t, b, "2")
	zombie(t, c1, topic, a.pid, a.epoch, a.sequence, "1")
	if _, err := write(t, a, "no"); !errors.Is(err, ErrFenced) {
		t.Errorf("the shut out owner's append: %v, want ErrFenced", err)
	}
	b2 := claim(t, c2, topic, 0, "b2") // the same id again: nothing to close
	mustWrite(t, b2, "3")
	if got, want := readLog(t, c1, topic, 0), []string{"claim", "1", "close", "claim", "2", "claim", "3"}; !slices.Equal(got, want) {
		t.Errorf("log %q, want %q", got, want)
	}
}

// flow appends until stop is closed and returns how many appends were acknowledged; any failure is the test's.
func flow(t *testing.T, o *Owner, stop <-chan struct{}) <-chan int {
	t.Helper()
	n := make(chan int, 1)
	go func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				n <- i
				return
			default:
			}
			if r := <-start(o, batchOf(t, fmt.Sprint(i))); r.err != nil {
				t.Errorf("append %d: %v", i, r.err)
				n <- i
				return
			}
		}
	}()
	return n
}

func testRenewal(t *testing.T, s site) {
	c := s.open(t, func(cfg *Config) { cfg.TransactionalIDExpiration = 400 * time.Millisecond })
	topic := topicOf(t, c, 1)
	a := claim(t, c, topic, 0, "a")
	pid := a.pid
	stop := make(chan struct{})
	n := flow(t, a, stop)
	eventually(t, "five renewals", func() bool { a.mu.Lock(); defer a.mu.Unlock(); return a.epoch >= 5 || a.err != nil })
	close(stop)
	count := <-n
	if a.Err() != nil || a.pid != pid {
		t.Fatalf("the owner ended: %v", a.Err())
	}
	var events, barriers int
	epoch := int16(-1)
	for _, r := range records(t, c, topic.Start(0)) {
		if r.Epoch < epoch || r.ProducerID != pid {
			t.Fatalf("epoch %d after %d", r.Epoch, epoch)
		}
		if r.Mark == 0 {
			if string(r.Value) != fmt.Sprint(events) {
				t.Fatalf("event %q, want %d", r.Value, events)
			}
			events++
		} else if r.Mark == MarkBarrier {
			barriers++
			if r.Epoch != epoch+1 {
				t.Errorf("a barrier of epoch %d after epoch %d", r.Epoch, epoch)
			}
		}
		epoch = r.Epoch
	}
	if events != count || barriers < 5 {
		t.Errorf("%d events and %d barriers in the log, %d events acknowledged", events, barriers, count)
	}
	zombie(t, c, topic, pid, 1, 1, "x")
}

func testDeposedRenewal(t *testing.T, s site) {
	// The renewals of a come after b's claim.
	c1 := s.open(t, func(cfg *Config) { cfg.TransactionalIDExpiration = 2 * time.Second })
	c2 := s.open(t)
	topic := topicOf(t, c1, 1)
	a := claim(t, c1, topic, 0, "a")
	b := claim(t, c2, topic, 0, "b")
	lost(t, a, ErrDeposed)
	_, err := write(t, b, "1")
	if s.fake == nil && err != nil {
		t.Errorf("the owner's append after a deposed one tried to renew: %v", err)
	}
	if err != nil && !errors.Is(err, ErrFenced) {
		// The embedded broker accepts the renewal of a stale epoch: both end then, which costs a claim and nothing else.
		t.Errorf("append: %v", err)
	}
}

func testBarrier(t *testing.T, s site) {
	c := s.open(t, func(cfg *Config) { cfg.ProducerIDExpiration = 2 * time.Second })
	topic := topicOf(t, c, 1)
	a := claim(t, c, topic, 0, "a")
	eventually(t, "three records", func() bool { return a.Next() >= 3 || a.Err() != nil })
	if err := a.Err(); err != nil {
		t.Fatalf("an idle owner ended: %v", err)
	}
	base := mustWrite(t, a, "1")
	rs := records(t, c, topic.Start(0))
	for i, r := range rs[1:base] {
		if r.Mark != MarkBarrier {
			t.Errorf("record %d is %v, not a barrier", i+1, r.Mark)
		}
	}
}

func testLease(t *testing.T, s site) {
	var w wire
	c1 := s.open(t, func(cfg *Config) { cfg.Dial = w.dial; cfg.ProducerIDExpiration = time.Second })
	c2 := s.open(t)
	topic := topicOf(t, c2, 2)
	idle, busy := claim(t, c1, topic, 0, "a"), claim(t, c1, topic, 1, "a")
	w.cut(true)
	defer w.cut(false)
	r := <-start(busy, batchOf(t, "1"))
	if !errors.Is(r.err, ErrFenced) && !errors.Is(r.err, ErrOutcome) {
		t.Errorf("append without a broker: %v", r.err)
	}
	lost(t, busy, ErrLease)
	lost(t, idle, ErrLease)
	w.cut(false)
	if _, err := write(t, idle, "2"); !errors.Is(err, ErrFenced) || !errors.Is(err, ErrLease) {
		t.Errorf("append after the lease: %v, want ErrFenced because of ErrLease", err)
	}
	b := claim(t, c2, topic, 0, "b")
	mustWrite(t, b, "3")
}

func testClaimants(t *testing.T, s site) {
	const n = 8
	first := s.open(t)
	topic := topicOf(t, first, 1)
	var (
		wg     sync.WaitGroup
		owners [n]*Owner
	)
	for i := range n {
		c := s.open(t)
		wg.Go(func() {
			o, err := c.Claim(ctxOf(t), topic, 0, Identity{fmt.Sprint(i), ""}, NoopMarks)
			switch {
			case err == nil:
				owners[i] = o
			case !errors.Is(err, ErrFenced):
				t.Errorf("claim %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	survivors, claimed := 0, 0
	for i, o := range owners {
		if o == nil {
			continue
		}
		claimed++
		switch _, err := write(t, o, fmt.Sprint(i)); {
		case err == nil:
			survivors++
		case !errors.Is(err, ErrFenced):
			t.Errorf("append of %d: %v", i, err)
		}
	}
	if survivors != 1 {
		t.Errorf("%d of %d claimants survive, want 1", survivors, claimed)
	}
	got := readLog(t, first, topic, 0)
	if len(got) != claimed+1 || got[len(got)-1] == "claim" {
		t.Errorf("log %q after %d claims", got, claimed)
	}
}

func testCoalescing(t *testing.T, s site) {
	c := s.open(t)
	topic := topicOf(t, c, 12)
	var wg sync.WaitGroup
	const each = 50
	for p := range topic.Partitions {
		o := claim(t, c, topic, p, "a")
		wg.Go(func() {
			b := NewBatch(0)
			for i := range each {
				b.Reset()
				for j := range i%5 + 1 {
					if err := b.Add(nil, fmt.Appendf(nil, "%d/%d/%d", p, i, j), nil); err != nil {
						t.Error(err)
					}
				}
				if r := <-start(o, b); r.err != nil {
					t.Errorf("partition %d: %v", p, r.err)
				}
			}
		})
	}
	wg.Wait()
	for p := range topic.Partitions {
		var want []string
		want = append(want, "claim")
		for i := range each {
			for j := range i%5 + 1 {
				want = append(want, fmt.Sprintf("%d/%d/%d", p, i, j))
			}
		}
		if diff := cmp.Diff(want, readLog(t, c, topic, p)); diff != "" {
			t.Errorf("partition %d: -want +got\n%s", p, diff)
		}
	}
}

func testRelease(t *testing.T, s site) {
	var w wire
	c := s.open(t, func(cfg *Config) { cfg.Dial = w.dial })
	topic := topicOf(t, s.open(t), 3)
	a, b, d := claim(t, c, topic, 0, "a"), claim(t, c, topic, 1, "a"), claim(t, c, topic, 2, "a")
	a.Release()
	a.Release()
	lost(t, a, ErrReleased)
	w.cut(true)
	chB, chD := start(b, batchOf(t, "1")), start(d, batchOf(t, "1"))
	b.Release()
	if r := <-chB; !errors.Is(r.err, ErrFenced) && !errors.Is(r.err, ErrOutcome) {
		t.Errorf("append of a released owner: %v", r.err)
	}
	c.Close()
	if r := <-chD; !errors.Is(r.err, ErrFenced) && !errors.Is(r.err, ErrOutcome) {
		t.Errorf("append of a closed client: %v", r.err)
	}
	lost(t, d, ErrReleased)
	if _, err := c.Claim(ctxOf(t), topic, 0, Identity{}, NoopMarks); !errors.Is(err, ErrReleased) {
		t.Errorf("claim with a closed client: %v", err)
	}
	if _, err := c.NewSource(ctxOf(t), topic.Start(0)); err == nil {
		t.Error("a source of a closed client")
	}
	if len(chB)+len(chD) != 0 {
		t.Error("done was called twice")
	}
}

func testTopicSettings(t *testing.T, s site) {
	c := s.open(t)
	ctx := ctxOf(t)
	good := topicOf(t, c, 3)
	again, err := c.EnsureTopic(ctx, TopicSpec{Name: good.Name, Partitions: 3})
	if err != nil || again != good {
		t.Errorf("the topic again: %+v, %v, want %+v", again, err, good)
	}
	if _, err := c.EnsureTopic(ctx, TopicSpec{Name: good.Name, Partitions: 4}); !errors.Is(err, ErrTopic) || fault.From(err).Fix == "" {
		t.Errorf("another partition count: %v", err)
	}
	if _, err := c.EnsureTopic(ctx, TopicSpec{Name: good.Name, Partitions: 3, Compacted: true}); !errors.Is(err, ErrTopic) {
		t.Errorf("another cleanup policy: %v", err)
	}
	for key, value := range map[string]string{"message.timestamp.type": "CreateTime", "retention.ms": "1000000", "retention.bytes": "100000000", "cleanup.policy": "compact"} {
		topic := topicOf(t, c, 1)
		if _, err := c.admin.AlterTopicConfigs(ctx, []kadm.AlterConfig{{Op: kadm.SetConfig, Name: key, Value: &value}}, topic.Name); err != nil {
			t.Fatal(err)
		}
		eventually(t, key+" is refused", func() bool {
			_, err := c.EnsureTopic(ctx, TopicSpec{Name: topic.Name, Partitions: 1})
			return errors.Is(err, ErrTopic) && strings.Contains(err.Error(), key)
		})
	}
	p := s.open(t, func(cfg *Config) { cfg.Production = true })
	if _, err := p.EnsureTopic(ctx, TopicSpec{Name: good.Name, Partitions: 3}); err == nil && len(c.cfg.Brokers) == 1 && s.fake != nil {
		t.Error("one replica is enough for production")
	}
}
