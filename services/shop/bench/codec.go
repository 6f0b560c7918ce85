package main

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
)

// codec measures the codec in process, each of the three ways of a typical event side by side with who else does it. The measuring itself is that of
// package contract's tests, for only they may know the libraries that are compared with.
func (p *plan) codec(ctx context.Context) ([]row, error) {
	results := map[string][]float64{}
	for run := range p.rounds() {
		into, more := results, []string(nil)
		if run >= p.runs { // the one that is profiled does not count
			into, more = map[string][]float64{}, []string{"-test.cpuprofile", filepath.Join(p.profile, "codec.pprof")}
		}
		short := map[string][]float64{} // short turns one after the other: a disturbance of a second hits all of them or one turn
		for range p.times(3, 1) {
			if err := p.codecBenchmark(ctx, "^Benchmark(Encode|Decode|Resolve)$", "200ms", short, more...); err != nil {
				return nil, err
			}
		}
		for key, values := range short {
			into[key] = append(into[key], median(values))
		}
		if err := p.codecBenchmark(ctx, "^BenchmarkMixed$", strconv.Itoa(p.times(1_000_000, 100_000))+"x", into); err != nil {
			return nil, err
		}
	}
	var rows []row
	for _, g := range []struct {
		name, what string
		reach      string
		reached    func(float64) bool
		others     []string
	}{
		{"Encode", "encode a typical event of 421 bytes, frame included", "≤ 1.15 ×", atMost(1.15), []string{"hamba", "twmb", "json"}},
		{"Decode", "decode it", "≤ 1.15 ×", atMost(1.15), []string{"hamba", "twmb", "json"}},
		{"Resolve", "decode one of five changes ago", "", nil, []string{"hamba", "twmb", "json"}},
	} {
		of := func(who, unit string) []float64 { return results[fmt.Sprintf("Benchmark%s/%s %s", g.name, who, unit)] }
		ours := of("contract", "ns/op")
		rows = append(rows,
			row{what: "codec: " + g.what, show: nanoseconds, values: ours},
			row{what: "– its allocations", show: plainNumber, values: of("contract", "allocs/op")},
			row{what: "– codec / bare hamba/avro, same run", reach: g.reach, reached: g.reached, show: ratio, values: quotients(ours, of("hamba", "ns/op"))})
		for _, who := range g.others {
			rows = append(rows, row{what: "– " + names[who], show: nanoseconds, values: of(who, "ns/op")})
		}
	}
	rows = append(rows, row{what: "codec: decode 1,000,000 events of mixed versions, upcasters included", show: perSecond("events"), values: results["BenchmarkMixed events/s"]})
	for _, r := range rows {
		if len(r.values) != p.runs {
			return nil, fmt.Errorf("%q: the benchmark did not report what is expected of it", r.what)
		}
	}
	return rows, nil
}

// names are those of the libraries that the benchmarks compare with.
var names = map[string]string{"hamba": "bare hamba/avro", "twmb": "twmb/avro", "json": "encoding/json"}

func (p *plan) codecBenchmark(ctx context.Context, which, benchtime string, results map[string][]float64, more ...string) error {
	args := append([]string{"-test.run", "^$", "-test.bench", which, "-test.benchtime", benchtime}, more...)
	cmd := exec.CommandContext(ctx, p.contract, args...) //nolint:gosec // the binary under test
	cmd.Dir, cmd.Env = p.dir, append(plainEnv(), "TMPDIR="+p.dir)
	text, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", cmd, err, text)
	}
	parseBenchmarks(string(text), results)
	return nil
}

func nanoseconds(v float64) string { return fmt.Sprintf("%.0f ns", v) }
func plainNumber(v float64) string { return fmt.Sprintf("%g", v) }
