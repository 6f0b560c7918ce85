package main

import (
	"context"
	"fmt"
)

// replicated measures the fenced append on three brokers that keep each record three times, in turns with what kgo offers: a transactional
// producer, which has a fence too, and an idempotent one, which has none. The measuring itself is BenchmarkAppend of package eventlog.
func (p *plan) replicated(ctx context.Context) ([]row, error) {
	results := map[string][]float64{}
	name := func(who string, partitions, callers int) string {
		return fmt.Sprintf("BenchmarkAppend/real/%s/partitions=%d/callers=%d", who, partitions, callers)
	}
	// Each turn takes about two seconds on two cores; those who are slower write less.
	turns := []struct {
		who                 string
		partitions, callers int
		records             int
	}{
		{"fenced", 1, 1, 1_000}, {"transactional", 1, 1, 40},
		{"fenced", 1, 512, 150_000}, {"transactional", 1, 512, 12_000},
		{"fenced", 12, 128, 40_000}, {"idempotent", 12, 128, 20_000},
		{"fenced", 12, 512, 100_000}, {"idempotent", 12, 512, 60_000},
	}
	err := p.onBrokers(ctx, 3, func(kafka string) error {
		for run := -1; run < p.few(); run++ { // the first one warms the brokers up
			into, part := results, 1
			if run < 0 {
				into, part = map[string][]float64{}, 4
			}
			for _, t := range turns {
				b := benchmarks{binary: p.eventlog, kafka: kafka, which: exactly(name(t.who, t.partitions, t.callers)), n: p.times(t.records, max(20, t.records/10)) / part}
				if err := p.benchmark(ctx, b, into); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, t := range turns {
		if len(results[name(t.who, t.partitions, t.callers)+" records/s"]) != p.few() {
			return nil, errUnreported
		}
	}
	of := func(who string, partitions, callers int, unit string) []float64 {
		return results[name(who, partitions, callers)+" "+unit]
	}
	rows := []row{
		{what: "fenced append, three brokers, RF 3, 1 partition, 1 caller, p50", show: milliseconds, values: of("fenced", 1, 1, "p50-ms")},
		{what: "– kgo transactional producer, p50", show: milliseconds, values: of("transactional", 1, 1, "p50-ms")},
		{what: "– transactional / fenced", reach: "≥ 25 ×", reached: atLeast(25), show: ratio, values: quotients(of("transactional", 1, 1, "p50-ms"), of("fenced", 1, 1, "p50-ms"))},
		{what: "fenced append, three brokers, RF 3, 1 partition, 512 callers", show: perSecond("records"), values: of("fenced", 1, 512, "records/s")},
		{what: "– kgo transactional producer", show: perSecond("records"), values: of("transactional", 1, 512, "records/s")},
		{what: "– fenced / transactional", reach: "≥ 8 ×", reached: atLeast(8), show: ratio, values: quotients(of("fenced", 1, 512, "records/s"), of("transactional", 1, 512, "records/s"))},
	}
	for _, callers := range []int{128, 512} {
		fenced, idempotent := of("fenced", 12, callers, "records/s"), of("idempotent", 12, callers, "records/s")
		rows = append(rows,
			row{what: fmt.Sprintf("fenced append, three brokers, RF 3, 12 partitions, %d callers", callers), show: perSecond("records"), values: fenced},
			row{what: "– kgo idempotent producer, no fence", show: perSecond("records"), values: idempotent},
			row{what: "– fenced / idempotent", reach: "≥ 1.2 ×", reached: atLeast(1.2), show: ratio, values: quotients(fenced, idempotent)})
	}
	return rows, nil
}
