package main

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strconv"
	"time"
)

// visible measures, one order after the other on an idle system, the time from a command's answer to the answer of a query that
// waits for its row.
func (p *plan) visible(ctx context.Context) (rows []row, err error) {
	d, err := p.dev(ctx, filepath.Join(p.dir, "visible-dev"))
	if err != nil {
		return nil, err
	}
	rows, err = p.visibleOn(ctx, "`shop dev`", d, d)
	if err := errors.Join(err, d.stop()); err != nil {
		return nil, err
	}
	err = p.onKafka(ctx, func(kafka string) (err error) {
		registry, err := p.registry(ctx, kafka)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, registry.stop()) }()
		commands, err := ready(ctx, p.serve(ctx, filepath.Join(p.dir, "visible-orders"), kafka, registry, "orders"))
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, commands.stop()) }()
		views, err := ready(ctx, p.serve(ctx, filepath.Join(p.dir, "visible-views"), kafka, registry, "order-views"))
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, views.stop()) }()
		more, err := p.visibleOn(ctx, "real Kafka, a process for each role", commands, views)
		rows = append(rows, more...)
		return err
	})
	return rows, err
}

func (p *plan) visibleOn(ctx context.Context, where string, commands, views *process) ([]row, error) {
	half := row{what: "acknowledged → visible, idle, " + where + ", p50", reach: "< 5 ms", reached: below(5), show: milliseconds}
	tail := row{what: "– p99", show: milliseconds}
	write, err := dial(ctx, commands.addr("http"))
	if err != nil {
		return nil, err
	}
	defer write.close()
	read, err := dial(ctx, views.addr("http"))
	if err != nil {
		return nil, err
	}
	defer read.close()
	n := p.times(1000, 100)
	for run := -1; run < p.runs; run++ { // the first one is for warming up
		took := make([]time.Duration, 0, n)
		for i := range n {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			id := "v" + strconv.Itoa(run+1) + "-" + strconv.Itoa(i)
			position, err := write.post([]byte(id), orderBody)
			if err != nil {
				return nil, err
			}
			acked := time.Now()
			if err := read.get("/v1/views/orders/"+id, position); err != nil {
				return nil, err
			}
			took = append(took, time.Since(acked))
		}
		if run < 0 {
			continue
		}
		slices.Sort(took)
		half.values = append(half.values, percentile(took, 0.5))
		tail.values = append(tail.values, percentile(took, 0.99))
	}
	return []row{half, tail}, nil
}
