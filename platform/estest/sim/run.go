package sim

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/platform/contract"
	"github.com/millrace/millrace/platform/estest/check"
	"github.com/millrace/millrace/platform/estest/rawlog"
)

// topicName is the topic of every simulation.
const topicName = "accounts.events"

// group is the consumer group of the instances of every simulation in which they share.
const group = "accounts"

// A Report says what happened in a simulation, and what is wrong with it.
type Report struct {
	Seed       uint64
	Faults     map[string]int        // by kind
	Outcomes   map[check.Outcome]int // of attempts
	Events     int                   // in the log
	Claims     int                   // in the log
	Rogue      int                   // records that readers dropped
	Exits      int                   // instances that ended by themselves
	Simulated  time.Duration         // in fake time
	Violations []check.Violation

	records []check.Record
	left    check.Run
}

// A simulation is one run of a schedule.
type simulation struct {
	schedule
	cluster *cluster
	nodes   []*node
	load    *workload
	rec     *recorder
	codec   *contract.Codec[event]
	control *link
	report  *Report

	mu      sync.Mutex
	pending []func() // ends of faults
	broken  []check.Violation
}

func (s *simulation) violate(checker, format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.broken = append(s.broken, check.Violation{Checker: checker, Text: fmt.Sprintf(format, args...)})
}

// run plays a schedule in the calling bubble, with stores below dir.
func run(ctx context.Context, plan schedule, dir string, logger *slog.Logger) (*Report, error) {
	c, err := newCluster(plan.brokers, topicName, plan.partitions)
	if err != nil {
		return nil, err
	}
	defer c.kafka.Close()
	// Fake time passes at once where nothing but timers is left.
	guard := time.AfterFunc(20*time.Minute, func() { panic(fmt.Sprintf("sim: seed %d has not ended after 20 minutes of fake time", plan.seed)) })
	defer guard.Stop()
	s := &simulation{schedule: plan, cluster: c, rec: &recorder{began: time.Now()}, report: &Report{Seed: plan.seed, Faults: map[string]int{}, Outcomes: map[check.Outcome]int{}}}
	s.control = newLink(c.network, plan.seed, 1<<40, time.Millisecond)
	memory := contract.NewMemory()
	if s.codec, err = contract.Bind(ctx, accounts(topicName), memory); err != nil {
		return nil, err
	}
	set := settings{seed: plan.seed, memory: memory, lease: plan.lease, most: plan.latency, logger: logger}
	if plan.grouped {
		set.group = group
	}
	if plan.told {
		set.peer = func(address string) *node { return s.load.at(address) }
	}
	for i := range plan.nodes {
		s.nodes = append(s.nodes, &node{name: fmt.Sprint("node-", i), dir: filepath.Join(dir, fmt.Sprint("node-", i)), cluster: c, set: set})
	}
	for _, n := range s.nodes[:plan.running] {
		n.start(ctx)
	}
	auditor := &node{name: "auditor-9", dir: filepath.Join(dir, "auditor"), cluster: c, set: set}
	s.load = &workload{nodes: s.nodes, auditor: auditor, rec: s.rec, versions: map[string]int64{}}
	for i := range plan.streams {
		s.load.streams = append(s.load.streams, fmt.Sprint("account-", i))
	}
	clients, stopClients := context.WithCancel(ctx)
	var working sync.WaitGroup
	for i := range plan.clients {
		rng := rand.New(rand.NewPCG(plan.seed, uint64(100+i)))
		working.Go(func() { s.load.client(clients, fmt.Sprint("c", i), rng, plan.commands) })
	}
	s.nemesis(ctx)
	s.heal(ctx)
	working.Wait()
	stopClients()
	s.settle(ctx)
	err = s.collect(ctx)
	return s.report, err
}

// links returns the networks of all nodes.
func (s *simulation) links() []*link {
	var all []*link
	for _, n := range s.nodes {
		if l := n.link(); l != nil {
			all = append(all, l)
		}
	}
	return all
}

// nemesis lets the faults of the schedule happen.
func (s *simulation) nemesis(ctx context.Context) {
	began := time.Now()
	rng := rand.New(rand.NewPCG(s.seed, 1))
	for _, f := range s.steps {
		time.Sleep(time.Until(began.Add(f.at)))
		s.inflict(ctx, f, rng)
		s.report.Faults[f.kind]++
	}
	time.Sleep(time.Until(began.Add(s.length)))
}

// after lets something happen later, but not later than heal.
func (s *simulation) after(d time.Duration, f func()) {
	var once sync.Once
	do := func() { once.Do(f) }
	timer := time.AfterFunc(d, do)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pending = append(s.pending, func() { timer.Stop(); do() })
}

// inflict makes one fault.
func (s *simulation) inflict(ctx context.Context, f step, rng *rand.Rand) {
	n := s.nodes[f.node]
	l := n.link()
	if l == nil && f.kind != "start" {
		n.start(ctx)
		return
	}
	c := s.cluster
	switch f.kind {
	case "pause":
		l.set((*link).freeze)
		s.after(f.length, func() { l.set((*link).thaw) })
	case "cut":
		l.set(func(l *link) { l.down = true; l.cut("") })
		s.after(f.length, func() { l.set(func(l *link) { l.down = false }) })
	case "deafIn":
		l.set(func(l *link) { l.deafIn = true })
		s.after(f.length, func() { l.set(func(l *link) { l.deafIn = false }) })
	case "deafOut":
		l.set(func(l *link) { l.deafOut = true })
		s.after(f.length, func() { l.set(func(l *link) { l.deafOut = false }) })
	case "reset":
		l.set(func(l *link) { l.cut("") })
	case "loseReply":
		l.set(func(l *link) { l.loseReply += f.n })
	case "loseRequest":
		l.set(func(l *link) { l.loseRequest += f.n })
	case "late":
		l.set(func(l *link) { l.late, l.lateCount = f.length, l.lateCount+1+f.n })
	case "lag":
		l.set(func(l *link) { l.lag = f.length })
		s.after(4*f.length, func() { l.set(func(l *link) { l.lag = 0 }) })
	case "twice":
		l.set(func(l *link) { l.twice += f.n })
	case "kill", "wipe":
		if err := n.kill(f.kind == "wipe"); err != nil {
			s.violate("Process", "%s: %v", n.name, err)
		}
		s.after(f.length, func() { n.start(ctx) })
	case "stop":
		n.ghosts.Go(func() { // a process that is asked to stop may take its time
			if err := n.stop(); err != nil {
				s.violate("Process", "%v", err)
			}
		})
		s.after(f.length, func() { n.start(ctx) })
	case "start":
		n.start(ctx)
	case "broker":
		if up := c.alive(); len(up) > 1 || s.brokers == 1 {
			c.crash(f.broker, s.links())
			elect := rand.New(rand.NewPCG(s.seed, uint64(f.at)))
			s.after(f.length/3, func() { c.elect(elect) })
			s.after(f.length, func() { c.restart(f.broker, s.links()) })
		}
	case "leader":
		up := c.alive()
		if len(up) > 0 {
			c.lead(int32(f.n)%s.partitions, up[rng.IntN(len(up))]) //nolint:gosec // few
		}
	case "coordinator":
		c.kafka.RehashCoordinators()
	case "error":
		err := kerr.TypedErrorForCode(int16(f.n)) //nolint:gosec // a code
		if f.key == kmsg.InitProducerID {
			c.coordinator.fail(err, 1+rng.IntN(3))
			break
		}
		h := c.kafka.Fault(kfake.Fault{Keys: []kmsg.Key{f.key}, Err: err, Count: 1 + rng.IntN(3)})
		s.after(f.length, h.Remove)
	case "forget":
		c.coordinator.forget(int32(f.n)) //nolint:gosec // few
	case "foreign":
		if err := s.foreign(ctx, int32(f.n), rng); err != nil { //nolint:gosec // few
			s.violate("Harness", "a foreign record could not be written: %v", err)
		}
	default:
		panic("sim: no such fault: " + f.kind)
	}
}

// foreignHeader marks the records that the simulation itself writes beside all owners.
const foreignHeader = "sim-foreign"

func isForeign(r *check.Record) bool {
	for _, h := range r.Headers {
		if h.Key == foreignHeader {
			return true
		}
	}
	return false
}

// foreign writes what looks like the next event of a stream, as a producer that knows nothing of owners.
func (s *simulation) foreign(ctx context.Context, partition int32, rng *rand.Rand) error {
	stream := s.load.streams[rng.IntN(len(s.load.streams))]
	s.load.mu.Lock()
	version := s.load.versions[stream] + 1
	s.load.mu.Unlock()
	value, err := s.codec.Append(nil, credited{1000})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	client, err := kgo.NewClient(kgo.SeedBrokers(s.cluster.brokers...), kgo.Dialer(s.control.dial), kgo.DisableIdempotentWrite(),
		kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(0))
	if err != nil {
		return err
	}
	defer client.Close()
	h := func(k, v string) kgo.RecordHeader { return kgo.RecordHeader{Key: k, Value: []byte(v)} }
	id := fmt.Sprint("foreign-", rng.Uint32())
	// It may fail: brokers are down at times.
	_ = client.ProduceSync(ctx, &kgo.Record{Topic: topicName, Partition: partition, Key: []byte(stream), Value: value, Headers: []kgo.RecordHeader{
		h("ce_specversion", "1.0"), h("ce_source", "/foreign"), h("content-type", "application/avro"), h("ce_id", id), h("ce_type", "sim.v1.Credited"),
		h("ce_subject", stream), h("ce_time", "2026-01-01T00:00:00Z"), h("ce_streamversion", fmt.Sprint(version)), h("ce_commandid", id), h("ce_commandhash", "00"),
		h("ce_commandindex", "0"), h("ce_commandcount", "1"), h(foreignHeader, "1"),
	}}).FirstErr()
	return nil
}

// heal ends all faults.
func (s *simulation) heal(ctx context.Context) {
	s.mu.Lock()
	pending := s.pending
	s.pending = nil
	s.mu.Unlock()
	for _, f := range pending {
		f()
	}
	s.cluster.coordinator.heal()
	for _, l := range s.links() {
		l.heal()
	}
	for i := range s.cluster.brokers {
		s.cluster.restart(int32(i), s.links()) //nolint:gosec // few
	}
	if s.grouped {
		s.cluster.expire(group, "")
	}
	for _, n := range s.nodes[:s.running] {
		n.start(ctx)
	}
}

// settle has every command repeated without faults: whoever runs must answer in time, and as before.
func (s *simulation) settle(ctx context.Context) {
	rng := rand.New(rand.NewPCG(s.seed, 2))
	var up []*node
	for _, n := range s.nodes {
		n.mu.Lock()
		runs := n.life != nil
		n.mu.Unlock()
		if runs {
			up = append(up, n)
		}
	}
	s.repeat(ctx, up, rng, "settle")
	for _, n := range s.nodes {
		if err := n.stop(); err != nil {
			s.violate("Process", "%v", err)
		}
		n.ghosts.Wait()
	}
}

// repeat sends every command that was ever sent again, and reads every stream, at nodes that have nothing to suffer.
func (s *simulation) repeat(ctx context.Context, up []*node, rng *rand.Rand, client string) {
	if len(up) == 0 {
		return
	}
	var all sync.WaitGroup
	for _, c := range s.load.sent {
		n := up[rng.IntN(len(up))]
		all.Go(func() {
			s.persist(n, c.id, func() check.Outcome { return s.load.send(ctx, client, n, c, 5*time.Second) })
		})
	}
	for _, stream := range s.load.streams {
		n := up[rng.IntN(len(up))]
		all.Go(func() {
			s.persist(n, stream, func() check.Outcome { return s.load.read(ctx, client, n, stream, 5*time.Second) })
		})
	}
	all.Wait()
}

// persist tries until there is an answer, or patience is over.
func (s *simulation) persist(n *node, what string, try func() check.Outcome) {
	for began := time.Now(); ; {
		o := try()
		if o != check.Unknown && o != check.Absent {
			return
		}
		if time.Since(began) > patience {
			s.violate("Progress", "%s gave no answer to %s in %v without faults", n.name, what, patience)
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// collect builds a store anew, and reads what there is to be judged.
func (s *simulation) collect(ctx context.Context) error {
	s.cluster.network.late.Wait()
	auditor := s.load.auditor
	auditor.start(ctx)
	s.repeat(ctx, []*node{auditor}, rand.New(rand.NewPCG(s.seed, 3)), "audit")
	if err := auditor.stop(); err != nil {
		s.violate("Process", "%v", err)
	}
	records, err := rawlog.Read(ctx, s.cluster.brokers, s.control.dial, topicName)
	if err != nil {
		return err
	}
	stores := map[string][]check.Row{}
	for _, n := range s.nodes {
		if n.n == 0 {
			continue
		}
		if stores[n.name], err = n.dump(); err != nil {
			return err
		}
		s.report.Exits += len(n.ends)
		if len(s.steps) == 0 {
			for _, end := range n.ends {
				s.violate("Process", "%s ended without a fault: %v", n.name, end)
			}
		}
	}
	rebuilt, err := auditor.dump()
	if err != nil {
		return err
	}
	for _, err := range s.rec.odd {
		s.violate("Answers", "%v", err)
	}
	r := s.report
	r.Violations, r.Simulated = s.broken, s.rec.now()
	r.records = records
	r.left = check.Run{History: s.rec.attempts, Began: s.rec.began, Spec: spec(), Lease: s.lease, Limit: 2 * time.Second, Stores: stores, Rebuilt: rebuilt}
	return nil
}

// judge runs the checkers on what is left of the simulation. It is called outside of the bubble: the checkers take real time.
func (r *Report) judge() {
	log := check.NewLog(r.records, isForeign)
	r.left.Log = log
	r.Violations = append(r.Violations, r.left.All()...)
	for i := range r.left.History {
		r.Outcomes[r.left.History[i].Outcome]++
	}
	for _, events := range log.Events {
		r.Events += len(events)
	}
	r.Claims, r.Rogue = log.Claims, len(log.Rogue)
	r.records, r.left = nil, check.Run{}
}
