package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// The load under which the figure queries measures what a rebuild costs those who ask.
const (
	liveRate     = 5_000 // events per second
	askRate      = 1_000 // queries per second
	rebuildRate  = 5_000 // events per second that a rebuild may read
	askers       = 64    // connections
	queryHistory = 1_000_000
)

// queries measures rows that are asked for by key over HTTP, beside a bare Echo that answers as many bytes, and what becomes of the slowest
// answers while the view is rebuilt beside live traffic.
func (p *plan) queries(ctx context.Context) (rows []row, err error) {
	err = p.onKafka(ctx, func(kafka string) error {
		rows, err = p.queriesOn(ctx, kafka)
		return err
	})
	return rows, err
}

func (p *plan) queriesOn(ctx context.Context, kafka string) (rows []row, err error) {
	bare, err := p.echo(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, bare.stop()) }()
	registry, err := p.registry(ctx, kafka)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, registry.stop()) }()
	h := &history{events: p.times(queryHistory, 100_000), begin: time.Date(1997, 1, 1, 0, 0, 0, 0, time.UTC)}
	live, err := openAppender(ctx, kafka, "http://"+registry.addr("registry"), h.begin, h.next)
	if err != nil {
		return nil, err
	}
	defer live.close()
	if err := live.append(ctx, h.events); err != nil {
		return nil, err
	}
	views, err := ready(ctx, p.serve(ctx, filepath.Join(p.dir, "queries"), kafka, registry, "order-views"))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, views.stop()) }()
	broker, err := p.brokerPID()
	if err != nil {
		return nil, err
	}
	if err := rest(ctx, broker); err != nil {
		return nil, err
	}
	byKey, err := p.byKey(ctx, bare, views, h)
	if err != nil {
		return nil, err
	}
	beside, err := p.besideRebuild(ctx, views, live, h.placed)
	return append(byKey, beside...), err
}

// ask appends the path of the row of an order, by chance.
func ask(c *conn, orders int) error {
	c.id = fmt.Appendf(c.id[:0], "/v1/views/orders/o-%07d", rand.IntN(orders)) //nolint:gosec // no secret
	return c.get(string(c.id), "")
}

// byKey measures rows by key on 64 connections, in turns with Echo.
func (p *plan) byKey(ctx context.Context, bare, views *process, h *history) ([]row, error) {
	size, err := p.rowSize(ctx, views, h.placed)
	if err != nil {
		return nil, err
	}
	servers := []struct {
		name    string
		process *process
		send    func(c *conn, n int64) error
		rates   []float64
		p50     []float64
		work    []float64
	}{
		{name: "echo", process: bare, send: func(c *conn, _ int64) error { return c.get("/v1/views/orders/"+strconv.Itoa(size), "") }},
		{name: "views", process: views, send: func(c *conn, _ int64) error { return ask(c, h.placed) }},
	}
	length := time.Duration(p.times(4000, 1000)) * time.Millisecond
	var client []float64
	for run := range p.rounds() {
		for i := range servers {
			s := &servers[i]
			if err := settle(ctx, bare, views); err != nil {
				return nil, err
			}
			addr := s.process.addr("http")
			if _, err := drive(ctx, addr, askers, 0, length/5, s.send); err != nil {
				return nil, err
			}
			profiled := func() error { return nil }
			if run == p.runs && s.process != bare {
				profiled = p.profiled(ctx, s.process, "queries", length)
			}
			before, err1 := cpu(s.process.pid(), os.Getpid())
			l, err2 := drive(ctx, addr, askers, 0, length, s.send)
			after, err3 := cpu(s.process.pid(), os.Getpid())
			if err := errors.Join(err1, err2, err3, profiled()); err != nil {
				return nil, err
			}
			if run == p.runs {
				continue
			}
			s.rates = append(s.rates, l.rate())
			s.p50 = append(s.p50, percentile(l.sorted, 0.5))
			s.work = append(s.work, (after[0]-before[0]).Seconds()*1e6/float64(l.requests))
			client = append(client, (after[1]-before[1]).Seconds()*1e6/float64(l.requests))
		}
	}
	echo, ours := servers[0], servers[1]
	return []row{
		{what: fmt.Sprintf("rows by key over HTTP, 64 connections, bare Echo that answers the same %d bytes", size), show: perSecond("requests"), values: echo.rates},
		{what: "– its CPU time for each request", show: microseconds, values: echo.work},
		{what: "– the load generator's, beside both", show: microseconds, values: client},
		{what: "– `shop serve order-views`, 600,000 orders", show: perSecond("queries"), values: ours.rates},
		{what: "– p50", show: milliseconds, values: ours.p50},
		{what: "– its CPU time for each query", show: microseconds, values: ours.work},
		{what: "– `shop serve order-views` / Echo", reach: "≥ 0.7 ×", reached: atLeast(0.7), show: ratio, values: quotients(ours.rates, echo.rates)},
	}, nil
}

// rowSize returns how many bytes an answer has, in the median of a hundred.
func (p *plan) rowSize(ctx context.Context, views *process, orders int) (int, error) {
	c, err := dial(ctx, views.addr("http"))
	if err != nil {
		return 0, err
	}
	defer c.close()
	var sizes []float64
	for range 99 {
		if err := ask(c, orders); err != nil {
			return 0, err
		}
		sizes = append(sizes, float64(len(c.body)))
	}
	return int(median(sizes)), nil
}

// besideRebuild measures queries while events come, alone, while the view is built anew beside them within a rate, and without one.
func (p *plan) besideRebuild(ctx context.Context, views *process, live *appender, orders int) (rows []row, err error) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() {
		defer cancel() // nothing is measured without it
		done <- live.flow(ctx, liveRate)
	}()
	defer func() {
		cancel()
		err = errors.Join(<-done, err)
	}()
	length := time.Duration(p.times(20, 3)) * time.Second
	phases := []struct {
		rebuild   bool
		rate      int
		p50, tail []float64
	}{{}, {rebuild: true, rate: rebuildRate}, {rebuild: true}}
	measure := func(length time.Duration) (flood, error) {
		f, err := arrive(ctx, views.addr("http"), askers, askRate, length, func() {}, func(c *conn, _ int64) (int, time.Duration, error) {
			err := ask(c, orders)
			return c.status, c.after, err
		})
		if err == nil && f.failed > 0 {
			err = errors.New("a query was not answered: " + f.failure)
		}
		return f, err
	}
	if _, err := measure(length / 5); err != nil {
		return nil, err
	}
	for range p.runs {
		for i := range phases {
			ph := &phases[i]
			build := ""
			if ph.rebuild {
				if build, err = rebuildView(ctx, views, ph.rate); err != nil {
					return nil, err
				}
			}
			long := length
			if ph.rebuild && ph.rate == 0 {
				long = length / 2 // it may be done sooner
			}
			f, err := measure(long)
			if err != nil {
				return nil, err
			}
			ph.p50, ph.tail = append(ph.p50, f.p50), append(ph.tail, f.p99)
			if !ph.rebuild {
				continue
			}
			if err := dropBuild(ctx, views, build, ph.rate > 0); err != nil {
				return nil, err
			}
		}
	}
	alone, bounded, unbound := phases[0], phases[1], phases[2]
	return []row{
		{what: "1,000 queries by key a second beside 5,000 live events a second, p50", show: milliseconds, values: alone.p50},
		{what: "– p99", show: milliseconds, values: alone.tail},
		{what: "– while the view is built anew with `--rate 5000`, p50", show: milliseconds, values: bounded.p50},
		{what: "– p99", show: milliseconds, values: bounded.tail},
		{what: "– p99 with the rebuild / without", reach: "≤ 1.5 ×", reached: atMost(1.5), show: ratio, values: quotients(bounded.tail, alone.tail)},
		{what: "– while it is built anew as it is by default, p50", show: milliseconds, values: unbound.p50},
		{what: "– p99", show: milliseconds, values: unbound.tail},
		{what: "– p99 with that rebuild / without", reach: "≤ 1.5 ×", reached: atMost(1.5), show: ratio, values: quotients(unbound.tail, alone.tail)},
	}, nil
}

// admin sends a request to the admin address of a process and decodes the answer into out.
func admin(ctx context.Context, of *process, method, path string, body, out any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://"+of.addr("metrics")+path, bytes.NewReader(text))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= http.StatusMultipleChoices {
		return fmt.Errorf("%s %s answers %s", method, req.URL, resp.Status)
	}
	if out == nil {
		return nil
	}
	return json.NewDecoder(resp.Body).Decode(out)
}

// rebuildView begins a build of the view of orders beside the one that answers, and returns its name.
func rebuildView(ctx context.Context, of *process, rate int) (build string, err error) {
	var began struct{ Build string }
	err = admin(ctx, of, http.MethodPost, "/v1/views/orders/rebuild", map[string]int{"rate": rate}, &began)
	return began.Build, err
}

// dropBuild removes a build; if it should be going on, it is an error that it is not.
func dropBuild(ctx context.Context, of *process, build string, going bool) error {
	var view struct {
		Builds []struct {
			ID       string
			CaughtUp bool `json:"caught_up"`
		}
	}
	if err := admin(ctx, of, http.MethodGet, "/v1/views/orders", nil, &view); err != nil {
		return err
	}
	found := false
	for _, b := range view.Builds {
		if b.ID != build {
			continue
		}
		found = true
		if going && b.CaughtUp {
			return fmt.Errorf("the build %s was over before what it costs was measured", build)
		}
	}
	if !found {
		return fmt.Errorf("there is no build %s: %+v", build, view)
	}
	return admin(ctx, of, http.MethodDelete, "/v1/views/orders/builds/"+build, nil, nil)
}
