package projection

import (
	"bytes"
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"iter"
	"strings"
	"time"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/store"
)

// DefaultLimit and MaxLimit say how many rows a page has.
const (
	DefaultLimit = 100
	MaxLimit     = 1000
)

// maxPageBytes ends a page early, at a row at least: rows may be large.
const maxPageBytes = 8 << 20

// MaxScan is how many rows one page, or one count, looks at.
const (
	MaxScan  = 10_000
	MaxCount = 1_000_000
)

// A Row is one row of a view.
type Row struct {
	Key      string
	JSON     []byte      // the row as encoding/json writes it; the caller's
	Position es.Position // of the event that changed it last
	EventID  string      // of that event
	Place    []byte      // in the order of the query that found it: those of one query on any range compare as bytes do; nil if it was not listed
}

// An Answer is a row with what it is based on.
type Answer struct {
	Row     Row
	Applied es.Positions  // the last offset applied, for each partition of which anything was
	Text    string        // Applied as it is written
	Lag     time.Duration // the age of the oldest event that is not applied; 0 = caught up
	Build   string        // the build of the view that answers
	Missing uint64        // stands for the events before Applied that the build does not have, for they are dead letters or were discarded; 0 = none
}

// A Query selects rows and says in which order they come: that of the index, rows of equal parts by key; without an index that of the
// keys. The zero Query selects all.
type Query struct {
	Index    string   // "" = by key
	Equal    []string // what the first parts of the index are, as es.Kind.Parse reads them
	Prefix   string   // how the next part begins, which must be text, or the key if there is none
	From, To string   // the first and the last value of the next part, or key, both inclusive; "" = no bound
	Reverse  bool     // from the last to the first
	Limit    int      // rows per page, 1 to MaxLimit; 0 = DefaultLimit
	Cursor   string   // Page.Next of the page before, "" = the first page
	After    []byte   // in place of Cursor: the Place after which rows are wanted, of a page that was merged of those of several ranges
	// Where selects among these rows; nil = all. It is asked for at most MaxScan rows of a page, so that a page may have few rows, or none,
	// and still not be the last one. Name says what it does: a cursor is for queries with the same one only.
	Where func(Row) (bool, error)
	Name  string

	build string // that was named
}

// A Page is a part of the rows that a Query selects, all from one state of the view.
type Page struct {
	Rows    []Row
	Next    string // the Cursor of the next page; "" = this is the last one
	Last    []byte // the Place of the last row that was looked at, selected or not
	Applied es.Positions
	Lag     time.Duration
	Build   string
	Missing uint64 // as of an Answer
}

// A Count is how many rows a Query selects.
type Count struct {
	Rows    int
	More    bool // there may be more: MaxCount rows were looked at
	Applied es.Positions
	Lag     time.Duration
	Build   string
}

// Of names a build of a view for all that reads one: wherever they take the name of a view, they take this. That build answers then,
// however far it is, or they return ErrBuildNotFound. Of(view, "") is the view itself: the build that answers queries does.
func Of(view, build string) string {
	if build == "" {
		return view
	}
	return view + "/" + build
}

// live returns the generation of a view that answers queries, or the one that Of names, or ErrViewNotFound, ErrBuildNotFound.
func (p *Projector) live(name string) (*generation, error) {
	view, build, named := strings.Cut(name, "/")
	v := p.byName[view]
	switch {
	case v == nil:
		return nil, ErrViewNotFound.Because("%.100q", view)
	case named:
		return v.seen.Load().find(v.name, build)
	}
	g, _ := v.serving()
	return g, nil
}

// VersionOf returns which version of a view's code the rows are of. Errors: ErrViewNotFound, ErrBuildNotFound.
func (p *Projector) VersionOf(view string) (int, error) {
	g, err := p.live(view)
	if err != nil {
		return 0, err
	}
	return g.born.Version, nil
}

// Get returns the row with the key once the view has applied atLeast, which may be empty. The answer's Applied and Lag are set
// for ErrRowNotFound too. Other errors: ErrViewNotFound, ErrBuildNotFound, ErrForeignTopic, ErrPositionAhead, ErrBuildEnds,
// ErrNotCaughtUp, es.ErrID for a key that no row can have, and store.ErrDamaged.
func (p *Projector) Get(ctx context.Context, view, key string, atLeast es.Positions) (Answer, error) {
	g, err := p.live(view)
	if err != nil {
		return Answer{}, err
	}
	if err := es.CheckID(key); err != nil {
		return Answer{}, err
	}
	if err := p.wait(ctx, g, atLeast); err != nil {
		return Answer{}, err
	}
	var a Answer
	err = g.read(func(r *store.Reader, s *shown) error {
		a = Answer{Applied: g.positions(s), Text: s.text(g), Lag: g.lag(s, time.Now()), Build: g.born.id(), Missing: s.missing}
		var err error
		a.Row, err = g.readRow(r, key)
		return err
	})
	if isNotFound(err) {
		return a, ErrRowNotFound.Because("view %s, key %q", g.view.name, key)
	}
	if err != nil {
		return Answer{}, err
	}
	return a, nil
}

func isNotFound(err error) bool { return errors.Is(err, store.ErrNotFound) }

// List returns a page of rows once the view has applied atLeast, which may be empty. Going on with Page.Next yields every row
// that was there all the time exactly once, whatever is written meanwhile. Errors: ErrViewNotFound, ErrBuildNotFound, ErrQuery,
// es.ErrValue, ErrLimit, ErrCursor, ErrForeignTopic, ErrPositionAhead, ErrBuildEnds, ErrNotCaughtUp, store.ErrDamaged, and what Where returns.
func (p *Projector) List(ctx context.Context, view string, q Query, atLeast es.Positions) (Page, error) {
	g, err := p.live(view)
	if err != nil {
		return Page{}, err
	}
	x, err := p.plan(g, view, &q)
	if err != nil {
		return Page{}, err
	}
	if err := p.wait(ctx, g, atLeast); err != nil {
		return Page{}, err
	}
	var page Page
	err = g.read(func(r *store.Reader, s *shown) error {
		var err error
		page, err = x.page(r)
		page.Applied, page.Lag, page.Build, page.Missing = g.positions(s), g.lag(s, time.Now()), g.born.id(), s.missing
		return err
	})
	if err != nil {
		return Page{}, err
	}
	return page, nil
}

// Count returns how many rows a query selects, whatever its Limit; its Cursor must be empty. Errors are as for List.
func (p *Projector) Count(ctx context.Context, view string, q Query, atLeast es.Positions) (Count, error) {
	g, err := p.live(view)
	if err != nil {
		return Count{}, err
	}
	if q.Cursor != "" {
		return Count{}, ErrQuery.Because("all rows are counted: a count has no cursor")
	}
	x, err := p.plan(g, view, &q)
	if err != nil {
		return Count{}, err
	}
	if err := p.wait(ctx, g, atLeast); err != nil {
		return Count{}, err
	}
	var c Count
	err = g.read(func(r *store.Reader, s *shown) error {
		c = Count{Applied: g.positions(s), Lag: g.lag(s, time.Now()), Build: g.born.id()}
		looked := 0
		return x.scan(r, q.Where == nil, func(_ []byte, row Row) (bool, error) {
			if ctx.Err() != nil {
				return false, context.Cause(ctx)
			}
			if looked++; looked > MaxCount {
				c.More = true
				return false, nil
			}
			wanted := q.Where == nil
			if !wanted {
				var err error
				if wanted, err = q.Where(row); err != nil {
					return false, err
				}
			}
			if wanted {
				c.Rows++
			}
			return true, nil
		})
	})
	if err != nil {
		return Count{}, err
	}
	return c, nil
}

// A plan is a query on one generation: which part of its store to read.
type plan struct {
	p     *Projector
	g     *generation
	q     *Query
	index int // -1 = by key
	rg    store.Range
	head  int // bytes before the row key in a key without an index
}

// plan checks a query on what name stands for, and completes it.
func (p *Projector) plan(g *generation, name string, q *Query) (*plan, error) {
	x := &plan{p: p, g: g, q: q, index: -1}
	_, q.build, _ = strings.Cut(name, "/")
	q.Limit = cmp.Or(q.Limit, DefaultLimit)
	if q.Limit < 1 || q.Limit > MaxLimit {
		return nil, ErrLimit.Because("%d, it must be 1 to %d", q.Limit, MaxLimit)
	}
	if q.Prefix != "" && (q.From != "" || q.To != "") {
		return nil, ErrQuery.Because("a beginning and a range of the same part")
	}
	var err error
	if q.Index == "" {
		err = x.byKey()
	} else {
		err = x.byIndex()
	}
	if err != nil {
		return nil, err
	}
	last := q.After
	if q.Cursor != "" {
		if last, err = p.After(g.view.name, g.born.Version, q); err != nil {
			return nil, err
		}
	}
	switch {
	case last == nil:
		return x, nil
	case bytes.Compare(last, x.rg.From) < 0 || x.rg.To != nil && bytes.Compare(last, x.rg.To) >= 0:
		return nil, ErrCursor.Because("it is of another query")
	}
	if q.Reverse {
		x.rg.To = last
	} else {
		x.rg.From = append(last, 0)
	}
	return x, nil
}

func (x *plan) byKey() error {
	q := x.q
	switch {
	case len(q.Equal) > 0:
		return ErrQuery.Because("a value without an index")
	case len(q.From) > es.MaxIDBytes || len(q.To) > es.MaxIDBytes || len(q.Prefix) > es.MaxIDBytes:
		return ErrQuery.Because("a key has at most %d bytes", es.MaxIDBytes)
	case q.From != "" && q.To != "" && q.From > q.To:
		return ErrQuery.Because("from is after to")
	}
	x.rg = store.Prefix(appendRowKey(nil, q.Prefix))
	if q.From != "" {
		x.rg.From = appendRowKey(nil, q.From)
	}
	if q.To != "" {
		x.rg.To = append(appendRowKey(nil, q.To), 0)
	}
	x.head = 1
	x.rg.Reverse = q.Reverse
	return nil
}

func (x *plan) byIndex() error {
	q, g := x.q, x.g
	if x.index = g.shape.find(q.Index); x.index < 0 {
		return ErrQuery.Because("the view %s has no index %.60q", g.view.name, q.Index).WithFix("use one of %q", g.shape.names())
	}
	kinds := g.shape.Indexes[x.index].kinds
	if len(q.Equal) > len(kinds) {
		return ErrQuery.Because("the index %s has %d parts, %d values are given", q.Index, len(kinds), len(q.Equal))
	}
	prefix := appendIndexPrefix(nil, x.index)
	var err error
	for i, value := range q.Equal {
		if value == "" || len(value) > MaxIndexValue {
			return ErrQuery.Because("a value of index %s has %d bytes, 1 to %d are possible", q.Index, len(value), MaxIndexValue)
		}
		if prefix, err = kinds[i].Parse(prefix, value); err != nil {
			return err
		}
	}
	x.rg = store.Prefix(prefix)
	switch {
	case q.Prefix == "" && q.From == "" && q.To == "":
	case len(q.Equal) == len(kinds):
		// What is left to order by is the row's key.
		if q.From != "" && q.To != "" && q.From > q.To {
			return ErrQuery.Because("from is after to")
		}
		x.rg = store.Prefix(append(bytes.Clone(prefix), q.Prefix...))
		if q.From != "" {
			x.rg.From = append(bytes.Clone(prefix), q.From...)
		}
		if q.To != "" {
			x.rg.To = append(append(bytes.Clone(prefix), q.To...), 0)
		}
	default:
		if err := x.bound(prefix, kinds[len(q.Equal)]); err != nil {
			return err
		}
	}
	x.rg.KeysOnly = true
	x.rg.Reverse = q.Reverse
	return nil
}

// bound narrows the range to a range of the part after prefix.
func (x *plan) bound(prefix []byte, kind es.Kind) error {
	q := x.q
	if q.Prefix != "" {
		at, err := kind.ParsePrefix(bytes.Clone(prefix), q.Prefix)
		if err != nil {
			return err
		}
		x.rg = store.Prefix(at)
		return nil
	}
	low, high := q.From, q.To
	if kind.Descending() {
		low, high = high, low // the values from high to low are bytes from low to high
	}
	if low != "" {
		at, err := kind.Parse(bytes.Clone(prefix), low)
		if err != nil {
			return err
		}
		x.rg.From = at
	}
	if high != "" {
		at, err := kind.Parse(bytes.Clone(prefix), high)
		if err != nil {
			return err
		}
		x.rg.To = store.PrefixEnd(at)
	}
	if x.rg.To != nil && bytes.Compare(x.rg.From, x.rg.To) >= 0 {
		return ErrQuery.Because("from is after to")
	}
	return nil
}

// scan calls do for the rows in order, with the keys of the store that lead to them, as long as it says so. keysOnly leaves the rows unread.
func (x *plan) scan(r *store.Reader, keysOnly bool, do func(at []byte, row Row) (on bool, err error)) error {
	rg := x.rg
	rg.KeysOnly = rg.KeysOnly || keysOnly
	for pair, err := range r.Scan(rg) {
		if err != nil {
			return err
		}
		var row Row
		if !keysOnly {
			if x.index < 0 {
				row, err = x.g.parseRow(string(pair.Key[x.head:]), pair.Value)
			} else {
				row, err = x.follow(r, pair.Key)
			}
			if err != nil {
				return err
			}
		}
		if on, err := do(pair.Key, row); err != nil || !on {
			return err
		}
	}
	return nil
}

// follow returns the row of an index entry.
func (x *plan) follow(r *store.Reader, at []byte) (Row, error) {
	rest := at[2:]
	for _, kind := range x.g.shape.Indexes[x.index].kinds {
		n, err := kind.Len(rest)
		if err != nil {
			return Row{}, damaged("an index entry is malformed").Wrap(err)
		}
		rest = rest[n:]
	}
	row, err := x.g.readRow(r, string(rest))
	if isNotFound(err) {
		return Row{}, damaged("the row of an index entry is missing")
	}
	return row, err
}

func (x *plan) page(r *store.Reader) (page Page, err error) {
	q := x.q
	bytes, looked := 0, 0
	var last []byte
	err = x.scan(r, false, func(at []byte, row Row) (bool, error) {
		if len(page.Rows) == q.Limit || bytes > maxPageBytes || looked == MaxScan {
			page.Next, page.Last = x.p.CursorAfter(x.g.view.name, x.g.born.Version, q, last), last
			return false, nil
		}
		looked++
		last = at
		if q.Where != nil {
			if wanted, err := q.Where(row); err != nil || !wanted {
				return err == nil, err
			}
		}
		row.Place = at
		page.Rows = append(page.Rows, row)
		bytes += len(row.JSON)
		return true, nil
	})
	return page, err
}

// concerns reports whether a row that changed may be, or have been, among those that are selected.
func (x *plan) concerns(c Change) bool {
	return x.index < 0 && x.covers(nil, c.Row.Key) || x.index >= 0 && (x.covers(c.values, c.Row.Key) || x.covers(c.before, c.Row.Key))
}

// covers reports whether a row with these values in the indexes, nil = none, is where the rows are that are selected.
func (x *plan) covers(values []string, key string) bool {
	var room [256]byte
	at := room[:0]
	switch {
	case x.index < 0:
		at = appendRowKey(at, key)
	case values == nil || values[x.index] == "":
		return false
	default:
		at = appendIndexKey(at, x.index, values[x.index], key)
	}
	return bytes.Compare(at, x.rg.From) >= 0 && (x.rg.To == nil || bytes.Compare(at, x.rg.To) < 0)
}

// selects reports whether the query selects a row that a change leaves.
func (x *plan) selects(c *Change) bool {
	if !x.covers(c.values, c.Row.Key) {
		return false
	}
	if x.q.Where == nil {
		return true
	}
	wanted, err := x.q.Where(c.Row)
	return wanted && err == nil
}

func (g *generation) readRow(r *store.Reader, key string) (Row, error) {
	var buf [256]byte
	stored, err := r.Get(appendRowKey(buf[:0], key))
	if err != nil {
		return Row{}, err
	}
	return g.parseRow(key, stored)
}

func (g *generation) parseRow(key string, stored []byte) (Row, error) {
	var s storedRow
	if err := s.parse(stored); err != nil {
		return Row{}, err
	}
	return Row{Key: key, JSON: s.json, EventID: s.event.String(), Position: g.position(s.topic, s.partition, s.offset)}, nil
}

// A cursor is, in base64: format, MAC, last key. The MAC covers the view, its version and the query but for its limit, so a cursor
// is good for going on with that query only, and nobody can make one up. It stays good when another build of the version is switched to,
// unless the query named a build: then it is for that one, so that nobody who forgets the name goes on in another one.
const (
	cursorFormat = 2
	cursorMAC    = 16
	maxCursor    = 2 * (1 + cursorMAC + 2 + MaxIndexValue + es.MaxIDBytes)
)

// CursorAfter returns the cursor of the page of a version of a view that begins after a Place.
func (p *Projector) CursorAfter(view string, version int, q *Query, last []byte) string {
	b := append([]byte{cursorFormat}, p.cursorMAC(view, version, q, last)...)
	return base64.RawURLEncoding.EncodeToString(append(b, last...))
}

// After returns the Place after which the page of q.Cursor begins, or ErrCursor.
func (p *Projector) After(view string, version int, q *Query) (last []byte, err error) {
	bad := ErrCursor.WithFix("use the cursor of the page before with the same query, or none to begin anew")
	if len(q.Cursor) > maxCursor {
		return nil, bad
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(q.Cursor)
	if err != nil || len(b) <= 1+cursorMAC || b[0] != cursorFormat {
		return nil, bad
	}
	last = b[1+cursorMAC:]
	if !hmac.Equal(b[1:1+cursorMAC], p.cursorMAC(view, version, q, last)) {
		return nil, bad
	}
	return last, nil
}

func (p *Projector) cursorMAC(view string, version int, q *Query, last []byte) []byte {
	h := hmac.New(sha256.New, p.mac)
	var text []byte
	for _, s := range append([]string{view, q.Index, q.Prefix, q.From, q.To, q.Name, string(last)}, q.Equal...) {
		text = appendText(text, s)
	}
	text = binary.AppendUvarint(text, uint64(version))
	if q.Reverse {
		text = append(text, 1)
	}
	if q.build != "" {
		text = appendText(text, q.build)
	}
	h.Write(text)
	return h.Sum(nil)[:cursorMAC]
}

// Applied returns how far the build of a view that answers queries is, once it has applied atLeast; Row is not set. Errors are those of Get.
func (p *Projector) Applied(ctx context.Context, view string, atLeast es.Positions) (Answer, error) {
	g, err := p.live(view)
	if err != nil {
		return Answer{}, err
	}
	if err := p.wait(ctx, g, atLeast); err != nil {
		return Answer{}, err
	}
	s := g.shown.Load()
	return Answer{Applied: g.positions(s), Text: s.text(g), Lag: g.lag(s, time.Now()), Build: g.born.id(), Missing: s.missing}, nil
}

// HeadersAt returns the header fields of the event at a position, which a row of the view names. Errors: ErrViewNotFound,
// ErrForeignTopic, the log's.
func (p *Projector) HeadersAt(ctx context.Context, view string, at es.Position) (map[string]string, error) {
	g, err := p.live(view)
	if err != nil {
		return nil, err
	}
	topic, ok := p.topics[at.Topic]
	if !ok || g.slot(at.TopicPartition) < 0 {
		return nil, ErrForeignTopic.Because("%s", at)
	}
	rec, err := p.log.RecordAt(ctx, topic, at)
	if err != nil {
		return nil, err
	}
	out := make(map[string]string, len(rec.Headers))
	for _, h := range rec.Headers {
		out[h.Key] = string(h.Value)
	}
	return out, nil
}

// An Export is all rows that a Query selects, from one state of the view, however long it takes to read them. It must be closed.
type Export struct {
	Applied es.Positions
	Lag     time.Duration
	Build   string
	Version int // of the code that the rows are of
	x       *plan
	ctx     context.Context
	r       *store.Reader
	close   func()
}

// Export begins an export once the view has applied atLeast; the query's Limit and Cursor mean nothing. It ends with ctx, and when its build
// is dropped. Errors are those of List.
func (p *Projector) Export(ctx context.Context, view string, q Query, atLeast es.Positions) (*Export, error) {
	g, err := p.live(view)
	if err != nil {
		return nil, err
	}
	q.Limit, q.Cursor = 0, ""
	x, err := p.plan(g, view, &q)
	if err != nil {
		return nil, err
	}
	if err := p.wait(ctx, g, atLeast); err != nil {
		return nil, err
	}
	e := &Export{x: x, Build: g.born.id(), Version: g.born.Version}
	ctx, done := g.lasting(ctx)
	snap, s, err := g.hold()
	if err != nil {
		done()
		return nil, err
	}
	e.Applied, e.Lag, e.ctx, e.r = g.positions(s), g.lag(s, time.Now()), ctx, snap.Reader
	e.close = func() { snap.release(); done() }
	return e, nil
}

// Rows yields the rows, from the first one each time it is called. An error is the last thing it yields.
func (e *Export) Rows() iter.Seq2[Row, error] {
	return func(yield func(Row, error) bool) {
		err := e.x.scan(e.r, false, func(at []byte, row Row) (bool, error) {
			row.Place = at
			if e.ctx.Err() != nil {
				return false, context.Cause(e.ctx)
			}
			if where := e.x.q.Where; where != nil {
				if wanted, err := where(row); err != nil || !wanted {
					return err == nil, err
				}
			}
			return yield(row, nil), nil
		})
		if err != nil {
			yield(Row{}, err)
		}
	}
}

// Close ends the export.
func (e *Export) Close() { e.close() }
