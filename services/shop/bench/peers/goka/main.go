// Goka counts events and sums their amounts per key with github.com/lovoo/goka, as the figure "peers" of the benchmark runs it beside a
// projector of Millrace: LevelDB and a group table, as they are by default. It prints "http" and its address, "first" and "processed"
// with the time in milliseconds since 1970 at which the first record was read and the last of those that were there at its start was
// folded, and "ready" when that is committed too. GET /count/{key} answers a row.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/IBM/sarama"
	"github.com/lovoo/goka"
	"github.com/lovoo/goka/storage"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "goka:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("goka", flag.ContinueOnError)
	brokers := flags.String("brokers", "", "host:port of a broker")
	topic := flags.String("topic", "", "what to read")
	schema := flags.Uint("schema", 0, "number of the schema of events")
	group := flags.String("id", "", "the group, which names its table too")
	dir := flags.String("dir", "", "where the state is kept")
	forget := flags.Bool("forget", false, "remove the group and its table at the end")
	if err := flags.Parse(args); err != nil {
		return err
	}
	config := goka.DefaultConfig()
	config.Consumer.Offsets.Initial = sarama.OffsetOldest // a new group begins at the end by default
	goka.ReplaceGlobalConfig(config)

	client, err := sarama.NewClient([]string{*brokers}, config)
	if err != nil {
		return err
	}
	admin, err := sarama.NewClusterAdminFromClient(client)
	if err != nil {
		return errors.Join(err, client.Close())
	}
	defer admin.Close()
	p := progress{topic: *topic, group: *group, client: client, admin: admin}
	if err := p.begin(); err != nil {
		return err
	}
	processor, err := p.processor(*brokers, *dir, uint32(*schema))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		defer cancel()
		ended <- processor.Run(ctx)
	}()
	err = p.follow(ctx, processor, out)
	if err == nil {
		<-ctx.Done()
	}
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		err = nil
	}
	cancel()
	if err := errors.Join(err, <-ended); err != nil {
		return err
	}
	if !*forget {
		return nil
	}
	return errors.Join(admin.DeleteTopic(string(goka.GroupTable(goka.Group(*group)))), admin.DeleteConsumerGroup(*group))
}

// processor returns goka's, as it is by default but for the directory, one replica of the table, and the log's own way to choose partitions.
func (p *progress) processor(brokers, dir string, schema uint32) (*goka.Processor, error) {
	topics := goka.NewTopicManagerConfig()
	topics.Table.Replication, topics.Stream.Replication = 1, 1
	graph := goka.DefineGroup(goka.Group(p.group),
		goka.Input(goka.Stream(p.topic), amountCodec{schema}, func(ctx goka.Context, msg any) {
			if amount, ok := msg.(int64); ok {
				s, _ := ctx.Value().(sum)
				ctx.SetValue(sum{s.Count + 1, s.Sum + amount})
			}
			p.at(ctx.Partition(), ctx.Offset())
		}),
		goka.Persist(sumCodec{}))
	return goka.NewProcessor([]string{brokers}, graph,
		goka.WithStorageBuilder(storage.DefaultBuilder(dir)),
		goka.WithHasher(newMurmur2),
		goka.WithLogger(log.New(io.Discard, "", 0)),
		goka.WithTopicManagerBuilder(goka.TopicManagerBuilderWithTopicManagerConfig(topics)))
}

// follow says how far it is, until it is ready.
func (p *progress) follow(ctx context.Context, processor *goka.Processor, out io.Writer) error {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	until := func(done func() (bool, error)) error {
		for {
			if ok, err := done(); ok || err != nil {
				return err
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	if err := until(func() (bool, error) { return processor.Recovered() && p.processed(), nil }); err != nil {
		return err
	}
	processed := time.Now()
	if err := until(p.committed); err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: count(processor), ReadHeaderTimeout: time.Second}
	go func() { _ = server.Serve(l) }()
	context.AfterFunc(ctx, func() { _ = server.Close() })
	_, err = fmt.Fprintf(out, "http %s\nfirst %d\nprocessed %d\nready caught up\n", l.Addr(), p.first.Load(), processed.UnixMilli())
	return err
}

func count(processor *goka.Processor) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /count/{key}", func(w http.ResponseWriter, r *http.Request) {
		v, err := processor.Get(r.PathValue("key"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		s, _ := v.(sum)
		fmt.Fprintf(w, `{"count":%d,"sum":%d}`, s.Count, s.Sum)
	})
	return mux
}
