package projection

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/store"
)

// A view is a read model with the versions of its code and the builds that there are of it.
type view struct {
	p     *Projector
	name  string
	dir   string
	codes map[int]*code // by version

	serves atomic.Pointer[serving]
	seen   atomic.Pointer[seen]

	mu     sync.Mutex // held by verbs, which take turns and may take long: who only looks looks at seen
	ctl    control
	builds map[string]*generation // by birth.id
	seed   birth                  // the build that is being made of a snapshot; zero = none
}

// A serving is the generation that answers queries.
type serving struct {
	g       *generation
	changed chan struct{} // closed when another one does
}

// A seen is what there is of a view, for those who must not wait for a verb.
type seen struct {
	ctl    control
	builds []*generation // in the order of ctl.Generations
}

// find returns one of the builds, or ErrBuildNotFound.
func (s *seen) find(view, id string) (*generation, error) {
	var ids []string
	for _, g := range s.builds {
		if g.born.id() == id {
			return g, nil
		}
		ids = append(ids, g.born.id())
	}
	return nil, ErrBuildNotFound.Because("view %s, build %.60q", view, id).WithFix("use one of %s", strings.Join(ids, ", "))
}

// publish shows what there is now.
func (v *view) publish() {
	s := &seen{ctl: v.ctl}
	s.ctl.Generations = slices.Clone(v.ctl.Generations)
	for _, b := range s.ctl.Generations {
		if g := v.builds[b.id()]; g != nil {
			s.builds = append(s.builds, g)
		}
	}
	v.seen.Store(s)
}

// serving returns the generation that answers queries, and what is closed when another one does.
func (v *view) serving() (*generation, <-chan struct{}) {
	s := v.serves.Load()
	return s.g, s.changed
}

// serve has g answer queries from now on.
func (v *view) serve(g *generation) {
	if old := v.serves.Swap(&serving{g, make(chan struct{})}); old != nil {
		close(old.changed)
	}
}

// newest returns the highest version that the program has.
func (v *view) newest() int {
	n := 0
	for version := range v.codes {
		n = max(n, version)
	}
	return n
}

// open opens the builds that there are, begins the first one of a new view, and one of a new version beside the one that serves.
func (v *view) open() (err error) {
	if err := os.MkdirAll(v.dir, 0o700); err != nil {
		return ErrControl.Because("%s", v.dir).Wrap(err)
	}
	if err := v.recall(v.p.cfg.Logger); err != nil {
		return err
	}
	if err := v.sweep(); err != nil {
		return err
	}
	for _, b := range slices.Clone(v.ctl.Generations) {
		if v.codes[b.Version] == nil && b.id() != v.ctl.Live {
			continue // it rests until a program that has its code comes back
		}
		g, err := v.openGeneration(b)
		if v.codes[b.Version] == nil && errors.Is(err, store.ErrDamaged) {
			v.p.cfg.Logger.Error("projection: the build that served is damaged, and its code is gone", "view", v.name, "build", b.id(), "reason", err)
			v.forget(b.id())
			continue
		}
		if err != nil {
			return err
		}
		v.builds[b.id()] = g
	}
	live, newest := v.builds[v.ctl.Live], v.newest()
	switch {
	case live == nil:
		// A new view, or one whose build is gone.
		g := v.best(newest)
		if g == nil {
			if g, err = v.create(birth{Version: newest}); err != nil {
				return err
			}
		}
		v.ctl.Live, live = g.born.id(), g
	case live.born.Version == newest:
	case v.best(newest) == nil:
		if _, err := v.create(birth{Version: newest, Auto: !v.p.cfg.Manual}); err != nil {
			return err
		}
	case live.code == nil && !v.p.cfg.Manual:
		v.auto(v.best(newest))
	}
	v.serve(live)
	v.publish()
	return v.ctl.write(v.dir)
}

// recall reads what is remembered of the view.
func (v *view) recall(log *slog.Logger) (err error) {
	var found string
	if v.ctl, found, err = openControl(v.dir); found != "" {
		log.Error("projection: what is remembered of a view's builds was damaged, and was restored from its copy", "view", v.name, "reason", found)
	}
	return err
}

// best returns the latest build of a version that has no end.
func (v *view) best(version int) (best *generation) {
	for _, g := range v.builds {
		if g.born.Version == version && !g.born.Bounded && (best == nil || g.born.Build > best.born.Build) {
			best = g
		}
	}
	return best
}

// auto has a generation take over when it has caught up.
func (v *view) auto(g *generation) {
	for i := range v.ctl.Generations {
		if v.ctl.Generations[i].id() == g.born.id() {
			v.ctl.Generations[i].Auto = true
		}
	}
}

var buildDir = regexp.MustCompile(`^(v[0-9]+-[0-9]+)(\.restoring|\.snapshot)?(\.sentinel|\.condemned)?$`)

// unfinished is the name of a file that was being written in place of another one.
var unfinished = regexp.MustCompile(`^(v[0-9]+-[0-9]+(\.restoring)?(\.sentinel|\.condemned)|view(\.copy)?\.json)\.[0-9]+$`)

// sweep removes what a build that was dropped, begun or restored when the process was killed has left.
func (v *view) sweep() error {
	files, err := os.ReadDir(v.dir)
	if err != nil {
		return ErrControl.Because("%s", v.dir).Wrap(err)
	}
	for _, f := range files {
		if unfinished.MatchString(f.Name()) {
			if err := os.Remove(filepath.Join(v.dir, f.Name())); err != nil {
				return ErrControl.Because("%s", v.dir).Wrap(err)
			}
			continue
		}
		m := buildDir.FindStringSubmatch(f.Name())
		if m == nil {
			continue
		}
		path := filepath.Join(v.dir, m[1]+m[2])
		_, known := v.ctl.find(m[1])
		switch {
		case m[2] == snapshotExt:
			err = os.Remove(path)
		case !known || m[2] != "":
			err = store.Remove(path)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// next returns the number that the next build of a version has.
func (v *view) next(version int) int {
	n := v.ctl.next(version)
	if v.seed.Version == version {
		n = max(n, v.seed.Build+1)
	}
	return n
}

// create begins a build.
func (v *view) create(b birth) (*generation, error) {
	b.Build, b.Created = v.next(b.Version), time.Now().UTC()
	return v.add(b)
}

// add opens the store of a build, or begins it.
func (v *view) add(b birth) (*generation, error) {
	v.ctl.add(b)
	// Remembered first: what is not is swept away.
	err := v.ctl.write(v.dir)
	var g *generation
	if err == nil {
		g, err = v.openGeneration(b)
	}
	if err != nil {
		v.forget(b.id())
		return nil, err
	}
	v.builds[b.id()] = g
	v.publish()
	return g, nil
}

func (v *view) forget(id string) {
	v.ctl.Generations = slices.DeleteFunc(v.ctl.Generations, func(b birth) bool { return b.id() == id })
	if v.ctl.Previous == id {
		v.ctl.Previous = ""
	}
	if v.ctl.Live == id {
		v.ctl.Live = ""
	}
}

func (v *view) close() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	var errs []error
	for _, g := range v.builds {
		errs = append(errs, g.close())
	}
	v.builds = map[string]*generation{}
	return errors.Join(errs...)
}

// runnable returns the generations that are to be kept up to date; v is locked.
func (v *view) runnable() (gs []*generation) {
	if v.ctl.Paused || v.seed.Build != 0 {
		return nil
	}
	for _, b := range v.ctl.Generations {
		if g := v.builds[b.id()]; g != nil && g.runs() {
			gs = append(gs, g)
		}
	}
	return gs
}

// runs reports whether there is anything to be applied, now or later, and nobody does.
func (g *generation) runs() bool { return g.code != nil && g.runner.Load() == nil && !g.complete() }

// halt stops a generation's runner, and its successors.
func (g *generation) halted() {
	for r := g.runner.Load(); r != nil; r = g.runner.Load() {
		r.stop()
	}
}

// resume has a generation kept up to date again.
func (v *view) resume(g *generation) {
	if !v.ctl.Paused && g.runs() {
		v.p.start(0, g.born.Rate, g)
	}
}

// advance switches to a build that takes over by itself and has caught up.
func (v *view) advance() error {
	if !v.mu.TryLock() {
		return nil // it is called again at the end of the verb
	}
	defer v.mu.Unlock()
	live, _ := v.serving()
	for _, b := range slices.Backward(v.ctl.Generations) {
		g := v.builds[b.id()]
		if !b.Auto || g == nil || g == live || g.behind(live) != "" {
			continue // it is looked again when it has committed more
		}
		return v.switchTo(g)
	}
	return nil
}

// abreastTime is how much older what a build lacks may be than what the one that answers lacks: whoever asks for a position that was shown waits no
// longer, and it takes less than that to come from one look to the next one.
const abreastTime = time.Second

// behind says why a generation should not take over from the one that answers queries. That it has reached what was the end of the log when it
// began is not enough: hours may have gone by.
func (g *generation) behind(live *generation) string {
	why := g.stuck()
	switch {
	case why != "":
	case !g.reached.Load():
		why = "it has not caught up"
	case !g.abreast(live):
		why = "it lacks events that the one that answers queries has"
	}
	return why
}

// abreast reports whether queries would not go back in time if g answered them in place of live.
func (g *generation) abreast(live *generation) bool {
	was, now := live.shown.Load(), g.shown.Load()
	covers := true
	for n, tp := range live.slots {
		if i := g.slot(tp); i >= 0 && now.slots[i].next < was.slots[n].next {
			covers = false
		}
	}
	at := time.Now()
	return covers || g.lag(now, at) <= live.lag(was, at)+abreastTime
}

// stuck says why a generation should not take over by itself.
func (g *generation) stuck() string {
	for _, at := range g.shown.Load().slots {
		if at.halt != nil {
			return "it has halted: " + at.halt.String()
		}
	}
	return ""
}

// change changes what is remembered of a view, v.ctl. If that cannot be written, all is as it was.
func (v *view) change(do func()) error {
	before := v.ctl
	before.Generations = slices.Clone(before.Generations)
	do()
	err := v.ctl.write(v.dir)
	if err != nil {
		before.Number = v.ctl.Number // one of the files may have it
		v.ctl = before
	}
	return err
}

func (v *view) switchTo(g *generation) error {
	old, _ := v.serving()
	err := v.change(func() {
		for i := range v.ctl.Generations {
			v.ctl.Generations[i].Auto = false
		}
		v.ctl.Previous, v.ctl.Live = old.born.id(), g.born.id()
	})
	if err != nil {
		return err
	}
	v.serve(g)
	v.publish()
	v.p.cfg.Logger.Info("projection: another build answers queries", "view", v.name, "build", g.born.id(), "before", old.born.id())
	return nil
}

// find returns a view and one of its builds; id "" is the newest one that does not answer queries.
func (v *view) find(id string) (*generation, error) {
	if id != "" {
		if g := v.builds[id]; g != nil {
			return g, nil
		}
		return nil, ErrBuildNotFound.Because("view %s, build %.60q", v.name, id).WithFix("use one of %s", strings.Join(v.ids(), ", "))
	}
	live, _ := v.serving()
	for _, b := range slices.Backward(v.ctl.Generations) {
		if g := v.builds[b.id()]; g != nil && g != live && !b.Bounded && b.id() != v.ctl.Previous {
			return g, nil
		}
	}
	if v.builds[v.ctl.Previous] != nil {
		return nil, ErrBuildNotFound.Because("the view %s has no build beside the one that answers queries but %s, which answered before", v.name, v.ctl.Previous).
			WithFix("name it: millrace view switch %[1]s %[2]s; or begin another one: millrace view rebuild %[1]s", v.name, v.ctl.Previous)
	}
	return nil, ErrBuildNotFound.Because("the view %s has no build beside the one that answers queries", v.name).WithFix("begin one: millrace view rebuild %s", v.name)
}

func (v *view) ids() []string {
	var ids []string
	for _, b := range v.ctl.Generations {
		if v.builds[b.id()] != nil {
			ids = append(ids, b.id())
		}
	}
	return ids
}

// verb locks a view for a verb.
func (p *Projector) verb(name string) (*view, func(), error) {
	v := p.byName[name]
	if v == nil {
		return nil, nil, ErrViewNotFound.Because("%.100q", name)
	}
	v.mu.Lock()
	return v, func() {
		v.publish()
		v.mu.Unlock()
		p.look()
	}, nil
}

// patient is verb for those that wait until builds have come somewhere: before Run has started these, which it does with the view locked, they
// would wait for each other.
func (p *Projector) patient(ctx context.Context, name string) (*view, func(), error) {
	select {
	case <-p.begun:
		return p.verb(name)
	case <-ctx.Done():
		return nil, nil, context.Cause(ctx)
	}
}

// A Rebuild says how to build a view anew.
type Rebuild struct {
	Version int          // of its code; 0 = the newest that the program has
	Rate    int          // events per second while it is behind; 0 = a third of a processor at most, and less while others wait for one, as long as the build that answers has caught up
	Until   es.Positions // the last positions to be applied; partitions that are not among them are left empty; nil = there is no end
	At      time.Time    // in place of Until: events appended before; zero = there is no end
	Switch  bool         // switch to it by itself when it has caught up
	Force   bool         // though there seems to be too little room on the disk
}

// An Estimate says what a rebuild would take.
type Estimate struct {
	Events  int64   // to be read
	Bytes   int64   // that the new build takes on the disk, as the one that serves does
	Free    int64   // bytes on the file system
	Rate    float64 // events per second while a build of the view was behind; 0 = not known
	Version int
}

// fits reports whether the disk has room for the build: a quarter more than the one that serves, and 1 GiB for the log of its store.
func (e *Estimate) fits() bool { return e.Free >= e.Bytes*5/4+1<<30 }

// Estimate returns what a rebuild of a view would take. Errors: ErrViewNotFound, ErrBuildNotFound for a version that the program does not
// have, the log's.
func (p *Projector) Estimate(ctx context.Context, name string, o Rebuild) (Estimate, error) {
	v, done, err := p.verb(name)
	if err != nil {
		return Estimate{}, err
	}
	defer done()
	return v.estimate(ctx, &o)
}

func (v *view) estimate(ctx context.Context, o *Rebuild) (Estimate, error) {
	if o.Version == 0 {
		o.Version = v.newest()
	}
	c := v.codes[o.Version]
	if c == nil {
		return Estimate{}, ErrBuildNotFound.Because("the program has no version %d of the view %s", o.Version, v.name)
	}
	live, _ := v.serving()
	e := Estimate{Version: o.Version, Bytes: live.db.Size()}
	byPosition := o.Until != nil
	var err error
	if e.Free, err = store.Free(v.dir); err != nil {
		return Estimate{}, err
	}
	for _, in := range c.inputs {
		var ends []int64
		if o.At.IsZero() {
			ends, err = v.p.log.Ends(ctx, in.topic)
		} else {
			ends, err = v.p.log.EndsAt(ctx, in.topic, o.At)
		}
		if err != nil {
			return Estimate{}, err
		}
		for n, end := range ends {
			tp := es.TopicPartition{Topic: in.topic.Name, Partition: int32(n)}
			if !v.p.cfg.Range.Has(tp.Partition, in.topic.Partitions) {
				continue
			}
			if byPosition {
				last, ok := o.Until.Offset(tp)
				if !ok {
					last = -1
				}
				if last >= end {
					return Estimate{}, ErrPositionAhead.Because("%s@%d; the log ends before offset %d", tp, last, end)
				}
				end = last + 1
			}
			e.Events += end
			if !o.At.IsZero() && end > 0 {
				o.until(tp, end-1)
			}
		}
	}
	for _, pos := range o.Until {
		if !slices.Contains(c.shape.Topics, pos.Topic) {
			return Estimate{}, ErrForeignTopic.Because("%s; the view %s reads %s", pos, v.name, strings.Join(c.shape.Topics, ", "))
		}
	}
	for _, g := range v.builds {
		e.Rate = max(e.Rate, g.applied.building())
	}
	return e, nil
}

// until adds a position at which the build ends.
func (o *Rebuild) until(tp es.TopicPartition, offset int64) {
	o.Until = o.Until.With(es.Position{TopicPartition: tp, Offset: offset})
}

// Rebuild begins another build of a view beside the one that serves, and returns its name. Errors: those of Estimate, ErrSpace, the store's.
func (p *Projector) Rebuild(ctx context.Context, name string, o Rebuild) (id string, err error) {
	v, done, err := p.verb(name)
	if err != nil {
		return "", err
	}
	defer done()
	bounded := o.Until != nil || !o.At.IsZero()
	if bounded && o.Switch {
		return "", ErrBuild.Because("a build with an end falls behind: it is not switched to by itself")
	}
	e, err := v.estimate(ctx, &o)
	if err != nil {
		return "", err
	}
	if !e.fits() && !o.Force {
		return "", ErrSpace.Because("%d bytes are free; the build that serves has %d, and 1 GiB is left for the log of the store", e.Free, e.Bytes).
			WithFix("make room on the disk of %s, drop a build that is not needed any more, or use --force", v.dir)
	}
	g, err := v.create(birth{Version: o.Version, Auto: o.Switch, Rate: o.Rate, Until: o.Until, Bounded: bounded})
	if err != nil {
		return "", err
	}
	v.resume(g)
	return g.born.id(), nil
}

// Switch has another build of a view answer queries, all from one moment on; id "" is the newest. Positions stay valid, for they are the
// log's. Errors: ErrViewNotFound, ErrBuildNotFound, ErrBuild for one that has not caught up or has halted unless force is set.
func (p *Projector) Switch(name, id string, force bool) (now string, err error) {
	v, done, err := p.verb(name)
	if err != nil {
		return "", err
	}
	defer done()
	g, err := v.find(id)
	if err != nil {
		return "", err
	}
	live, _ := v.serving()
	if live == g {
		return g.born.id(), nil
	}
	why, fix := g.behind(live), fmt.Sprintf("wait for it (millrace view wait %s), or use --force", name)
	if g.born.Bounded {
		why, fix = "it has an end, and falls behind", fmt.Sprintf("use --force, or begin one without an end: millrace view rebuild %s", name)
	}
	if why != "" && !force {
		return "", ErrBuild.Because("view %s, build %s: %s", name, g.born.id(), why).WithFix("%s", fix)
	}
	return g.born.id(), v.switchTo(g)
}

// Rollback has the build that answered queries before do so again. Errors: ErrViewNotFound, ErrBuildNotFound if there is none.
func (p *Projector) Rollback(name string) (now string, err error) {
	v, done, err := p.verb(name)
	if err != nil {
		return "", err
	}
	defer done()
	g := v.builds[v.ctl.Previous]
	if g == nil {
		return "", ErrBuildNotFound.Because("the view %s has no build that answered before", name)
	}
	return g.born.id(), v.switchTo(g)
}

// Pause stops keeping a view up to date, over restarts too: queries are answered from what it has. Errors: ErrViewNotFound, ErrControl.
func (p *Projector) Pause(name string) error {
	v, done, err := p.verb(name)
	if err != nil {
		return err
	}
	defer done()
	if err := v.change(func() { v.ctl.Paused = true }); err != nil {
		return err
	}
	for _, g := range v.builds {
		g.halted()
	}
	return nil
}

// Resume goes on after Pause; what has halted is tried again. Errors: ErrViewNotFound, ErrControl.
func (p *Projector) Resume(name string) error {
	v, done, err := p.verb(name)
	if err != nil {
		return err
	}
	defer done()
	if err := v.change(func() { v.ctl.Paused = false }); err != nil {
		return err
	}
	for _, g := range v.builds {
		g.halted()
		v.resume(g)
	}
	return nil
}

// Drop removes a build that does not answer queries, from the disk too. Errors: ErrViewNotFound, ErrBuildNotFound, ErrBuild, the store's.
func (p *Projector) Drop(name, id string) error {
	v, done, err := p.verb(name)
	if err != nil {
		return err
	}
	defer done()
	g, err := v.find(id)
	if err != nil {
		return err
	}
	if live, _ := v.serving(); live == g {
		return ErrBuild.Because("build %s of %s answers queries", id, name).WithFix("switch to another one first")
	}
	return v.drop(g)
}

func (v *view) drop(g *generation) error {
	if err := v.change(func() { v.forget(g.born.id()) }); err != nil {
		return err
	}
	delete(v.builds, g.born.id())
	v.publish()
	g.halted()
	return errors.Join(g.close(), store.Remove(g.dir))
}

// Reset builds a view anew in place: from now on queries are answered from the new build, however far it is, and all others are removed.
// Errors: ErrViewNotFound, the store's.
func (p *Projector) Reset(name string) (id string, err error) {
	v, done, err := p.verb(name)
	if err != nil {
		return "", err
	}
	defer done()
	g, err := v.create(birth{Version: v.newest()})
	if err != nil {
		return "", err
	}
	if err := v.switchTo(g); err != nil {
		return "", err
	}
	v.resume(g)
	for _, old := range v.builds {
		if old != g {
			err = errors.Join(err, v.drop(old))
		}
	}
	return g.born.id(), err
}
