package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"
)

const (
	watcherCount = 5_000 // half of them watch an order each, half what a customer ordered
	watcherDeaf  = 500   // of them read nothing, and watch all orders, so that there is much that they do not read
	watcherRate  = 200   // lines per second that are added to orders
)

// watchers measures how long it takes until who watches a row sees what was acknowledged, when thousands watch on one process, and when
// some of them do not read.
func (p *plan) watchers(ctx context.Context) (rows []row, err error) {
	err = p.onKafka(ctx, func(kafka string) (err error) {
		registry, err := p.registry(ctx, kafka)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, registry.stop()) }()
		commands, err := ready(ctx, p.serve(ctx, filepath.Join(p.dir, "watchers-orders"), kafka, registry, "orders"))
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, commands.stop()) }()
		views, err := ready(ctx, p.serve(ctx, filepath.Join(p.dir, "watchers-views"), kafka, registry, "order-views"))
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, views.stop()) }()
		rows, err = p.watchersOn(ctx, commands, views)
		return err
	})
	return rows, err
}

func (p *plan) watchersOn(ctx context.Context, commands, views *process) ([]row, error) {
	count := p.times(watcherCount, watcherCount/10)
	deaf := count * watcherDeaf / watcherCount
	a := &audience{orders: make([]watchedOrder, count/2)}
	if _, err := drive(ctx, commands.addr("http"), 16, len(a.orders), 0, func(c *conn, n int64) error {
		_, err := c.post(strconv.AppendInt([]byte("w-"), n-1, 10), fmt.Sprintf(`{"customer_id":"wc-%d","currency":"USD","lines":[{"sku":"cd","quantity":1,"amount":2933}]}`, n-1))
		return err
	}); err != nil {
		return nil, err
	}
	// Shorter than the 20 s after which who does not read is cut off.
	length := time.Duration(p.times(15, 3)) * time.Second
	phases := []struct {
		count, deaf                 int
		p50, tail, work, rss, owned []float64
	}{{}, {count: count}, {count: count, deaf: deaf}}
	for run := range p.rounds() {
		for i := range phases {
			ph := &phases[i]
			if err := settle(ctx, commands, views); err != nil {
				return nil, err
			}
			profiled := func() error { return nil }
			if run == p.runs && ph.count > 0 {
				profiled = p.profiled(ctx, views, "watchers-"+strconv.Itoa(i), length)
			}
			s, err := a.watchedFor(ctx, commands, views, ph.count, ph.deaf, length)
			if err := errors.Join(err, profiled()); err != nil {
				return nil, err
			}
			p.note("%d watch, %d of them do not read: %d seen; CPU of this program %.0f %% of a core", ph.count, ph.deaf, len(s.took), s.ours*100)
			if run == p.runs {
				continue
			}
			ph.work, ph.rss, ph.owned = append(ph.work, s.cpu*100), append(ph.rss, s.resident), append(ph.owned, s.owned)
			if ph.count > 0 {
				ph.p50, ph.tail = append(ph.p50, percentile(s.took, 0.5)), append(ph.tail, percentile(s.took, 0.99))
			}
		}
	}
	nobody, all, some := phases[0], phases[1], phases[2]
	core := func(v float64) string { return fmt.Sprintf("%.0f %% of a core", v) }
	return []row{
		{what: "5,000 watch rows on one `shop serve order-views`, real Kafka, 200 events/s: acknowledged → seen, p50", show: milliseconds, values: all.p50},
		{what: "– p99", show: milliseconds, values: all.tail},
		{what: "– CPU of the process", show: core, values: all.work},
		{what: "– the same without anybody who watches", show: core, values: nobody.work},
		{what: "– its resident memory", show: megabytes, values: all.rss},
		{what: "– of that, without the mapped files of the stores", show: megabytes, values: all.owned},
		{what: "– the same before anybody watches", show: megabytes, values: nobody.owned},
		{what: "– while 500 of them do not read, and watch all orders: the others' p50", show: milliseconds, values: some.p50},
		{what: "– p99", show: milliseconds, values: some.tail},
		{what: "– p99 with those who do not read / without", reach: "≤ 1.5 ×", reached: atMost(1.5), show: ratio, values: quotients(some.tail, all.tail)},
		{what: "– CPU of the process", show: core, values: some.work},
		{what: "– its resident memory, without the mapped files", show: megabytes, values: some.owned},
	}, nil
}

// A sight is what was measured of an audience.
type sight struct {
	took            []time.Duration // sorted
	cpu, ours       float64         // cores, of the process that is watched and of this one
	resident, owned float64         // MB at the end
}

// An audience is who watches orders: two watchers each, one of the row, and one of what its customer ordered. No more than one line is under
// way to any order, so that the units of an order, one more with each line, say which lines somebody has seen.
type audience struct {
	orders []watchedOrder
	lines  int // added so far

	mu       sync.Mutex
	watching bool // what is seen counts
	took     []time.Duration
}

// A watchedOrder is an order with two watchers at most.
type watchedOrder struct {
	acked []time.Time // of each line
	seen  [2]int      // lines, by each watcher
	here  [2]bool     // whether there is one
}

// acknowledge notes that a line was added.
func (a *audience) acknowledge(order int, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	o := &a.orders[order]
	o.acked = append(o.acked, now)
	for w, seen := range o.seen {
		if o.here[w] && seen >= len(o.acked) && a.watching {
			a.took = append(a.took, 0) // it was faster than the answer
		}
	}
}

// see notes what a watcher sees.
func (a *audience) see(order, watcher, units int, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	o := &a.orders[order]
	lines := units - 1
	for n := o.seen[watcher]; n < min(lines, len(o.acked)); n++ {
		if o.here[watcher] && a.watching {
			a.took = append(a.took, now.Sub(o.acked[n]))
		}
	}
	o.seen[watcher], o.here[watcher] = max(o.seen[watcher], lines), true
}

// behind returns how many lines have not been seen by somebody who should have.
func (a *audience) behind() (n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i := range a.orders {
		o := &a.orders[i]
		for w := range o.seen {
			if o.here[w] {
				n += max(0, len(o.acked)-o.seen[w])
			}
		}
	}
	return n
}

// watchedFor has so many watch, some of whom do not read, while lines are added to orders for so long.
func (a *audience) watchedFor(ctx context.Context, commands, views *process, count, deaf int, length time.Duration) (s sight, err error) {
	var (
		all   sync.WaitGroup
		conns = make([]*watcher, count)
		errs  = make(chan error, count)
		slots = make(chan struct{}, 64)
		begun sync.WaitGroup
	)
	a.mu.Lock()
	for i := range a.orders {
		a.orders[i].here = [2]bool{}
	}
	a.took = nil
	a.mu.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	defer func() {
		cancel()
		for _, w := range conns {
			if w != nil {
				w.net.Close()
			}
		}
		all.Wait()
	}()
	for i := range conns {
		begun.Add(1)
		all.Go(func() {
			slots <- struct{}{}
			err := a.join(ctx, views.addr("http"), conns, i, deaf)
			<-slots
			begun.Done()
			if err == nil && i >= deaf {
				err = a.stay(conns[i], i)
			}
			if err != nil && ctx.Err() == nil {
				errs <- err
				cancel()
			}
		})
	}
	begun.Wait()
	if ctx.Err() != nil {
		return s, errors.Join(context.Cause(ctx), first(errs))
	}
	before, err := cpu(views.pid(), os.Getpid())
	if err != nil {
		return s, err
	}
	a.mu.Lock()
	a.watching = true
	a.mu.Unlock()
	began := time.Now()
	if err := a.add(ctx, commands.addr("http"), length); err != nil {
		return s, errors.Join(err, first(errs))
	}
	took := time.Since(began).Seconds()
	after, err1 := cpu(views.pid(), os.Getpid())
	var err2, err3 error
	s.resident, err2 = views.resident("VmRSS")
	s.owned, err3 = views.resident("RssAnon")
	if err := errors.Join(err1, err2, err3); err != nil {
		return s, err
	}
	s.cpu, s.ours = (after[0]-before[0]).Seconds()/took, (after[1]-before[1]).Seconds()/took
	for deadline := time.Now().Add(10 * time.Second); a.behind() > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			return s, fmt.Errorf("%d lines were not seen within 10 s", a.behind())
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.watching = false
	s.took = slices.Sorted(slices.Values(a.took))
	return s, nil
}

// first returns one of the errors, or nil.
func first(errs chan error) error {
	select {
	case err := <-errs:
		return err
	default:
		return nil
	}
}

// join connects the i-th watcher; who reads has seen how its order is.
func (a *audience) join(ctx context.Context, addr string, conns []*watcher, i, deaf int) (err error) {
	if i < deaf {
		conns[i], err = watch(ctx, addr, "/v1/views/orders?limit=1000", true)
		return err
	}
	path := fmt.Sprintf("/v1/views/orders/w-%d?fields=units", i/2)
	if i%2 == 1 {
		path = fmt.Sprintf("/v1/views/orders?customer=wc-%d&fields=units", i/2)
	}
	if conns[i], err = watch(ctx, addr, path, false); err != nil {
		return err
	}
	units, err := conns[i].units()
	if err == nil {
		a.see(i/2, i%2, units, time.Now())
	}
	return err
}

// stay reads what the i-th watcher is told, until the connection is closed.
func (a *audience) stay(w *watcher, i int) error {
	for {
		units, err := w.units()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		a.see(i/2, i%2, units, time.Now())
	}
}

// add adds lines to the orders in turn, at an even rate.
func (a *audience) add(ctx context.Context, addr string, length time.Duration) error {
	const callers = 16
	due := make(chan int)
	ended := make(chan error, callers)
	for range callers {
		go func() {
			c, err := dial(ctx, addr)
			if err != nil {
				ended <- err
				return
			}
			defer c.close()
			for order := range due {
				if _, err := c.postTo(fmt.Sprintf("/v1/orders/w-%d/add-line", order), `{"sku":"dvd","quantity":1,"amount":50}`); err != nil {
					ended <- err
					return
				}
				a.acknowledge(order, time.Now())
			}
			ended <- nil
		}()
	}
	tick := time.NewTicker(time.Second / watcherRate)
	defer tick.Stop()
	var err error
	left := callers
	for began := time.Now(); err == nil && time.Since(began) < length; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			err = context.Cause(ctx)
			continue
		}
		select {
		case due <- a.lines % len(a.orders):
			a.lines++
		case err = <-ended:
			left--
		}
	}
	close(due)
	for range left {
		err = errors.Join(err, <-ended)
	}
	return err
}

// A watcher is a connection on which an order is watched.
type watcher struct {
	net net.Conn
	in  *bufio.Reader
}

// watch connects and reads the beginning of the answer. The connection of one who will not read takes as little as the system lets it.
func watch(ctx context.Context, addr, path string, deaf bool) (*watcher, error) {
	var d net.Dialer
	if deaf {
		d.Control = tiny
	}
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	w := &watcher{net: c, in: bufio.NewReaderSize(c, 2<<10)}
	_, err = c.Write([]byte("GET " + path + " HTTP/1.1\r\nHost: " + addr + "\r\nAccept: text/event-stream\r\n\r\n"))
	var line []byte
	if err == nil {
		line, err = w.in.ReadSlice('\n')
	}
	if err == nil && !bytes.HasPrefix(line, []byte("HTTP/1.1 200")) {
		err = fmt.Errorf("GET %s: %s", path, line)
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return w, nil
}

var unitsField = []byte(`"units":`)

// units returns the units of the order in the next event that has it.
func (w *watcher) units() (int, error) {
	for {
		line, err := w.in.ReadSlice('\n')
		if err != nil {
			return 0, err
		}
		_, value, ok := bytes.Cut(line, unitsField)
		if !ok {
			continue // another line, or the length of the next piece
		}
		end := bytes.IndexByte(value, '}')
		if end < 0 {
			return 0, fmt.Errorf("no number: %s", line)
		}
		return strconv.Atoi(string(value[:end]))
	}
}
