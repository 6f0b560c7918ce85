package audit_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/platform/audit"
	"github.com/millrace/millrace/platform/embedded"
	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/eventlog"
)

// A rig is a broker with a topic of one partition, in which tests write what they like.
type rig struct {
	t     testing.TB
	addr  string
	log   *eventlog.Client
	topic eventlog.Topic
}

func newRig(t testing.TB, partitions int32) *rig {
	t.Helper()
	broker, err := embedded.Start(embedded.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(broker.Close)
	r := &rig{t: t, addr: broker.Addr()}
	r.log = r.open()
	if r.topic, err = r.log.EnsureTopic(r.ctx(), eventlog.TopicSpec{Name: "things.events", Partitions: partitions}); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *rig) ctx() context.Context {
	ctx, cancel := context.WithTimeout(r.t.Context(), 30*time.Second)
	r.t.Cleanup(cancel)
	return ctx
}

func (r *rig) open() *eventlog.Client {
	r.t.Helper()
	log, err := eventlog.Open(r.ctx(), eventlog.Config{Brokers: []string{r.addr}, Env: "test", FetchWait: 50 * time.Millisecond, TopicMissing: 100 * time.Millisecond})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(log.Close)
	return log
}

func (r *rig) claim(partition int32) *eventlog.Owner {
	r.t.Helper()
	o, err := r.log.Claim(r.ctx(), r.topic, partition, eventlog.Identity{Instance: "a", Address: "a:1"}, eventlog.NoopMarks)
	if err != nil {
		r.t.Fatal(err)
	}
	return o
}

// An event is one record of a command.
type event struct {
	stream, command       string
	version, index, count int
}

func (e event) headers() []eventlog.Header {
	var all []eventlog.Header
	for _, h := range [][2]string{{"ce_specversion", "1.0"}, {"ce_id", es.EventID(es.StreamID(e.stream), e.command, e.index)}, {"ce_type", "Done"}, {"ce_subject", e.stream}, {"ce_commandid", e.command},
		{"ce_streamversion", strconv.Itoa(e.version)}, {"ce_commandindex", strconv.Itoa(e.index)}, {"ce_commandcount", strconv.Itoa(e.count)}} {
		all = append(all, eventlog.Header{Key: h[0], Value: []byte(h[1])})
	}
	return all
}

// write appends events in one batch of the owner, whatever they are.
func (r *rig) write(o *eventlog.Owner, events ...event) {
	r.t.Helper()
	b := eventlog.NewBatch(0)
	for _, e := range events {
		if err := b.Add([]byte(e.stream), []byte("{}"), e.headers()); err != nil {
			r.t.Fatal(err)
		}
	}
	done := make(chan error, 1)
	o.Append(b, func(_ int64, err error) { done <- err })
	if err := <-done; err != nil {
		r.t.Fatal(err)
	}
}

// foreign writes events as any other producer does, past the owner.
func (r *rig) foreign(partition int32, events ...event) {
	r.t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(r.addr), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.DisableIdempotentWrite())
	if err != nil {
		r.t.Fatal(err)
	}
	defer client.Close()
	for _, e := range events {
		record := &kgo.Record{Topic: r.topic.Name, Partition: partition, Key: []byte(e.stream), Value: []byte("{}"), Headers: e.headers()}
		if err := client.ProduceSync(r.ctx(), record).FirstErr(); err != nil {
			r.t.Fatal(err)
		}
	}
}

// depose writes a claim of another producer id, without shutting out the owner's as an owner would, and lets that one write on.
func (r *rig) depose(o *eventlog.Owner, e event) {
	r.t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(r.addr), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		r.t.Fatal(err)
	}
	defer client.Close()
	claim := &kgo.Record{Topic: r.topic.Name, Headers: []kgo.RecordHeader{{Key: "millrace-mark", Value: []byte("claim")}, {Key: "millrace-instance", Value: []byte("b")}, {Key: "millrace-address", Value: []byte("b:1")}}}
	if err := client.ProduceSync(r.ctx(), claim).FirstErr(); err != nil {
		r.t.Fatal(err)
	}
	b := eventlog.NewBatch(0)
	if err := b.Add([]byte(e.stream), []byte("{}"), e.headers()); err != nil {
		r.t.Fatal(err)
	}
	done := make(chan error, 1)
	o.Append(b, func(_ int64, err error) { done <- err })
	<-done // it is in the log, and the owner finds that somebody else writes
}

func (r *rig) admin() *kadm.Client {
	r.t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(r.addr))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(client.Close)
	return kadm.NewClient(client)
}

// found audits up to the end and returns what was found, as "offset code".
func (r *rig) found(state string) []string {
	r.t.Helper()
	var all []string
	a := r.audit(state, func(f audit.Finding) { all = append(all, fmt.Sprint(f.Position.Offset, " ", f.Code)) })
	if err := a.Once(r.ctx()); err != nil {
		r.t.Fatal(err)
	}
	if p := a.Progress(); p.Behind != 0 || int(p.Findings) != len(all) || len(all) > 0 != (p.First != nil) {
		r.t.Errorf("%+v after %v", p, all)
	}
	return all
}

func (r *rig) audit(state string, report func(audit.Finding)) *audit.Audit {
	r.t.Helper()
	a, err := audit.New(audit.Config{Log: r.log, Topics: []string{r.topic.Name}, State: state, Report: report})
	if err != nil {
		r.t.Fatal(err)
	}
	return a
}

func (r *rig) expect(state string, want ...string) {
	r.t.Helper()
	if got := r.found(state); !slices.Equal(got, want) {
		r.t.Errorf("found %q, want %q", got, want)
	}
}

// A log that only owners wrote is clean, whoever they were; broken ones are not.
func TestOnce(t *testing.T) {
	for _, c := range []struct {
		name  string
		write func(r *rig, o *eventlog.Owner) // after claim 0 and event 1, version 1 of s
		want  []string
	}{
		{"clean", func(r *rig, o *eventlog.Owner) {
			r.write(o, event{"s", "b", 2, 0, 2}, event{"s", "b", 3, 1, 2}, event{"u", "b", 1, 0, 1})
			o.Release()
			r.write(r.claim(0), event{"s", "c", 4, 0, 1})
		}, nil},
		{"a foreign producer", func(r *rig, o *eventlog.Owner) {
			r.foreign(0, event{"s", "b", 2, 0, 1}, event{"s", "c", 3, 0, 1})
		}, []string{"2 rogue_record"}},
		{"a foreign producer between events", func(r *rig, o *eventlog.Owner) {
			r.foreign(0, event{"s", "b", 2, 0, 1})
			r.write(r.claim(0), event{"s", "b", 2, 0, 1})
			r.foreign(0, event{"u", "b", 2, 0, 1})
		}, []string{"2 rogue_record", "5 rogue_record"}},
		{"a version twice", func(r *rig, o *eventlog.Owner) { r.write(o, event{"s", "b", 1, 0, 1}, event{"s", "c", 2, 0, 1}) }, []string{"2 version_order"}},
		{"a version left out", func(r *rig, o *eventlog.Owner) { r.write(o, event{"s", "b", 3, 0, 1}) }, []string{"2 version_order"}},
		{"a command twice", func(r *rig, o *eventlog.Owner) { r.write(o, event{"s", "a", 2, 0, 1}) }, []string{"2 command_twice"}},
		{"half a command", func(r *rig, o *eventlog.Owner) { r.write(o, event{"s", "b", 2, 0, 2}) }, []string{"2 command_torn"}},
		{"no event", func(r *rig, o *eventlog.Owner) { r.write(o, event{"s", "", 2, 0, 1}) }, []string{"2 malformed_event"}},
		{"an old epoch", func(r *rig, o *eventlog.Owner) { r.depose(o, event{"s", "b", 2, 0, 1}) }, []string{"3 rogue_record"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, 1)
			o := r.claim(0)
			r.write(o, event{"s", "a", 1, 0, 1})
			c.write(r, o)
			r.expect("", c.want...)
		})
	}
}

// A second look begins where the first ended, knows what that knew, and reports nothing again.
func TestState(t *testing.T) {
	r := newRig(t, 1)
	state := filepath.Join(t.TempDir(), "audit")
	r.expect(state)
	o := r.claim(0)
	r.write(o, event{"s", "a", 1, 0, 1}, event{"s", "b", 2, 0, 1})
	r.expect(state)
	r.expect(state)
	r.write(o, event{"s", "c", 3, 0, 1}, event{"s", "a", 4, 0, 1}, event{"s", "d", 4, 0, 1})
	r.expect(state, "4 command_twice", "5 version_order")
	a := r.audit(state, func(f audit.Finding) { t.Error(f) })
	if err := a.Once(r.ctx()); err != nil {
		t.Fatal(err)
	}
	if p := a.Progress(); p.Records != 0 || p.Streams != 1 || p.Earlier != 2 || p.Before == nil || p.Before.Code != audit.Twice || p.Before.Position.Offset != 4 {
		t.Errorf("%+v", p)
	}
	r.write(o, event{"s", "e", 5, 0, 1})
	r.expect(state)
	r.expect("", "4 command_twice", "5 version_order")
}

// What is gone from the log is reported, and the other partitions are judged all the same.
func TestLost(t *testing.T) {
	r := newRig(t, 2)
	for p := range int32(2) {
		stream := "a"
		for n := 0; eventlog.PartitionOf(es.StreamID(stream), 2) != p; n++ {
			stream = fmt.Sprint("a", n)
		}
		o := r.claim(p)
		r.write(o, event{stream, "a", 1, 0, 1})
		if p == 1 {
			r.write(o, event{stream, "b", 3, 0, 1})
		}
	}
	state := filepath.Join(t.TempDir(), "audit")
	offsets := kadm.Offsets{}
	offsets.AddOffset(r.topic.Name, 0, 1, -1)
	if _, err := r.admin().DeleteRecords(r.ctx(), offsets); err != nil {
		t.Fatal(err)
	}
	r.expect(state, "0 log_lost", "2 version_order")
	if _, err := r.admin().DeleteTopics(r.ctx(), r.topic.Name); err != nil {
		t.Fatal(err)
	}
	r.log = r.open()
	var err error
	if r.topic, err = r.log.EnsureTopic(r.ctx(), eventlog.TopicSpec{Name: r.topic.Name, Partitions: 2}); err != nil {
		t.Fatal(err)
	}
	reported := 0
	a := r.audit(state, func(audit.Finding) { reported++ })
	for range 2 { // the second time there is nothing new
		if err := a.Once(r.ctx()); err != nil || reported != 2 {
			t.Errorf("%v, %d findings", err, reported)
		}
	}
	r.expect(state, "0 log_lost", "3 log_lost")
}

// Run sees what comes, until it is stopped, and keeps where it was.
func TestRun(t *testing.T) {
	r := newRig(t, 1)
	o := r.claim(0)
	state := filepath.Join(t.TempDir(), "audit")
	findings := make(chan audit.Finding, 10)
	a := r.audit(state, func(f audit.Finding) { findings <- f })
	ctx, stop := context.WithCancel(r.ctx())
	var running sync.WaitGroup
	running.Go(func() {
		if err := a.Run(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("Run: %v", err)
		}
	})
	for v := 1; v <= 3; v++ {
		r.write(o, event{"s", fmt.Sprint("c", v), 2 * v, 0, 1})
		select {
		case f := <-findings:
			if f.Code != audit.Version || f.Position.Offset != int64(v) || f.Stream != "s" || f.Want != fmt.Sprint(2*v-1) || f.Got != fmt.Sprint(2*v) {
				t.Errorf("%+v", f)
			}
		case <-ctx.Done():
			t.Fatal("never found")
		}
	}
	stop()
	running.Wait()
	r.expect(state)
}

// A log that loses its beginning while it is read is reported once, and Run goes on.
func TestGap(t *testing.T) {
	r := newRig(t, 1)
	o := r.claim(0)
	for n := range 50 {
		r.write(o, event{"s", fmt.Sprint("c", n), 2*n + 2, 0, 1})
	}
	log, err := eventlog.Open(r.ctx(), eventlog.Config{Brokers: []string{r.addr}, Env: "test", FetchWait: 50 * time.Millisecond, FetchBytes: 8})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(log.Close)
	admin, ctx := r.admin(), r.ctx()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	lost := 0
	a, err := audit.New(audit.Config{Log: log, Topics: []string{r.topic.Name}, Report: func(f audit.Finding) {
		if f.Code == audit.Version && f.Position.Offset == 1 {
			// What the source has fetched already it returns; it asks for the rest in vain.
			offsets := kadm.Offsets{}
			offsets.AddOffset(r.topic.Name, 0, 51, -1)
			if _, err := admin.DeleteRecords(ctx, offsets); err != nil {
				t.Error(err)
			}
		}
		if f.Code == audit.Lost {
			lost++
			stop()
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Run(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Run: %v", err)
	}
	if lost != 1 {
		t.Errorf("reported %d times", lost)
	}
}

func TestConfig(t *testing.T) {
	r := newRig(t, 1)
	for name, cfg := range map[string]audit.Config{
		"no log":        {Topics: []string{"t"}},
		"no topic":      {Log: r.log},
		"negative rate": {Log: r.log, Topics: []string{"t"}, Rate: -1},
	} {
		if _, err := audit.New(cfg); !errors.Is(err, audit.ErrConfig) {
			t.Errorf("%s: %v", name, err)
		}
	}
	a, err := audit.New(audit.Config{Log: r.log, Topics: []string{"nowhere.events"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Once(r.ctx()); !errors.Is(err, eventlog.ErrTopic) {
		t.Errorf("no such topic: %v", err)
	}
}
