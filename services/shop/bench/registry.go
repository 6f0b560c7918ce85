package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/platform/contract"
	ordersv1 "github.com/millrace/millrace/schemas/orders/v1"
)

// registryFigure measures the schema registry as a process of its own on a real Kafka: what services ask it for, and registrations.
func (p *plan) registryFigure(ctx context.Context) (rows []row, err error) {
	err = p.onKafka(ctx, func(kafka string) error {
		rows, err = p.registryOn(ctx, kafka)
		return err
	})
	return rows, err
}

func (p *plan) registryOn(ctx context.Context, kafka string) (rows []row, err error) {
	r, err := ready(ctx, p.serve(ctx, filepath.Join(p.dir, "registry"), kafka, nil, "registry"))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.stop()) }()
	placed := ordersv1.Contract.Subjects()[slices.IndexFunc(ordersv1.Contract.Subjects(), func(s contract.Subject) bool { return strings.HasSuffix(s.Name, ".OrderPlaced") })]
	known, err := json.Marshal(map[string]string{"schema": placed.Schema})
	if err != nil {
		return nil, err
	}
	// Each new schema is another type in a subject of its own, as when a new event comes.
	before, after, _ := strings.Cut(string(known), `OrderPlaced\"`)
	var next atomic.Int64
	fresh := func(c *conn, _ int64) error {
		n := strconv.FormatInt(next.Add(1), 10)
		return c.register("new-"+n, before+"OrderPlaced"+n+`\"`+after)
	}
	if _, err := drive(ctx, r.addr("registry"), 1, 1, 0, func(c *conn, _ int64) error { return c.register("known", string(known)) }); err != nil {
		return nil, err
	}
	type measured struct{ rate, p50, work []float64 }
	var get, again, one, many measured
	length := time.Duration(p.times(2000, 500)) * time.Millisecond
	for run := range p.rounds() {
		for _, m := range []struct {
			name        string
			into        *measured
			connections int
			f           func(c *conn, n int64) error
		}{
			{"get", &get, 64, func(c *conn, _ int64) error { return c.get("/schemas/ids/1", "") }},
			{"again", &again, 64, func(c *conn, _ int64) error { return c.register("known", string(known)) }},
			{"one", &one, 1, fresh},
			{"many", &many, 64, fresh},
		} {
			if err := settle(ctx, r); err != nil {
				return nil, err
			}
			if _, err := drive(ctx, r.addr("registry"), m.connections, 0, length/5, m.f); err != nil {
				return nil, fmt.Errorf("%s: %w", m.name, err)
			}
			profiled := func() error { return nil }
			if run == p.runs {
				profiled = p.profiled(ctx, r, "registry-"+m.name, length)
			}
			start, err1 := cpu(r.pid())
			l, err2 := drive(ctx, r.addr("registry"), m.connections, 0, length, m.f)
			end, err3 := cpu(r.pid())
			if err := errors.Join(err1, err2, err3, profiled()); err != nil {
				return nil, fmt.Errorf("%s: %w", m.name, err)
			}
			if run == p.runs {
				continue
			}
			m.into.rate = append(m.into.rate, l.rate())
			m.into.p50 = append(m.into.p50, percentile(l.sorted, 0.5))
			m.into.work = append(m.into.work, (end[0]-start[0]).Seconds()*1e6/float64(l.requests))
		}
	}
	return []row{
		{what: "registry, real Kafka, `GET /schemas/ids/{id}`, 64 connections", show: perSecond("requests"), values: get.rate},
		{what: "– p50", show: milliseconds, values: get.p50},
		{what: "– its CPU time for each request", show: microseconds, values: get.work},
		{what: "– register what is there already, 64 connections", show: perSecond("requests"), values: again.rate},
		{what: "– register new schemas, 1 connection", show: perSecond("schemas"), values: one.rate},
		{what: "– p50", show: milliseconds, values: one.p50},
		{what: "– register new schemas, 64 connections", show: perSecond("schemas"), values: many.rate},
		{what: "– p50", show: milliseconds, values: many.p50},
		{what: "– its CPU time for each", show: microseconds, values: many.work},
	}, nil
}

// register sends a registration; body is the request's JSON.
func (c *conn) register(subject, body string) error {
	b := append(c.out[:0], "POST /subjects/"...)
	b = append(b, subject...)
	b = append(b, "/versions HTTP/1.1\r\nHost: "...)
	b = append(b, c.host...)
	b = append(b, "\r\nContent-Type: application/vnd.schemaregistry.v1+json\r\nContent-Length: "...)
	b = strconv.AppendInt(b, int64(len(body)), 10)
	b = append(b, "\r\n\r\n"...)
	c.out = append(b, body...)
	_, err := c.exchange()
	return err
}
