package projection

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"strings"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/store"
)

// An Update is what a Watch yields: at first, and whenever it had to begin anew, all rows of the query's first page; else what changed.
type Update struct {
	Anew    bool     // Rows replaces everything before; else it is what changed
	Rows    []Row    // by key, at most once each
	Gone    []string // keys of rows that are not, or not any more, among what is watched
	Version int      // of the view that has these rows
	Applied es.Positions
}

// UpdateID returns what tells a Watch how far somebody has come: the version of the view, a space, and the Applied of the last Update. Rows of
// another version may differ though their positions are the same.
func UpdateID(version int, applied es.Positions) string {
	return strconv.Itoa(version) + " " + applied.String()
}

// ParseUpdateID reads what UpdateID returns, or returns es.ErrPosition.
func ParseUpdateID(id string) (version int, applied es.Positions, err error) {
	first, rest, _ := strings.Cut(id, " ")
	if version, err = strconv.Atoi(first); err != nil {
		return 0, nil, es.ErrPosition.Because("%.40q does not begin with the version of a view", id)
	}
	if rest != "" {
		applied, err = es.ParsePositions(rest)
	}
	return version, applied, err
}

// A Watch is somebody who watches one row or the rows of a query as they change. It is for one goroutine; Close ends it.
type Watch struct {
	p       *Projector
	name    string // of the view, or of one of its builds
	view    *view
	fixed   *generation // that was named; nil = whichever answers queries
	key     string      // of the one row that is watched; "" = those of query
	query   Query
	atLeast es.Positions
	resume  string

	g       *generation
	x       *plan
	number  uint64 // of the last batch that was yielded
	known   map[string]struct{}
	begun   bool
	woken   chan struct{}
	changed <-chan struct{} // another generation is live
}

// mostKnown is how many keys a watch remembers as being among its rows; beyond, it names rows that leave whether or not they were.
const mostKnown = 10_000

// WatchRow returns a Watch of one row. It begins with it, or without if it is not there, unless resume, the UpdateID of the last Update that
// was seen, is recent enough to go on from. Errors: ErrViewNotFound, es.ErrID.
func (p *Projector) WatchRow(view, key string, atLeast es.Positions, resume string) (*Watch, error) {
	if err := es.CheckID(key); err != nil {
		return nil, err
	}
	return p.watch(view, &Watch{key: key, atLeast: atLeast, resume: resume})
}

// WatchList returns a Watch of the rows that a query selects. It begins with the query's first page, unless resume is as for WatchRow; then
// any row that changes and is selected is yielded, on whichever page it would be. Errors: those of List; a Query with a Cursor has ErrQuery.
func (p *Projector) WatchList(view string, q Query, atLeast es.Positions, resume string) (*Watch, error) {
	if q.Cursor != "" {
		return nil, ErrQuery.Because("a page that is not the first cannot be watched")
	}
	return p.watch(view, &Watch{query: q, atLeast: atLeast, resume: resume})
}

func (p *Projector) watch(name string, w *Watch) (*Watch, error) {
	g, err := p.live(name)
	if err != nil {
		return nil, err
	}
	w.p, w.name, w.view, w.woken = p, name, g.view, make(chan struct{}, 1)
	if name != w.view.name {
		w.fixed = g
	}
	if err := w.follow(); err != nil {
		return nil, err
	}
	return w, nil
}

// serving returns the generation to be watched now, and what is closed when another one is, if that can be.
func (w *Watch) serving() (*generation, <-chan struct{}) {
	if w.fixed != nil {
		return w.fixed, nil
	}
	return w.view.serving()
}

// follow turns to the generation to be watched now.
func (w *Watch) follow() error {
	g, changed := w.serving()
	var x *plan
	if w.key == "" {
		q := w.query
		var err error
		if x, err = w.p.plan(g, w.name, &q); err != nil {
			return err // nobody watches, or whoever did goes on until Close
		}
	}
	if w.g != nil {
		w.g.watching.remove(w)
	}
	w.g, w.changed, w.x = g, changed, x
	w.g.watching.add(w)
	w.begun, w.known = false, map[string]struct{}{}
	return nil
}

// Close ends the watch.
func (w *Watch) Close() { w.g.watching.remove(w) }

func (w *Watch) call() {
	select {
	case w.woken <- struct{}{}:
	default:
	}
}

// Next returns the next Update, with all that has changed since the one before: it waits until there is something. Errors: ctx's, those of
// List or Get; ErrRowNotFound is none.
func (w *Watch) Next(ctx context.Context) (Update, error) {
	for {
		select {
		case <-w.changed: // before what the build that answered until now still tells
			if err := w.follow(); err != nil {
				return Update{}, err
			}
		default:
		}
		if !w.begun {
			return w.begin(ctx)
		}
		batches, ok := w.g.watching.since(w, w.number)
		if !ok {
			if g, _ := w.serving(); g != w.g {
				if err := w.follow(); err != nil {
					return Update{}, err
				}
			}
			w.begun = false
			continue
		}
		if u := w.merge(batches); len(u.Rows)+len(u.Gone) > 0 {
			return u, nil
		}
		if len(batches) > 0 && w.key == "" {
			if err := sleep(ctx, w.g.watching.rest()); err != nil {
				return Update{}, err
			}
		}
		select {
		case <-w.woken:
		case <-w.changed:
		case <-ctx.Done():
			return Update{}, context.Cause(ctx)
		}
	}
}

// begin yields everything, unless it is known what the client has.
func (w *Watch) begin(ctx context.Context) (u Update, err error) {
	if w.resume != "" {
		version, positions, _ := strings.Cut(w.resume, " ")
		w.resume = ""
		if number, ok := w.g.watching.at(w.g, positions); ok && version == strconv.Itoa(w.g.born.Version) {
			w.begun, w.number = true, number
			// Which rows the client has is not known: those that leave are named in any case.
			w.known = nil
			return w.Next(ctx)
		}
	}
	if err := w.p.wait(ctx, w.g, w.atLeast); err != nil {
		return u, err
	}
	u.Anew, u.Version = true, w.g.born.Version
	err = w.g.read(func(r *store.Reader, s *shown) error {
		w.number = s.number
		u.Rows, u.Applied = nil, w.g.positions(s)
		if w.key != "" {
			row, err := w.g.readRow(r, w.key)
			if isNotFound(err) {
				return nil
			}
			u.Rows = []Row{row}
			return err
		}
		page, err := w.x.page(r)
		u.Rows = page.Rows
		return err
	})
	if err != nil {
		return Update{}, err
	}
	w.known = map[string]struct{}{}
	for _, row := range u.Rows {
		w.known[row.Key] = struct{}{}
	}
	w.begun = true
	return u, nil
}

// merge makes one update of batches: of a row that changed several times, how it is in the end.
func (w *Watch) merge(batches []published) (u Update) {
	if len(batches) == 0 {
		return u
	}
	last := map[string]*Change{}
	for _, b := range batches {
		for i := range b.changes {
			c := &b.changes[i]
			last[c.Row.Key] = c
		}
	}
	end := batches[len(batches)-1].shown
	w.number = end.number
	for key, c := range last {
		_, had := w.known[key]
		switch {
		case !c.Gone && (w.key != "" || w.x.selects(c)):
			u.Rows = append(u.Rows, c.Row)
			if w.known != nil {
				w.known[key] = struct{}{}
			}
			if len(w.known) > mostKnown {
				w.known = nil
			}
		case had || w.known == nil:
			u.Gone = append(u.Gone, key)
			delete(w.known, key)
		}
	}
	if len(u.Rows)+len(u.Gone) > 0 {
		u.Version, u.Applied = w.g.born.Version, w.g.positions(end)
	}
	slices.SortFunc(u.Rows, func(a, b Row) int { return cmp.Compare(a.Key, b.Key) })
	slices.Sort(u.Gone)
	return u
}
