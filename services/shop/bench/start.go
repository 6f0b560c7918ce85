package main

import (
	"context"
	"errors"
	"path/filepath"
	"strconv"
)

// start measures shop dev from its start until it says ready: on nothing, and on the data of 100,000 orders.
func (p *plan) start(ctx context.Context) ([]row, error) {
	empty := row{what: "`shop dev`, start to ready, empty data", reach: "< 1 s", reached: below(1), show: seconds}
	full := row{what: "`shop dev`, start to ready, 100,000 orders in it", reach: "< 2 s", reached: below(2), show: seconds}
	data := filepath.Join(p.dir, "start")
	d, err := p.dev(ctx, data)
	if err != nil {
		return nil, err
	}
	_, err = orders(ctx, d.addr("http"), "o-", 64, p.times(100_000, 5_000), 0)
	if err == nil {
		err = settle(ctx, d)
	}
	if err := errors.Join(err, d.stop()); err != nil {
		return nil, err
	}
	for i := range p.runs {
		for _, s := range []struct {
			row *row
			dir string
		}{{&empty, filepath.Join(p.dir, "start-"+strconv.Itoa(i))}, {&full, data}} {
			d, err := p.dev(ctx, s.dir)
			if err != nil {
				return nil, err
			}
			if err := d.stop(); err != nil {
				return nil, err
			}
			s.row.values = append(s.row.values, d.took.Seconds())
		}
	}
	return []row{empty, full}, nil
}
