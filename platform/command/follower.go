package command

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/millrace/millrace/platform/eventlog"
	"github.com/millrace/millrace/platform/store"
)

// A follower reads the log of the partitions that are attached to it into the stream store: of those that other processes own, all the
// time, and of those that this one takes, up to its claim. One connection serves all of them.
type follower[S, C, E any] struct {
	engine *Engine[S, C, E]

	mu      sync.Mutex
	changes []func() // to be made by the goroutine that reads, in this order
	wake    context.CancelFunc

	// The rest belongs to run.
	source   *eventlog.Source
	attached []*partition[S, C, E]
}

func newFollower[S, C, E any](e *Engine[S, C, E]) *follower[S, C, E] {
	return &follower[S, C, E]{engine: e, wake: func() {}}
}

// attach has a partition followed from the store's cursor on. What this process appended to it itself must be in the store.
func (f *follower[S, C, E]) attach(p *partition[S, C, E]) {
	p.warm.reset()
	f.change(func() { f.attached = append(f.attached, p) })
}

// detach returns once nothing more of a partition is written by the follower.
func (f *follower[S, C, E]) detach(ctx context.Context, p *partition[S, C, E]) error {
	done := make(chan struct{})
	f.change(func() {
		f.attached = slices.DeleteFunc(f.attached, func(a *partition[S, C, E]) bool { return a == p })
		if f.source != nil {
			f.source.Remove(p.at)
		}
		p.following = false
		close(done)
	})
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (f *follower[S, C, E]) change(c func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.changes = append(f.changes, c)
	f.wake()
}

// run reads until ctx ends or something is wrong that reading again does not mend.
func (f *follower[S, C, E]) run(ctx context.Context) error {
	defer func() {
		if f.source != nil {
			f.source.Close()
		}
	}()
	pause := 10 * time.Millisecond
	for {
		began := time.Now()
		err := f.read(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if !transient(err) {
			return err
		}
		if time.Since(began) > 10*time.Second {
			pause = 10 * time.Millisecond
		}
		f.engine.cfg.Logger.Warn("the log cannot be followed, beginning again where the store is", "reason", err, "pause", pause)
		if f.source != nil {
			f.source.Close()
			f.source = nil
		}
		for _, p := range f.attached {
			p.following = false
			p.warm.reset() // how far the log has gone meanwhile is not known
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil
		}
		pause = min(2*pause, time.Second)
	}
}

// read makes the changes that are asked for, reads and writes, until an error. While the log grows it reads what has come in storeDelay
// together: each fetch and each synced transaction costs the same for one event and for many.
func (f *follower[S, C, E]) read(ctx context.Context) error {
	var due time.Time // of the next look
	for {
		polling, wake := context.WithCancel(ctx)
		f.mu.Lock()
		changes := f.changes
		f.changes, f.wake = nil, wake
		f.mu.Unlock()
		for _, c := range changes {
			c()
		}
		err := f.begin(polling)
		var fetched []eventlog.Fetched
		if err == nil {
			if left := time.Until(due); left > 0 {
				select {
				case <-time.After(left):
				case <-polling.Done():
				}
			}
			fetched, err = f.source.Poll(polling)
		}
		woken := polling.Err() != nil
		wake()
		switch {
		case err == nil:
			err = f.write(ctx, fetched)
			due = time.Time{}
			if !slices.ContainsFunc(fetched, func(got eventlog.Fetched) bool { return got.Cursor.Next < got.End }) {
				due = time.Now().Add(storeDelay)
			}
		case woken && ctx.Err() == nil && errors.Is(err, context.Canceled):
			err = nil
		}
		if err != nil {
			return err
		}
	}
}

// begin starts to read the partitions that are attached and not read yet.
func (f *follower[S, C, E]) begin(ctx context.Context) (err error) {
	e := f.engine
	if f.source == nil {
		if f.source, err = e.cfg.Log.NewSource(ctx); err != nil {
			return err
		}
	}
	var fresh []*partition[S, C, E]
	var from []eventlog.Cursor
	for _, p := range f.attached {
		if p.following {
			continue
		}
		cursor, err := readCursor(e.cfg.Store, e.cfg.Topic, p.at.Partition)
		if err != nil {
			return err
		}
		if err := p.recall(); err != nil {
			return err
		}
		fresh, from = append(fresh, p), append(from, cursor)
	}
	if len(from) == 0 {
		return nil
	}
	if err := f.source.Add(ctx, from...); err != nil {
		return err
	}
	for i, p := range fresh {
		if p.began < 0 {
			if p.began = from[i].Next; p.began == 0 {
				p.filter.known = store.NewFilter() // nothing is in the store
			}
		}
		p.following = true
		p.reached(from[i].Next, f.source.End(p.at))
	}
	return nil
}

// write puts what was fetched into the store, partition by partition, some at a time.
func (f *follower[S, C, E]) write(ctx context.Context, fetched []eventlog.Fetched) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for _, got := range fetched {
		p := f.engine.partitions[got.Cursor.TopicPartition.Partition]
		if !p.following {
			continue
		}
		g.Go(func() error {
			if err := p.follow(ctx, got); err != nil {
				return err
			}
			p.reached(got.Cursor.Next, got.End)
			return nil
		})
	}
	return g.Wait()
}
