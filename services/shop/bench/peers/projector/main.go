// Projector counts events and sums their amounts per key with package projection, as the figure "peers" of the benchmark runs it
// beside Kafka Streams and goka. It prints "http" and its address, and "ready" when it has applied all that was in the log, and has it on
// the disk. GET /count/{key} answers a row, with Millrace-At-Least once these positions are applied; GET /backup a backup of the view, with
// which a process that has nothing else begins if it is started with -from.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/millrace/millrace/platform/contract"
	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/eventlog"
	"github.com/millrace/millrace/platform/projection"
	"github.com/millrace/millrace/platform/registry"
	"github.com/millrace/millrace/platform/store"
	"github.com/millrace/millrace/services/shop/bench/peers/amounts"
)

// options let one transaction have room for all 100,000 rows, as Kafka Streams is given a cache that has.
var options = store.Options{MemTable: 96 << 20}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "projector:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) (err error) {
	flags := flag.NewFlagSet("projector", flag.ContinueOnError)
	broker := flags.String("brokers", "", "host:port of a broker")
	schemas := flags.String("registry", "", "URL of the schema registry")
	dir := flags.String("dir", "", "where the rows are kept")
	from := flags.String("from", "", "a backup to begin with")
	if err := flags.Parse(args); err != nil {
		return err
	}
	log, err := eventlog.Open(ctx, eventlog.Config{Brokers: []string{*broker}, ClientID: "bench"})
	if err != nil {
		return err
	}
	defer log.Close()
	contracts, err := registry.Dial(registry.ClientConfig{URLs: []string{*schemas}})
	if err != nil {
		return err
	}
	topic, err := log.FindTopic(ctx, amounts.Topic)
	if err != nil {
		return err
	}
	codec, err := contract.Bind(ctx, amounts.Contract, contracts)
	if err != nil {
		return err
	}
	if *from != "" {
		form := projection.FormOf(amounts.View, topic.Name)
		if _, _, err := projection.RestoreView(ctx, *dir, *from, []projection.Form{form}, options); err != nil {
			return err
		}
	}
	p, err := projection.New(projection.Config{Log: log, Dir: *dir, StoreOptions: options})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	events := eventlog.NewEvents(codec, "")
	if err := projection.Add(p, amounts.View, projection.Input[amounts.Event]{Topic: topic, Events: events}); err != nil {
		return err
	}
	if err := p.Open(); err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: count(p), ReadHeaderTimeout: time.Second}
	go func() { _ = server.Serve(l) }()
	defer func() { err = errors.Join(err, server.Close()) }()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !p.CaughtUp() {
		select {
		case <-tick.C:
		case err := <-ended:
			return err
		}
	}
	if _, err := fmt.Fprintf(out, "http %s\nready caught up\n", l.Addr()); err != nil {
		cancel()
		return errors.Join(err, <-ended)
	}
	return <-ended
}

func count(p *projection.Projector) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /backup", func(w http.ResponseWriter, r *http.Request) {
		if _, err := p.Backup(r.Context(), amounts.View.Name, w); err != nil {
			panic(http.ErrAbortHandler) // what was sent is no backup
		}
	})
	mux.HandleFunc("GET /count/{key}", func(w http.ResponseWriter, r *http.Request) {
		var atLeast es.Positions
		if text := r.Header.Get("Millrace-At-Least"); text != "" {
			var err error
			if atLeast, err = es.ParsePositions(text); err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
		}
		a, err := p.Get(r.Context(), amounts.View.Name, r.PathValue("key"), atLeast)
		switch {
		case errors.Is(err, projection.ErrRowNotFound):
			a.Row.JSON = []byte(`{"count":0,"sum":0}`)
		case err != nil:
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write(a.Row.JSON)
	})
	return mux
}
