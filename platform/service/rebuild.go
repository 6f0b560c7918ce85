package service

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace/millrace/platform/command"
	"github.com/millrace/millrace/platform/contract"
	"github.com/millrace/millrace/platform/embedded"
	"github.com/millrace/millrace/platform/eventlog"
	"github.com/millrace/millrace/platform/fault"
	"github.com/millrace/millrace/platform/rest"
	"github.com/millrace/millrace/platform/store"
)

// streamsDir is where the stream store of an aggregate is, below the data directory.
func streamsDir(aggregate string) string { return filepath.Join(aggregate, "streams") }

// openStreams opens the stream store of an aggregate and compares it with the log. One that is damaged is moved aside, and a new one begun
// that is built from the log while this process starts, if the log reaches back to its beginning. One of another log is refused: then it
// may be the log that is wrong.
func (h *host) openStreams(ctx context.Context, aggregate string, t eventlog.Topic) (*store.DB, error) {
	db, err := h.openStore(streamsDir(aggregate), store.Options{MemTable: memTable})
	if err == nil {
		if err = command.CheckStore(ctx, h.log, t, db); err == nil {
			return db, nil
		}
		if closed := db.Close(); closed != nil {
			return nil, errors.Join(err, closed)
		}
	}
	switch {
	case errors.Is(err, eventlog.ErrCursor):
		if e := fault.From(err); e != nil {
			err = e.WithFix("if this is the right cluster and its log is whole: %s", h.rebuildCommand(aggregate))
		}
		return nil, err
	case !errors.Is(err, store.ErrDamaged) && !errors.Is(err, command.ErrStore):
		return nil, err
	}
	if incomplete := reachesBack(ctx, h.log, t); incomplete != nil {
		return nil, errors.Join(err, incomplete)
	}
	moved, failed := store.Quarantine(filepath.Join(h.config.DataDir, streamsDir(aggregate)), err)
	if failed != nil {
		return nil, failed
	}
	h.logger.Error("the stream store was damaged: it was moved aside, and a new one is built from the log", "role", aggregate, "moved", moved, "reason", fault.Line(err), "fix", "check the disk")
	return h.openStore(streamsDir(aggregate), store.Options{MemTable: memTable})
}

// rebuildCommand is what an operator has to run.
func (h *host) rebuildCommand(aggregate string) string {
	dir, dev := h.config.DataDir, ""
	if h.dev {
		dir, dev = filepath.Dir(dir), " --dev"
	}
	return fmt.Sprintf("%s streams rebuild --aggregate %s --data-dir %s%s", h.app, aggregate, dir, dev)
}

// reachesBack returns an error unless every partition's log reaches back to its beginning.
func reachesBack(ctx context.Context, log *eventlog.Client, t eventlog.Topic) error {
	var starts []eventlog.Cursor
	for id := range t.Partitions {
		starts = append(starts, t.Start(id))
	}
	source, err := log.NewSource(ctx, starts...)
	if err == nil {
		source.Close()
	}
	return err
}

// A rebuilder is a role whose store can be built from the log.
type rebuilder interface {
	Role
	rebuild(ctx context.Context, h *host, partitions []int32, report func([]command.Progress)) error
}

// rebuild builds the stream store of the aggregate, or some partitions of it, again.
func (a Aggregate[S, C, E]) rebuild(ctx context.Context, h *host, partitions []int32, report func([]command.Progress)) error {
	topic, err := h.log.FindTopic(ctx, a.Contract.Topic)
	if err != nil {
		return err
	}
	codec, err := contract.Bind(ctx, a.Contract, h.registry)
	if err != nil {
		return h.unregistered(err)
	}
	// Nothing is removed that could not be built again.
	if err := reachesBack(ctx, h.log, topic); err != nil {
		return err
	}
	if partitions == nil {
		if err := store.Remove(filepath.Join(h.config.DataDir, streamsDir(a.Name))); err != nil {
			return err
		}
	}
	db, err := h.openStore(streamsDir(a.Name), store.Options{MemTable: memTable})
	if err != nil {
		return err
	}
	engine := command.New[S, C, E](command.Config{Log: h.log, Topic: topic, Store: db, Logger: h.logger.With("role", a.Name)}, a.Decider, codec)
	return engine.Rebuild(ctx, partitions, report)
}

// streamsCommand returns the commands for the stores of streams.
func (a App) streamsCommand() *cobra.Command {
	streams := &cobra.Command{Use: "streams", Short: "Work with the stores of streams of this application", Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error { return c.Help() }}
	var aggregates []string
	var partitions []int32
	var dev bool
	rebuild := &cobra.Command{
		Use: "rebuild", Short: "Build the stream stores again from the log; the process that uses them must be stopped", Args: cobra.NoArgs,
		Long: "Build the stream stores again from the log. What is there of them is removed first, once it is certain that the log reaches back to its\n" +
			"beginning. The process that uses them must be stopped. If this is interrupted, the next start goes on where it was.",
		Example: fmt.Sprintf("  %[1]s streams rebuild\n  %[1]s streams rebuild --dev\n  %[1]s streams rebuild --aggregate %[2]s --partition 3,7", a.Name, strings.Join(a.rebuildable()[:min(1, len(a.rebuildable()))], "")),
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := LoadConfig(c.Flags(), os.Environ())
			if err != nil {
				return err
			}
			return a.rebuild(c.Context(), cfg, aggregates, partitions, dev, c.ErrOrStderr())
		},
	}
	addFlags(rebuild.Flags())
	rebuild.Flags().StringSliceVar(&aggregates, "aggregate", nil, "the aggregates whose streams to rebuild; default: all")
	rebuild.Flags().Int32SliceVar(&partitions, "partition", nil, "only these partitions, comma separated; default: all")
	rebuild.Flags().BoolVar(&dev, "dev", false, fmt.Sprintf("the data is that of %s dev, its embedded Kafka included", a.Name))
	streams.AddCommand(rebuild)
	return streams
}

func (a App) rebuildable() []string {
	var names []string
	for _, r := range a.Roles {
		if r, ok := r.(rebuilder); ok {
			names = append(names, r.role())
		}
	}
	return names
}

// rebuild rebuilds the stream stores of aggregates (none = all), one after the other, and tells on stderr how far it is.
func (a App) rebuild(ctx context.Context, c Config, aggregates []string, partitions []int32, dev bool, stderr io.Writer) (err error) {
	names := a.rebuildable()
	for _, name := range aggregates {
		if !slices.Contains(names, name) {
			return ErrUsage.Because("%q is not an aggregate", name).WithFix("the aggregates are %s", strings.Join(names, ", "))
		}
	}
	if c.Ephemeral {
		return ErrUsage.Because("nothing is kept with --ephemeral, so there is nothing to rebuild")
	}
	if dev {
		c.DataDir = filepath.Join(c.DataDir, "dev")
	}
	logger := newLogger(c, stderr)
	h := newHost(a, c, logger)
	h.dev = dev
	p := newProcess(ctx)
	defer func() {
		stopped := p.stop()
		if e := h.close(); stopped == nil {
			stopped = e
		}
		if err == nil {
			err = stopped
		}
	}()
	registryHTTP := rest.NewServer(rest.Options{Logger: logger, MaxBody: registryBody})
	if dev {
		broker, err := embedded.Start(embedded.Options{Dir: filepath.Join(c.DataDir, "kafka")})
		if err != nil {
			return err
		}
		h.closers = append(h.closers, func() error { broker.Close(); return nil })
		bound, err := listen(registryHTTP, "127.0.0.1:0", "--registry-addr")
		if err != nil {
			return err
		}
		c.KafkaBrokers, h.registryAddress, c.RegistryURL = []string{broker.Addr()}, bound.String(), []string{"http://" + bound.String()}
		h.config = c
	}
	starting, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	if h.log, err = eventlog.Open(starting, h.metrics.watch(eventlog.Config{Brokers: c.KafkaBrokers, Env: c.Environment, ClientID: h.instance, Production: c.Production, Logger: logger})); err != nil {
		return err
	}
	h.closers = append(h.closers, func() error { h.log.Close(); return nil })
	if err := a.start(starting, p, h, c, nil, registryHTTP, dev, false); err != nil {
		return err
	}
	var only []int32
	if len(partitions) > 0 {
		only = slices.Compact(slices.Sorted(slices.Values(partitions)))
	}
	for _, r := range a.Roles {
		r, ok := r.(rebuilder)
		if !ok || len(aggregates) > 0 && !slices.Contains(aggregates, r.role()) {
			continue
		}
		began, events := time.Now(), int64(0)
		err := r.rebuild(ctx, h, only, func(all []command.Progress) {
			var line string
			line, events = progressLine(all, time.Since(began))
			fmt.Fprintf(stderr, "%s: %s\n", r.role(), line)
		})
		if err != nil {
			return err
		}
		fmt.Fprintf(stderr, "%s: rebuilt, %d events in %.1f s\n", r.role(), events, time.Since(began).Seconds())
	}
	return nil
}

// progressLine sums up how far the partitions are, and how many events were read.
func progressLine(all []command.Progress, took time.Duration) (line string, events int64) {
	var offset, end int64
	var rate float64
	done := 0
	for _, p := range all {
		offset, end, events, rate = offset+p.Offset, end+p.End, events+p.Events, rate+p.PerSecond
		if p.Offset >= p.End {
			done++
		}
	}
	line = fmt.Sprintf("%d of %d partitions, record %d of %d (%.1f %%), %.0f events/s", done, len(all), offset, end, 100*float64(offset)/max(1, float64(end)), rate)
	if offset > 0 && offset < end {
		line += fmt.Sprintf(", %v left", time.Duration(took.Seconds()*float64(end-offset)/float64(offset)+1)*time.Second)
	}
	return line, events
}
