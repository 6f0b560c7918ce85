package main

import (
	"context"
	"fmt"
)

// long measures one caller's commands on a stream of 1,000 events, in memory and not, against streams that begin with the command. The
// measuring itself is BenchmarkStream of package command.
func (p *plan) long(ctx context.Context) ([]row, error) {
	results := map[string][]float64{}
	name := func(events int, cached bool) string {
		return fmt.Sprintf("BenchmarkStream/events=%d/cached=%v/refused=false", events, cached)
	}
	turns := []struct {
		events int
		cached bool
	}{{0, true}, {1000, true}, {1000, false}}
	err := p.onKafka(ctx, func(kafka string) error {
		for range p.runs {
			for _, t := range turns {
				b := benchmarks{binary: p.engine, kafka: kafka, which: exactly(name(t.events, t.cached)), n: p.times(40, 20)}
				if err := p.benchmark(ctx, b, results); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	of := func(events int, cached bool) []float64 {
		micros := results[name(events, cached)+" p50-µs"]
		millis := make([]float64, len(micros))
		for i, v := range micros {
			millis[i] = v / 1000
		}
		return millis
	}
	for _, t := range turns {
		if len(of(t.events, t.cached)) != p.runs {
			return nil, errUnreported
		}
	}
	empty, cached := of(0, true), of(1000, true)
	return []row{
		{what: "command on a stream that it begins, 1 caller, real Kafka, p50", show: milliseconds, values: empty},
		{what: "– on a stream of 1,000 events in memory, p50", show: milliseconds, values: cached},
		{what: "– of 1,000 events / that it begins", reach: "< 1.2 ×", reached: below(1.2), show: ratio, values: quotients(cached, empty)},
		{what: "– on a stream of 1,000 events that must be loaded, p50", reach: "< 3 ms", reached: below(3), show: milliseconds, values: of(1000, false)},
	}, nil
}
