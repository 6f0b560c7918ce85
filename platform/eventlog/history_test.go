package eventlog

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/millrace/millrace/platform/es"
)

var (
	historySeed = flag.Uint64("history.seed", 0, "seed of the random history; 0 takes one from the clock")
	historyLong = flag.Bool("history.long", false, "also run what takes minutes")
	historyTime = flag.Duration("history.time", 2*time.Second, "how long the random history runs")
)

// TestRandomHistory lets several processes fight over the partitions of a topic while connections are reset, requests and answers
// are lost, delayed and delivered late, and leaders move; deposed owners go on writing. A checker then reads the log.
//
// Each event holds the count of the events before it, as its writer knew it: a write on a state that was not the latest would show.
//
// G1: Only the latest claimant of a partition can append to it: the brokers refuse every batch of an earlier owner once the new claim is in
// the log.
// G2: A batch is in the log once or not at all, also when its answer was lost and it was sent again.
func TestRandomHistory(t *testing.T) {
	t.Run("embedded", func(t *testing.T) {
		runHistory(t, fakeSite(t, kfake.NumBrokers(3), kfake.BrokerConfigs(map[string]string{"default.replication.factor": "3"})))
	})
	t.Run("real", func(t *testing.T) { runHistory(t, realSite(t)) })
}

const (
	historyWriters    = 3
	historyPartitions = 3
)

// A told is what a writer was told of one batch.
type told struct {
	tp     int32
	values []string
	base   int64
	err    error
	in     *bool // of an open outcome: whether reading through a later claim found it; nil = nobody looked
}

type history struct {
	site    site
	control *Client // without faults
	topic   Topic
	mu      sync.Mutex
	told    []*told
	count   map[string]int
}

func (h *history) tell(x *told, kind string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if x != nil {
		h.told = append(h.told, x)
	}
	h.count[kind]++
}

func runHistory(t *testing.T, s site) {
	seed := *historySeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d: go test ./eventlog -run RandomHistory -history.seed %d -history.time %v", seed, seed, *historyTime)
	h := &history{site: s, control: s.open(t), count: map[string]int{}}
	h.topic = topicOf(t, h.control, historyPartitions)
	ctx, cancel := context.WithTimeout(t.Context(), *historyTime)
	defer cancel()

	var wg sync.WaitGroup
	wires := make([]*wire, historyWriters)
	for i := range wires {
		wires[i] = &wire{}
		c := s.open(t, func(cfg *Config) { cfg.Dial = wires[i].dial; cfg.RequestTimeout = 300 * time.Millisecond })
		for p := range int32(historyPartitions) {
			rng := rand.New(rand.NewPCG(seed, uint64(i)<<32|uint64(p)))
			wg.Go(func() { h.writer(ctx, t, c, i, p, rng) })
		}
	}
	h.nemesis(ctx, wires, rand.New(rand.NewPCG(seed, 1<<63)))
	wg.Wait()
	h.check(t)
}

// nemesis breaks the network of one writer after the other.
func (h *history) nemesis(ctx context.Context, wires []*wire, rng *rand.Rand) {
	pause := func(d time.Duration) {
		select {
		case <-ctx.Done():
		case <-time.After(d):
		}
	}
	for ctx.Err() == nil {
		w := wires[rng.IntN(len(wires))]
		switch rng.IntN(6) {
		case 0:
			w.cut(false)
		case 1:
			w.cut(true)
			pause(time.Duration(rng.IntN(60)) * time.Millisecond)
			w.cut(false)
		case 2:
			w.set(func() { w.loseReply = 1 + rng.IntN(3) })
		case 3:
			w.set(func() { w.loseRequest = 1 + rng.IntN(3) })
		case 4:
			w.set(func() { w.hold = true })
			pause(time.Duration(rng.IntN(80)) * time.Millisecond)
			_ = w.deliver() // to a broker that may be gone
		case 5:
			if h.site.fake != nil {
				_ = h.site.fake.MoveTopicPartition(h.topic.Name, int32(rng.IntN(historyPartitions)), int32(rng.IntN(3)))
			}
		}
		pause(time.Duration(1+rng.IntN(20)) * time.Millisecond)
	}
	for _, w := range wires {
		w.cut(false)
		w.set(func() { w.loseReply, w.loseRequest, w.hold, w.held = 0, 0, false, nil })
	}
}

// writer claims, reads, writes until it is deposed, goes on writing for a while, and begins again.
func (h *history) writer(ctx context.Context, t *testing.T, c *Client, id int, p int32, rng *rand.Rand) {
	// What is under way when the time is over still ends, so that the checker knows what was told.
	bound, cancel := context.WithTimeout(context.WithoutCancel(ctx), *historyTime+30*time.Second)
	defer cancel()
	cursor, count, n := h.topic.Start(p), 0, 0
	var open []*told
	for ctx.Err() == nil {
		o, err := c.Claim(bound, h.topic, p, Identity{fmt.Sprint(id), ""}, NoopMarks)
		if err != nil {
			if !errors.Is(err, ErrFenced) && !errors.Is(err, ErrOutcome) && !errors.Is(err, ErrUnreachable) && !errors.Is(err, ErrRead) {
				t.Errorf("claim: %v", err)
				return
			}
			h.tell(nil, "claims lost")
			continue
		}
		h.tell(nil, "claims")
		seen, err := follow(bound, c, &cursor, o.claim, &count)
		if err != nil {
			t.Errorf("read: %v", err)
			return
		}
		h.mu.Lock()
		for _, x := range open {
			in := seen[x.values[0]]
			x.in = &in
		}
		h.mu.Unlock()
		open = open[:0]
		for k := 5 + rng.IntN(60); k > 0 && ctx.Err() == nil; k-- {
			x := &told{tp: p}
			for range 1 + rng.IntN(8) {
				x.values = append(x.values, fmt.Sprintf("%d w%d/%d", count+len(x.values), id, n))
			}
			n++
			b := NewBatch(0)
			for _, v := range x.values {
				if err := b.Add(nil, []byte(v), nil); err != nil {
					t.Error(err)
				}
			}
			r := <-start(o, b)
			x.base, x.err = r.base, r.err
			switch {
			case r.err == nil:
				count += len(x.values)
				h.tell(x, "acknowledged")
				continue
			case errors.Is(r.err, ErrOutcome):
				open = append(open, x)
				h.tell(x, "open")
			case errors.Is(r.err, ErrFenced):
				h.tell(x, "refused")
			default:
				t.Errorf("append: %v", r.err)
				return
			}
			if errors.Is(o.Err(), ErrForeign) {
				t.Errorf("nobody foreign wrote: %v", o.Err())
				return
			}
			h.zombie(t, o, p)
			break
		}
		o.Release()
		select {
		case <-ctx.Done():
		case <-time.After(time.Duration(rng.IntN(15)) * time.Millisecond):
		}
	}
}

// zombie sends, over a network without faults, what the deposed owner could.
func (h *history) zombie(t *testing.T, o *Owner, p int32) {
	for _, sequence := range []int32{o.sequence, 0, o.sequence + 1} {
		if base, err := raw(t, h.control, h.topic, p, o.pid, o.epoch, sequence, "zombie"); !errors.Is(err, kerr.InvalidProducerEpoch) {
			t.Errorf("a zombie of epoch %d at sequence %d was answered %d, %v", o.epoch, sequence, base, err)
		}
		h.tell(nil, "zombie writes refused")
	}
}

// follow reads through an offset, counts the events and returns their values.
func follow(ctx context.Context, c *Client, cursor *Cursor, through int64, count *int) (map[string]bool, error) {
	seen := map[string]bool{}
	src, err := c.NewSource(ctx, *cursor)
	if err != nil {
		if errors.Is(err, ErrCursor) {
			return nil, err
		}
		// The network, maybe: the position is kept, so it is tried again.
		if ctx.Err() == nil {
			return follow(ctx, c, cursor, through, count)
		}
		return nil, err
	}
	defer src.Close()
	*count = 0
	if cursor.Next > 0 {
		return nil, errors.New("histories are read from the start")
	}
	cur := *cursor
	for cur.Next <= through {
		fs, err := src.Poll(ctx)
		if err != nil {
			return nil, err
		}
		for _, f := range fs {
			for _, r := range f.Records {
				if r.Mark == 0 && r.Position.Offset <= through {
					seen[string(r.Value)] = true
					*count++
				}
			}
			if f.Rogue > 0 {
				return nil, fmt.Errorf("%d rogue records", f.Rogue)
			}
			cur = f.Cursor
		}
	}
	return seen, nil
}

// check compares the log with what the writers were told.
func (h *history) check(t *testing.T) {
	t.Helper()
	at := map[string]es.Position{}
	events, epochs := 0, 0
	for p := range int32(historyPartitions) {
		ctx := ctxOf(t)
		ends, err := h.control.Ends(ctx, h.topic)
		if err != nil {
			t.Fatal(err)
		}
		src, err := h.control.NewSource(ctx, h.topic.Start(p))
		if err != nil {
			t.Fatal(err)
		}
		count, next, epoch, pid := 0, int64(0), int16(-1), int64(-1)
		for next < ends[p] {
			fs, err := src.Poll(ctx)
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range fs {
				if f.Rogue > 0 {
					t.Errorf("partition %d holds %d rogue records", p, f.Rogue)
				}
				for _, r := range f.Records {
					if r.Mark == MarkClaim {
						if r.ProducerID == pid && r.Epoch <= epoch {
							t.Errorf("%v: epoch %d after %d", r.Position, r.Epoch, epoch)
						}
						pid, epoch = r.ProducerID, r.Epoch
						epochs++
						continue
					}
					if r.Mark != 0 {
						continue
					}
					v := string(r.Value)
					if n, err := strconv.Atoi(v[:strings.IndexByte(v, ' ')]); err != nil || n != count {
						t.Fatalf("%v: %q is written on a state of %s events, there are %d", r.Position, v, v, count)
					}
					if old, ok := at[fmt.Sprint(p, " ", v)]; ok {
						t.Errorf("%q is at %v and at %v", v, old, r.Position)
					}
					at[fmt.Sprint(p, " ", v)] = r.Position
					count++
				}
				next = f.Cursor.Next
			}
		}
		events += count
		src.Close()
	}
	known := 0
	for _, x := range h.told {
		here := 0
		for i, v := range x.values {
			if pos, ok := at[fmt.Sprint(x.tp, " ", v)]; ok {
				here++
				known++
				if x.err == nil && pos.Offset != x.base+int64(i) {
					t.Errorf("%q was acknowledged at %d and is at %v", v, x.base+int64(i), pos)
				}
			}
		}
		switch {
		case here != 0 && here != len(x.values):
			t.Errorf("%d of the %d events of one batch are in the log: %q", here, len(x.values), x.values)
		case x.err == nil && here == 0:
			t.Errorf("an acknowledged batch is lost: %q", x.values)
		case errors.Is(x.err, ErrFenced) && here != 0:
			t.Errorf("a refused batch is in the log: %q, %v", x.values, x.err)
		case x.in != nil && *x.in != (here != 0):
			t.Errorf("a batch was settled as written=%v, and it is %v: %q", *x.in, here != 0, x.values)
		}
	}
	if known != events {
		t.Errorf("%d events in the log, %d of them are known", events, known)
	}
	t.Logf("%d events, %d claims in the log, told: %v", events, epochs, maps.Clone(h.count))
	if h.count["acknowledged"] == 0 || h.count["zombie writes refused"] == 0 {
		t.Error("nothing happened")
	}
}
