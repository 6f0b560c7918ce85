// Chaos runs the shop's order service as it is deployed, several processes on a real Kafka of three brokers, kills, pauses and cuts what
// it can reach of it, and judges what is left: the log, the answers that clients got, and the stores. deploy/ci/fault.sh builds what it
// needs and starts it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/millrace/millrace/platform/estest/check"
	"github.com/millrace/millrace/platform/estest/rawlog"
	"github.com/millrace/millrace/platform/store"
	ordersv1 "github.com/millrace/millrace/schemas/orders/v1"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
		os.Exit(1)
	}
}

// A plan is what to break, how long, and what to break it with.
type plan struct {
	seed      uint64
	length    time.Duration
	segment   time.Duration // of a run, after which everything so far is judged
	pace      time.Duration // between two faults, on average
	instances int
	clients   int
	shop      string
	kafka     string
	port      int
	dir       string
	tmpfs     bool
	log       io.Writer
}

// lease is how old an answer that appends nothing may be: the default of the command engine.
const lease = 3 * time.Second

// errViolations is returned when a checker found something.
var errViolations = errors.New("the checkers found violations")

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	p := plan{log: stderr}
	flags := flag.NewFlagSet("chaos", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Uint64Var(&p.seed, "seed", 0, "of the faults and the commands; 0 takes one from the clock")
	flags.DurationVar(&p.length, "for", 30*time.Minute, "how long")
	flags.DurationVar(&p.segment, "segment", 2*time.Minute, "how long until everything so far is judged")
	flags.DurationVar(&p.pace, "pace", 1500*time.Millisecond, "time between two faults, on average")
	flags.IntVar(&p.instances, "instances", 3, "how many processes of the order service")
	flags.IntVar(&p.clients, "clients", 8, "how many clients, beside one for each partition that looks whether it is served")
	flags.StringVar(&p.shop, "shop", "bin/shop", "the shop's binary")
	flags.StringVar(&p.kafka, "kafka", "deploy/kafka/kafka.sh", "the script that starts a real Kafka")
	flags.IntVar(&p.port, "kafka-port", 29792, "port of the first broker; they take six")
	flags.StringVar(&p.dir, "dir", "bin/chaos", "directory for all data; what is in it is removed")
	flags.BoolVar(&p.tmpfs, "tmpfs", true, "give each process a small file system of its own, to fill it; needs root")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 || p.instances < 1 || p.length < p.segment || p.segment < 10*time.Second {
		return errors.New("there are no arguments but flags; -instances is 1 at least, -segment 10s and not more than -for")
	}
	if p.seed == 0 {
		p.seed = uint64(time.Now().UnixNano())
	}
	for _, path := range []*string{&p.shop, &p.kafka, &p.dir} {
		abs, err := filepath.Abs(*path)
		if err != nil {
			return err
		}
		*path = abs
	}
	fmt.Fprintf(stderr, "seed %d\n", p.seed)
	r, err := p.run(ctx)
	if r != nil {
		fmt.Fprint(stdout, r.text())
		if err == nil && r.bad() {
			err = errViolations
		}
	}
	return err
}

// run starts everything, plays segment after segment, and judges the stores at the end.
func (p *plan) run(ctx context.Context) (r *report, err error) {
	if err := os.RemoveAll(p.dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(p.dir, 0o750); err != nil {
		return nil, err
	}
	c := &cluster{script: p.kafka, port: p.port, dir: filepath.Join(p.dir, "kafka")}
	defer func() {
		for i := range brokers {
			_ = c.signal(i, syscall.SIGCONT) // what is stopped cannot be asked to end
		}
		err = errors.Join(err, c.run(context.WithoutCancel(ctx), "stop"))
	}()
	if err := errors.Join(c.start(ctx), c.ready(ctx)); err != nil {
		return nil, err
	}
	ports, err := freePorts(2*p.instances + 3)
	if err != nil {
		return nil, err
	}
	local := func(i int) string { return "127.0.0.1:" + strconv.Itoa(ports[i]) }
	last := len(ports) - 1
	common := []string{"--kafka-brokers", strings.Join(c.addrs(), ","), "--registry-url", "http://" + local(last), "--log-level", "warn"}
	serve := func(role, name, http, admin string) *instance {
		dir := filepath.Join(p.dir, name)
		return &instance{name: name, dir: dir, http: http, log: filepath.Join(p.dir, name+".log"),
			args: append([]string{p.shop, "serve", role, "--data-dir", dir, "--http-addr", http, "--admin-addr", admin}, common...)}
	}
	registry := serve("registry", "registry", local(last-1), local(last-2))
	registry.args = append(registry.args, "--registry-addr", local(last))
	defer func() { err = errors.Join(err, registry.stop(30*time.Second)) }()
	if err := registry.start(); err != nil {
		return nil, err
	}
	if err := p.register(ctx, "http://"+local(last)); err != nil {
		return nil, err
	}
	n := &nemesis{rng: rand.New(rand.NewPCG(p.seed, 0)), cluster: c, resets: canReset(ctx), log: p.log, began: time.Now(), counts: map[string]int{}, busy: map[string]bool{}}
	for i := range p.instances {
		s := serve("orders", fmt.Sprint("orders-", i), local(2*i), local(2*i+1))
		var d *disk
		if p.tmpfs {
			if mounted, ok := mountDisk(ctx, s.dir); ok {
				d = mounted
				defer func() { err = errors.Join(err, mounted.unmount()) }()
			}
		}
		n.instances, n.disks = append(n.instances, s), append(n.disks, d)
		defer s.kill()
		if err := s.start(); err != nil {
			return nil, err
		}
	}
	r = newReport(p, n)
	all := &everything{}
	for k := 0; time.Since(n.began) < p.length && ctx.Err() == nil; k++ {
		if err := p.play(ctx, k, n, r, all); err != nil {
			return r, err
		}
	}
	if ctx.Err() == nil {
		err = p.stores(ctx, n, r, all)
	}
	r.finish(n)
	return r, err
}

// register registers the contracts, as a delivery pipeline does.
func (p *plan) register(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		cmd := exec.CommandContext(ctx, p.shop, "contracts", "register", "--registry-url", url) //nolint:gosec // the binary under test
		cmd.Env = plainEnv()
		text, err := cmd.CombinedOutput()
		if err == nil {
			return nil
		}
		if pause(ctx, 300*time.Millisecond); ctx.Err() != nil {
			return fmt.Errorf("contracts register: %w\n%s", err, text)
		}
	}
}

// everything is what is kept of the segments that are over.
type everything struct{ sent []check.Attempt }

// play runs one segment: clients and faults, then a time without faults in which everything must be served again, then the judgement.
func (p *plan) play(ctx context.Context, k int, n *nemesis, r *report, all *everything) error {
	l := &load{rec: &recorder{began: n.began}, versions: map[string]int64{}, http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}}
	defer l.http.CloseIdleConnections()
	for _, i := range n.instances {
		l.addrs = append(l.addrs, i.http)
	}
	// Few operations on each stream, for its history is searched.
	for i := range 4 + int(p.segment.Seconds())*p.clients/12 {
		l.streams = append(l.streams, fmt.Sprintf("o-%d-%d", k, i))
	}
	if k == 0 {
		if err := p.served(ctx, l, k, 0); err != nil {
			return err
		}
	}
	playing, over := context.WithTimeout(ctx, p.segment)
	defer over()
	var working sync.WaitGroup
	for i := range p.clients {
		rng := rand.New(rand.NewPCG(p.seed, uint64(k)<<32|uint64(100+i))) //nolint:gosec // few
		working.Go(func() { l.client(playing, fmt.Sprintf("c%d-%d", k, i), rng) })
	}
	for i := range int32(partitions) {
		rng := rand.New(rand.NewPCG(p.seed, uint64(k)<<32|uint64(1000+i))) //nolint:gosec // few
		working.Go(func() { l.probe(playing, i, k, rng) })
	}
	n.run(playing, p.pace)
	working.Wait()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	// From here on nothing is broken.
	healed := time.Now()
	if err := p.served(ctx, l, k, 1); err != nil {
		r.violations = append(r.violations, check.Violation{Checker: "Progress", Text: err.Error()})
	}
	r.recovered = max(r.recovered, time.Since(healed))
	p.repeat(ctx, l, rand.New(rand.NewPCG(p.seed, uint64(k)<<32))) //nolint:gosec // few
	return p.judge(ctx, k, n, l, r, all)
}

// served waits until every instance has acknowledged a command in every partition.
func (p *plan) served(ctx context.Context, l *load, k, phase int) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	var working sync.WaitGroup
	late := make(chan string, len(l.addrs)*partitions)
	for a, addr := range l.addrs {
		for i := range int32(partitions) {
			working.Go(func() {
				stream := streamIn(i, fmt.Sprintf("s%d-%d-%d-%d", k, phase, i, a))
				s := sent{stream: stream, id: "served-" + stream, payload: order{"place", 1}}
				for l.send(ctx, "served", addr, s, 5*time.Second) != check.Acked {
					if pause(ctx, 100*time.Millisecond); ctx.Err() != nil {
						late <- fmt.Sprintf("partition %d at %s", i, addr)
						return
					}
				}
			})
		}
	}
	working.Wait()
	close(late)
	var which []string
	for w := range late {
		which = append(which, w)
	}
	if len(which) > 0 {
		return fmt.Errorf("not served within 2 minutes without faults: %s", strings.Join(which, ", "))
	}
	return nil
}

// repeat sends the commands of a segment again, at most some thousands, and reads its streams.
func (p *plan) repeat(ctx context.Context, l *load, rng *rand.Rand) {
	commands := l.sent
	rng.Shuffle(len(commands), func(i, j int) { commands[i], commands[j] = commands[j], commands[i] })
	commands = commands[:min(len(commands), 3000)]
	work := make(chan func(*rand.Rand))
	var working sync.WaitGroup
	for range 16 {
		rng := rand.New(rand.NewPCG(rng.Uint64(), 0))
		working.Go(func() {
			for do := range work {
				do(rng)
			}
		})
	}
	for _, s := range commands {
		work <- func(rng *rand.Rand) { l.insist(ctx, "repeat", rng, s, 20, 5*time.Second) }
	}
	for _, stream := range l.streams {
		work <- func(rng *rand.Rand) { l.read(ctx, "repeat", l.addrs[rng.IntN(len(l.addrs))], stream, 5*time.Second) }
	}
	close(work)
	working.Wait()
}

// readLog reads the topic of the orders as it is.
func (p *plan) readLog(ctx context.Context, n *nemesis) (*check.Log, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	records, err := rawlog.Read(ctx, n.cluster.addrs(), nil, ordersv1.Topic)
	if err != nil {
		return nil, err
	}
	return check.NewLog(records, nil), nil
}

// judge runs the checkers on the log so far and the answers of a segment.
func (p *plan) judge(ctx context.Context, k int, n *nemesis, l *load, r *report, all *everything) error {
	log, err := p.readLog(ctx, n)
	if err != nil {
		return err
	}
	h := l.rec.attempts
	run := check.Run{Log: log, History: h, Began: n.began, Spec: spec(), Lease: lease, Limit: 5 * time.Second}
	for i := range h {
		if h[i].Command != "" {
			all.sent = append(all.sent, check.Attempt{Stream: h[i].Stream, Command: h[i].Command})
		}
	}
	found := run.Judge(all.sent)
	for _, odd := range l.rec.odd {
		found = append(found, check.Violation{Checker: "Answers", Text: odd})
	}
	for _, v := range found {
		fmt.Fprintf(p.log, "segment %d: %s\n", k, v)
	}
	r.add(l.rec, log, found)
	fmt.Fprintf(p.log, "segment %d: %d attempts, %d events and %d claims so far, %d violations\n", k, len(h), r.events, r.claims, len(found))
	return nil
}

// stores stops the instances and compares their stores with one that is built anew from the log.
func (p *plan) stores(ctx context.Context, n *nemesis, r *report, _ *everything) error {
	for _, i := range n.instances {
		if err := i.stop(45 * time.Second); err != nil {
			n.fail("%v", err)
		}
	}
	dumps := map[string][]check.Row{}
	for _, i := range n.instances {
		rows, err := dump(i.dir)
		if err != nil {
			return fmt.Errorf("%s: %w", i.name, err)
		}
		dumps[i.name] = rows
	}
	rebuilt := filepath.Join(p.dir, "rebuilt")
	args := append([]string{"streams", "rebuild", "--aggregate", "orders", "--data-dir", rebuilt}, n.instances[0].common()...)
	cmd := exec.CommandContext(ctx, p.shop, args...) //nolint:gosec // the binary under test
	cmd.Env = plainEnv()
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("streams rebuild: %w\n%s", err, text)
	}
	want, err := dump(rebuilt)
	if err != nil {
		return err
	}
	log, err := p.readLog(ctx, n)
	if err != nil {
		return err
	}
	found := log.Stores(dumps, want)
	for _, v := range found {
		fmt.Fprintln(p.log, v)
	}
	r.stores = len(dumps)
	r.violations = append(r.violations, found...)
	return nil
}

// dump returns the rows of the stream store below a data directory.
func dump(dir string) (rows []check.Row, err error) {
	db, err := store.Open(filepath.Join(dir, "orders", "streams"), store.Options{MinFree: -1})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	err = db.Read(func(rd *store.Reader) error {
		for pair, err := range rd.Scan(store.Range{}) {
			if err != nil {
				return err
			}
			rows = append(rows, check.Row{Key: append([]byte(nil), pair.Key...), Value: append([]byte(nil), pair.Value...)})
		}
		return nil
	})
	return rows, err
}
