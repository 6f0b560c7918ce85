package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/services/shop/bench/peers/amounts"
)

// The load under which it is measured how long an event takes until a query shows it.
const (
	bookRate  = 200 // events per second
	bookProbe = 10  // of so many events one is looked for, so that the looking is no load of its own
	bookPoll  = time.Millisecond
)

// A booking is an event on its way into the log.
type booking struct {
	env   es.Envelope[amounts.Event]
	probe bool
}

// A counter answers GET /count/{key}.
type counter struct {
	url    string
	waits  bool // it knows Millrace-At-Least; who does not is asked again and again
	client *http.Client
}

func newCounter(of *process, waits bool) *counter {
	return &counter{url: "http://" + of.addr("http") + "/count/", waits: waits, client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 256}}}
}

// get returns a row, once it is based on a position, if there is one.
func (c *counter) get(ctx context.Context, key, atLeast string) (s amounts.Sum, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url+key, nil)
	if err != nil {
		return s, err
	}
	if atLeast != "" {
		req.Header.Set("Millrace-At-Least", atLeast)
	}
	resp, err := c.client.Do(req)
	if err != nil {
		return s, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return s, err
	}
	if resp.StatusCode != http.StatusOK {
		return s, fmt.Errorf("%s%s answers %s: %s", c.url, key, resp.Status, body)
	}
	return s, json.Unmarshal(body, &s)
}

// shows returns when the row of a key has so many events.
func (c *counter) shows(ctx context.Context, key string, position es.Position, count int64) error {
	if c.waits {
		s, err := c.get(ctx, key, es.Positions{}.With(position).String())
		if err == nil && s.Count < count {
			err = fmt.Errorf("%s has %d events at %s, not %d", key, s.Count, position, count)
		}
		return err
	}
	for {
		s, err := c.get(ctx, key, "")
		if err != nil || s.Count >= count {
			return err
		}
		select {
		case <-time.After(bookPoll):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// agrees compares some of the rows with what must come out: who is fast and wrong is worth nothing.
func (c *counter) agrees(ctx context.Context, want []amounts.Sum) error {
	for n := 0; n < len(want); n += len(want) / 500 {
		got, err := c.get(ctx, ledgerKey(n), "")
		if err != nil {
			return err
		}
		if got != want[n] {
			return fmt.Errorf("%s%s answers %+v, want %+v", c.url, ledgerKey(n), got, want[n])
		}
	}
	return nil
}

// visible appends events at an even rate for some time, one by one, and measures for some of them the time from the append to the answer
// of a query that shows the event. What is returned is sorted.
func (l *ledger) visible(ctx context.Context, c *counter, length time.Duration) ([]time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, length+time.Minute)
	defer cancel()
	var (
		mu      sync.Mutex
		took    []time.Duration
		errs    []error
		writers sync.WaitGroup
		probes  sync.WaitGroup
	)
	fail := func(err error) {
		mu.Lock()
		errs = append(errs, err)
		mu.Unlock()
		cancel()
	}
	queues := make([]chan booking, len(l.parts))
	for n := range queues {
		queues[n] = make(chan booking, int(length.Seconds()*bookRate)+bookRate)
		writers.Go(func() {
			for b := range queues[n] {
				began := time.Now()
				at, err := l.append(ctx, n, b.env)
				if err != nil {
					fail(err)
					return
				}
				if b.probe {
					probes.Go(func() {
						if err := c.shows(ctx, string(b.env.Stream), at, int64(b.env.Version)); err != nil {
							fail(err)
							return
						}
						mu.Lock()
						took = append(took, time.Since(began))
						mu.Unlock()
					})
				}
			}
		})
	}
	tick := time.NewTicker(time.Second / bookRate)
	defer tick.Stop()
	for range int(length.Seconds() * bookRate) {
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			break
		}
		env := l.next()
		// By chance: an even choice could always meet the same moment between two commits.
		queues[l.part(env)] <- booking{env, l.random.IntN(bookProbe) == 0}
	}
	for _, q := range queues {
		close(q)
	}
	writers.Wait()
	probes.Wait()
	if len(took) == 0 {
		errs = append(errs, errors.New("nothing was looked for"))
	}
	slices.Sort(took)
	return took, errors.Join(errs...)
}

// append appends one event to a partition.
func (l *ledger) append(ctx context.Context, n int, env es.Envelope[amounts.Event]) (es.Position, error) {
	w := &l.parts[n]
	w.spare.Reset()
	if err := l.binding.Add(w.spare, env); err != nil {
		return es.Position{}, err
	}
	var at int64
	w.owner.Append(w.spare, func(base int64, err error) {
		at = base
		w.done <- err
	})
	select {
	case err := <-w.done:
		return es.Position{TopicPartition: es.TopicPartition{Topic: l.topic.Name, Partition: int32(n)}, Offset: at}, err //nolint:gosec // few partitions
	case <-ctx.Done():
		return es.Position{}, errors.New("an append was not answered: " + strconv.Itoa(n))
	}
}
