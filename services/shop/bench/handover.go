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
)

const (
	moveCallers = 48                    // connections to the instance that stays
	moveEvery   = 20 * time.Millisecond // a command on each; a partition has 200 a second
)

// handover measures for how long no command of a partition is answered while it moves to another instance of the role orders, that comes or
// leaves as in a rolling restart.
func (p *plan) handover(ctx context.Context) (rows []row, err error) {
	err = p.onKafka(ctx, func(kafka string) error {
		rows, err = p.handoverOn(ctx, kafka)
		return err
	})
	return rows, err
}

func (p *plan) handoverOn(ctx context.Context, kafka string) (rows []row, err error) {
	registry, err := p.registry(ctx, kafka)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, registry.stop()) }()
	first, err := ready(ctx, p.serve(ctx, filepath.Join(p.dir, "stays"), kafka, registry, "orders"))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, first.stop()) }()
	if _, err := orders(ctx, first.addr("http"), "warm-", moveCallers, 0, time.Second); err != nil {
		return nil, err
	}
	var rest, comes, leaves moves
	for run := range p.few() {
		d := dripper{prefix: "m" + strconv.Itoa(run) + "-", addr: first.addr("http")}
		if err := d.start(ctx); err != nil {
			return nil, err
		}
		err := func() error {
			if err := pause(ctx, 3*time.Second); err != nil {
				return err
			}
			rest.take(&d)
			second, err := ready(ctx, p.serve(ctx, filepath.Join(p.dir, "comes"), kafka, registry, "orders"))
			if err != nil {
				return err
			}
			err = shared(ctx, d.prefix+"share-", first, second)
			comes.take(&d)
			if err == nil {
				err = pause(ctx, time.Second)
			}
			d.reset()
			err = errors.Join(err, second.stop())
			if err == nil {
				err = pause(ctx, time.Second)
			}
			leaves.take(&d)
			return err
		}()
		if err := errors.Join(err, d.end()); err != nil {
			return nil, err
		}
	}
	count := func(v float64) string { return strconv.Itoa(int(v)) }
	return []row{
		{what: "2,400 commands a second on 12 partitions over HTTP, real Kafka: longest time without an answer from a partition, in 3 s, median of the longer half", show: milliseconds, values: rest.half},
		{what: "– while a second instance starts and takes half of the partitions", show: milliseconds, values: comes.half},
		{what: "– – the longest of all partitions", show: milliseconds, values: comes.longest},
		{what: "– while it ends with SIGTERM and gives them back", reach: "< 100 ms", reached: below(100), show: milliseconds, values: leaves.half},
		{what: "– – the longest of all partitions", show: milliseconds, values: leaves.longest},
		{what: "– the slowest command, from the request to the answer", show: milliseconds, values: leaves.slowest},
		{what: "– commands answered 503, with either", show: count, values: slices.Concat(comes.refused, leaves.refused)},
	}, nil
}

// moves are what was measured in windows of the same kind.
type moves struct{ half, longest, slowest, refused []float64 }

// take ends a window of d.
func (m *moves) take(d *dripper) {
	gaps, slowest, refused := d.reset()
	slices.Sort(gaps)
	ms := func(t time.Duration) float64 { return t.Seconds() * 1e3 }
	m.half = append(m.half, ms(gaps[len(gaps)*3/4]))
	m.longest = append(m.longest, ms(gaps[len(gaps)-1]))
	m.slowest = append(m.slowest, ms(slowest))
	m.refused = append(m.refused, float64(refused))
}

// A dripper sends commands at an even rate, and notes for how long no partition has answered.
type dripper struct {
	prefix, addr string

	cancel context.CancelFunc
	all    sync.WaitGroup
	next   atomic.Int64

	mu      sync.Mutex
	errs    []error
	last    map[int32]time.Time // when a command of the partition was answered
	gap     map[int32]time.Duration
	slowest time.Duration
	refused int
}

func (d *dripper) start(ctx context.Context) error {
	ctx, d.cancel = context.WithCancel(ctx)
	d.last, d.gap = map[int32]time.Time{}, map[int32]time.Duration{}
	for i := range moveCallers {
		c, err := dial(ctx, d.addr)
		if err != nil {
			return errors.Join(err, d.end())
		}
		d.all.Go(func() {
			defer c.close()
			if pause(ctx, moveEvery*time.Duration(i)/moveCallers) != nil {
				return
			}
			tick := time.NewTicker(moveEvery)
			defer tick.Stop()
			for {
				if err := d.send(ctx, c); err != nil {
					d.mu.Lock()
					d.errs = append(d.errs, err)
					d.mu.Unlock()
					return
				}
				select {
				case <-tick.C:
				case <-ctx.Done():
					return
				}
			}
		})
	}
	return nil
}

// send places an order, again and again if it is refused for the time being.
func (d *dripper) send(ctx context.Context, c *conn) error {
	c.id = strconv.AppendInt(append(c.id[:0], d.prefix...), d.next.Add(1), 10)
	began := time.Now()
	for {
		status, _, err := c.try(c.id, orderBody)
		switch {
		case err != nil:
			return err
		case status == http.StatusServiceUnavailable:
			d.mu.Lock()
			d.refused++
			d.mu.Unlock()
			if pause(ctx, 5*time.Millisecond) != nil {
				return nil //nolint:nilerr // nobody waits for it any more
			}
			continue
		case status != http.StatusOK:
			return fmt.Errorf("%d: %s", status, c.body)
		}
		break
	}
	at, err := es.ParsePosition(c.position)
	if err != nil {
		return err
	}
	now := time.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	if last, ok := d.last[at.Partition]; ok {
		d.gap[at.Partition] = max(d.gap[at.Partition], now.Sub(last))
	}
	d.last[at.Partition] = now
	d.slowest = max(d.slowest, now.Sub(began))
	return nil
}

// reset returns what was seen since it was called last: the longest time without an answer of each partition, the slowest command, and how many
// were refused.
func (d *dripper) reset() (gaps []time.Duration, slowest time.Duration, refused int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, gap := range d.gap {
		gaps = append(gaps, gap)
	}
	slowest, refused = d.slowest, d.refused
	clear(d.gap)
	d.slowest, d.refused = 0, 0
	if len(gaps) == 0 {
		gaps = []time.Duration{0}
	}
	return gaps, slowest, refused
}

// end ends it, and returns what went wrong.
func (d *dripper) end() error {
	d.cancel()
	d.all.Wait()
	return errors.Join(d.errs...)
}
