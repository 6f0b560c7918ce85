package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

// projector measures the role order-views from an empty store until it says ready, which it does once it has caught up with the log.
func (p *plan) projector(ctx context.Context) ([]row, error) {
	events := p.times(1_000_000, 50_000)
	rate := row{what: "projector, three views from empty, 1,000,000 events on real Kafka", reach: "≥ 150,000/s", reached: atLeast(150_000), show: perSecond("events")}
	work := row{what: "– its CPU time for each event", show: microseconds}
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
		for run := range p.rounds() {
			dir := filepath.Join(p.dir, "projector")
			views, err := launch(p.serve(ctx, dir, kafka, registry, "order-views"))
			if err != nil {
				return err
			}
			profiled := func() error { return nil }
			if run == p.runs {
				profiled = p.profiled(ctx, views, "projector", time.Duration(0.9*float64(events)/median(rate.values)*1e9))
			}
			err = views.await(ctx)
			if err == nil {
				rate.values = append(rate.values, float64(events)/views.took.Seconds())
				took, err1 := cpu(views.pid())
				mb, err2 := views.resident("VmHWM")
				if err := errors.Join(err1, err2); err != nil {
					return errors.Join(err, views.stop())
				}
				work.values = append(work.values, took[0].Seconds()*1e6/float64(events))
				peak.values = append(peak.values, mb)
				err = errors.Join(profiled(), sold(ctx, views, want))
				if run == p.runs {
					rate.values, work.values, peak.values = rate.values[:run], work.values[:run], peak.values[:run]
				}
			}
			if err := errors.Join(err, views.stop(), os.RemoveAll(dir)); err != nil {
				return err
			}
		}
		return nil
	})
	return []row{rate, work, peak}, err
}

// sold compares the sums of the view of sales with what must come out: a fast projector that is wrong would be worth nothing.
func sold(ctx context.Context, views *process, want sum) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+views.addr("http")+"/v1/views/sales?limit=1000", nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var page struct {
		Rows []struct {
			Orders, Units int64
			Revenue       map[string]int64
		}
	}
	if err := json.NewDecoder(resp.Body).Decode(&page); err != nil {
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
