// Package projection keeps read models up to date: it folds the events of a log into rows by key, stores each row with the position
// of the event that changed it last in the same transaction as the positions read so far, and answers queries from what is
// committed. It skips nothing: a view that cannot handle an event stops reading that partition there, says so, and tries
// again when it is started anew.
package projection

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/eventlog"
	"github.com/millrace/millrace/platform/store"
)

// A Config sets up a Projector. Zero fields mean the default that is named; Log and Store must be given.
type Config struct {
	Log    *eventlog.Client // what is read
	Store  *store.DB        // where the rows are; other packages may use it too
	Logger *slog.Logger     // discards by default
	// WaitMax is how long a query waits for the positions it asks for; 2 s.
	WaitMax time.Duration
	// BatchEvents is how many events one transaction takes while a view is behind; 16384. It takes fewer when their rows fill the
	// transaction. A view that has caught up commits at once, whatever there is.
	BatchEvents int
	// CatchUpRate bounds the events per second that are read while a view is behind, so that a rebuild leaves others room; 0 = no bound.
	CatchUpRate int
	// CacheBytes is about how much memory the rows of all views take; 64 MiB.
	CacheBytes int64
}

// A journal is the log as far as a projector needs it.
type journal interface {
	open(ctx context.Context, from []eventlog.Cursor) (source, error)
	Ends(ctx context.Context, topic eventlog.Topic) ([]int64, error)
}

// A source reads the log.
type source interface {
	Poll(ctx context.Context) ([]eventlog.Fetched, error)
	Close()
}

type clientJournal struct{ *eventlog.Client }

func (c clientJournal) open(ctx context.Context, from []eventlog.Cursor) (source, error) {
	s, err := c.NewSource(ctx, from...)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// A Projector feeds views from the log and answers queries on them. Add its views first, then Run it; queries can be made from the
// first Add on and are safe for concurrent use.
type Projector struct {
	cfg      Config
	log      journal
	folds    []fold
	byName   map[string]*viewState
	decoders map[string][]decoder // by topic
	known    map[decoded]int      // numbers of the decoders
	topics   map[string]eventlog.Topic
	mac      []byte
	ends     ends
	running  atomic.Bool
	caughtUp atomic.Bool
}

// New returns a projector without views, or ErrConfig, or what the store fails with.
func New(cfg Config) (*Projector, error) {
	if cfg.Log == nil {
		return nil, ErrConfig.Because("Log is not set")
	}
	return newProjector(cfg, clientJournal{cfg.Log})
}

func newProjector(cfg Config, log journal) (*Projector, error) {
	if cfg.Store == nil {
		return nil, ErrConfig.Because("Store is not set")
	}
	if cfg.WaitMax < 0 || cfg.BatchEvents < 0 || cfg.CatchUpRate < 0 || cfg.CacheBytes < 0 {
		return nil, ErrConfig.Because("WaitMax, BatchEvents, CatchUpRate and CacheBytes may not be negative")
	}
	cfg.WaitMax = cmp.Or(cfg.WaitMax, 2*time.Second)
	cfg.BatchEvents = cmp.Or(cfg.BatchEvents, 16384)
	cfg.CacheBytes = cmp.Or(cfg.CacheBytes, 64<<20)
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	p := &Projector{cfg: cfg, log: log, byName: map[string]*viewState{}, decoders: map[string][]decoder{}, known: map[decoded]int{},
		topics: map[string]eventlog.Topic{}}
	return p, p.signingKey()
}

// signingKey reads the key that signs cursors, or makes it: cursors are good for as long as the store is.
func (p *Projector) signingKey() error {
	at := []byte{macSpace}
	err := p.cfg.Store.Read(func(r *store.Reader) error {
		var err error
		p.mac, err = r.Get(at)
		return err
	})
	if err == nil && len(p.mac) != 32 {
		return damaged("the key of the cursors has a wrong length")
	}
	if !errors.Is(err, store.ErrNotFound) {
		return err
	}
	p.mac = make([]byte, 32)
	rand.Read(p.mac)
	b := p.cfg.Store.NewBatch()
	if err := b.Set(at, p.mac); err != nil {
		return err
	}
	return b.Commit()
}

// A decoded is what a decoder yields: the events of a topic as a Go type.
type decoded struct {
	topic string
	event reflect.Type
}

var viewName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,62}$`)
var indexName = regexp.MustCompile(`^[a-z][a-z0-9_]{0,62}$`)

// reserved are the query parameters that mean something else than an index.
var reserved = []string{"from", "to", "limit", "cursor", "prefix", "index", "where", "explain"}

// Add adds a view of the events of topic, which ev decodes, usually *eventlog.Events. It must not be called after Run. It returns ErrView for a
// view that cannot work: a malformed or repeated name, missing functions, a row type that JSON changes, other indexes than the
// stored rows of this version have. Views of the same topic and event type share one decoder, that of the first of them: they get
// the same events, and must not write to what these refer to.
func Add[R, E any](p *Projector, v es.View[R, E], topic eventlog.Topic, ev Decoder[E]) error {
	bad := func(format string, args ...any) error {
		return ErrView.Because("view %q: %s", v.Name, fmt.Sprintf(format, args...))
	}
	switch {
	case p.running.Load():
		return bad("it is added after Run")
	case !viewName.MatchString(v.Name):
		return bad("its name must be lower case letters, digits and dashes, 63 at most")
	case p.byName[v.Name] != nil:
		return bad("there is one of this name already")
	case v.Version < 0 || v.Version > 1<<31-1:
		return bad("version %d is out of range", v.Version)
	case v.Key == nil || v.Apply == nil:
		return bad("Key and Apply must be set")
	case topic.Name == "" || topic.Partitions < 1:
		return bad("it has no topic")
	case p.topics[topic.Name].Partitions != 0 && p.topics[topic.Name] != topic:
		return bad("the topic %s is not the one that other views read", topic.Name)
	}
	for name, f := range v.Indexes {
		if f == nil || !indexName.MatchString(name) || slices.Contains(reserved, name) {
			return bad("index %q: its name must be lower case letters, digits and underscores, none of %s, and its function be set",
				name, strings.Join(reserved, ", "))
		}
	}
	if err := checkRowType(reflect.TypeFor[R]()); err != nil {
		return bad("%s", err)
	}
	f := newView(v, topic)
	empty, err := p.load(&f.viewState)
	if err != nil {
		return err
	}
	if empty {
		f.fresh()
	}
	what := decoded{topic.Name, reflect.TypeFor[E]()}
	n, ok := p.known[what]
	if !ok {
		n = len(p.decoders[topic.Name])
		p.known[what] = n
		p.decoders[topic.Name] = append(p.decoders[topic.Name], typedDecoder[E]{ev})
	}
	f.decoder = n
	p.topics[topic.Name] = topic
	p.byName[v.Name] = &f.viewState
	p.folds = append(p.folds, f)
	return nil
}

// load reads how far a view is, and reports whether the store has nothing of it.
func (p *Projector) load(v *viewState) (empty bool, err error) {
	v.parts = make([]atomic.Pointer[part], v.topic.Partitions)
	v.waiters = map[*waiter]struct{}{}
	if err := p.readCursors(v); err != nil {
		return false, err
	}
	shape := []byte(strings.Join(v.indexNames, ","))
	at := viewKey(shapeSpace, v.name, v.version)
	var stored []byte
	err = p.cfg.Store.Read(func(r *store.Reader) error {
		var err error
		stored, err = r.Get(at)
		return err
	})
	empty = errors.Is(err, store.ErrNotFound)
	switch {
	case empty:
		b := p.cfg.Store.NewBatch()
		if err := b.Set(at, shape); err != nil {
			return false, err
		}
		if err := b.Commit(); err != nil {
			return false, err
		}
	case err != nil:
		return false, fmt.Errorf("projection: view %s: %w", v.name, err)
	case !bytes.Equal(stored, shape):
		return false, ErrView.Because("view %q, version %d: its rows were stored with the indexes [%s], its code has [%s]", v.name, v.version, stored, shape).
			WithFix("raise the view's Version: it is built anew")
	}
	v.shown.Store(&shown{parts: v.progress()})
	return empty, nil
}

// readCursors sets how far a view is to what the store has.
func (p *Projector) readCursors(v *viewState) error {
	n := int(v.topic.Partitions)
	v.cursors, v.handed = make([]eventlog.Cursor, n), make([]eventlog.Cursor, n)
	v.halts, v.handedHalts = make([]*halt, n), make([]*halt, n)
	v.times, v.handedTimes = make([]time.Time, n), make([]time.Time, n)
	err := p.cfg.Store.Read(func(r *store.Reader) error {
		for i := range v.cursors {
			v.cursors[i] = v.topic.Start(int32(i))
			form, err := r.Get(cursorKey(v.name, v.version, v.cursors[i].TopicPartition))
			if errors.Is(err, store.ErrNotFound) {
				continue
			}
			if err != nil {
				return err
			}
			if err := v.cursors[i].UnmarshalBinary(form); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("projection: view %s: %w", v.name, err)
	}
	copy(v.handed, v.cursors)
	return nil
}

// Run keeps the views up to date until ctx ends, and then returns nil. A view that halts does not end it: it goes on serving, and
// Status says why. It returns an error when the log cannot be read without a gap, when the store fails, or at once if it runs already.
func (p *Projector) Run(ctx context.Context) error {
	if !p.running.CompareAndSwap(false, true) {
		return ErrConfig.Because("Run may be called once")
	}
	if len(p.folds) == 0 {
		<-ctx.Done()
		return nil
	}
	targets := map[string][]int64{}
	for name, topic := range p.topics {
		ends, err := p.log.Ends(ctx, topic)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("projection: the ends of %s: %w", name, err)
		}
		targets[name] = ends
	}
	budget := p.cfg.CacheBytes / int64(len(p.folds))
	for _, f := range p.folds {
		f.(interface{ setBudget(int64) }).setBudget(budget)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	lanes := p.lanes()
	var wg sync.WaitGroup
	errs := make([]error, len(lanes))
	for _, l := range lanes {
		l.aim(targets)
	}
	p.CaughtUp()
	for i, l := range lanes {
		wg.Go(func() {
			if errs[i] = l.run(ctx); errs[i] != nil {
				cancel(errs[i])
			}
		})
	}
	wg.Wait()
	for _, f := range p.folds {
		f.state().unsnap()
	}
	return errors.Join(errs...)
}

// laneSlack is how many events views may be apart and still be read together. One that is further behind, a new one above all,
// gets a reader of its own, so that the others need not wait for it.
const laneSlack = 100_000

// lanes groups the views by how far they are.
func (p *Projector) lanes() []*lane {
	type place struct {
		fold fold
		sum  int64
	}
	var places []place
	for _, f := range p.folds {
		sum := int64(0)
		for _, c := range f.state().cursors {
			sum += c.Next
		}
		places = append(places, place{f, sum})
	}
	slices.SortStableFunc(places, func(a, b place) int {
		return cmp.Or(cmp.Compare(a.fold.state().topic.Name, b.fold.state().topic.Name), cmp.Compare(b.sum, a.sum))
	})
	var lanes []*lane
	for i, pl := range places {
		if i == 0 || places[i-1].fold.state().topic.Name != pl.fold.state().topic.Name || !p.near(lanes[len(lanes)-1].folds[0].state(), pl.fold.state()) {
			lanes = append(lanes, newLane(p))
		}
		l := lanes[len(lanes)-1]
		l.add(pl.fold)
	}
	return lanes
}

// near reports whether b is at most laneSlack events away from a, over all partitions.
func (p *Projector) near(a, b *viewState) bool {
	apart := int64(0)
	for i := range a.cursors {
		d := a.cursors[i].Next - b.cursors[i].Next
		apart += max(d, -d)
	}
	return apart <= laneSlack
}
