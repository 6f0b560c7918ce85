package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"
)

// memory measures what shop dev holds in memory when it has just started and rests, and when it rests after the import of the sample.
func (p *plan) memory(ctx context.Context) ([]row, error) {
	idle := row{what: "resident memory, `shop dev`, idle after its start", reach: "< 120 MB", reached: below(120), show: megabytes}
	after := row{what: "– after the import of 6,919 orders", reach: "< 300 MB", reached: below(300), show: megabytes}
	peak := row{what: "– at its highest until then", show: megabytes}
	for run := range p.runs {
		d, err := p.dev(ctx, filepath.Join(p.dir, "memory-"+strconv.Itoa(run)))
		if err != nil {
			return nil, err
		}
		err = func() error {
			before, err := p.resting(ctx, d, "VmRSS")
			if err != nil {
				return err
			}
			load := exec.CommandContext(ctx, p.shop, "import", p.sample, "--url", "http://"+d.addr("http")) //nolint:gosec // the binary under test
			load.Env = plainEnv()
			if text, err := load.CombinedOutput(); err != nil {
				return fmt.Errorf("import: %w\n%s", err, text)
			}
			then, err := p.resting(ctx, d, "VmRSS")
			if err != nil {
				return err
			}
			most, err := d.resident("VmHWM")
			idle.values, after.values, peak.values = append(idle.values, before), append(after.values, then), append(peak.values, most)
			return err
		}()
		if err := errors.Join(err, d.stop()); err != nil {
			return nil, err
		}
	}
	return []row{idle, after, peak}, nil
}

// resting returns a memory line of a process some seconds after it came to rest.
func (p *plan) resting(ctx context.Context, of *process, line string) (float64, error) {
	if err := settle(ctx, of); err != nil {
		return 0, err
	}
	if err := pause(ctx, time.Duration(p.times(5, 1))*time.Second); err != nil {
		return 0, err
	}
	return of.resident(line)
}
