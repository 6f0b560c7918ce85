package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// http measures commands over HTTP on 64 connections: a bare Echo, shop dev, and the orders role on a real Kafka, in turns.
func (p *plan) http(ctx context.Context) (rows []row, err error) {
	err = p.onKafka(ctx, func(kafka string) error {
		rows, err = p.httpOn(ctx, kafka)
		return err
	})
	return rows, err
}

func (p *plan) httpOn(ctx context.Context, kafka string) (rows []row, err error) {
	var all []*process
	defer func() {
		for _, s := range all {
			err = errors.Join(err, s.stop())
		}
	}()
	start := func(s *process, e error) *process {
		if e == nil {
			all = append(all, s)
		} else if err == nil {
			err = e
		}
		return s
	}
	bare := start(p.echo(ctx))
	dev := start(p.dev(ctx, filepath.Join(p.dir, "http-dev")))
	registry := start(p.registry(ctx, kafka))
	if err != nil {
		return nil, err
	}
	serve := start(ready(ctx, p.serve(ctx, filepath.Join(p.dir, "http-serve"), kafka, registry, "orders")))
	if err != nil {
		return nil, err
	}
	servers := []struct {
		name    string
		process *process
		rates   []float64
		p50     []float64
		work    []float64
	}{{name: "echo", process: bare}, {name: "dev", process: dev}, {name: "serve", process: serve}}
	broker, err := p.brokerPID()
	if err != nil {
		return nil, err
	}
	var client, kafkas []float64
	const connections = 64
	length := time.Duration(p.times(4000, 1000)) * time.Millisecond
	for run := range p.rounds() {
		for i := range servers {
			s := &servers[i]
			if err := settle(ctx, all...); err != nil {
				return nil, err
			}
			prefix := "r" + strconv.Itoa(run) + "-"
			if _, err := orders(ctx, s.process.addr("http"), prefix+"warm-", connections, 0, length/5); err != nil {
				return nil, err
			}
			profiled := func() error { return nil }
			if run == p.runs && s.process != bare {
				profiled = p.profiled(ctx, s.process, "http-"+s.name, length)
			}
			before, err1 := cpu(s.process.pid(), os.Getpid(), broker)
			l, err2 := orders(ctx, s.process.addr("http"), prefix, connections, 0, length)
			after, err3 := cpu(s.process.pid(), os.Getpid(), broker)
			if err := errors.Join(err1, err2, err3, profiled()); err != nil {
				return nil, err
			}
			if run == p.runs {
				continue
			}
			s.work = append(s.work, (after[0]-before[0]).Seconds()*1e6/float64(l.requests))
			client = append(client, (after[1]-before[1]).Seconds()*1e6/float64(l.requests))
			if s.process == serve {
				kafkas = append(kafkas, (after[2]-before[2]).Seconds()*1e6/float64(l.requests))
			}
			s.rates = append(s.rates, l.rate())
			s.p50 = append(s.p50, percentile(l.sorted, 0.5))
		}
	}
	echo, dev1, serve1 := servers[0], servers[1], servers[2]
	return []row{
		{what: "HTTP commands, 64 connections, bare Echo", show: perSecond("requests"), values: echo.rates},
		{what: "– its CPU time for each request", show: microseconds, values: echo.work},
		{what: "– the load generator's, beside all three", show: microseconds, values: client},
		{what: "– `shop dev`, embedded Kafka", show: perSecond("commands"), values: dev1.rates},
		{what: "– `shop dev`, p50", show: milliseconds, values: dev1.p50},
		{what: "– `shop dev`, its CPU time for each command", show: microseconds, values: dev1.work},
		{what: "– `shop dev` / Echo", reach: "≥ 0.25 ×", reached: atLeast(0.25), show: ratio, values: quotients(dev1.rates, echo.rates)},
		{what: "– `shop serve orders`, real Kafka", show: perSecond("commands"), values: serve1.rates},
		{what: "– `shop serve orders`, p50", show: milliseconds, values: serve1.p50},
		{what: "– `shop serve orders`, its CPU time for each command", show: microseconds, values: serve1.work},
		{what: "– the broker's, beside it", show: microseconds, values: kafkas},
		{what: "– `shop serve orders` / Echo", reach: "≥ 0.25 ×", reached: atLeast(0.25), show: ratio, values: quotients(serve1.rates, echo.rates)},
	}, nil
}
