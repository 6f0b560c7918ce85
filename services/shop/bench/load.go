package main

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// orderBody is the order of the README.
const orderBody = `{"customer_id":"c-1","currency":"USD","lines":[{"sku":"cd","quantity":2,"amount":2933}]}`

// A load is what was measured of many commands.
type load struct {
	requests int
	took     time.Duration
	sorted   []time.Duration // of each request
}

func (l load) rate() float64 { return float64(l.requests) / l.took.Seconds() }

// orders places new orders, their ids starting with prefix, over a number of connections until so many are placed or so much time has
// passed, whichever comes first and is not 0.
func orders(ctx context.Context, addr, prefix string, connections, most int, length time.Duration) (load, error) {
	return drive(ctx, addr, connections, most, length, func(c *conn, n int64) error {
		c.id = strconv.AppendInt(append(c.id[:0], prefix...), n, 10)
		_, err := c.post(c.id, orderBody)
		return err
	})
}

// drive sends numbered requests over a number of connections until so many are answered or so much time has passed, whichever comes
// first and is not 0.
func drive(ctx context.Context, addr string, connections, most int, length time.Duration, send func(c *conn, n int64) error) (load, error) {
	conns := make([]*conn, connections)
	for i := range conns {
		c, err := dial(ctx, addr)
		if err != nil {
			return load{}, err
		}
		defer c.close()
		conns[i] = c
	}
	return closed(ctx, connections, most, length, func(caller int, n int64) error { return send(conns[caller], n) })
}

// closed has a number of callers do something numbered, each one thing after the other, until so much is done or so much time has passed,
// whichever comes first and is not 0.
func closed(ctx context.Context, callers, most int, length time.Duration, do func(caller int, n int64) error) (load, error) {
	var (
		next atomic.Int64
		wg   sync.WaitGroup
		took = make([][]time.Duration, callers)
		errs = make([]error, callers)
	)
	began := time.Now()
	for i := range callers {
		wg.Go(func() {
			for ctx.Err() == nil {
				n := next.Add(1)
				now := time.Now()
				if most > 0 && n > int64(most) || length > 0 && now.Sub(began) > length {
					return
				}
				if errs[i] = do(i, n); errs[i] != nil {
					return
				}
				took[i] = append(took[i], time.Since(now))
			}
		})
	}
	wg.Wait()
	l := load{took: time.Since(began), sorted: slices.Concat(took...)}
	l.requests = len(l.sorted)
	slices.Sort(l.sorted)
	if err := errors.Join(append(errs, ctx.Err())...); err != nil {
		return l, err
	}
	if l.requests == 0 {
		return l, errors.New("no request was answered")
	}
	return l, nil
}
