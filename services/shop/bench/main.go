// Bench measures the figures of docs/benchmarks.md: real processes on this machine, each figure in several runs, and side by side
// with what it is compared to. deploy/ci/bench.sh builds what it needs and starts it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		if errors.Is(err, errBusy) {
			os.Exit(3)
		}
		os.Exit(1)
	}
}

// errBusy is returned when another measurement holds the lock.
var errBusy = errors.New("another measurement is running: two at once would measure each other")

// A plan is what to measure, how often, and with what.
type plan struct {
	runs     int
	quick    bool
	shop     string // the shop's binary
	engine   string // the test binary of platform/command
	eventlog string // the test binary of platform/eventlog
	contract string // the test binary of platform/contract
	kafka    string // deploy/kafka/kafka.sh
	port     int    // of the real Kafka
	sample   string // the file that is imported
	dir      string // for everything that is written; on a disk like that of production
	profile  string // where CPU profiles go; "" = none
	log      io.Writer

	messagedb string // npm's package @eventide/message-db
}

// A figure is one group of rows that is measured together.
type figure struct {
	name    string
	measure func(p *plan, ctx context.Context) ([]row, error)
}

var figures = []figure{
	{"start", (*plan).start},
	{"engine", (*plan).engineFigure},
	{"http", (*plan).http},
	{"visible", (*plan).visible},
	{"queries", (*plan).queries},
	{"watchers", (*plan).watchers},
	{"projector", (*plan).projector},
	{"memory", (*plan).memory},
	{"streams", (*plan).streams},
	{"codec", (*plan).codec},
	{"registry", (*plan).registryFigure},
	{"replicated", (*plan).replicated},
	{"long", (*plan).long},
	{"instances", (*plan).instances},
	{"handover", (*plan).handover},
	{"messagedb", (*plan).messageDB},
	{"overload", (*plan).overload},
	{"peers", (*plan).peers},
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	names := make([]string, len(figures))
	for i, f := range figures {
		names[i] = f.name
	}
	p := plan{log: stderr}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	chosen := flags.String("figures", strings.Join(names, ","), "what to measure, comma separated")
	into := flags.String("o", "", "rewrite the table in this file, between its two markers; needs all figures and not -quick")
	lock := flags.String("lock", filepath.Join(os.TempDir(), "millrace-bench.lock"), "file that keeps two measurements from running together")
	bare := flags.String("echo", "", "serve what the HTTP figure compares with on this address, and measure nothing")
	flags.IntVar(&p.runs, "runs", 3, "how often each figure is measured")
	flags.BoolVar(&p.quick, "quick", false, "a tenth of the work or less, to try the bench itself; the figures mean little")
	flags.StringVar(&p.shop, "shop", "bin/shop", "the shop's binary")
	flags.StringVar(&p.engine, "engine", "bin/command.test", "the test binary of platform/command")
	flags.StringVar(&p.eventlog, "eventlog", "bin/eventlog.test", "the test binary of platform/eventlog")
	flags.StringVar(&p.contract, "contract", "bin/contract.test", "the test binary of platform/contract")
	flags.StringVar(&p.kafka, "kafka", "deploy/kafka/kafka.sh", "the script that starts a real Kafka")
	flags.IntVar(&p.port, "kafka-port", 29392, "port of the real Kafka; it takes the next five too")
	flags.StringVar(&p.messagedb, "messagedb", "deploy/ci/run/message-db/node_modules/@eventide/message-db", "the package message-db")
	flags.StringVar(&p.sample, "sample", "services/shop/testdata/orders-sample.csv", "the file to import")
	flags.StringVar(&p.dir, "dir", "bin/bench", "directory for all data; what is in it is removed")
	flags.StringVar(&p.profile, "profile", "", "write CPU profiles to this directory, in one more run that does not count")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *bare != "" {
		return serveEcho(ctx, *bare, stdout)
	}
	wanted := strings.Split(*chosen, ",")
	for _, name := range wanted {
		if !slices.Contains(names, name) {
			return fmt.Errorf("-figures: %q is not one of %s", name, strings.Join(names, ", "))
		}
	}
	if *into != "" && (p.quick || len(wanted) < len(figures)) {
		return errors.New("-o needs all figures, and not -quick")
	}
	if p.runs < 1 || flags.NArg() > 0 {
		return errors.New("-runs must be 1 at least, and there are no arguments but flags")
	}
	unlock, err := acquire(*lock)
	if err != nil {
		return err
	}
	defer unlock()
	if err := p.prepare(); err != nil {
		return err
	}
	var rows []row
	for _, f := range figures {
		if !slices.Contains(wanted, f.name) {
			continue
		}
		began := time.Now()
		p.note("%s …", f.name)
		more, err := f.measure(&p, ctx)
		if err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
		p.note("%s took %.0f s\n%s", f.name, time.Since(began).Seconds(), table(more))
		rows = append(rows, more...)
	}
	where, err := machine(filepath.Dir(p.kafka))
	if err != nil {
		return err
	}
	text := fmt.Sprintf("%s %d runs.\n\n%s", where, p.runs, table(rows))
	fmt.Fprint(stdout, text)
	if *into == "" {
		return nil
	}
	return rewrite(*into, text)
}

// prepare makes the paths absolute, for processes get directories of their own, and the directory empty.
func (p *plan) prepare() error {
	for _, path := range []*string{&p.shop, &p.engine, &p.eventlog, &p.contract, &p.kafka, &p.messagedb, &p.sample, &p.dir, &p.profile} {
		if *path == "" {
			continue
		}
		abs, err := filepath.Abs(*path)
		if err != nil {
			return err
		}
		*path = abs
	}
	if p.profile != "" {
		if err := os.MkdirAll(p.profile, 0o750); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(p.dir); err != nil {
		return err
	}
	return os.MkdirAll(p.dir, 0o755) //nolint:gosec // PostgreSQL runs as another user
}

// times is how much work to do: all of it, or a small part with -quick.
func (p *plan) times(all, quick int) int {
	if p.quick {
		return quick
	}
	return all
}

// few is the number of runs of figures that take long.
func (p *plan) few() int { return min(p.runs, 3) }

// rounds is the number of runs, and one more if it is profiled.
func (p *plan) rounds() int {
	if p.profile != "" {
		return p.runs + 1
	}
	return p.runs
}

func (p *plan) note(format string, args ...any) { fmt.Fprintf(p.log, format+"\n", args...) }
