package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// engineFigure measures the command engine in process against a plain producer. The measuring itself is BenchmarkEngine of package
// command, which may know both; one run of it does both, one after the other.
func (p *plan) engineFigure(ctx context.Context) ([]row, error) {
	results := map[string][]float64{}
	err := p.onKafka(ctx, func(kafka string) error {
		for range p.runs {
			for _, c := range []struct{ callers, commands int }{{1, p.times(3_000, 300)}, {512, p.times(500_000, 50_000)}} {
				b := benchmarks{binary: p.engine, kafka: kafka, which: fmt.Sprintf("^BenchmarkEngine$/.*/callers=%d$", c.callers), n: c.commands}
				if err := p.benchmark(ctx, b, results); err != nil {
					return err
				}
			}
		}
		if p.profile == "" {
			return nil
		}
		b := benchmarks{binary: p.engine, kafka: kafka, which: exactly("BenchmarkEngine/millrace/callers=512"), n: p.times(500_000, 50_000)}
		return p.benchmark(ctx, b, map[string][]float64{}, "-test.cpuprofile", filepath.Join(p.profile, "engine.pprof"))
	})
	if err != nil {
		return nil, err
	}
	of := func(who string, callers int, unit string) []float64 {
		return results[fmt.Sprintf("BenchmarkEngine/%s/callers=%d %s", who, callers, unit)]
	}
	for _, who := range []string{"millrace", "kgo"} {
		if len(of(who, 1, "p50-ms")) != p.runs || len(of(who, 512, "commands/s")) != p.runs {
			return nil, errUnreported
		}
	}
	return []row{
		{what: "command engine, real Kafka, 1 caller, p50", reach: "< 0.5 ms", reached: below(0.5), show: milliseconds, values: of("millrace", 1, "p50-ms")},
		{what: "– plain kgo producer, same run", show: milliseconds, values: of("kgo", 1, "p50-ms")},
		{what: "– engine / producer", reach: "≤ 1.5 ×", reached: atMost(1.5), show: ratio, values: quotients(of("millrace", 1, "p50-ms"), of("kgo", 1, "p50-ms"))},
		{what: "command engine, real Kafka, 512 callers", reach: "≥ 100,000/s", reached: atLeast(100_000), show: perSecond("commands"), values: of("millrace", 512, "commands/s")},
		{what: "– plain kgo producer, same run", show: perSecond("records"), values: of("kgo", 512, "commands/s")},
		{what: "– engine / producer", reach: "≥ 0.5 ×", reached: atLeast(0.5), show: ratio, values: quotients(of("millrace", 512, "commands/s"), of("kgo", 512, "commands/s"))},
	}, nil
}

// benchmarks are some of the benchmarks of a package.
type benchmarks struct {
	binary string // of the package's tests
	kafka  string // brokers; "" = the embedded one
	which  string // of them, as -test.bench wants it
	n      int    // how often each
}

// exactly returns the pattern that chooses one benchmark.
func exactly(name string) string { return "^" + strings.ReplaceAll(name, "/", "$/^") + "$" }

var errUnreported = errors.New("the benchmark did not report what is expected of it")

// benchmark runs benchmarks and adds their metrics to results, by "name unit".
func (p *plan) benchmark(ctx context.Context, b benchmarks, results map[string][]float64, more ...string) error {
	args := append([]string{"-test.run", "^$", "-test.bench", b.which, "-test.benchtime", strconv.Itoa(b.n) + "x"}, more...)
	cmd := exec.CommandContext(ctx, b.binary, args...) //nolint:gosec // the binary under test
	cmd.Dir = p.dir
	cmd.Env = append(plainEnv(), "TMPDIR="+p.dir)
	if b.kafka != "" {
		cmd.Env = append(cmd.Env, "MILLRACE_TEST_KAFKA="+b.kafka)
	}
	text, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", cmd, err, text)
	}
	parseBenchmarks(string(text), results)
	return nil
}

// parseBenchmarks reads lines such as "BenchmarkX/callers=1-2   3000   283 ns/op   0.2 p50-ms".
func parseBenchmarks(text string, results map[string][]float64) {
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) < 4 || !strings.HasPrefix(words[0], "Benchmark") {
			continue
		}
		name := words[0]
		if i := strings.LastIndexByte(name, '-'); i > 0 {
			name = name[:i] // the number of processors
		}
		for i := 2; i+1 < len(words); i += 2 {
			if v, err := strconv.ParseFloat(words[i], 64); err == nil {
				key := name + " " + words[i+1]
				results[key] = append(results[key], v)
			}
		}
	}
}
