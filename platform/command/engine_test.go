package command

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/eventlog"
	"github.com/millrace/millrace/platform/fault"
)

func TestReceipt(t *testing.T) {
	r := newRig(t)
	got := r.mustSend("a-1", "k-1", credit{Amount: 5, Times: 2})
	want := Receipt{ID: "a-1", Version: 2, Events: []EventRef{
		{"test.v1.Credited", es.EventID("a-1", "k-1", 0), 1}, {"test.v1.Credited", es.EventID("a-1", "k-1", 1), 2},
	}}
	want.Position = got.Position
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	ends, err := r.log.Ends(t.Context(), r.topic)
	if err != nil || ends[got.Position.Partition] != got.Position.Offset+1 {
		t.Errorf("position %s, but the partition ends at %v (%v)", got.Position, ends, err)
	}
	if b, v := r.balance("a-1"); b != 10 || v != 2 {
		t.Errorf("balance %d at %d, want 10 at 2", b, v)
	}
	if _, err := r.send("a-1", "k-2", debit{11}); !errors.Is(err, errOverdrawn) {
		t.Errorf("got %v, want the decider's refusal", err)
	}
	// A refusal is not recorded: the same id may succeed later.
	r.mustSend("a-1", "k-3", credit{Amount: 1})
	if got := r.mustSend("a-1", "k-2", debit{11}); got.Version != 4 || got.Replayed {
		t.Errorf("got %+v, want version 4, decided now", got)
	}
	// Nothing to do: that is noted, and the note is what the receipt's position names.
	last := r.mustSend("a-1", "k-4", nothing{})
	if last.Version != 4 || len(last.Events) != 0 || last.Position.Offset <= got.Position.Offset {
		t.Errorf("nothing to do: got %+v", last)
	}
	if got := r.mustSend("a-9", "k-5", nothing{}); got.Version != 0 || got.Position.IsZero() {
		t.Errorf("nothing to do on an empty stream: got %+v", got)
	}
}

// TestNothingToDo: a command that had nothing to do stays one, whatever becomes of its stream.
//
// G6: A command id takes effect at most once on its stream, for ever, and its repetition gets the first receipt.
func TestNothingToDo(t *testing.T) {
	r := newRig(t, func(r *rig) { r.cfg.Streams = 1 }) // hardly anything stays in memory
	first := map[string]Receipt{}
	begin := func(stream, id string) {
		t.Helper()
		// Nothing to do below 100.
		first[stream+"/"+id] = r.mustSend(stream, id, sweep{Above: 100})
	}
	begin("empty", "k-0")
	for i := range 40 {
		r.mustSend("a", fmt.Sprint("c-", i), credit{Amount: 1})
		begin("a", fmt.Sprint("k-", i))
	}
	r.mustSend("long", "c-1", credit{Amount: 1, Times: 2 * unindexed})
	begin("long", "k-1")
	for _, stream := range []string{"empty", "a", "long"} {
		r.mustSend(stream, "rich", credit{Amount: 1000})
	}
	again := func(when string) {
		t.Helper()
		for key, want := range first {
			stream, id, _ := strings.Cut(key, "/")
			got := r.mustSend(stream, id, sweep{Above: 100})
			want.Replayed = true
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s: %s (-first +repeat):\n%s", when, key, diff)
			}
			if _, err := r.send(stream, id, sweep{Above: 99}); !errors.Is(err, ErrReused) {
				t.Errorf("%s: %s with another payload: %v", when, key, err)
			}
		}
	}
	again("at once")
	r.restart(false)
	again("after a restart")
	r.restart(true)
	again("after the store was lost")
	if b, v := r.balance("empty"); b != 1000 || v != 1 {
		t.Errorf("balance %d at %d, want 1000 at 1", b, v)
	}
	if got := r.mustSend("empty", "k-9", sweep{Above: 100}); len(got.Events) != 1 {
		t.Errorf("a new command: %+v, want one event", got)
	}
}

// TestRepeat: a command id takes effect once, and its repetition gets the first receipt: from memory, from the store, after a restart,
// and after the store was lost.
//
// G6: A command id takes effect at most once on its stream, for ever, and its repetition gets the first receipt.
// G7: The same command id with another payload is refused and changes nothing.
// G11: Everything kept beside the log can be lost: the stream store is rebuilt from the log with the same receipts, states and versions.
func TestRepeat(t *testing.T) {
	r := newRig(t, func(r *rig) { r.cfg.Streams = 1 }) // hardly anything stays in memory
	first := map[string]Receipt{}
	for i := range 40 {
		id := fmt.Sprintf("k-%d", i)
		first[id] = r.mustSend("a-1", id, credit{Amount: int64(i), Times: 1 + i%3})
	}
	for i := range 10 {
		r.mustSend(fmt.Sprintf("other-%d", i), "k-1", credit{Amount: 1}) // the same id on another stream is another command
	}
	again := func(when string) {
		t.Helper()
		for i := range 40 {
			id := fmt.Sprintf("k-%d", i)
			got := r.mustSend("a-1", id, credit{Amount: int64(i), Times: 1 + i%3})
			if !got.Replayed {
				t.Fatalf("%s: %s was decided again: %+v", when, id, got)
			}
			got.Replayed = false
			if diff := cmp.Diff(first[id], got); diff != "" {
				t.Fatalf("%s: receipt of %s (-first +repeated):\n%s", when, id, diff)
			}
			if _, err := r.send("a-1", id, credit{Amount: -1}); !errors.Is(err, ErrReused) {
				t.Fatalf("%s: another command under %s: got %v, want ErrReused", when, id, err)
			}
			found, err := r.engine.Lookup(t.Context(), "a-1", id)
			if diff := cmp.Diff(first[id], found); diff != "" || err != nil {
				t.Fatalf("%s: look-up of %s: %v\n%s", when, id, err, diff)
			}
		}
		if _, err := r.engine.Lookup(t.Context(), "a-1", "never"); !errors.Is(err, ErrUnknownCommand) {
			t.Fatalf("%s: look-up of an unknown command: %v", when, err)
		}
	}
	again("in the same run")
	r.restart(false)
	again("after a restart")
	r.restart(true)
	again("after the store was lost")
}

// TestRepeatsTogether: the same command from many callers at once takes effect once, and all get the same receipt.
func TestRepeatsTogether(t *testing.T) {
	r := newRig(t)
	for round := range 20 {
		id := fmt.Sprintf("k-%d", round)
		var wg sync.WaitGroup
		receipts := make([]Receipt, 32)
		for i := range receipts {
			wg.Go(func() { receipts[i] = r.mustSend("a-1", id, credit{Amount: 1}) })
		}
		wg.Wait()
		fresh := 0
		for _, got := range receipts {
			if !got.Replayed {
				fresh++
			}
			got.Replayed = false
			want := receipts[0]
			want.Replayed = false
			if diff := cmp.Diff(want, got); diff != "" {
				t.Fatalf("receipts differ:\n%s", diff)
			}
		}
		if fresh != 1 {
			t.Fatalf("%d of 32 say that they were the first", fresh)
		}
	}
	if b, v := r.balance("a-1"); b != 20 || v != 20 {
		t.Errorf("balance %d at %d, want 20 at 20", b, v)
	}
}

// G9: A command with an expected version takes effect only if the stream has exactly that version.
func TestExpectedVersion(t *testing.T) {
	r := newRig(t)
	at := func(v es.Version) *es.Version { return &v }
	send := func(id string, v es.Version) error {
		_, err := r.engine.Handle(t.Context(), Command[cmd]{Stream: "a-1", ID: id, Payload: credit{Amount: 1}, Expect: at(v)})
		return err
	}
	if err := send("k-1", 1); !errors.Is(err, ErrVersion) || *fault.From(err).Current != 0 {
		t.Errorf("expected 1 of a new stream: got %v", err)
	}
	if err := send("k-1", 0); err != nil {
		t.Errorf("expected 0 of a new stream: %v", err)
	}
	if err := send("k-2", 0); !errors.Is(err, ErrVersion) || *fault.From(err).Current != 1 {
		t.Errorf("expected 0 at 1: got %v", err)
	}
	// A repeat gets its receipt, whatever it expects: it was decided then.
	if err := send("k-1", 0); err != nil {
		t.Errorf("repeat: %v", err)
	}
	// Of many who expect the same version one wins.
	var wg sync.WaitGroup
	var won sync.Map
	for i := range 32 {
		wg.Go(func() {
			if send(fmt.Sprintf("race-%d", i), 1) == nil {
				won.Store(i, true)
			}
		})
	}
	wg.Wait()
	n := 0
	won.Range(func(any, any) bool { n++; return true })
	if _, v := r.balance("a-1"); n != 1 || v != 2 {
		t.Errorf("%d won, the stream is at %d; want 1 and 2", n, v)
	}
}

// TestDeposed: another claimant takes the partitions again and again while commands run; the engine steps down, claims anew, and no
// command is lost or takes effect twice.
//
// G8: A command is decided on every event that was decided before it on its stream, whichever process decided them.
func TestDeposed(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := newRig(t, func(r *rig) { r.cfg.Topic.Partitions = 2 })
	const streams, commands = 8, 60
	stop := make(chan struct{})
	var thieves sync.WaitGroup
	thieves.Go(func() {
		rnd := rand.New(rand.NewPCG(seed, 1))
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Duration(1+rnd.IntN(20)) * time.Millisecond):
			}
			o, err := r.log.Claim(t.Context(), r.topic, rnd.Int32N(2), eventlog.Identity{Instance: "thief", Address: "127.0.0.1:2"}, r.marks)
			if err == nil {
				o.Release()
			}
		}
	})
	var wg sync.WaitGroup
	for i := range streams {
		wg.Go(func() {
			stream := fmt.Sprintf("a-%d", i)
			for j := range commands {
				for attempt := 0; ; attempt++ {
					got, err := r.send(stream, fmt.Sprintf("k-%d", j), credit{Amount: 1})
					if err == nil {
						if got.Version != es.Version(j+1) {
							t.Errorf("%s: command %d got version %d", stream, j, got.Version)
						}
						break
					}
					if !fault.KindOf(err).Retryable() || attempt > 50 {
						t.Errorf("%s: command %d: %v", stream, j, err)
						break
					}
				}
			}
		})
	}
	wg.Wait()
	close(stop)
	thieves.Wait()
	for i := range streams {
		if b, v := r.balance(fmt.Sprintf("a-%d", i)); b != commands || v != commands {
			t.Errorf("a-%d: balance %d at %d, want %d", i, b, v, commands)
		}
	}
	r.restart(true)
	for i := range streams {
		if b, v := r.balance(fmt.Sprintf("a-%d", i)); b != commands || v != commands {
			t.Errorf("rebuilt a-%d: balance %d at %d, want %d", i, b, v, commands)
		}
	}
}

// TestForeignWriter: somebody else's producer writes a perfect event into the partition.
//
// G4: A record that an owner did not write is dropped by our readers and reported, and never changes a state or a row.
func TestForeignWriter(t *testing.T) {
	r := newRig(t, func(r *rig) { r.cfg.Topic.Partitions = 1 })
	r.mustSend("a-1", "k-1", credit{Amount: 1})
	client, err := kgo.NewClient(kgo.SeedBrokers(r.addr), kgo.ConsumeTopics(r.topic.Name), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.DisableIdempotentWrite())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	var forged *kgo.Record
	for forged == nil {
		fetches := client.PollFetches(t.Context())
		fetches.EachRecord(func(rec *kgo.Record) {
			if string(rec.Key) == "a-1" {
				forged = &kgo.Record{Topic: rec.Topic, Partition: rec.Partition, Key: rec.Key, Value: rec.Value, Headers: slices.Clone(rec.Headers)}
			}
		})
	}
	for i, h := range forged.Headers {
		switch h.Key {
		case "ce_streamversion":
			forged.Headers[i].Value = []byte("2")
		case "ce_commandid":
			forged.Headers[i].Value = []byte("k-forged")
		}
	}
	for range 3 {
		again := *forged
		if err := client.ProduceSync(t.Context(), &again).FirstErr(); err != nil {
			t.Fatal(err)
		}
		// The owner finds its write somewhere else than expected, claims anew, and finds out what became of it.
		r.mustSend("a-1", fmt.Sprintf("k-%d", again.Offset), credit{Amount: 1})
	}
	check := func(when string) {
		t.Helper()
		if b, v := r.balance("a-1"); b != 4 || v != 4 {
			t.Errorf("%s: balance %d at %d, want 4 at 4", when, b, v)
		}
		if _, err := r.engine.Lookup(t.Context(), "a-1", "k-forged"); !errors.Is(err, ErrUnknownCommand) {
			t.Errorf("%s: the forged command is known: %v", when, err)
		}
	}
	check("at once")
	r.restart(true)
	check("rebuilt from the log")
}

func TestPanickingDecider(t *testing.T) {
	r := newRig(t)
	if _, err := r.send("a-1", "k-1", bug{}); !errors.Is(err, ErrDecider) {
		t.Errorf("got %v, want ErrDecider", err)
	}
	r.mustSend("a-1", "k-2", credit{Amount: 1})
}

func TestTooLarge(t *testing.T) {
	r := newRig(t)
	if _, err := r.send("a-1", "k-1", credit{Amount: 1, Times: 40, Note: strings.Repeat("x", 30_000)}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("got %v, want ErrTooLarge", err)
	}
	// A thousand events of one command are one write.
	got := r.mustSend("a-1", "k-2", credit{Amount: 1, Times: 1000})
	if got.Version != 1000 || len(got.Events) != 1000 {
		t.Errorf("version %d, %d events", got.Version, len(got.Events))
	}
	// Many big ones at once fill several writes.
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			r.mustSend(fmt.Sprintf("b-%d", i), "k-1", credit{Amount: 1, Times: 5, Note: strings.Repeat("y", 10_000)})
		})
	}
	wg.Wait()
	for i := range 64 {
		if _, v := r.balance(fmt.Sprintf("b-%d", i)); v != 5 {
			t.Errorf("b-%d is at %d", i, v)
		}
	}
}

func TestBadInput(t *testing.T) {
	r := newRig(t)
	for _, tc := range []struct {
		stream, id string
		want       error
	}{{"", "k", es.ErrID}, {"a/b", "k", es.ErrID}, {"a", "", ErrCommandID}, {"a", "k\n", ErrCommandID}, {strings.Repeat("a", 257), "k", es.ErrID}} {
		if _, err := r.send(tc.stream, tc.id, nothing{}); !errors.Is(err, tc.want) {
			t.Errorf("stream %.10q id %q: got %v, want %v", tc.stream, tc.id, err, tc.want)
		}
	}
}

func TestStreamReads(t *testing.T) {
	r := newRig(t)
	for i := range 5 {
		r.mustSend("a-1", fmt.Sprintf("k-%d", i), credit{Amount: int64(i), Times: 2})
	}
	got, err := r.engine.Events(t.Context(), "a-1", 4, 3)
	if err != nil || len(got) != 3 || got[0].Version != 4 || got[2].Version != 6 {
		t.Fatalf("events 4 to 6: %v, %d events", err, len(got))
	}
	e := got[0]
	if e.ID != es.EventID("a-1", "k-1", 1) || e.Index != 1 || e.Count != 2 || e.Meta.CommandID != "k-1" || e.Event != (credited{Amount: 1}) {
		t.Errorf("event 4: %+v", e)
	}
	if _, err := r.engine.Events(t.Context(), "a-2", 2, 3); !errors.Is(err, ErrStreamNotFound) {
		t.Errorf("no stream, from its second event on: %v", err)
	}
	if got, err := r.engine.Events(t.Context(), "a-1", 11, 3); err != nil || len(got) != 0 {
		t.Errorf("events after the last: %v, %v", got, err)
	}
	if _, err := r.engine.Events(t.Context(), "a-2", 1, 3); !errors.Is(err, ErrStreamNotFound) {
		t.Errorf("no stream: %v", err)
	}
	s, v, err := r.engine.State(t.Context(), "a-1", func(env es.Envelope[event]) bool { return env.Version <= 4 })
	if err != nil || v != 4 || s.Balance != 2 {
		t.Errorf("state at 4: %+v at %d, %v", s, v, err)
	}
}

// TestGivesUpCertainly: a caller whose command was never admitted learns that it will not take effect, and it does not.
//
// G10: A caller that is told that its command will not take effect can rely on it; where that is not certain, the answer is
// outcome_unknown.
func TestGivesUpCertainly(t *testing.T) {
	r := newRig(t)
	r.mustSend("a-1", "k-0", credit{Amount: 1})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	unavailable := 0
	for i := range 200 {
		_, err := r.engine.Handle(ctx, Command[cmd]{Stream: "a-1", ID: fmt.Sprintf("gone-%d", i), Payload: credit{Amount: 1}})
		found, lookup := r.engine.Lookup(t.Context(), "a-1", fmt.Sprintf("gone-%d", i))
		switch {
		case errors.Is(err, ErrUnavailable):
			unavailable++
			if !errors.Is(lookup, ErrUnknownCommand) {
				t.Fatalf("command %d was given up for certain, but took effect: %+v, %v", i, found, lookup)
			}
		case err == nil, errors.Is(err, ErrOutcome):
			if lookup != nil {
				t.Fatalf("command %d: %v, then %v", i, err, lookup)
			}
		default:
			t.Fatalf("command %d: %v", i, err)
		}
	}
	if unavailable == 0 {
		t.Error("no command was given up in the queue: the test shows nothing")
	}
}

// TestStop: commands that were admitted are answered, later ones are refused, and nothing acknowledged is missing afterwards.
func TestStop(t *testing.T) {
	r := newRig(t)
	r.mustSend("a-0", "warm", credit{Amount: 1})
	var wg sync.WaitGroup
	var mu sync.Mutex
	acked := map[string]int64{}
	stop := make(chan struct{})
	for i := range 8 {
		wg.Go(func() {
			stream := fmt.Sprintf("a-%d", i+1)
			for j := 0; ; j++ {
				_, err := r.engine.Handle(context.WithoutCancel(t.Context()), Command[cmd]{Stream: es.StreamID(stream), ID: fmt.Sprintf("k-%d", j), Payload: credit{Amount: 1}})
				if err != nil {
					if !fault.KindOf(err).Retryable() {
						t.Errorf("%s: %v", stream, err)
					}
					return
				}
				mu.Lock()
				acked[stream]++
				if acked[stream] == 50 {
					select {
					case <-stop:
					default:
						close(stop)
					}
				}
				mu.Unlock()
			}
		})
	}
	<-stop
	if err := r.stopped(); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	r.start()
	for stream, n := range acked {
		if b, _ := r.balance(stream); b < n {
			t.Errorf("%s: %d acknowledged, balance %d", stream, n, b)
		}
	}
}

// TestAgainstModel runs random commands on a few streams from many callers, with restarts, and compares with a model that is told the
// order by the versions in the receipts, and with the log itself.
//
// G5: An acknowledged command is in the log, all its events in one batch and in order.
func TestAgainstModel(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := newRig(t, func(r *rig) { r.cfg.Streams = 4; r.cfg.BatchRecords = 16 })
	type done struct {
		c       cmd
		receipt Receipt
	}
	var mu sync.Mutex
	history := map[string][]done{}
	for round := range 4 {
		var wg sync.WaitGroup
		for w := range 16 {
			wg.Go(func() {
				rnd := rand.New(rand.NewPCG(seed, uint64(round*100+w)))
				for i := range 50 {
					stream := fmt.Sprintf("a-%d", rnd.IntN(12))
					var c cmd = credit{Amount: 1 + rnd.Int64N(9), Times: 1 + rnd.IntN(3)}
					if rnd.IntN(2) == 0 {
						c = debit{1 + rnd.Int64N(30)}
					}
					got, err := r.send(stream, fmt.Sprintf("k-%d-%d-%d", round, w, i), c)
					if errors.Is(err, errOverdrawn) {
						continue
					}
					if err != nil {
						t.Errorf("%s %+v: %v", stream, c, err)
						return
					}
					mu.Lock()
					history[stream] = append(history[stream], done{c, got})
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		r.restart(round%2 == 1)
	}
	log := r.readLog()
	for stream, all := range history {
		for i, env := range log[es.StreamID(stream)] {
			if env.Version != es.Version(i+1) {
				t.Fatalf("%s: the %d. event in the log has version %d", stream, i+1, env.Version)
			}
		}
		for _, d := range all {
			for i, ref := range d.receipt.Events {
				if ref.Version > es.Version(len(log[es.StreamID(stream)])) {
					t.Fatalf("%s: version %d was acknowledged but is not in the log", stream, ref.Version)
				}
				env := log[es.StreamID(stream)][ref.Version-1]
				// One batch has consecutive offsets, and the receipt names the last.
				want := d.receipt.Position.Offset - int64(len(d.receipt.Events)-1-i)
				if env.ID != ref.ID || env.Type != ref.Type || env.Position.Offset != want || env.Index != i || env.Count != len(d.receipt.Events) {
					t.Fatalf("%s: version %d was acknowledged as %+v at %d, the log has %+v", stream, ref.Version, ref, want, env)
				}
			}
		}
		byFirst := map[es.Version]done{}
		for _, d := range all {
			byFirst[d.receipt.Events[0].Version] = d
		}
		var s account
		v := es.Version(0)
		for len(byFirst) > 0 {
			d, ok := byFirst[v+1]
			if !ok {
				t.Fatalf("%s: no receipt begins at version %d", stream, v+1)
			}
			delete(byFirst, v+1)
			events, err := decider.Decide(s, d.c, es.Meta{})
			if err != nil || len(events) != len(d.receipt.Events) {
				t.Fatalf("%s at %d: %+v was accepted with %d events, the model says %d, %v", stream, v, d.c, len(d.receipt.Events), len(events), err)
			}
			for _, e := range events {
				s = decider.Evolve(s, e)
				v++
			}
		}
		if b, version := r.balance(stream); b != s.Balance || version != v {
			t.Errorf("%s: balance %d at %d, the model says %d at %d", stream, b, version, s.Balance, v)
		}
	}
}
