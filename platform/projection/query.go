package projection

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
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

// A Row is one row of a view.
type Row struct {
	Key      string
	JSON     []byte      // the row as encoding/json writes it; the caller's
	Position es.Position // of the event that changed it last
	EventID  string      // of that event
}

// An Answer is a row with what it is based on.
type Answer struct {
	Row     Row
	Applied es.Positions  // the last offset applied, for each partition of which anything was
	Lag     time.Duration // the age of the oldest event that is not applied; 0 = caught up
}

// A Query selects rows in the order of their keys. The zero Query selects all.
type Query struct {
	Index, Value string // rows whose index has exactly this value; "" = all rows
	From, To     string // first and last key, both inclusive; "" = no bound
	Limit        int    // rows per page, 1 to MaxLimit; 0 = DefaultLimit
	Cursor       string // Page.Next of the page before, "" = the first page
}

// A Page is a part of the rows that a Query selects, all from one state of the view.
type Page struct {
	Rows    []Row
	Next    string // the Cursor of the next page; "" = this is the last one
	Applied es.Positions
	Lag     time.Duration
}

// Get returns the row with the key once the view has applied atLeast, which may be empty. The answer's Applied and Lag are set
// for ErrRowNotFound too. Other errors: ErrViewNotFound, ErrForeignTopic, ErrPositionAhead, ErrNotCaughtUp, es.ErrID for a key that
// no row can have, and store.ErrDamaged.
func (p *Projector) Get(ctx context.Context, view, key string, atLeast es.Positions) (Answer, error) {
	v := p.byName[view]
	if v == nil {
		return Answer{}, ErrViewNotFound.Because("%.100q", view)
	}
	if err := es.CheckID(key); err != nil {
		return Answer{}, err
	}
	if err := p.wait(ctx, v, atLeast); err != nil {
		return Answer{}, err
	}
	var a Answer
	err := p.read(v, func(r *store.Reader, s *shown) error {
		a = Answer{Applied: v.applied(s), Lag: v.lag(s, time.Now())}
		var err error
		a.Row, err = v.readRow(r, key)
		return err
	})
	if errors.Is(err, store.ErrNotFound) {
		return a, ErrRowNotFound.Because("view %s, key %q", v.name, key)
	}
	if err != nil {
		return Answer{}, err
	}
	return a, nil
}

// List returns a page of rows once the view has applied atLeast, which may be empty. Going on with Page.Next yields every row
// that was there all the time exactly once, whatever is written meanwhile. Errors: ErrViewNotFound, ErrQuery, ErrLimit, ErrCursor,
// ErrForeignTopic, ErrPositionAhead, ErrNotCaughtUp, and store.ErrDamaged.
func (p *Projector) List(ctx context.Context, view string, q Query, atLeast es.Positions) (Page, error) {
	v := p.byName[view]
	if v == nil {
		return Page{}, ErrViewNotFound.Because("%.100q", view)
	}
	after, err := p.check(v, &q)
	if err != nil {
		return Page{}, err
	}
	if err := p.wait(ctx, v, atLeast); err != nil {
		return Page{}, err
	}
	prefix := v.rowPrefix
	if q.Index != "" {
		prefix = store.AppendString(store.AppendString(bytes.Clone(v.indexPrefix), q.Index), q.Value)
	}
	rg := store.Prefix(prefix)
	if q.From != "" {
		rg.From = store.AppendString(bytes.Clone(prefix), q.From)
	}
	if q.To != "" {
		rg.To = store.PrefixEnd(store.AppendString(bytes.Clone(prefix), q.To))
	}
	if after != "" {
		rg.From = store.PrefixEnd(store.AppendString(bytes.Clone(prefix), after))
	}
	rg.KeysOnly = q.Index != ""
	var page Page
	err = p.read(v, func(r *store.Reader, s *shown) error {
		page = Page{Applied: v.applied(s), Lag: v.lag(s, time.Now())}
		size := 0
		for pair, err := range r.Scan(rg) {
			if err != nil {
				return err
			}
			key, rest, err := store.ParseString(pair.Key[len(prefix):])
			if err != nil || len(rest) > 0 {
				return damaged("its key is malformed")
			}
			if len(page.Rows) == q.Limit || size > maxPageBytes {
				page.Next = p.sign(v, &q, page.Rows[len(page.Rows)-1].Key)
				return nil
			}
			var row Row
			if q.Index == "" {
				row, err = v.parseRow(key, pair.Value)
			} else if row, err = v.readRow(r, key); errors.Is(err, store.ErrNotFound) {
				err = damaged("the row of an index entry is missing")
			}
			if err != nil {
				return err
			}
			page.Rows = append(page.Rows, row)
			size += len(row.JSON)
		}
		return nil
	})
	if err != nil {
		return Page{}, err
	}
	return page, nil
}

// check completes a query and returns the key after which it goes on, "" for the first page.
func (p *Projector) check(v *viewState, q *Query) (after string, err error) {
	if q.Limit == 0 {
		q.Limit = DefaultLimit
	}
	if q.Limit < 1 || q.Limit > MaxLimit {
		return "", ErrLimit.Because("%d, it must be 1 to %d", q.Limit, MaxLimit)
	}
	switch {
	case q.Index == "" && q.Value != "":
		return "", ErrQuery.Because("a value without an index")
	case q.Index != "" && !v.hasIndex(q.Index):
		return "", ErrQuery.Because("the view %s has no index %.60q", v.name, q.Index).WithFix("use one of %q", v.indexNames)
	case q.Index != "" && (q.Value == "" || len(q.Value) > MaxIndexValue):
		return "", ErrQuery.Because("the value of index %s has %d bytes, 1 to %d are possible", q.Index, len(q.Value), MaxIndexValue)
	case len(q.From) > es.MaxIDBytes || len(q.To) > es.MaxIDBytes:
		return "", ErrQuery.Because("a key has at most %d bytes", es.MaxIDBytes)
	case q.From != "" && q.To != "" && q.From > q.To:
		return "", ErrQuery.Because("from is after to")
	}
	if q.Cursor == "" {
		return "", nil
	}
	return p.verify(v, q)
}

func (v *viewState) hasIndex(name string) bool {
	for _, n := range v.indexNames {
		if n == name {
			return true
		}
	}
	return false
}

// read calls fn with what the view shows, again if that turns out to have been replaced: the snapshot is exactly as far as s says.
func (p *Projector) read(v *viewState, fn func(*store.Reader, *shown) error) error {
	if err := p.cfg.Store.Err(); err != nil {
		return err
	}
	for {
		s := v.shown.Load()
		if s.snap == nil {
			// Nothing is committed before Run has shown a snapshot: if none is there afterwards, s was still true.
			err := p.cfg.Store.Read(func(r *store.Reader) error { return fn(r, s) })
			if v.shown.Load() == s {
				return err
			}
			continue
		}
		// A snapshot that is closed already was replaced by a newer one.
		if s.snap.hold() {
			defer s.snap.release()
			return fn(s.snap.Reader, s)
		}
	}
}

func (v *viewState) readRow(r *store.Reader, key string) (Row, error) {
	var buf [256]byte
	stored, err := r.Get(store.AppendString(append(buf[:0], v.rowPrefix...), key))
	if err != nil {
		return Row{}, err
	}
	return v.parseRow(key, stored)
}

func (v *viewState) parseRow(key string, stored []byte) (Row, error) {
	var s storedRow
	if err := s.parse(stored); err != nil {
		return Row{}, err
	}
	return Row{Key: key, JSON: s.json, EventID: s.event.String(),
		Position: es.Position{TopicPartition: es.TopicPartition{Topic: v.topic.Name, Partition: s.partition}, Offset: s.offset}}, nil
}

// A cursor is, in base64: format, MAC, last key. The MAC covers the view, its version and the query but for its limit, so a cursor
// is good for going on with that query only, and nobody can make one up.
const (
	cursorFormat = 1
	cursorMAC    = 16
	maxCursor    = 2 * (1 + cursorMAC + es.MaxIDBytes)
)

func (p *Projector) sign(v *viewState, q *Query, last string) string {
	b := append([]byte{cursorFormat}, p.cursorMAC(v, q, last)...)
	return base64.RawURLEncoding.EncodeToString(append(b, last...))
}

func (p *Projector) verify(v *viewState, q *Query) (last string, err error) {
	bad := ErrCursor.WithFix("use the cursor of the page before with the same query, or none to begin anew")
	if len(q.Cursor) > maxCursor {
		return "", bad
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(q.Cursor)
	if err != nil || len(b) <= 1+cursorMAC || b[0] != cursorFormat {
		return "", bad
	}
	last = string(b[1+cursorMAC:])
	if !hmac.Equal(b[1:1+cursorMAC], p.cursorMAC(v, q, last)) {
		return "", bad
	}
	return last, nil
}

func (p *Projector) cursorMAC(v *viewState, q *Query, last string) []byte {
	h := hmac.New(sha256.New, p.mac)
	var text []byte
	for _, s := range []string{v.name, q.Index, q.Value, q.From, q.To, last} {
		text = appendText(text, s)
	}
	text = binary.AppendUvarint(text, uint64(v.version))
	h.Write(text)
	return h.Sum(nil)[:cursorMAC]
}
