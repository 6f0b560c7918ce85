package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/fault"
	"github.com/millrace/millrace/platform/projection"
	"github.com/millrace/millrace/platform/service"
)

var (
	// errWaited is returned when what was waited for did not come about in time.
	errWaited = fault.New(fault.Rejected, "wait_timed_out", "the view was not that far in time")
	// errStuck is returned when what is waited for will not come about by itself.
	errStuck = fault.New(fault.Rejected, "build_stuck", "the build does not go on by itself")
)

// A waiter waits for a build of a view at one site.
type waiter struct {
	*site
	build string        // "" = the one that answers queries
	need  es.Positions  // to be applied; nil = all that is in the log when the waiting begins
	live  bool          // it is to answer queries, too
	limit time.Duration // 0 = none

	end   es.Positions            // of the log when the waiting began
	last  *projection.BuildStatus // as it was seen last
	heard time.Time               // when it was
}

const (
	askEvery = 100 * time.Millisecond
	// patience is for how long a process may not answer: one that is started again goes on with its builds.
	patience = 30 * time.Second
)

// wait returns the build as it was reached, or unmet.
func (w *waiter) wait(c *cobra.Command, o output) (*projection.BuildStatus, error) {
	ctx, cancel := w.limited(c.Context())
	defer cancel()
	if err := w.begin(ctx); err != nil {
		return nil, err
	}
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	var show *progress
	defer func() {
		if show != nil {
			show.end(w.last)
		}
	}()
	for {
		done, err := w.look(ctx, c.Context())
		if done || err != nil {
			return w.last, err
		}
		if show == nil {
			show = newProgress(c.ErrOrStderr(), w.view+" "+w.last.ID, o)
		}
		show.show(w.view, w.last, w.heard)
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

// limited returns a context that ends when the waiting does.
func (w *waiter) limited(ctx context.Context) (context.Context, context.CancelFunc) {
	if w.limit > 0 {
		return context.WithTimeout(ctx, w.limit)
	}
	return ctx, func() {}
}

// begin notes what is waited for.
func (w *waiter) begin(ctx context.Context) (err error) {
	w.heard = time.Now()
	if w.need == nil {
		w.end, err = logEnd(ctx, w.instance, w.view)
	}
	return err
}

// look reports whether the build is as far as it is waited for, or unmet if it will not be, or not within ctx, which is within whole.
func (w *waiter) look(ctx, whole context.Context) (done bool, err error) {
	b, err := w.ask(ctx)
	switch {
	case whole.Err() != nil:
		return false, context.Cause(whole)
	case ctx.Err() != nil:
		return false, w.late(w.last)
	case errors.Is(err, errAnswer) && w.last != nil && time.Since(w.heard) < patience:
		return false, nil
	case err != nil:
		return false, err
	}
	w.heard, w.last = time.Now(), b
	why, done := w.judge(b)
	if !done && why != "" {
		return false, unmet{errStuck.Because("view %s, build %s: %s", w.view, b.ID, why).WithFix("millrace view describe %s says more; millrace view resume %s tries again", w.view, w.view)}
	}
	return done, nil
}

// waitAll waits at all sites, and calls reached for each that is as far as it is waited for.
func waitAll(c *cobra.Command, s *spot, all []*waiter, o output, reached func(*waiter, *projection.BuildStatus)) error {
	if s.ranges > 0 {
		return waitRanges(c, s, all, o, reached)
	}
	return everywhere(c, all, func(w *waiter) error {
		b, err := w.wait(c, o)
		if err == nil {
			reached(w, b)
		}
		return err
	})
}

// waitRanges waits at the sites of a divided view, all at once.
func waitRanges(c *cobra.Command, s *spot, all []*waiter, o output, reached func(*waiter, *projection.BuildStatus)) error {
	if len(all) == 0 {
		return nil
	}
	ctx, cancel := all[0].limited(c.Context())
	defer cancel()
	failed := failures{c: c}
	show := newProgress(c.ErrOrStderr(), s.view, o)
	waiting := slices.Clone(all)
	began := map[*waiter]bool{}
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	for {
		var told []func()
		waiting = slices.DeleteFunc(waiting, func(w *waiter) bool {
			var done bool
			var err error
			if !began[w] {
				began[w] = true
				err = w.begin(ctx)
			}
			if err == nil {
				done, err = w.look(ctx, c.Context())
			}
			switch {
			case err != nil:
				told = append(told, func() { failed.add(w.title(), err) })
			case done:
				told = append(told, func() { reached(w, w.last) })
			}
			return done || err != nil
		})
		if c.Context().Err() != nil {
			return context.Cause(c.Context())
		}
		if len(waiting) == 0 {
			show.endAll(all)
		}
		for _, tell := range told {
			show.clear()
			tell()
		}
		if len(waiting) == 0 {
			return failed.err()
		}
		show.showAll(all, time.Now())
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

// logEnd returns the positions at which the log of a view ends now.
func logEnd(ctx context.Context, i *instance, view string) (es.Positions, error) {
	var a struct {
		Positions string `json:"positions"`
	}
	if err := i.call(ctx, http.MethodGet, viewPath(view, "end"), nil, nil, &a); err != nil || a.Positions == "" {
		return nil, err
	}
	return es.ParsePositions(a.Positions)
}

// ask returns the state of the build.
func (w *waiter) ask(ctx context.Context) (*projection.BuildStatus, error) {
	v, err := status(ctx, w.instance, w.view)
	if err != nil {
		return nil, err
	}
	id := w.build
	if id == "" {
		id = v.Live
	}
	n := slices.IndexFunc(v.Builds, func(b projection.BuildStatus) bool { return b.ID == id })
	if n < 0 {
		return nil, projection.ErrBuildNotFound.Because("view %s, build %s", w.view, id)
	}
	b := &v.Builds[n]
	if w.live && v.Live != id {
		b.CaughtUp = false // not in the way that is waited for
	}
	return b, nil
}

// judge reports whether what is waited for is there, and if not, why it will not come, if that is so.
func (w *waiter) judge(b *projection.BuildStatus) (why string, done bool) {
	if w.need == nil && !w.live && b.State == projection.Complete {
		return "", true
	}
	missing := w.need == nil && !b.CaughtUp
	for n := range b.Partitions {
		at := &b.Partitions[n]
		if w.applied(at) {
			continue
		}
		missing = true
		if at.State == projection.Halted {
			why = at.Reason
		}
	}
	if !missing {
		return "", true
	}
	switch b.State {
	case projection.Paused, projection.Frozen, projection.Complete:
		why = "it is " + b.State
		if b.Why != "" {
			why += ": " + b.Why
		}
	}
	return why, false
}

// applied reports whether a partition is as far as is waited for.
func (w *waiter) applied(at *projection.PartitionStatus) bool {
	need := w.need
	if need == nil {
		need = w.end
	}
	offset, ok := need.Offset(es.TopicPartition{Topic: at.Topic, Partition: at.Partition})
	return !ok || at.Next > offset
}

// late says how far the build came.
func (w *waiter) late(b *projection.BuildStatus) error {
	if b == nil {
		return unmet{errWaited.Because("view %s: nothing was heard of it", w.view)}
	}
	if w.need == nil {
		return unmet{errWaited.Because("%s", summary(w.view+" "+b.ID, b))}
	}
	why := ""
	for n := range b.Partitions {
		if at := &b.Partitions[n]; !w.applied(at) {
			offset, _ := w.need.Offset(es.TopicPartition{Topic: at.Topic, Partition: at.Partition})
			if why != "" {
				why += ", "
			}
			why += fmt.Sprintf("%s has everything before offset %d, asked was %d", partitionName(at), at.Next, offset)
		}
	}
	return unmet{errWaited.Because("view %s, build %s: %s", w.view, b.ID, why)}
}

func viewWaitCommand() *cobra.Command {
	var build, position string
	var caughtUp bool
	var limit time.Duration
	c := verbAt(&cobra.Command{
		Use: "wait VIEW", Short: "Wait until a view has applied positions, or all that is in the log", Args: cobra.ExactArgs(1),
		Long: "Wait until the build of a view that answers queries, or another one, has applied the positions that are named, or has caught up with what the log holds now. The exit status is 3\n" +
			"if it has not within --timeout, and at once if it has halted or is paused. With several instances, or ranges of a view that is\n" +
			"divided, it is waited for each; a position only where its partition is.",
		Example: "  millrace view wait orders --position orders.events/3@1042\n  millrace view wait orders --build v3-1 --timeout 10m",
	}, func(c *cobra.Command, _ []string, r *results, s *spot) error {
		if position != "" && caughtUp {
			return service.ErrUsage.Because("--position and --caught-up are two things to wait for")
		}
		if limit < 0 {
			return service.ErrUsage.Because("--timeout is not negative")
		}
		var need es.Positions
		if position != "" {
			var err error
			if need, err = es.ParsePositions(position); err != nil {
				return service.ErrUsage.Because("--position").Wrap(err)
			}
			if err := s.narrow(need); err != nil {
				return err
			}
		}
		all := make([]*waiter, len(s.sites))
		for n, p := range s.sites {
			all[n] = &waiter{site: p, build: build, limit: limit, need: p.of(need)}
		}
		if need != nil {
			known := func(w *waiter) error { return w.known(c.Context()) }
			if err := everywhere(c, all, known); err != nil {
				return err
			}
		}
		return s.whole(waitAll(c, s, all, r.o, func(w *waiter, b *projection.BuildStatus) {
			done := "is " + reachedAs(b, false)
			if w.need != nil {
				done = "has applied " + w.need.String()
			}
			r.add(w.site, result{w.base.String(), w.view, b.ID, b.State}, ": build %s %s", b.ID, done)
		}))
	})
	f := c.Flags()
	f.StringVar(&build, "build", "", "build to wait for; default: the one that answers queries")
	f.StringVar(&position, "position", "", "positions to wait for, comma separated")
	f.BoolVar(&caughtUp, "caught-up", false, "wait until all is applied that the log holds now; the default")
	f.DurationVar(&limit, "timeout", 30*time.Second, "for how long to wait; 0 = as long as it takes")
	return c
}

// known refuses positions of partitions that the build does not read: it would be waited for ever.
func (w *waiter) known(ctx context.Context) error {
	b, err := w.ask(ctx)
	if err != nil {
		return err
	}
	for _, pos := range w.need {
		if !slices.ContainsFunc(b.Partitions, func(at projection.PartitionStatus) bool {
			return at.Topic == pos.Topic && at.Partition == pos.Partition
		}) {
			return projection.ErrForeignTopic.Because("%s; build %s of %s reads %d partitions", pos, b.ID, w.view, len(b.Partitions))
		}
	}
	return nil
}
