package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// projector measures the role order-views from an empty store until it says ready, which it does once it has caught up with the log.
func (p *plan) projector(ctx context.Context) ([]row, error) {
	events := p.times(1_000_000, 50_000)
	rate := row{what: "projector, three views from empty, 1,000,000 events on real Kafka", reach: "≥ 150,000/s", reached: atLeast(150_000), show: perSecond("events")}
	peak := row{what: "– its peak resident memory", show: megabytes}
	err := p.onKafka(ctx, func(kafka string) (err error) {
		registry, err := p.registry(ctx, kafka)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, registry.stop()) }()
		want, err := writeHistory(ctx, kafka, "http://"+registry.addr("registry"), events)
		if err != nil {
			return err
		}
		for run := range p.runs {
			dir := filepath.Join(p.dir, "projector")
			views, err := launch(p.serve(ctx, dir, kafka, registry, "order-views"))
			if err != nil {
				return err
			}
			profiled := func() error { return nil }
			if run == 0 {
				profiled = p.profiled(ctx, views, "projector", time.Duration(events/150_000)*time.Second)
			}
			err = views.await(ctx)
			if err == nil {
				rate.values = append(rate.values, float64(events)/views.took.Seconds())
				var mb float64
				mb, err = views.resident("VmHWM")
				peak.values = append(peak.values, mb)
				err = errors.Join(err, profiled(), sold(ctx, views, want))
			}
			if err := errors.Join(err, views.stop(), os.RemoveAll(dir)); err != nil {
				return err
			}
		}
		return nil
	})
	return []row{rate, peak}, err
}

// sold compares the sums of the view of sales with what must come out: a fast projector that is wrong would be worth nothing.
func sold(ctx context.Context, views *process, want sum) error {
	c, err := dial(ctx, views.addr("http"))
	if err != nil {
		return err
	}
	defer c.close()
	if err := c.get("/v1/views/sales?limit=1000", ""); err != nil {
		return err
	}
	var page struct {
		Rows []struct {
			Orders, Units int64
			Revenue       map[string]int64
		}
	}
	if err := json.Unmarshal(c.body, &page); err != nil {
		return err
	}
	var got sum
	for _, r := range page.Rows {
		got.orders += r.Orders
		got.units += r.Units
		got.revenue += r.Revenue["USD"]
	}
	if got != want {
		return fmt.Errorf("the view of sales shows %+v, want %+v", got, want)
	}
	return nil
}
