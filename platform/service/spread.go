package service

import (
	"cmp"
	"context"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/millrace/millrace/platform/eventlog"
	"github.com/millrace/millrace/platform/fault"
	"github.com/millrace/millrace/platform/forward"
	"github.com/millrace/millrace/platform/projection"
	"github.com/millrace/millrace/platform/rest"
	"github.com/millrace/millrace/platform/spread"
	"github.com/millrace/millrace/platform/store"
)

// A spreader keeps up to date some of the ranges of partitions into which the views of a projector are divided, and knows which other
// instances have the others. Who should have what follows from who is there (package spread); who has what is asked of everybody, all the
// time. A range that moves is built where it comes to, from a snapshot if somebody has it, before it is given up where it was.
type spreader struct {
	h      *host
	role   Projector
	views  []View
	topic  eventlog.Topic // of one of the views: all have as many partitions
	find   func(name string) (eventlog.Topic, error)
	ranges int
	copies int
	dir    string // of the ranges, a directory for each

	look  chan struct{} // to look again at once
	left  chan struct{} // closed when this instance should have nothing any more
	leave sync.Once

	mu      sync.RWMutex
	held    map[int]*heldRange
	others  map[string][]heldAnswer // by address, of instances that answer
	refused string                  // what helps if one of the others does not take this instance for one of them
	members []string                // where a range should be; this instance is among them unless it leaves
	gone    map[string]time.Time    // since when members are not there any more
	back    map[int]*setback        // ranges that should be here and cannot be taken just now

	routes atomic.Pointer[map[string]*viewRoute]
	was    atomic.Bool // ready
	begun  time.Time
}

// A heldRange is a range that is here.
type heldRange struct {
	number int
	engine *projection.Projector
	ctx    context.Context // ends when the range is given up
	cancel context.CancelFunc
	users  sync.WaitGroup // requests that read it
	done   chan struct{}  // closed when the engine has ended
	spare  time.Time      // since when it need not be here; zero = it must
	fresh  bool           // nothing of it was here before
}

// A setback is why a range cannot be taken, and when that is tried again.
type setback struct {
	err   error
	wait  time.Duration
	again time.Time
}

// A heldAnswer says what an instance has of a range.
type heldAnswer struct {
	Range int                    `json:"range"`
	Views map[string][]heldBuild `json:"views"`
}

// A heldBuild is a build of a view that can be read. Those of a view come in the order in which they are to be read: first the one that answers
// queries, then the one that did before.
type heldBuild struct {
	Version int    `json:"version"`
	Build   string `json:"build"`
	Live    bool   `json:"live,omitempty"`   // it answers queries
	Behind  bool   `json:"behind,omitempty"` // it has not caught up: it was reset, or paused before, or the program does not have its version any more
}

const (
	// spreadEvery is how often an instance looks who is there and what they have.
	spreadEvery = time.Second
	// spreadGrace is for how long an instance that is gone keeps its place, as long as there are other copies: one that is started again
	// should find everything as it was.
	spreadGrace = 30 * time.Second
	// spreadMeet is for how long an instance that starts waits until it is known to be there: who starts with it is, too, then.
	spreadMeet = 5 * time.Second
	// spreadSpare is for how long a range that should be elsewhere, and is there, stays: the others have seen that by then. It is a time and not a
	// number of looks, for whoever misses a range has them follow each other at once.
	spreadSpare = 4 * spreadEvery
	// spreadRetry is after how long a range that could not be taken is tried again: that long, then twice that, and so on up to spreadRetryMax.
	spreadRetry    = spreadEvery
	spreadRetryMax = time.Minute
)

var (
	// ErrRange is returned for a part of a view that no instance has ready.
	ErrRange = fault.New(fault.Unavailable, "range_unavailable", "a part of the view is not available")
	// errRangeElsewhere is what an instance says of a range that it does not have.
	errRangeElsewhere = fault.New(fault.Unavailable, "range_elsewhere", "this instance does not have that part of the view")
)

func newSpreader(h *host, p Projector, views []View, find func(string) (eventlog.Topic, error)) (*spreader, error) {
	s := &spreader{
		h: h, role: p, views: views, find: find, ranges: h.config.ViewRanges, copies: h.config.ViewCopies,
		look: make(chan struct{}, 1), left: make(chan struct{}), held: map[int]*heldRange{}, others: map[string][]heldAnswer{}, gone: map[string]time.Time{}, back: map[int]*setback{},
	}
	if h.secured && h.config.PeerToken == "" {
		return nil, ErrConfig.Because("view.ranges: instances give each other the rows of views, which this application does not let everybody read").
			WithFix("set MILLRACE_PEER_TOKEN, a secret of your choice, to the same value at all instances")
	}
	s.dir = filepath.Join(h.config.DataDir, p.Name, "ranges", strconv.Itoa(s.ranges))
	for _, v := range views {
		for _, name := range v.topics {
			t, err := find(name)
			if err != nil {
				return nil, err
			}
			if s.topic.Name != "" && t.Partitions != s.topic.Partitions {
				return nil, ErrRole.Because("projector %q: its divided views read topics with %d and %d partitions", p.Name, s.topic.Partitions, t.Partitions)
			}
			s.topic = t
		}
	}
	s.chart()
	if int(s.topic.Partitions) < s.ranges {
		return nil, ErrConfig.Because("view.ranges: %d ranges of the %d partitions of %s", s.ranges, s.topic.Partitions, s.topic.Name)
	}
	return s, nil
}

// begin has the spreader run with the process.
func (s *spreader) begin() {
	h := s.h
	s.begun = time.Now()
	path := s.path()
	h.http.Handle(http.MethodGet, path, s.tell)
	h.http.Handle(http.MethodGet, path+"/:range/:view/backup", s.backup)
	h.run(s.role.Name+" ranges", s.run)
	h.handOver(s.handOver)
	h.check(s.role.Name+" ranges", func(context.Context) error { return s.ready() })
}

// ready returns nil once the ranges that should be here have caught up. A range that comes later, as when another instance has died, is none of
// a client's business: whoever has the others goes on answering, and all instances are given ranges at the same time then.
func (s *spreader) ready() error {
	if s.was.Load() {
		return nil
	}
	missing, known := s.behind()
	why := s.setbacks()
	switch {
	case !known:
		return projection.ErrNotCaughtUp.Because("which ranges of the views of %s should be here is not known yet", s.role.Name)
	case len(missing) > 0 && why != "":
		return projection.ErrNotCaughtUp.Because("ranges %v of the views of %s are being brought up to date; %s", missing, s.role.Name, why)
	case len(missing) > 0:
		return projection.ErrNotCaughtUp.Because("ranges %v of the views of %s are being brought up to date", missing, s.role.Name)
	}
	s.was.Store(true)
	return nil
}

// spreadPath is where instances ask each other for what they have.
const spreadPath = forward.Path + "/ranges/"

// path is where those who divide the views of this role into as many ranges ask: one that was started again with another number of them has other
// ranges, and may still be taken for what it was.
func (s *spreader) path() string { return spreadPath + s.role.Name + "/" + strconv.Itoa(s.ranges) }

// behind returns the ranges that should be here and have not caught up, if it is known which those are.
func (s *spreader) behind() (missing []int, known bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.members == nil {
		return nil, false
	}
	for n, who := range spread.Place(s.members, s.ranges, s.copies) {
		if slices.Contains(who, s.h.advertise) && (s.held[n] == nil || !s.held[n].engine.CaughtUp()) {
			missing = append(missing, n)
		}
	}
	return missing, true
}

// run keeps the ranges that should be here until ctx ends.
func (s *spreader) run(ctx context.Context) (err error) {
	member, err := s.h.log.Attend(s.h.config.Environment+"/views/"+s.role.Name+"/"+strconv.Itoa(s.ranges), s.topic, s.h.advertise)
	if err != nil {
		return err
	}
	var once sync.Once
	leave := func() {
		once.Do(func() {
			leaving, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
			defer cancel()
			if err := member.Leave(leaving); err != nil {
				s.h.logger.Debug("the others learn later that this instance leaves", "error", err)
			}
		})
	}
	failed := make(chan error, s.ranges)
	defer func() {
		leave()
		for _, h := range s.all() {
			err = errors.Join(err, s.end(h))
		}
	}()
	if err := s.resume(ctx, failed); err != nil {
		return err
	}
	tick := time.NewTicker(spreadEvery)
	defer tick.Stop()
	left := s.left
	for {
		if err := s.step(ctx, member, failed); err != nil && ctx.Err() == nil {
			return err
		}
		select {
		case <-tick.C:
		case <-s.look:
		case <-left:
			left = nil
			leave()
		case err := <-failed:
			return err
		case <-ctx.Done():
			return nil
		}
	}
}

// resume opens the ranges that this instance had before.
func (s *spreader) resume(ctx context.Context, failed chan<- error) error {
	if err := os.MkdirAll(s.dir, 0o750); err != nil {
		return ErrConfig.Because("data.dir %s", s.h.config.DataDir).Wrap(err)
	}
	there, err := os.ReadDir(filepath.Dir(s.dir))
	if err != nil {
		return ErrConfig.Because("data.dir %s", s.h.config.DataDir).Wrap(err)
	}
	for _, d := range there {
		if d.Name() != filepath.Base(s.dir) {
			s.h.logger.Warn("views were divided otherwise before: what is kept of that is not used any more, and can be removed", "dir", filepath.Join(filepath.Dir(s.dir), d.Name()))
		}
	}
	if there, err = os.ReadDir(s.dir); err != nil {
		return ErrConfig.Because("data.dir %s", s.h.config.DataDir).Wrap(err)
	}
	for _, d := range there {
		n, err := strconv.Atoi(d.Name())
		if err != nil || n < 0 || n >= s.ranges {
			// It was being removed when the process was killed.
			if err := os.RemoveAll(filepath.Join(s.dir, d.Name())); err != nil {
				return ErrConfig.Because("data.dir %s", s.dir).Wrap(err)
			}
			continue
		}
		if err := s.try(ctx, n, failed); err != nil {
			return err
		}
	}
	return nil
}

// step looks who is there and what they have, takes what should be here, and gives up what is where it should be.
func (s *spreader) step(ctx context.Context, member *eventlog.Member, failed chan<- error) error {
	asking, cancel := context.WithTimeout(ctx, 2*time.Second)
	there, err := s.h.log.Members(asking, member.Group())
	cancel()
	switch {
	case err != nil:
		s.h.logger.Debug("who else has ranges is not known", "error", err) // what was seen last goes on being so
	case s.members == nil && !slices.Contains(there, s.h.advertise) && time.Since(s.begun) < spreadMeet:
		s.again()
		return sleepFor(ctx, spreadEvery/20) // others that start now may not be known yet, either
	default:
		s.see(there, time.Now())
	}
	s.ask(ctx)
	s.mu.RLock()
	place := spread.Place(s.members, s.ranges, s.copies)
	s.mu.RUnlock()
	defer s.chart()
	for n, who := range place {
		here := s.here(n)
		switch {
		case slices.Contains(who, s.h.advertise):
			if here != nil {
				here.spare = time.Time{}
				continue
			}
			if err := s.try(ctx, n, failed); err != nil {
				return err
			}
		case here == nil:
			s.setBack(n, nil)
		case here.fresh && !here.engine.CaughtUp() && s.answers(who):
			// It was begun while others that should have it were not known, and serves nobody.
			s.giveUp(here)
		case !s.leaving() && s.haveAll(n, who) && !missed(s.views, s.ranges, n, s.everybody()):
			if here.spare.IsZero() {
				here.spare = time.Now()
			}
			if time.Since(here.spare) < spreadSpare {
				continue
			}
			s.giveUp(here)
		default:
			here.spare = time.Time{}
		}
	}
	return nil
}

// answers reports whether one of these instances, others than this one, does.
func (s *spreader) answers(who []string) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.ContainsFunc(who, func(m string) bool { return s.others[m] != nil })
}

// missed reports whether a view that can be read now could not be, or not up to date, if a range were not here: others may have it in another
// version only, which is not the one that all ranges have. have is what each instance has, "" = this one.
func missed(views []View, ranges, n int, have map[string][]heldAnswer) bool {
	without := maps.Clone(have)
	without[""] = slices.DeleteFunc(slices.Clone(have[""]), func(a heldAnswer) bool { return a.Range == n })
	return slices.ContainsFunc(newest(views), func(v View) bool {
		now, then := chart(v.name, ranges, have), chart(v.name, ranges, without)
		return now.err == nil && (then.err != nil || then.behind[n] && !now.behind[n])
	})
}

// everybody returns what each instance has, "" for this one.
func (s *spreader) everybody() map[string][]heldAnswer {
	have := map[string][]heldAnswer{"": s.have()}
	s.mu.RLock()
	defer s.mu.RUnlock()
	maps.Copy(have, s.others)
	return have
}

// see notes who is there. Who is gone keeps its place for a while, if what it had is elsewhere, too.
func (s *spreader) see(there []string, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	members := slices.Clone(there)
	if !s.leaving() {
		members = append(members, s.h.advertise)
	} else {
		members = slices.DeleteFunc(members, func(m string) bool { return m == s.h.advertise })
	}
	slices.Sort(members)
	members = slices.Compact(members)
	for _, m := range s.members {
		if _, noted := s.gone[m]; !noted && !slices.Contains(members, m) && m != s.h.advertise {
			s.gone[m] = now
		}
	}
	for m, since := range s.gone {
		switch {
		case slices.Contains(members, m) || now.Sub(since) > spreadGrace:
			delete(s.gone, m)
		case s.copies > 1:
			members = append(members, m)
		}
	}
	slices.Sort(members)
	s.members = members
}

func (s *spreader) leaving() bool {
	select {
	case <-s.left:
		return true
	default:
		return false
	}
}

// ask asks the other instances what they have.
func (s *spreader) ask(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, spreadEvery)
	defer cancel()
	s.mu.RLock()
	members := slices.DeleteFunc(slices.Clone(s.members), func(m string) bool { return m == s.h.advertise })
	s.mu.RUnlock()
	found, errs := make([][]heldAnswer, len(members)), make([]error, len(members))
	var all sync.WaitGroup
	for i, m := range members {
		all.Go(func() {
			got, err := s.h.peers.Do(ctx, m, &forward.Request{Method: http.MethodGet, Target: s.path()})
			if err == nil && got.Status == http.StatusOK {
				err = json.Unmarshal(got.Body, &found[i])
			} else if err == nil {
				err = fmt.Errorf("it answers %d", got.Status)
			}
			if err != nil {
				errs[i] = err
				s.h.logger.Debug("an instance does not say which ranges it has", "address", m, "error", err)
			}
		})
	}
	all.Wait()
	others, refused := map[string][]heldAnswer{}, ""
	for i, m := range members {
		if found[i] != nil {
			others[m] = found[i]
		}
		if errors.Is(errs[i], forward.ErrRefused) {
			refused = cmp.Or(refused, fault.From(errs[i]).Fix)
		}
	}
	s.mu.Lock()
	s.others, s.refused = others, refused
	s.mu.Unlock()
}

// tell answers another instance's question for what this one has ready.
func (s *spreader) tell(ctx context.Context, _ *rest.Request) (*rest.Response, error) {
	if _, ok := forward.From(ctx); !ok {
		return nil, rest.ErrRouteNotFound
	}
	return rest.JSON(http.StatusOK, s.have()), nil
}

// have returns what is ready here.
func (s *spreader) have() []heldAnswer {
	out := []heldAnswer{}
	for _, h := range s.all() {
		if a := s.haveOf(h); len(a.Views) > 0 {
			out = append(out, a)
		}
	}
	return out
}

// haveOf returns what is ready of a range: of one that has not caught up, builds that answer queries as they are until a new version has.
func (s *spreader) haveOf(h *heldRange) heldAnswer {
	a := heldAnswer{Range: h.number, Views: map[string][]heldBuild{}}
	caughtUp := h.engine.CaughtUp()
	for _, v := range newest(s.views) {
		st, err := h.engine.StatusOf(v.name)
		if err != nil {
			continue
		}
		if builds := readable(&st, caughtUp); len(builds) > 0 {
			a.Views[v.name] = builds
		}
	}
	return a
}

// whole reports whether all views of a range are kept up to date where this was said.
func (a heldAnswer) whole(views []View) bool {
	return !slices.ContainsFunc(newest(views), func(v View) bool {
		return !slices.ContainsFunc(a.Views[v.name], func(b heldBuild) bool { return !b.Behind })
	})
}

// readable returns the builds of a view that can be read. One that answered queries before is among them also if the program does not have its
// version any more: other ranges may not have the new one anywhere yet. Of views that have not caught up, only such builds are.
func readable(st *projection.ViewStatus, caughtUp bool) (out []heldBuild) {
	for _, b := range st.Builds {
		live, previous, frozen := b.ID == st.Live, b.ID == st.Previous, b.State == projection.Frozen
		if !caughtUp && !frozen {
			continue
		}
		if !live && (b.Until != nil || !b.CaughtUp && !(previous && frozen)) {
			continue
		}
		held := heldBuild{Version: b.Version, Build: b.ID, Live: live, Behind: frozen || !b.CaughtUp}
		if previous && len(out) > 0 && out[0].Live {
			out = slices.Insert(out, 1, held)
		} else {
			out = append(out, held)
		}
	}
	return out
}

// all returns the ranges that are here, in order.
func (s *spreader) all() []*heldRange {
	s.mu.RLock()
	defer s.mu.RUnlock()
	out := make([]*heldRange, 0, len(s.held))
	for n := range s.ranges {
		if h := s.held[n]; h != nil {
			out = append(out, h)
		}
	}
	return out
}

func (s *spreader) here(n int) *heldRange {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.held[n]
}

// haveAll reports whether all of these instances, others than this one, have a range ready.
func (s *spreader) haveAll(n int, who []string) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, m := range who {
		if !slices.ContainsFunc(s.others[m], func(a heldAnswer) bool { return a.Range == n && a.whole(s.views) }) {
			return false
		}
	}
	return len(who) > 0
}

// take begins to keep a range here.
func (s *spreader) take(ctx context.Context, n int, failed chan<- error) error {
	_, err := os.Stat(filepath.Join(s.dir, strconv.Itoa(n)))
	fresh := errors.Is(err, os.ErrNotExist)
	engine, err := s.role.open(ctx, s.h, s.views, s.find, func(c *projection.Config) {
		c.Dir, c.Range = filepath.Join(s.dir, strconv.Itoa(n)), projection.Range{Number: n, Of: s.ranges}
		c.Snapshots = s.snapshots(n)
		// What a process may take is shared by all ranges that it may have.
		share := max(1, s.ranges*s.copies/max(1, len(s.members)))
		c.CacheBytes, c.StoreOptions = (128<<20)/int64(share), store.Options{MemTable: max(memTable/int64(share), 16<<20)}
		c.ScrubRate /= int64(share)
	})
	if err != nil {
		return err
	}
	run, cancel := context.WithCancel(ctx)
	h := &heldRange{number: n, engine: engine, ctx: run, cancel: cancel, done: make(chan struct{}), fresh: fresh}
	go func() {
		defer close(h.done)
		if err := engine.Run(run); err != nil {
			failed <- err
		}
	}()
	if s.h.config.ViewAuditInterval > 0 {
		h.users.Go(func() { _ = s.role.audit(s.h, engine, s.views).run(run) }) // it has no errors but tells them itself
	}
	for _, v := range newest(s.views) {
		s.h.views.add(rangeName(v.name, n), operated{engine, v.name})
	}
	s.mu.Lock()
	s.held[n] = h
	s.mu.Unlock()
	s.h.logger.Info("a range of views is kept here", "role", s.role.Name, "range", n, "of", s.ranges)
	return nil
}

// rangeName is the name under which a range of a view is operated.
func rangeName(view string, n int) string { return view + "." + strconv.Itoa(n) }

// end ends a range here when those who read it are done.
func (s *spreader) end(h *heldRange) error {
	s.mu.Lock()
	delete(s.held, h.number)
	s.mu.Unlock()
	for _, v := range newest(s.views) {
		s.h.views.remove(rangeName(v.name, h.number))
	}
	h.cancel()
	h.users.Wait()
	<-h.done
	return h.engine.Close()
}

// giveUp ends a range that others have, and removes what is stored of it. What cannot be removed does no harm but take room: it is removed when
// the range is given up again, or goes on if the range comes back.
func (s *spreader) giveUp(h *heldRange) {
	dir := filepath.Join(s.dir, strconv.Itoa(h.number))
	removed := dir + ".removed" // not to be found half of it at the next start
	err := errors.Join(s.end(h), os.RemoveAll(removed), os.Rename(dir, removed), os.RemoveAll(removed))
	if err != nil {
		s.h.metrics.setbacks.WithLabelValues(s.role.Name, strconv.Itoa(h.number)).Inc()
		s.h.logger.Error("a range of views is kept elsewhere now, and not all of what was stored here could be removed", "role", s.role.Name, "range", h.number, "of", s.ranges, "dir", dir, "error", err)
		return
	}
	s.h.logger.Info("a range of views is kept elsewhere now", "role", s.role.Name, "range", h.number, "of", s.ranges)
}

// try takes a range, unless that failed a short while ago. What may be otherwise later, as when the disk is full, is tried again, and this instance
// goes on with the ranges that it has; what will not, ends it.
func (s *spreader) try(ctx context.Context, n int, failed chan<- error) error {
	s.mu.RLock()
	b := s.back[n]
	s.mu.RUnlock()
	if b != nil && time.Now().Before(b.again) {
		return nil
	}
	err := s.take(ctx, n, failed)
	if err != nil && (ctx.Err() != nil || !passing(err)) {
		return err
	}
	s.setBack(n, err)
	return nil
}

// setBack notes why a range cannot be taken; nil = it can, or need not be.
func (s *spreader) setBack(n int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		delete(s.back, n)
		return
	}
	b := &setback{err: err, wait: spreadRetry}
	if before := s.back[n]; before != nil {
		b.wait = min(2*before.wait, spreadRetryMax)
	}
	b.again = time.Now().Add(b.wait)
	s.back[n] = b
	s.h.metrics.setbacks.WithLabelValues(s.role.Name, strconv.Itoa(n)).Inc()
	s.h.logger.Error("a range of views that should be here cannot be taken, and is tried again", "role", s.role.Name, "range", n, "of", s.ranges, "after", b.wait, "error", fault.Line(err))
}

// setbacks says why ranges cannot be taken, "" = all can.
func (s *spreader) setbacks() string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var why []string
	for n := range s.ranges {
		if b := s.back[n]; b != nil {
			why = append(why, fmt.Sprintf("range %d cannot be taken: %s", n, fault.Line(b.err)))
		}
	}
	return strings.Join(why, "; ")
}

// passing reports whether what failed may succeed later without a restart: somebody else does not answer, or the machine has too little of
// something. What is stored being damaged, and a disk that does not write, is not among it, though who asks is to come back later.
func passing(err error) bool {
	switch {
	case errors.Is(err, store.ErrDamaged), errors.Is(err, store.ErrFailed):
		return false
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT), errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		return true
	}
	return fault.KindOf(err).Retryable()
}

// use returns a range for a request, if it is here and can be read: whoever asks may have asked an instance that was here before. done must be
// called when the request is answered, also if that panics, and may be called again: a range with a user that is never done is never given up.
func (s *spreader) use(n int) (h *heldRange, done func(), ok bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if h = s.held[n]; h == nil || !h.engine.CaughtUp() && len(s.haveOf(h).Views) == 0 {
		return nil, nil, false
	}
	h.users.Add(1)
	return h, sync.OnceFunc(h.users.Done), true
}

// handOver has others take the ranges that only this instance has.
func (s *spreader) handOver(ctx context.Context) {
	s.leave.Do(func() { close(s.left) })
	tick := time.NewTicker(spreadEvery / 20)
	defer tick.Stop()
	for {
		s.mu.RLock()
		alone := len(s.members) == 0 || len(s.members) == 1 && s.members[0] == s.h.advertise
		s.mu.RUnlock()
		only := false
		for _, h := range s.all() {
			only = only || len(s.holders(h.number)) == 0
		}
		if alone || !only {
			return
		}
		select {
		case <-tick.C:
			s.again()
		case <-ctx.Done():
			return
		}
	}
}

// again has the spreader look at once.
func (s *spreader) again() {
	select {
	case s.look <- struct{}{}:
	default:
	}
}

// holders returns the addresses of the other instances that have a range ready.
func (s *spreader) holders(n int) (who []string) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, m := range sortedKeys(s.others) {
		if slices.ContainsFunc(s.others[m], func(a heldAnswer) bool { return a.Range == n && a.whole(s.views) }) {
			who = append(who, m)
		}
	}
	return who
}

// snapshots returns how the backups are had that others have of a range.
func (s *spreader) snapshots(n int) (all []projection.Snapshot) {
	for _, m := range s.holders(n) {
		all = append(all, s.h.snapshotFrom("http://"+m+s.path()+"/"+strconv.Itoa(n), peerToken(s.h.config.PeerToken)))
	}
	return all
}

// backup gives another instance a backup of what is here of a range.
func (s *spreader) backup(_ context.Context, r *rest.Request) (*rest.Response, error) {
	if err := s.h.peer(r.HTTP()); err != nil {
		return nil, err
	}
	n, err := strconv.Atoi(r.Param("range"))
	if err != nil {
		return nil, rest.ErrRouteNotFound
	}
	h, done, ok := s.use(n)
	if !ok {
		return nil, errRangeElsewhere.Because("range %d", n)
	}
	return h.lend(done, func() (*rest.Response, error) { return backupOf(h.engine, r.Param("view"), r) })
}

// headerPeer proves that a request, which has the credentials of a client, comes from another instance.
const headerPeer = "Millrace-Peer"

// proof is what instances know that share a secret, "" without one.
func (t peerToken) proof() string { return hex.EncodeToString(t.key("requests of peers")) }

// fromPeer reports whether another instance sends a request: through the connection that is for that, or with the proof. Without a secret whoever
// is on this machine is believed, who may read all there is.
func (h *host) fromPeer(ctx context.Context, r *http.Request) bool {
	if _, ok := forward.From(ctx); ok {
		return true
	}
	token := peerToken(h.config.PeerToken)
	if token == "" {
		return h.peer(r) == nil
	}
	return subtle.ConstantTimeCompare([]byte(r.Header.Get(headerPeer)), []byte(token.proof())) == 1
}

// lend has a range stay until what it answers is sent, or until there is no answer.
func (h *heldRange) lend(done func(), answer func() (*rest.Response, error)) (*rest.Response, error) {
	lent := false
	defer func() {
		if !lent {
			done()
		}
	}()
	resp, err := answer()
	if err != nil || resp.Stream == nil {
		return resp, err
	}
	send := resp.Stream
	resp.Stream = func(ctx context.Context, w *rest.Stream) error {
		defer done()
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(h.ctx, cancel)()
		return send(ctx, w)
	}
	lent = true
	return resp, nil
}

// peer returns nil if a request comes from another instance of the service: it knows the secret, or is on this machine if there is none.
func (h *host) peer(r *http.Request) error {
	token := peerToken(h.config.PeerToken)
	if token != "" {
		return token.check(r)
	}
	host, _, _ := net.SplitHostPort(r.RemoteAddr)
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return rest.ErrForbidden.Because("it does not come from this machine").WithFix("give the instances a secret: MILLRACE_PEER_TOKEN")
	}
	return nil
}

// A target is where a range of a view can be read.
type target struct {
	address string // of another instance; "" = here
	build   string
	wait    time.Duration // for positions, at most; 0 = as long as it does
}

// A viewRoute is where each range of a view can be read, from builds of one version: the newest that answers queries of every range that is
// anywhere.
type viewRoute struct {
	version int
	of      [][]target // by range; first here, if it is here
	behind  []bool     // by range: these have not caught up
	err     error      // why the view as a whole cannot be read; rows of a range that is not missing can
}

// chart finds the routes of all views anew.
func (s *spreader) chart() map[string]*viewRoute {
	have := s.everybody()
	s.mu.RLock()
	refused := s.refused
	s.mu.RUnlock()
	all := map[string]*viewRoute{}
	for _, v := range newest(s.views) {
		r := chart(v.name, s.ranges, have)
		if e := fault.From(r.err); e != nil && refused != "" {
			r.err = e.WithFix("%s", refused) // who refuses this instance may well have what is missing
		}
		all[v.name] = r
	}
	s.routes.Store(&all)
	return all
}

// route returns where a view can be read; ErrRange if some of it cannot.
func (s *spreader) route(view string) (*viewRoute, error) {
	r := (*s.routes.Load())[view]
	if r.err != nil {
		// What is seen once a second may have come since then.
		if r = s.chart()[view]; r.err != nil {
			s.again()
		}
	}
	return r, r.err
}

// chart finds the route of a view from what each instance has, of which "" is this one.
func chart(view string, ranges int, have map[string][]heldAnswer) *viewRoute {
	type found struct {
		target
		version      int
		live, behind bool
	}
	all := make([][]found, ranges)
	for _, m := range sortedKeys(have) {
		for _, a := range have[m] {
			for _, b := range a.Views[view] {
				if a.Range >= 0 && a.Range < ranges {
					all[a.Range] = append(all[a.Range], found{target{address: m, build: b.Build}, b.Version, b.Live, b.Behind})
				}
			}
		}
	}
	r := &viewRoute{version: math.MaxInt, of: make([][]target, ranges), behind: make([]bool, ranges)}
	var missing []string
	for n, fs := range all {
		newest := -1
		for _, f := range fs {
			if f.live {
				newest = max(newest, f.version)
			}
		}
		if newest < 0 {
			missing = append(missing, strconv.Itoa(n))
			continue
		}
		r.version = min(r.version, newest)
	}
	for n, fs := range all {
		// Of an instance only the first one: another build of the version may be one that was replaced, or is still to be compared. What is
		// behind is read only if there is nothing else.
		for _, behind := range []bool{false, true} {
			for _, f := range fs {
				if f.version == r.version && f.behind == behind && !slices.ContainsFunc(r.of[n], func(t target) bool { return t.address == f.address }) {
					r.of[n] = append(r.of[n], f.target)
				}
			}
			if len(r.of[n]) > 0 {
				r.behind[n] = behind
				break
			}
		}
		if len(r.of[n]) == 0 {
			r.err = ErrRange.Because("version %d of the view %s is not everywhere, and range %d does not have it any more", r.version, view, n).After(time.Second)
		}
	}
	if len(missing) > 0 {
		r.err = ErrRange.Because("no instance has the ranges %s of the view %s ready", strings.Join(missing, ", "), view).
			WithFix("start the instances that are away; millrace view ranges %s says which ranges are where", view).After(time.Second)
	}
	return r
}

// status returns who should have, and who has, each range of a view.
func (s *spreader) status(view string) []rangeStatus {
	s.chart()
	route, err := s.route(view)
	s.mu.RLock()
	place := spread.Place(s.members, s.ranges, s.copies)
	s.mu.RUnlock()
	out := make([]rangeStatus, s.ranges)
	for n := range out {
		st := rangeStatus{Range: n, Wanted: place[n], Ready: s.holders(n)}
		first, last := int32(-1), int32(-1)
		for p := range s.topic.Partitions {
			if s.rangeOf(p) == n {
				if last = p; first < 0 {
					first = p
				}
			}
		}
		st.Partitions = fmt.Sprintf("%d-%d", first, last)
		s.mu.RLock()
		if b := s.back[n]; b != nil {
			st.Here, st.Why = "failed", fault.Line(b.err)
		}
		s.mu.RUnlock()
		if h := s.here(n); h != nil {
			if st.Here = "building"; h.engine.CaughtUp() {
				st.Here = "ready"
				st.Ready = append(st.Ready, s.h.advertise)
				slices.Sort(st.Ready)
			}
		}
		if st.Ready == nil {
			st.Ready = []string{}
		}
		if err == nil {
			st.Version = &route.version
		}
		out[n] = st
	}
	return out
}
