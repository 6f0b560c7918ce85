// Package projection keeps read models up to date: it folds the events of a log into rows by key, stores each row with the position
// of the event that changed it last in the same transaction as the positions read so far, and answers queries from what is
// committed. It skips nothing: a view that cannot handle an event stops reading that partition there, or parks it with all that
// follow in its stream, as the view says. Each build of a view has a store of its own, so that a new one is made, compared and switched to
// while the old one serves.
package projection

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/eventlog"
	"github.com/millrace/millrace/platform/store"
)

// A Config sets up a Projector. Zero fields mean the default that is named; Log and Dir must be given.
type Config struct {
	Log    *eventlog.Client // what is read
	Dir    string           // where the views are kept: a directory for each, with one for each build in it
	Logger *slog.Logger     // discards by default
	// StoreOptions are those of each build's store; a MemTable of 64 MiB. It bounds how many rows one transaction changes, and so how many
	// events one commit is for while a view is behind.
	StoreOptions store.Options
	// WaitMax is how long a query waits for the positions it asks for; 2 s.
	WaitMax time.Duration
	// BatchEvents is how many events one transaction takes while a view is behind; 1048576. It takes fewer when their rows fill the
	// transaction. A view that has caught up commits at once, whatever there is.
	BatchEvents int
	// CatchUpRate bounds the events per second that are read while a view is behind, so that a build leaves others room; 0 = no bound, but
	// that a build beside one that has caught up takes a third of a processor at most, and less while others wait for one.
	CatchUpRate int
	// Crowded is called with true when a build begins to be made beside one that answers queries and has caught up, and with false when there is
	// none such any more, by one goroutine; nothing by default.
	Crowded func(bool)
	// CacheBytes is about how much memory the rows of all views take; 128 MiB.
	CacheBytes int64
	// ScrubRate is at how many bytes per second the builds that answer queries are read again while the projector runs, to find damage: each
	// once an hour, if that can be done; 0 = never.
	ScrubRate int64
	// Snapshots are where backups of views are to be had: a view of which nothing is stored begins with the first that is whole and of this
	// log, and with the beginning of the log if none is.
	Snapshots []Snapshot
	// CursorKey signs the cursors of pages: projectors with the same one take each other's. Without one, each directory has its own.
	CursorKey []byte
	// Range is the part of the partitions that the views are of: others have the rest. All views must have a Stream then, no unique index, and
	// topics with the same number of partitions, at least as many as there are ranges.
	Range Range
	// Manual leaves the builds of new versions of a view beside the old one until Switch is called; else they take over when they have caught up.
	Manual bool
}

// A journal is the log as far as a projector needs it.
type journal interface {
	open(ctx context.Context, from []eventlog.Cursor, fetchBytes int32) (source, error) // 0 = as many as usual
	Ends(ctx context.Context, topic eventlog.Topic) ([]int64, error)
	EndsAt(ctx context.Context, topic eventlog.Topic, at time.Time) ([]int64, error)
	RecordAt(ctx context.Context, topic eventlog.Topic, at es.Position) (eventlog.Record, error)
}

// A source reads the log.
type source interface {
	Poll(ctx context.Context) ([]eventlog.Fetched, error)
	Close()
}

type clientJournal struct{ *eventlog.Client }

func (c clientJournal) open(ctx context.Context, from []eventlog.Cursor, fetchBytes int32) (source, error) {
	s, err := c.NewSourceWithin(ctx, fetchBytes, from...)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// A Projector feeds views from the log and answers queries on them. Add its views first, then Open them, then Run it; queries can be made
// from Open on, verbs like Rebuild while it runs, and all are safe for concurrent use.
type Projector struct {
	cfg      Config
	log      journal
	views    []*view
	byName   map[string]*view
	decoders map[string][]decoder // by topic
	known    map[decoded]int      // numbers of the decoders
	topics   map[string]eventlog.Topic
	mac      []byte
	ends     ends
	opened   bool

	cores      int          // how many goroutines are worth while
	release    func() error // lets Dir go
	running    atomic.Bool
	caughtUp   atomic.Bool
	scrubEvery time.Duration
	wake       chan struct{} // a build has caught up
	failed     chan error
	begun      chan struct{} // closed when Run has started what is to be kept up to date, or has ended
	lanes      sync.WaitGroup
	mu         sync.Mutex
	ctx        context.Context // of Run; nil = it does not run
}

// New returns a projector without views, or ErrConfig.
func New(cfg Config) (*Projector, error) {
	if cfg.Log == nil {
		return nil, ErrConfig.Because("Log is not set")
	}
	return newProjector(cfg, clientJournal{cfg.Log})
}

func newProjector(cfg Config, log journal) (*Projector, error) {
	if cfg.Dir == "" {
		return nil, ErrConfig.Because("Dir is not set")
	}
	if cfg.WaitMax < 0 || cfg.BatchEvents < 0 || cfg.CatchUpRate < 0 || cfg.CacheBytes < 0 || cfg.ScrubRate < 0 {
		return nil, ErrConfig.Because("WaitMax, BatchEvents, CatchUpRate, CacheBytes and ScrubRate may not be negative")
	}
	if err := cfg.Range.check(); err != nil {
		return nil, err
	}
	cfg.WaitMax = cmp.Or(cfg.WaitMax, 2*time.Second)
	cfg.BatchEvents = cmp.Or(cfg.BatchEvents, 1<<20)
	cfg.CacheBytes = cmp.Or(cfg.CacheBytes, 128<<20)
	cfg.StoreOptions.MemTable = cmp.Or(cfg.StoreOptions.MemTable, 64<<20)
	cfg.StoreOptions.Behind = true // the log has what a power cut takes
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Projector{cfg: cfg, log: log, byName: map[string]*view{}, decoders: map[string][]decoder{}, known: map[decoded]int{},
		topics: map[string]eventlog.Topic{}, scrubEvery: scrubEvery, wake: make(chan struct{}, 1), failed: make(chan error, 1), begun: make(chan struct{}), cores: runtime.GOMAXPROCS(0)}, nil
}

// A decoded is what a decoder yields: the events of a topic as a Go type.
type decoded struct {
	topic string
	event reflect.Type
}

var (
	viewName  = regexp.MustCompile(`^[a-z][a-z0-9-]{0,62}$`)
	indexName = regexp.MustCompile(`^[a-z][a-z0-9_]{0,62}$`)
)

// Reserved are the query parameters that mean something else than an index.
var Reserved = []string{"from", "to", "prefix", "order", "limit", "cursor", "index", "where", "fields", "count", "explain", "changed_by", "build"}

const maxIndexes = 100

// An Input is a topic that a view reads, with what decodes its events, usually *eventlog.Events. A view whose events E are those of
// several topics has an Input for each.
type Input[E any] struct {
	Topic  eventlog.Topic
	Events Decoder[E]
}

// Add adds a version of a view of the events of its inputs, at least one. It must not be called after Open. Several versions of a view are
// kept up to date together. It returns ErrView for a view that cannot work: a malformed name, a repeated version, missing functions, a
// row type that JSON changes. Views of the same topic and event type share one decoder, that of the first of them: they get the same
// events, and must not write to what these refer to.
func Add[R, E any](p *Projector, v es.View[R, E], inputs ...Input[E]) error {
	bad := func(format string, args ...any) error {
		return ErrView.Because("view %q: %s", v.Name, fmt.Sprintf(format, args...))
	}
	switch {
	case p.opened:
		return bad("it is added after Open")
	case !viewName.MatchString(v.Name):
		return bad("its name must be lower case letters, digits and dashes, 63 at most")
	case p.byName[v.Name] != nil && p.byName[v.Name].codes[v.Version] != nil:
		return bad("there is one of this name and version %d already", v.Version)
	case v.Version < 0 || v.Version > 1<<31-1:
		return bad("version %d is out of range", v.Version)
	case (v.Key == nil) != (v.Apply == nil) || (v.Keys == nil) != (v.ApplyTo == nil) || (v.Key == nil) == (v.Keys == nil):
		return bad("either Key and Apply must be set, or Keys and ApplyTo")
	case v.OnError != es.Halt && v.OnError != es.Park:
		return bad("OnError must be Halt or Park")
	case len(inputs) == 0 || len(inputs) > 100:
		return bad("it has %d topics, 1 to 100 are possible", len(inputs))
	case len(v.Indexes) > maxIndexes:
		return bad("it has %d indexes, at most %d are possible", len(v.Indexes), maxIndexes)
	}
	for name, x := range v.Indexes {
		if len(x.Parts) == 0 || !indexName.MatchString(name) || slices.Contains(Reserved, name) {
			return bad("index %q: its name must be lower case letters, digits and underscores, none of %s, and it must have parts",
				name, strings.Join(Reserved, ", "))
		}
	}
	if err := checkRowType(reflect.TypeFor[R]()); err != nil {
		return bad("%s", err)
	}
	slices.SortFunc(inputs, func(a, b Input[E]) int { return cmp.Compare(a.Topic.Name, b.Topic.Name) })
	for i, in := range inputs {
		switch {
		case in.Topic.Name == "" || in.Topic.Partitions < 1:
			return bad("it has no topic")
		case p.topics[in.Topic.Name].Partitions != 0 && p.topics[in.Topic.Name] != in.Topic:
			return bad("the topic %s is not the one that other views read", in.Topic.Name)
		case i > 0 && inputs[i-1].Topic.Name == in.Topic.Name:
			return bad("the topic %s is there twice", in.Topic.Name)
		}
	}
	c := newCode(v)
	if p.cfg.Range.part() {
		if why := undividable(v, inputs, p.cfg.Range); why != "" {
			return bad("it cannot be divided: %s", why)
		}
		c.shape.Range = &p.cfg.Range
	}
	for _, in := range inputs {
		c.shape.Topics = append(c.shape.Topics, in.Topic.Name)
		c.inputs = append(c.inputs, input{topic: in.Topic, decoder: p.decoder(decoded{in.Topic.Name, reflect.TypeFor[E]()}, typedDecoder[E]{in.Events, &sync.Pool{}})})
		p.topics[in.Topic.Name] = in.Topic
	}
	u := p.byName[v.Name]
	if u == nil {
		u = &view{p: p, name: v.Name, dir: filepath.Join(p.cfg.Dir, v.Name), codes: map[int]*code{}, builds: map[string]*generation{}}
		p.byName[v.Name] = u
		p.views = append(p.views, u)
	}
	u.codes[v.Version] = c
	return nil
}

// decoder returns the number of a decoder among those of its topic.
func (p *Projector) decoder(what decoded, d decoder) int {
	n, ok := p.known[what]
	if !ok {
		n = len(p.decoders[what.topic])
		p.known[what] = n
		p.decoders[what.topic] = append(p.decoders[what.topic], d)
	}
	return n
}

// Open opens what is stored of the views, and begins the builds of those that are new. Errors: ErrView for a view whose stored rows do not
// fit its code, ErrControl, store.ErrLocked if another projector has Dir, the store's.
func (p *Projector) Open() error {
	if p.opened {
		return nil
	}
	p.opened = true
	var err error
	if p.release, err = store.Lock(p.cfg.Dir); err != nil {
		return err
	}
	if err := p.signingKey(); err != nil {
		return errors.Join(err, p.Close())
	}
	for _, v := range p.views {
		if err := v.open(); err != nil {
			return errors.Join(err, p.Close())
		}
	}
	return nil
}

// Close closes the stores; Run must have ended.
func (p *Projector) Close() error {
	var errs []error
	for _, v := range p.views {
		errs = append(errs, v.close())
	}
	if p.release != nil {
		errs = append(errs, p.release())
		p.release = nil
	}
	return errors.Join(errs...)
}

// signingKey sets the key that signs cursors, to the one of the directory if no other one is given: those are good for as long as that is.
func (p *Projector) signingKey() error {
	if len(p.cfg.CursorKey) > 0 {
		p.mac = p.cfg.CursorKey
		return nil
	}
	path := filepath.Join(p.cfg.Dir, "cursor.key")
	key, err := os.ReadFile(path)
	if err == nil && len(key) == 32 {
		p.mac = key
		return nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return ErrControl.Because("%s", path).Wrap(err)
	}
	p.mac = make([]byte, 32)
	rand.Read(p.mac)
	if err := store.ReplaceFile(path, p.mac); err != nil {
		return ErrControl.Because("%s", path).Wrap(err)
	}
	return nil
}

// budget is how many bytes of rows one build keeps in memory.
func (p *Projector) budget() int64 { return p.cfg.CacheBytes / int64(max(1, len(p.views))) }

// Run keeps the views up to date until ctx ends, and then returns nil. A view that halts does not end it: it goes on serving, and
// Status says why. It returns an error when the log cannot be read without a gap, when a store fails, or at once if it runs already.
func (p *Projector) Run(ctx context.Context) error {
	if !p.running.CompareAndSwap(false, true) {
		return ErrConfig.Because("Run may be called once")
	}
	begun := sync.OnceFunc(func() { close(p.begun) })
	defer begun()
	if err := p.Open(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	p.mu.Lock()
	p.ctx = ctx
	p.mu.Unlock()
	var seeds []*view
	var err error
	for _, v := range p.views {
		err = errors.Join(err, v.confirm(ctx))
		if len(p.cfg.Snapshots) > 0 && v.reserve() {
			seeds = append(seeds, v)
		}
	}
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	p.startAll()
	begun()
	p.lanes.Go(func() { p.lookAtEnds(ctx) })
	if len(seeds) > 0 {
		p.lanes.Go(func() { p.seedAll(ctx, seeds) })
	}
	if p.cfg.ScrubRate > 0 {
		p.lanes.Go(func() {
			if err := p.scrub(ctx); err != nil {
				p.fail(err)
			}
		})
	}
	crowded := false
	crowd := func(now bool) {
		if now != crowded && p.cfg.Crowded != nil {
			p.cfg.Crowded(now)
		}
		crowded = now
	}
	defer crowd(false)
	for err == nil && ctx.Err() == nil {
		crowd(p.builds())
		select {
		case <-ctx.Done():
		case err = <-p.failed:
		case <-p.wake:
			for _, v := range p.views {
				err = errors.Join(err, v.advance())
			}
		}
	}
	cancel()
	p.lanes.Wait()
	select {
	case e := <-p.failed:
		err = errors.Join(err, e)
	default:
	}
	return err
}

// builds reports whether a build is being made beside one that answers queries and has caught up.
func (p *Projector) builds() bool {
	return slices.ContainsFunc(p.views, func(v *view) bool {
		live, _ := v.serving()
		return live.reached.Load() && slices.ContainsFunc(v.seen.Load().builds, func(g *generation) bool {
			return g != live && g.runner.Load() != nil && !g.reached.Load() && g.stuck() == ""
		})
	})
}

// startAll starts what is to be kept up to date, and no verb has started already.
func (p *Projector) startAll() {
	var gs []*generation
	for _, v := range p.views {
		v.mu.Lock()
		defer v.mu.Unlock()
		gs = append(gs, v.runnable()...)
	}
	for _, together := range group(gs) {
		p.start(0, together[0].born.Rate, together...)
	}
}

// start has a lane of their own read for generations that no runner keeps up to date, unless Run has ended or does not run yet.
func (p *Projector) start(careful, rate int, gs ...*generation) { p.restart(nil, careful, rate, gs...) }

// restart is start for generations of which one has the runner old, which has ended.
func (p *Projector) restart(old *runner, careful, rate int, gs ...*generation) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ctx == nil || p.ctx.Err() != nil {
		return
	}
	l, ctx := newLane(p, cmp.Or(rate, p.cfg.CatchUpRate)), p.ctx
	for _, g := range gs {
		if r := g.runner.Load(); r != nil && r != old {
			continue
		}
		if err := l.add(g, careful); err != nil {
			p.fail(err)
			for _, r := range l.runners {
				r.quit()
			}
			return
		}
	}
	if len(l.runners) == 0 {
		return
	}
	p.lanes.Go(func() {
		if err := l.run(ctx); err != nil {
			p.fail(err)
		}
	})
}

// fail ends Run.
func (p *Projector) fail(err error) {
	select {
	case p.failed <- err:
	default: // one error ends all
	}
}

// settled notes that a generation has committed something.
func (p *Projector) settled(g *generation) {
	if live, _ := g.view.serving(); g.reached.Load() && (!p.caughtUp.Load() || live != g) {
		p.look()
	}
}

// look has Run look whether a build can take over.
func (p *Projector) look() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// laneSlack is how many events builds may be apart and still be read together. One that is further behind, a new one above all,
// gets a reader of its own, so that the others need not wait for it.
const laneSlack = 100_000

// group puts generations together that read the same topics and are about as far.
func group(gs []*generation) [][]*generation {
	sum := func(g *generation) (n int64) {
		for _, c := range g.cursors {
			n += c.Next
		}
		return n
	}
	slices.SortStableFunc(gs, func(a, b *generation) int {
		return cmp.Or(slices.Compare(a.shape.Topics, b.shape.Topics), cmp.Compare(sum(b), sum(a)))
	})
	var out [][]*generation
	for _, g := range gs {
		if n := len(out); n > 0 && g.born.Rate == 0 && near(out[n-1][0], g) {
			out[n-1] = append(out[n-1], g)
			continue
		}
		out = append(out, []*generation{g})
	}
	return out
}

// near reports whether b is at most laneSlack events away from a, over all partitions of the same topics.
func near(a, b *generation) bool {
	if !slices.Equal(a.shape.Topics, b.shape.Topics) {
		return false
	}
	apart := int64(0)
	for i := range a.cursors {
		d := a.cursors[i].Next - b.cursors[i].Next
		apart += max(d, -d)
	}
	return apart <= laneSlack
}
