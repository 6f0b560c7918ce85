package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// instances measures commands over HTTP on 64 connections with one process of the role orders, and with two that share the partitions, where
// every other command arrives at the wrong one and is forwarded.
func (p *plan) instances(ctx context.Context) (rows []row, err error) {
	err = p.onKafka(ctx, func(kafka string) error {
		rows, err = p.instancesOn(ctx, kafka)
		return err
	})
	return rows, err
}

func (p *plan) instancesOn(ctx context.Context, kafka string) (rows []row, err error) {
	registry, err := p.registry(ctx, kafka)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, registry.stop()) }()
	first, err := ready(ctx, p.serve(ctx, filepath.Join(p.dir, "instance-1"), kafka, registry, "orders"))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, first.stop()) }()
	broker, err := p.brokerPID()
	if err != nil {
		return nil, err
	}
	length := time.Duration(p.times(4000, 1000)) * time.Millisecond
	type measured struct{ rate, p50, work, brokers, forwarded []float64 }
	var one, two measured
	measure := func(into *measured, prefix string, profile string, servers ...*process) error {
		if err := settle(ctx, servers...); err != nil {
			return err
		}
		if _, err := ordersAt(ctx, servers, prefix+"warm-", 64, length/5); err != nil {
			return err
		}
		var waits []func() error
		for i, s := range servers {
			if profile != "" {
				waits = append(waits, p.profiled(ctx, s, profile+strconv.Itoa(i+1), length))
			}
		}
		pids := []int{broker}
		for _, s := range servers {
			pids = append(pids, s.pid())
		}
		passed, err1 := forwarded(ctx, servers)
		before, err2 := cpu(pids...)
		l, err3 := ordersAt(ctx, servers, prefix, 64, length)
		after, err4 := cpu(pids...)
		all, err5 := forwarded(ctx, servers)
		err := errors.Join(err1, err2, err3, err4, err5)
		for _, wait := range waits {
			err = errors.Join(err, wait())
		}
		if err != nil || profile != "" {
			return err
		}
		var work time.Duration
		for i := range servers {
			work += after[i+1] - before[i+1]
		}
		each := func(d time.Duration) float64 { return d.Seconds() * 1e6 / float64(l.requests) }
		into.rate, into.p50 = append(into.rate, l.rate()), append(into.p50, percentile(l.sorted, 0.5))
		into.work, into.brokers = append(into.work, each(work)), append(into.brokers, each(after[0]-before[0]))
		into.forwarded = append(into.forwarded, 100*(all-passed)/float64(l.requests))
		return nil
	}
	rounds := p.few()
	if p.profile != "" {
		rounds++
	}
	for run := range rounds {
		profile1, profile2 := "", ""
		if run == p.few() {
			profile1, profile2 = "instances-one-", "instances-two-"
		}
		prefix := "r" + strconv.Itoa(run) + "-"
		if err := measure(&one, prefix+"one-", profile1, first); err != nil {
			return nil, err
		}
		second, err := ready(ctx, p.serve(ctx, filepath.Join(p.dir, "instance-2"), kafka, registry, "orders"))
		if err != nil {
			return nil, err
		}
		err = shared(ctx, prefix+"share-", first, second)
		if err == nil {
			err = measure(&two, prefix+"two-", profile2, first, second)
		}
		if err := errors.Join(err, second.stop()); err != nil {
			return nil, err
		}
	}
	percent := func(v float64) string { return fmt.Sprintf("%.0f %%", v) }
	return []row{
		{what: "commands over HTTP, 64 connections, real Kafka, one instance of `shop serve orders`", show: perSecond("commands"), values: one.rate},
		{what: "– p50", show: milliseconds, values: one.p50},
		{what: "– its CPU time for each command", show: microseconds, values: one.work},
		{what: "– the broker's, beside it", show: microseconds, values: one.brokers},
		{what: "– two instances on the same machine, 32 connections to each", show: perSecond("commands"), values: two.rate},
		{what: "– p50", show: milliseconds, values: two.p50},
		{what: "– both processes' CPU time for each command", show: microseconds, values: two.work},
		{what: "– the broker's, beside them", show: microseconds, values: two.brokers},
		{what: "– commands that were forwarded", show: percent, values: two.forwarded},
		{what: "– two instances / one", reach: "≥ 0.6 ×", reached: atLeast(0.6), show: ratio, values: quotients(two.rate, one.rate)},
	}, nil
}

// ordersAt places orders for so long at several servers, each over its part of the connections.
func ordersAt(ctx context.Context, servers []*process, prefix string, connections int, length time.Duration) (load, error) {
	var (
		wg    sync.WaitGroup
		loads = make([]load, len(servers))
		errs  = make([]error, len(servers))
		all   load
	)
	for i, s := range servers {
		wg.Go(func() {
			loads[i], errs[i] = orders(ctx, s.addr("http"), prefix+strconv.Itoa(i)+"-", connections/len(servers), 0, length)
		})
	}
	wg.Wait()
	for _, l := range loads {
		all.requests += l.requests
		all.took = max(all.took, l.took)
		all.sorted = append(all.sorted, l.sorted...)
	}
	slices.Sort(all.sorted)
	return all, errors.Join(errs...)
}

// shared waits until two instances own about half of the partitions each: until about half of what arrives is forwarded.
func shared(ctx context.Context, prefix string, servers ...*process) error {
	const probes = 240
	deadline := time.Now().Add(time.Minute)
	for n := 0; time.Now().Before(deadline); n++ {
		before, err1 := forwarded(ctx, servers)
		var errs []error
		for i, s := range servers {
			_, err := orders(ctx, s.addr("http"), prefix+strconv.Itoa(n)+"-"+strconv.Itoa(i)+"-", 8, probes/len(servers), 0)
			errs = append(errs, err)
		}
		after, err2 := forwarded(ctx, servers)
		if err := errors.Join(append(errs, err1, err2)...); err != nil {
			return err
		}
		if share := (after - before) / probes; share > 0.35 && share < 0.65 {
			return nil
		}
		if err := pause(ctx, 200*time.Millisecond); err != nil {
			return err
		}
	}
	return errors.New("the two instances do not share the partitions")
}

// forwarded returns how many requests the servers have had answered by another instance.
func forwarded(ctx context.Context, servers []*process) (float64, error) {
	sum := 0.0
	for _, s := range servers {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.addr("metrics")+"/metrics", nil)
		if err != nil {
			return 0, err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return 0, err
		}
		lines := bufio.NewScanner(resp.Body)
		for lines.Scan() {
			if name, value, ok := strings.Cut(lines.Text(), " "); ok && strings.HasPrefix(name, `millrace_forward_duration_seconds_count{outcome="answered"`) {
				n, err := strconv.ParseFloat(value, 64)
				if err != nil {
					return 0, err
				}
				sum += n
			}
		}
		resp.Body.Close()
		if err := lines.Err(); err != nil {
			return 0, err
		}
	}
	return sum, nil
}
