package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/eventlog"
)

// overload measures what the role orders still gets done when five times as many commands arrive as it can decide.
func (p *plan) overload(ctx context.Context) (rows []row, err error) {
	err = p.onKafka(ctx, func(kafka string) error {
		rows, err = p.overloadOn(ctx, kafka)
		return err
	})
	return rows, err
}

const (
	overloadConnections = 8192
	overloadFactor      = 5
)

func (p *plan) overloadOn(ctx context.Context, kafka string) (rows []row, err error) {
	registry, err := p.registry(ctx, kafka)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, registry.stop()) }()
	d, err := ready(ctx, p.serve(ctx, filepath.Join(p.dir, "overload"), kafka, registry, "orders"))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, d.stop()) }()
	addr := d.addr("http")
	// The peak is the best of what some connections get, each of which waits for its answer.
	length := time.Duration(p.times(3000, 1000)) * time.Millisecond
	peak, least := 0.0, 0.0
	for _, connections := range []int{64, 256, 1024} {
		prefix := "peak-" + strconv.Itoa(connections) + "-"
		if _, err := orders(ctx, addr, prefix+"warm-", connections, 0, length/5); err != nil {
			return nil, err
		}
		before, err1 := cpu(d.pid())
		l, err2 := orders(ctx, addr, prefix, connections, 0, length)
		after, err3 := cpu(d.pid())
		if err := errors.Join(err1, err2, err3); err != nil {
			return nil, err
		}
		if l.rate() > peak {
			peak, least = l.rate(), (after[0]-before[0]).Seconds()*1e6/float64(l.requests)
		}
	}
	var floods [2]flood
	var work [2]float64
	var memory [2][2]float64 // of each after a quarter of the time, and at the end
	for i, f := range []struct {
		length time.Duration
		id     func(to []byte, n int64) []byte
	}{
		{time.Duration(p.times(120, 12)) * time.Second, func(to []byte, n int64) []byte { return strconv.AppendInt(append(to, "over-"...), n, 10) }},
		{time.Duration(p.times(15, 5)) * time.Second, onePartition},
	} {
		if err := settle(ctx, d); err != nil {
			return nil, err
		}
		var before []time.Duration
		var err1 error
		early := make(chan error, 1)
		// What connecting costs does not count.
		begun := func() {
			before, err1 = cpu(d.pid())
			time.AfterFunc(f.length/4, func() {
				var err error
				memory[i][0], err = d.resident("VmRSS")
				if p.profile != "" {
					err = errors.Join(err, p.profiled(ctx, d, "overload-"+strconv.Itoa(i+1), f.length/2)())
				}
				early <- err
			})
		}
		var err error
		floods[i], err = arrive(ctx, addr, overloadConnections, overloadFactor*peak, f.length, begun, func(c *conn, n int64) (int, time.Duration, error) {
			c.id = f.id(c.id[:0], n)
			return c.try(c.id, orderBody)
		})
		if err != nil {
			return nil, err
		}
		after, err2 := cpu(d.pid())
		var err3 error
		memory[i][1], err3 = d.resident("VmRSS")
		if err := errors.Join(err1, err2, err3, <-early); err != nil {
			return nil, err
		}
		work[i] = (after[0] - before[0]).Seconds() * 1e6 / float64(floods[i].done)
		p.note("%+v", floods[i]) // also of what is no row
	}
	spread, hot := floods[0], floods[1]
	share := func(v float64) string { return fmt.Sprintf("%.1f %%", v) }
	one := func(v float64) []float64 { return []float64{v} }
	return []row{
		{what: "`shop serve orders`, real Kafka: most commands over HTTP, 64 to 1,024 connections", show: perSecond("commands"), values: one(peak)},
		{what: "– its CPU time for each", show: microseconds, values: one(least)},
		{what: fmt.Sprintf("– 5 × as many arrive for %.0f s, on 8,192 connections: commands done", spread.took.Seconds()), show: perSecond("commands"), values: one(spread.rate())},
		{what: "– of the most", reach: "≥ 0.8 ×", reached: atLeast(0.8), show: ratio, values: one(spread.rate() / peak)},
		{what: "– its CPU time for each command done", show: microseconds, values: one(work[0])},
		{what: "– p50 of those done", show: milliseconds, values: one(spread.p50)},
		{what: "– p99 of those done", show: milliseconds, values: one(spread.p99)},
		{what: "– answered 503 with `Retry-After`, of those sent", show: share, values: one(100 * float64(spread.refused) / float64(spread.sent()))},
		{what: "– answered otherwise, of those sent", show: share, values: one(100 * float64(spread.failed) / float64(spread.sent()))},
		{what: "– resident memory after a quarter of the time", show: megabytes, values: one(memory[0][0])},
		{what: "– resident memory at the end", show: megabytes, values: one(memory[0][1])},
		{what: "– at the end / after a quarter", reach: "≤ 1.15 ×", reached: atMost(1.15), show: ratio, values: one(memory[0][1] / memory[0][0])},
		{what: fmt.Sprintf("– all on streams of one partition, for %.0f s: commands done", hot.took.Seconds()), show: perSecond("commands"), values: one(hot.rate())},
		{what: "– answered 503 with `Retry-After`, of those sent", show: share, values: one(100 * float64(hot.refused) / float64(hot.sent()))},
	}, nil
}

// onePartition appends the id of a stream of partition 0.
func onePartition(to []byte, n int64) []byte {
	to = append(strconv.AppendInt(append(to, "hot-"...), n, 10), '-')
	stem := len(to)
	for i := int64(0); ; i++ {
		to = strconv.AppendInt(to[:stem], i, 10)
		if eventlog.PartitionOf(es.StreamID(to), eventlog.DefaultPartitions) == 0 {
			return to
		}
	}
}

// A flood is what became of commands that arrived whether or not there was room.
type flood struct {
	arrived, left         int64  // left = found all connections busy
	done, refused, failed int64  // refused = 503 with Retry-After
	failure               string // one of those that failed
	took                  time.Duration
	p50, p99              float64 // of those done, in ms
}

func (f flood) rate() float64 { return float64(f.done) / f.took.Seconds() }
func (f flood) sent() int64   { return max(1, f.done+f.refused+f.failed) }

// arrive has so many requests a second arrive for so long, however many are answered, and gives each to a free connection. A connection that
// was told to come back later does. begun is called when all are connected.
func arrive(ctx context.Context, addr string, connections int, rate float64, length time.Duration, begun func(), send func(c *conn, n int64) (status int, after time.Duration, err error)) (flood, error) {
	var (
		f                     flood
		done, refused, failed atomic.Int64
		failure               atomic.Pointer[string]
		wg                    sync.WaitGroup
		arrivals              = make(chan int64)
		took                  = make([][]time.Duration, connections)
		conns                 = make([]*conn, connections)
	)
	for i := range conns {
		c, err := dial(ctx, addr)
		if err != nil {
			return f, err
		}
		conns[i] = c
	}
	begun()
	stop, cancel := context.WithTimeout(ctx, length)
	defer cancel()
	for i := range conns {
		wg.Go(func() {
			c := conns[i]
			defer func() { c.close() }()
			for n := range arrivals {
				began := time.Now()
				status, after, err := send(c, n)
				if stop.Err() != nil {
					continue // what is answered after the end does not count
				}
				switch {
				case err != nil:
					failed.Add(1)
					text := err.Error()
					failure.Store(&text)
					c.close()
					fresh, err := dial(ctx, addr)
					if err != nil {
						return
					}
					c = fresh
				case status == http.StatusOK:
					done.Add(1)
					took[i] = append(took[i], time.Since(began))
				case status == http.StatusServiceUnavailable && after > 0:
					refused.Add(1)
					select {
					case <-time.After(after):
					case <-stop.Done():
					}
				default:
					failed.Add(1)
					text := string(c.body)
					failure.Store(&text)
				}
			}
		})
	}
	began := time.Now()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for stop.Err() == nil {
		<-tick.C
		for due := int64(rate * time.Since(began).Seconds()); f.arrived < due; {
			f.arrived++
			select {
			case arrivals <- f.arrived:
			default:
				f.left++
			}
		}
	}
	f.took = time.Since(began)
	f.done, f.refused, f.failed = done.Load(), refused.Load(), failed.Load()
	if text := failure.Load(); text != nil {
		f.failure = *text
	}
	close(arrivals)
	wg.Wait()
	all := slices.Concat(took...)
	slices.Sort(all)
	if len(all) == 0 {
		return f, errors.Join(errors.New("nothing was done"), ctx.Err())
	}
	f.p50, f.p99 = percentile(all, 0.5), percentile(all, 0.99)
	return f, ctx.Err()
}
