package projection

import (
	"context"
	"errors"
	"net"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/eventlog"
	"github.com/millrace/millrace/platform/fault"
)

// A Decoder turns a record of the log into an envelope; *eventlog.Events is one.
type Decoder[E any] interface {
	// Envelopes appends the envelopes of the events, one or more, that a record is; with an error one, with what is known of the event.
	Envelopes(ctx context.Context, dst []es.Envelope[E], r eventlog.Record) ([]es.Envelope[E], error)
}

// A decoder is a Decoder with the event type hidden; what it returns is a *run of that type.
type decoder interface {
	decode(ctx context.Context, records []eventlog.Record, workers int) any
	// failure returns the first error of a run that may pass by itself, with its position, or nil.
	failure(run any) error
	// recycle takes back the memory of a run that nobody looks at any more.
	recycle(run any)
}

// A run holds the envelopes of consecutive records of one partition, one for each record; those of marks are empty.
type run[E any] struct {
	envelopes []es.Envelope[E]
	more      map[int][]es.Envelope[E] // the further parts of records that are read as several events; nil if there are none
	errs      map[int]error            // nil if there are none
}

// part returns the k-th envelope of record i, nil after the last.
func (r *run[E]) part(i, k int) *es.Envelope[E] {
	switch {
	case k == 0:
		return &r.envelopes[i]
	case k <= len(r.more[i]):
		return &r.more[i][k-1]
	}
	return nil
}

type typedDecoder[E any] struct {
	from Decoder[E]
	free *sync.Pool // of *run[E]
}

// minShare is the least number of records for which another goroutine is worth its start.
const minShare = 128

func (d typedDecoder[E]) decode(ctx context.Context, records []eventlog.Record, workers int) any {
	r, _ := d.free.Get().(*run[E])
	if r == nil || cap(r.envelopes) < len(records) {
		r = &run[E]{envelopes: make([]es.Envelope[E], len(records))}
	}
	r.envelopes = r.envelopes[:len(records)]
	share := max((len(records)+workers-1)/workers, minShare)
	if len(records) <= share {
		r.more, r.errs = d.fill(ctx, r.envelopes, records)
		return r
	}
	var (
		wg sync.WaitGroup
		mu sync.Mutex
	)
	for from := 0; from < len(records); from += share {
		to := min(from+share, len(records))
		wg.Go(func() {
			more, errs := d.fill(ctx, r.envelopes[from:to], records[from:to])
			mu.Lock()
			defer mu.Unlock()
			for i, parts := range more {
				if r.more == nil {
					r.more = map[int][]es.Envelope[E]{}
				}
				r.more[from+i] = parts
			}
			for i, err := range errs {
				if r.errs == nil {
					r.errs = map[int]error{}
				}
				r.errs[from+i] = err
			}
		})
	}
	wg.Wait()
	return r
}

func (d typedDecoder[E]) fill(ctx context.Context, dst []es.Envelope[E], records []eventlog.Record) (more map[int][]es.Envelope[E], errs map[int]error) {
	for i := range records {
		if records[i].Mark != 0 {
			continue
		}
		// One event goes where it belongs; only several need memory of their own.
		parts, err := d.from.Envelopes(ctx, dst[i:i:i+1], records[i])
		if len(parts) > 1 {
			if more == nil {
				more = map[int][]es.Envelope[E]{}
			}
			dst[i], more[i] = parts[0], parts[1:]
		}
		if err != nil {
			if errs == nil {
				errs = map[int]error{}
			}
			errs[i] = err
		}
	}
	return more, errs
}

func (typedDecoder[E]) failure(r any) error {
	for _, err := range r.(*run[E]).errs {
		if passing(err) {
			return err
		}
	}
	return nil
}

func (d typedDecoder[E]) recycle(r any) {
	run := r.(*run[E])
	clear(run.envelopes) // what they hold can be freed; those of marks are to be empty
	run.more, run.errs = nil, nil
	d.free.Put(run)
}

// passing reports whether an error of decoding is not the record's fault: the registry cannot be reached just now.
func passing(err error) bool {
	var network net.Error
	return fault.KindOf(err).Retryable() || errors.As(err, &network) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
}

// A piece is a stretch of one partition as it goes through the projector: from the cursor before it to the one after it.
type piece struct {
	part          *part
	before, after eventlog.Cursor
	records       []eventlog.Record
	runs          []any // one for each decoder of the topic
}

// cursorAt returns the cursor whose next record is records[i].
func (p *piece) cursorAt(i int) eventlog.Cursor {
	if i == len(p.records) {
		return p.after
	}
	c := p.before
	for j := range p.records[:i] {
		r := &p.records[j]
		// A closing record is the one kind that does not belong to the latest claim.
		if r.Mark != eventlog.MarkClose {
			c.ProducerID, c.Epoch = r.ProducerID, r.Epoch
		}
	}
	c.Next = p.records[i].Position.Offset
	if c.LeaderEpoch != p.after.LeaderEpoch {
		// Where in between the leader changed is not known; without an epoch the log compares the offset only.
		c.LeaderEpoch = -1
	}
	return c
}

// index returns the number of the first record from an offset on.
func (p *piece) index(offset int64) int {
	return sort.Search(len(p.records), func(i int) bool { return p.records[i].Position.Offset >= offset })
}

// split cuts a piece before records[i]; the pieces are not decoded.
func (p *piece) split(i int) (a, b piece) {
	mid := p.cursorAt(i)
	a = piece{part: p.part, before: p.before, after: mid, records: p.records[:i]}
	b = piece{part: p.part, before: mid, after: p.after, records: p.records[i:]}
	return a, b
}

// A chunk is what goes through the projector in one step: pieces of several partitions.
type chunk struct {
	pieces []piece
	events int  // records, marks included
	gather bool // what is applied is to wait for more, which the log has
	used   atomic.Int32
}

// done notes that one of so many runners that were given the chunk has applied it. The last one gives the memory of the events back; where one
// does not say so, as when it has to apply them one by one, the collector does.
func (c *chunk) done(runners int) {
	if int(c.used.Add(1)) < runners {
		return
	}
	for i := range c.pieces {
		p := &c.pieces[i]
		for k, d := range p.part.decoders {
			if d != nil {
				d.recycle(p.runs[k])
			}
		}
		p.runs = nil
	}
}

// chunks cuts what was fetched into chunks of at most most records.
func (l *lane) chunks(fetched []eventlog.Fetched, most int) []*chunk {
	var out []*chunk
	cur := &chunk{}
	for i := range fetched {
		f := &fetched[i]
		pt := l.parts[f.Cursor.TopicPartition]
		if pt == nil {
			continue
		}
		rest := piece{part: pt, before: pt.cursor, after: f.Cursor, records: f.Records}
		pt.fetched(f)
		for {
			room := most - cur.events
			if len(rest.records) <= room {
				cur.pieces = append(cur.pieces, rest)
				cur.events += len(rest.records)
				break
			}
			if room > 0 {
				var head piece
				head, rest = rest.split(room)
				cur.pieces = append(cur.pieces, head)
				cur.events += room
			}
			out = append(out, cur)
			cur = &chunk{}
		}
	}
	if len(cur.pieces) > 0 {
		out = append(out, cur)
	}
	return out
}

// A part is what a lane knows of one partition. Its cursor belongs to the fetching goroutine.
type part struct {
	tp       es.TopicPartition
	resting  bool // it is of no lane, but of a build that none reads for
	cursor   eventlog.Cursor
	decoders []decoder

	mu      sync.Mutex
	end     int64     // high watermark, as far as known
	pending []stretch // fetched, not yet committed by all views that go on
}

// A stretch of records: it ends before next, and its first one was appended at first.
type stretch struct {
	next  int64
	first time.Time
}

func (p *part) fetched(f *eventlog.Fetched) {
	p.cursor = f.Cursor
	p.mu.Lock()
	defer p.mu.Unlock()
	p.end = max(p.end, f.End, f.Cursor.Next)
	// Stretches of a thousand records, so that the age of the oldest one is about right.
	for i := 0; i < len(f.Records); i += 1000 {
		s := stretch{next: f.Cursor.Next, first: f.Records[i].Time}
		if i+1000 < len(f.Records) {
			s.next = f.Records[i+1000].Position.Offset
		}
		p.pending = append(p.pending, s)
	}
}

// forget drops the stretches that all views that go on have committed.
func (p *part) forget(next int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for n < len(p.pending) && p.pending[n].next <= next {
		n++
	}
	p.pending = p.pending[n:]
	if len(p.pending) == 0 {
		p.pending = nil
	}
}

// oldest returns the high watermark and the append time of the oldest record from next on, as far as it is fetched.
func (p *part) oldest(next int64) (end int64, at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.pending {
		if s.next > next {
			return p.end, s.first
		}
	}
	return p.end, time.Time{}
}

// remembers reports whether anything is pending.
func (p *part) remembers() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.pending) > 0
}

func (p *part) raise(end int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.end = max(p.end, end)
}
