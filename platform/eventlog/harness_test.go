package eventlog

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// realKafka names the environment variable with the address of a real Kafka; without it only the embedded one is tested.
const realKafka = "MILLRACE_TEST_KAFKA"

// A site is a cluster under test.
type site struct {
	addr string
	fake *kfake.Cluster // nil for a real one
}

// everywhere runs a test on the embedded broker and, if there is one, on a real Kafka.
func everywhere(t *testing.T, test func(t *testing.T, s site)) {
	t.Run("embedded", func(t *testing.T) { test(t, fakeSite(t)) })
	t.Run("real", func(t *testing.T) { test(t, realSite(t)) })
}

func fakeSite(t testing.TB, opts ...kfake.Opt) site {
	t.Helper()
	c, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(1), kfake.BrokerConfigs(map[string]string{"default.replication.factor": "1"})}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return site{addr: c.ListenAddrs()[0], fake: c}
}

func realSite(t testing.TB) site {
	t.Helper()
	addr := os.Getenv(realKafka)
	if addr == "" {
		t.Skip(realKafka + " is not set")
	}
	return site{addr: addr}
}

// ctxOf bounds a test.
func ctxOf(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// open connects with short time constants; change adapts them.
func (s site) open(t testing.TB, change ...func(*Config)) *Client {
	t.Helper()
	cfg := Config{Brokers: strings.Split(s.addr, ","), Env: "test", Backoff: 2 * time.Millisecond, BackoffMax: 50 * time.Millisecond,
		RequestTimeout: time.Second, ConnectionTimeout: 2 * time.Second, FetchWait: 200 * time.Millisecond, TopicMissing: 500 * time.Millisecond}
	for _, f := range change {
		f(&cfg)
	}
	c, err := Open(ctxOf(t), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// topic makes a topic that no other test has.
func topicOf(t testing.TB, c *Client, partitions int32) Topic {
	t.Helper()
	name := fmt.Sprintf("test-%x.events", rand.Uint64())
	topic, err := c.EnsureTopic(ctxOf(t), TopicSpec{Name: name, Partitions: partitions})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { deleteTopic(t, c.cfg.Brokers, name) })
	return topic
}

func deleteTopic(t testing.TB, brokers []string, name string) {
	k, err := kgo.NewClient(kgo.SeedBrokers(brokers...))
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_, _ = adminOf(k).DeleteTopics(ctx, name)
}

func claim(t testing.TB, c *Client, topic Topic, partition int32, instance string) *Owner {
	t.Helper()
	o, err := c.Claim(ctxOf(t), topic, partition, Identity{instance, instance + ":1"}, NoopMarks)
	if err != nil {
		t.Fatalf("claim: %v", err)
	}
	return o
}

// batchOf returns a batch with one record for each value.
func batchOf(t testing.TB, values ...string) *Batch {
	t.Helper()
	b := NewBatch(0)
	for _, v := range values {
		if err := b.Add([]byte("key"), []byte(v), nil); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

type appended struct {
	base int64
	err  error
}

// start appends without waiting.
func start(o *Owner, b *Batch) <-chan appended {
	ch := make(chan appended, 2) // a second call of done would be seen
	o.Append(b, func(base int64, err error) { ch <- appended{base, err} })
	return ch
}

// write appends values and waits for the outcome.
func write(t testing.TB, o *Owner, values ...string) (int64, error) {
	t.Helper()
	select {
	case r := <-start(o, batchOf(t, values...)):
		return r.base, r.err
	case <-ctxOf(t).Done():
		t.Fatal("an append was never answered")
		return 0, nil
	}
}

func mustWrite(t testing.TB, o *Owner, values ...string) int64 {
	t.Helper()
	base, err := write(t, o, values...)
	if err != nil {
		t.Fatalf("append: %v", err)
	}
	return base
}

// raw sends a batch of a made-up producer, once, and returns the broker's answer.
func raw(t testing.TB, c *Client, topic Topic, partition int32, pid int64, epoch int16, sequence int32, values ...string) (int64, error) {
	t.Helper()
	b := batchOf(t, values...)
	o := &Owner{client: c, topic: topic}
	o.tp.Topic, o.tp.Partition = topic.Name, partition
	a := &attempt{owner: o, batch: b, count: b.count, bytes: b.seal(pid, epoch, sequence, time.Now())}
	for {
		leader, err := c.routes.leader(ctxOf(t), topic, partition, true)
		if err != nil {
			t.Fatal(err)
		}
		r := c.produce(c.kafka, leader, []*attempt{a}, nil)[0]
		if r.err != nil {
			t.Fatalf("raw produce: %v", r.err)
		}
		if err = kerr.ErrorForCode(r.code); errors.Is(err, kerr.NotLeaderForPartition) {
			continue
		}
		return r.base, err
	}
}

// log reads a partition from the start to its present end, the values of events and the names of marks.
func readLog(t testing.TB, c *Client, topic Topic, partition int32) []string {
	t.Helper()
	var out []string
	for _, r := range records(t, c, topic.Start(partition)) {
		if r.Mark != 0 {
			out = append(out, r.Mark.String())
		} else {
			out = append(out, string(r.Value))
		}
	}
	return out
}

func records(t testing.TB, c *Client, from Cursor) []Record {
	t.Helper()
	ctx := ctxOf(t)
	ends, err := c.Ends(ctx, Topic{Name: from.TopicPartition.Topic, Partitions: from.TopicPartition.Partition + 1})
	if err != nil {
		t.Fatal(err)
	}
	s, err := c.NewSource(ctx, from)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var out []Record
	for at := from.Next; at < ends[from.TopicPartition.Partition]; {
		fs, err := s.Poll(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range fs {
			out = append(out, f.Records...)
			at = f.Cursor.Next
		}
	}
	return out
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	ctx := ctxOf(t)
	for !condition() {
		select {
		case <-ctx.Done():
			t.Fatalf("never: %s", what)
		case <-tick.C:
		}
	}
}

func lost(t testing.TB, o *Owner, want error) {
	t.Helper()
	select {
	case <-o.Lost():
	case <-ctxOf(t).Done():
		t.Fatal("the owner was never lost")
	}
	if err := o.Err(); !errors.Is(err, want) {
		t.Fatalf("the owner ended with %v, want %v", err, want)
	}
}

// A wire is a network that can be cut. Its zero value works.
type wire struct {
	mu          sync.Mutex
	conns       map[*wireConn]struct{}
	down        bool
	loseReply   int // so many produce requests are delivered and their answers lost
	loseRequest int // so many produce requests are lost
	hold        bool
	held        []heldRequest
	record      bool
	produced    [][]byte // produce requests as they went out, if record is set
	onProduce   func()   // called once, after a produce request was delivered whose answer will be lost
}

type heldRequest struct {
	to    string
	bytes []byte
}

type wireConn struct {
	net.Conn
	wire    *wire
	swallow bool // guarded by wire.mu
}

var errCut = errors.New("the test cut the connection")

func (w *wire) dial(ctx context.Context, network, host string) (net.Conn, error) {
	w.mu.Lock()
	down := w.down
	w.mu.Unlock()
	if down {
		return nil, &net.OpError{Op: "dial", Net: network, Err: errCut}
	}
	c, err := (&net.Dialer{}).DialContext(ctx, network, host)
	if err != nil {
		return nil, err
	}
	wc := &wireConn{Conn: c, wire: w}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.conns == nil {
		w.conns = map[*wireConn]struct{}{}
	}
	w.conns[wc] = struct{}{}
	return wc, nil
}

// cut resets every connection; down also refuses new ones.
func (w *wire) cut(down bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.down = down
	for c := range w.conns {
		_ = c.Conn.Close()
	}
	w.conns = nil
}

func (w *wire) set(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
}

func (c *wireConn) Write(b []byte) (int, error) {
	if len(b) < 8 || binary.BigEndian.Uint16(b[4:]) != 0 {
		return c.Conn.Write(b)
	}
	w := c.wire
	w.mu.Lock()
	if w.record {
		w.produced = append(w.produced, append([]byte(nil), b...))
	}
	switch {
	case w.hold:
		w.held = append(w.held, heldRequest{c.RemoteAddr().String(), append([]byte(nil), b...)})
		w.mu.Unlock()
		_ = c.Conn.Close()
		return len(b), nil
	case w.loseRequest > 0:
		w.loseRequest--
		w.mu.Unlock()
		_ = c.Conn.Close()
		return len(b), nil
	case w.loseReply > 0:
		w.loseReply--
		c.swallow = true
	}
	w.mu.Unlock()
	return c.Conn.Write(b)
}

func (c *wireConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.wire.mu.Lock()
	swallow, hook := c.swallow, c.wire.onProduce
	if swallow {
		c.wire.onProduce = nil
	}
	c.wire.mu.Unlock()
	if swallow && err == nil {
		// The answer is here, so the broker has done what it was asked.
		if hook != nil {
			hook()
		}
		_ = c.Conn.Close()
		return 0, io.EOF
	}
	return n, err
}

// batches returns the record batches of the produce requests that went out.
func (w *wire) batches(t testing.TB) [][]byte {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	var out [][]byte
	for _, b := range w.produced {
		req := kmsg.NewPtrProduceRequest()
		req.SetVersion(int16(binary.BigEndian.Uint16(b[6:])))
		head := 4 + 2 + 2 + 4 + 2 + int(binary.BigEndian.Uint16(b[12:]))
		if req.IsFlexible() {
			head++ // no tags
		}
		if err := req.ReadFrom(b[head:]); err != nil {
			t.Fatal(err)
		}
		for _, rt := range req.Topics {
			for _, rp := range rt.Partitions {
				out = append(out, rp.Records)
			}
		}
	}
	return out
}

// deliver sends held requests on connections of their own, long after their senders gave up, and returns when they are answered, or
// with the first error.
func (w *wire) deliver() error {
	w.mu.Lock()
	held := w.held
	w.held, w.hold = nil, false
	w.mu.Unlock()
	for _, h := range held {
		c, err := net.Dial("tcp", h.to)
		if err != nil {
			return err
		}
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		_, err = c.Write(h.bytes)
		if err == nil {
			_, err = io.ReadFull(c, make([]byte, 8))
		}
		_ = c.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

func contextAfter(t testing.TB, d time.Duration) (context.Context, context.CancelFunc) {
	t.Helper()
	return context.WithTimeout(t.Context(), d)
}

func alter(key, value string) []kadm.AlterConfig {
	return []kadm.AlterConfig{{Op: kadm.SetConfig, Name: key, Value: &value}}
}
