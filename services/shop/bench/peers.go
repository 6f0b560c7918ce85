package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"
)

// A contender is who counts and sums the events of a ledger, with what was measured of it, run by run.
type contender struct {
	name    string
	command func(ctx context.Context, id, dir string, forget bool) *exec.Cmd
	from    func(ctx context.Context, dir, file string) *exec.Cmd // begins with a backup; nil = it has none
	ours    bool
	plain   bool // it reads the records without headers, and only its rate and its memory count
	visible bool // whether it is measured how long an event takes until a query shows it

	rate  []float64 // events per second, from the start of the process until all is folded and on the disk or committed
	inner []float64 // the same, from the first record that it read to the last one it folded
	work  []float64 // CPU time of an event, in µs
	peak  []float64 // resident memory at its highest, in MB
	took  []float64 // seconds until it is ready, from nothing
	again []float64 // and with its log or changelog, but without any local state
	saved []float64 // and with a backup
	half  []float64 // append → visible, in ms
	tail  []float64
}

// contenders are all of them.
type contenders struct {
	ours, alo, eos, goka          *contender
	aloPlain, eosPlain, gokaPlain *contender
}

// javaFlags are those with which Kafka Streams was quickest on two cores; see docs/benchmarks.md.
var javaFlags = []string{"-Xms768m", "-Xmx768m", "-XX:+UseParallelGC", "-Dsun.net.httpserver.nodelay=true"}

// streamsSettings replace defaults of Kafka Streams, for the same reason: with 64 MiB instead of 10 its cache has room for all rows, and only
// the latest state of each goes to RocksDB and to the changelog.
var streamsSettings = map[string]string{"statestore.cache.max.bytes": "67108864"}

// peers measures the count and the sum of events per key, from empty until all is there, by a projector, in turns with Kafka Streams and
// goka on the same topic.
func (p *plan) peers(ctx context.Context) (rows []row, err error) {
	err = p.onKafka(ctx, func(kafka string) error {
		rows, err = p.peersOn(ctx, kafka)
		return err
	})
	return rows, err
}

func (p *plan) peersOn(ctx context.Context, kafka string) (rows []row, err error) {
	registry, err := ready(ctx, p.serve(ctx, filepath.Join(p.dir, "registry"), kafka, nil, "registry"))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, registry.stop()) }()
	url := "http://" + registry.addr("registry")
	l, err := openLedger(ctx, kafka, url)
	if err != nil {
		return nil, err
	}
	defer l.close()
	if err := l.fill(ctx, p.times(2_000_000, 200_000)); err != nil {
		return nil, err
	}
	if err := l.warm(ctx); err != nil {
		return nil, err
	}
	binary := func(name string) string { return filepath.Join(filepath.Dir(p.shop), "peers", name) }
	streams := func(topic, guarantee string) func(context.Context, string, string, bool) *exec.Cmd {
		return func(ctx context.Context, id, dir string, forget bool) *exec.Cmd {
			args := append([]string{}, javaFlags...)
			args = append(args, "-cp", binary("streams/classes")+":"+binary("streams/libs/*"), "peer.Main",
				"--brokers", kafka, "--topic", topic, "--schema", strconv.Itoa(int(l.schema)), "--id", id, "--dir", dir,
				"--guarantee", guarantee, "--threads", "2", "--forget", strconv.FormatBool(forget))
			for k, v := range streamsSettings {
				args = append(args, "--set", k+"="+v)
			}
			return exec.CommandContext(ctx, "java", args...) //nolint:gosec // the peer
		}
	}
	projector := func(ctx context.Context, dir, file string) *exec.Cmd {
		return exec.CommandContext(ctx, binary("projector"), "-brokers", kafka, "-registry", url, "-dir", dir, "-from", file) //nolint:gosec // the binary under test
	}
	ours := &contender{name: "millrace", ours: true, visible: true, from: projector, command: func(ctx context.Context, _, dir string, _ bool) *exec.Cmd {
		return projector(ctx, dir, "")
	}}
	goka := func(topic string) func(context.Context, string, string, bool) *exec.Cmd {
		return func(ctx context.Context, id, dir string, forget bool) *exec.Cmd {
			return exec.CommandContext(ctx, binary("goka"), "-brokers", kafka, "-topic", topic, "-schema", strconv.Itoa(int(l.schema)), //nolint:gosec // the peer
				"-id", id, "-dir", dir, "-forget="+strconv.FormatBool(forget))
		}
	}
	c := contenders{
		ours:      ours,
		alo:       &contender{name: "at-least-once", command: streams(l.topic.Name, "at_least_once")},
		eos:       &contender{name: "exactly-once", visible: true, command: streams(l.topic.Name, "exactly_once_v2")},
		goka:      &contender{name: "goka", command: goka(l.topic.Name)},
		aloPlain:  &contender{name: "at-least-once-plain", plain: true, command: streams(l.plain.Name, "at_least_once")},
		eosPlain:  &contender{name: "exactly-once-plain", plain: true, command: streams(l.plain.Name, "exactly_once_v2")},
		gokaPlain: &contender{name: "goka-plain", plain: true, command: goka(l.plain.Name)},
	}
	all := []*contender{c.ours, c.alo, c.eos, c.goka, c.aloPlain, c.eosPlain, c.gokaPlain}
	broker, err := p.brokerPID()
	if err != nil {
		return nil, err
	}
	for run := range p.runs {
		for i := range all {
			c := all[(run+i)%len(all)] // nobody is always the first
			if err := p.contend(ctx, c, l, run, broker); err != nil {
				return nil, fmt.Errorf("%s: %w", c.name, err)
			}
		}
	}
	return c.rows(), nil
}

// contend measures one contender once.
func (p *plan) contend(ctx context.Context, c *contender, l *ledger, run, broker int) error {
	id := fmt.Sprintf("peer-%s-%d", c.name, run+1)
	dir, backup := filepath.Join(p.dir, id), filepath.Join(p.dir, id+".backup")
	if err := rest(ctx, broker); err != nil {
		return err
	}
	d, err := ready(ctx, c.command(ctx, id, dir, c.plain))
	if err != nil {
		return err
	}
	err = func() error {
		events, want := float64(l.events), l.sums
		if c.plain {
			events, want = float64(l.filledEvents), l.filledSums
		}
		used, err1 := cpu(d.pid())
		mb, err2 := d.resident("VmHWM")
		if err := errors.Join(err1, err2); err != nil {
			return err
		}
		c.took = append(c.took, d.took.Seconds())
		c.rate = append(c.rate, events/d.took.Seconds())
		c.work = append(c.work, used[0].Seconds()*1e6/events)
		c.peak = append(c.peak, mb)
		if !c.ours {
			first, err1 := strconv.ParseInt(d.addr("first"), 10, 64)
			last, err2 := strconv.ParseInt(d.addr("processed"), 10, 64)
			if err := errors.Join(err1, err2); err != nil {
				return err
			}
			c.inner = append(c.inner, events*1000/float64(last-first))
		}
		rows := newCounter(d, c.ours)
		if err := rows.agrees(ctx, want); err != nil {
			return err
		}
		if !c.visible {
			return nil
		}
		length := time.Duration(p.times(30, 5)) * time.Second
		if _, err := l.visible(ctx, rows, length/5); err != nil { // to warm up
			return err
		}
		took, err := l.visible(ctx, rows, length)
		if err != nil {
			return err
		}
		c.half = append(c.half, percentile(took, 0.5))
		c.tail = append(c.tail, percentile(took, 0.99))
		if c.from != nil {
			if err := fetchInto(ctx, "http://"+d.addr("http")+"/backup", backup); err != nil {
				return err
			}
		}
		return rows.agrees(ctx, want)
	}()
	if err := errors.Join(err, d.stop(), os.RemoveAll(dir)); err != nil {
		return err
	}
	if c.plain {
		return nil
	}
	if c.ours {
		// It has nothing but the log: it was without any local state when it began.
		c.again = append(c.again, c.took[run])
		took, err := p.restored(ctx, c.from(ctx, dir, backup), l, broker)
		c.saved = append(c.saved, took)
		return errors.Join(err, os.RemoveAll(dir), os.Remove(backup))
	}
	if err := rest(ctx, broker); err != nil {
		return err
	}
	if d, err = ready(ctx, c.command(ctx, id, dir, true)); err != nil {
		return err
	}
	c.again = append(c.again, d.took.Seconds())
	return errors.Join(newCounter(d, false).agrees(ctx, l.sums), d.stop(), os.RemoveAll(dir))
}

// restored measures how long ours takes until it is ready with a backup of its rows and nothing else.
func (p *plan) restored(ctx context.Context, cmd *exec.Cmd, l *ledger, broker int) (seconds float64, err error) {
	if err := rest(ctx, broker); err != nil {
		return 0, err
	}
	d, err := ready(ctx, cmd)
	if err != nil {
		return 0, err
	}
	return d.took.Seconds(), errors.Join(newCounter(d, true).agrees(ctx, l.sums), d.stop())
}

// fetchInto stores what a URL answers in a file.
func fetchInto(ctx context.Context, url, path string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, resp.Body)
	return errors.Join(err, f.Close())
}

// rest waits until the broker has nothing left to do, and the disk neither.
func rest(ctx context.Context, broker int) error {
	flush()
	return settle(ctx, &process{cmd: &exec.Cmd{Process: &os.Process{Pid: broker}}})
}

func (c contenders) rows() []row {
	ours, alo, eos, goka := c.ours, c.alo, c.eos, c.goka
	const streams = "Kafka Streams, "
	rate := perSecond("events")
	least := make([]float64, len(alo.peak))
	for i := range least {
		least[i] = min(alo.peak[i], eos.peak[i])
	}
	return []row{
		{what: "count and sum per key from empty, 100,000 keys, 2,000,000 events on real Kafka", show: rate, values: ours.rate},
		{what: "– " + streams + "at_least_once", show: rate, values: alo.rate},
		{what: "– " + streams + "exactly_once_v2", show: rate, values: eos.rate},
		{what: "– goka", show: rate, values: goka.rate},
		{what: "– ours / " + streams + "at_least_once", reach: "≥ 5 ×", reached: atLeast(5), show: ratio, values: quotients(ours.rate, alo.rate)},
		{what: "– ours / " + streams + "exactly_once_v2", reach: "≥ 8 ×", reached: atLeast(8), show: ratio, values: quotients(ours.rate, eos.rate)},
		{what: "– ours / goka", reach: "≥ 8 ×", reached: atLeast(8), show: ratio, values: quotients(ours.rate, goka.rate)},
		{what: "– " + streams + "at_least_once, without its start and its commit at the end", show: rate, values: alo.inner},
		{what: "– " + streams + "exactly_once_v2, without them", show: rate, values: eos.inner},
		{what: "– goka, without them", show: rate, values: goka.inner},
		{what: "– " + streams + "at_least_once, records without headers", show: rate, values: c.aloPlain.rate},
		{what: "– " + streams + "exactly_once_v2, records without headers", show: rate, values: c.eosPlain.rate},
		{what: "– goka, records without headers", show: rate, values: c.gokaPlain.rate},
		{what: "– CPU time for each event, ours", show: microseconds, values: ours.work},
		{what: "– " + streams + "at_least_once", show: microseconds, values: alo.work},
		{what: "– " + streams + "exactly_once_v2", show: microseconds, values: eos.work},
		{what: "– goka", show: microseconds, values: goka.work},
		{what: "– peak resident memory, ours", show: megabytes, values: ours.peak},
		{what: "– " + streams + "at_least_once", show: megabytes, values: alo.peak},
		{what: "– " + streams + "exactly_once_v2", show: megabytes, values: eos.peak},
		{what: "– goka", show: megabytes, values: goka.peak},
		{what: "– " + streams + "at_least_once, records without headers", show: megabytes, values: c.aloPlain.peak},
		{what: "– ours / the smaller one of Kafka Streams, same records", reach: "≤ 0.5 ×", reached: atMost(0.5), show: ratio, values: quotients(ours.peak, least)},
		{what: "ready again without local state, from the log", show: seconds, values: ours.again},
		{what: "– goka, from its table", show: seconds, values: goka.again},
		{what: "– ours / goka", reach: "≤ 0.6 ×", reached: atMost(0.6), show: ratio, values: quotients(ours.again, goka.again)},
		{what: "– " + streams + "at_least_once, from its changelog", show: seconds, values: alo.again},
		{what: "– " + streams + "exactly_once_v2, from its changelog", show: seconds, values: eos.again},
		{what: "– ours, from a backup of its rows", show: seconds, values: ours.saved},
		{what: "– ours from a backup / " + streams + "at_least_once, from its changelog", reach: "≤ 1 ×", reached: atMost(1), show: ratio, values: quotients(ours.saved, alo.again)},
		{what: "append → visible over HTTP, 200 events/s, p50", reach: "< 5 ms", reached: below(5), show: milliseconds, values: ours.half},
		{what: "– p99", reach: "< 25 ms", reached: below(25), show: milliseconds, values: ours.tail},
		{what: "– " + streams + "exactly_once_v2, p50", show: milliseconds, values: eos.half},
		{what: "– " + streams + "exactly_once_v2, p99", show: milliseconds, values: eos.tail},
	}
}
