package projection

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/eventlog"
	"github.com/millrace/millrace/platform/store"
)

// A viewState is what a view has whatever its types are.
type viewState struct {
	// Set by Add.
	name        string
	version     int
	topic       eventlog.Topic
	indexNames  []string // sorted
	rowPrefix   []byte
	indexPrefix []byte
	decoder     int                     // its number among the decoders of the topic
	parts       []atomic.Pointer[part]  // set when Run begins
	target      atomic.Pointer[[]int64] // the ends of the log then

	// Of the applying goroutine, by partition: how far the view is, and how far it was when the last batch was sealed.
	cursors, handed    []eventlog.Cursor
	halts, handedHalts []*halt
	times, handedTimes []time.Time // append times of the last records
	visible            uint64      // rows changed in batches up to this one are in the snapshot

	// What is committed, for queries.
	shown   atomic.Pointer[shown]
	paused  atomic.Pointer[string] // why reading makes a pause; nil = it does not
	mu      sync.Mutex
	waiters map[*waiter]struct{}
}

// A shown is a committed state of a view: how far it is and, while a projector runs, a snapshot that is exactly that far.
type shown struct {
	parts []partShown
	snap  *snapshot // nil = read whatever is committed
}

type partShown struct {
	next int64
	last time.Time // when the last applied record was appended; zero if none was since the start
	halt *halt
}

// A snapshot is a store.Reader that is closed when its last user has let it go.
type snapshot struct {
	*store.Reader
	refs atomic.Int64
}

func newSnapshot(db *store.DB) (*snapshot, error) {
	r, err := db.NewReader()
	if err != nil {
		return nil, err
	}
	s := &snapshot{Reader: r}
	s.refs.Store(1)
	return s, nil
}

// hold reports false if the snapshot is closed already.
func (s *snapshot) hold() bool {
	for {
		n := s.refs.Load()
		if n == 0 {
			return false
		}
		if s.refs.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

func (s *snapshot) release() {
	if s.refs.Add(-1) == 0 {
		s.Close()
	}
}

// show publishes a committed state and wakes those who waited for it. It takes over one reference to s.snap.
func (v *viewState) show(s *shown) {
	old := v.shown.Swap(s)
	if old != nil && old.snap != nil {
		old.snap.release()
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	for w := range v.waiters {
		if w.settled(s) {
			delete(v.waiters, w)
			close(w.done)
		}
	}
}

// unsnap drops the snapshot but keeps the positions.
func (v *viewState) unsnap() {
	if s := v.shown.Load(); s.snap != nil {
		v.show(&shown{parts: s.parts})
	}
}

// progress returns the state that the applying goroutine has sealed.
func (v *viewState) progress() []partShown {
	parts := make([]partShown, len(v.cursors))
	for n := range parts {
		parts[n] = partShown{next: v.handed[n].Next, last: v.handedTimes[n], halt: v.handedHalts[n]}
	}
	return parts
}

// applied returns the positions of s; partitions of which nothing was read are left out.
func (v *viewState) applied(s *shown) es.Positions {
	ps := make(es.Positions, 0, len(s.parts))
	for n, p := range s.parts {
		if p.next > 0 {
			ps = append(ps, es.Position{TopicPartition: es.TopicPartition{Topic: v.topic.Name, Partition: int32(n)}, Offset: p.next - 1})
		}
	}
	return ps
}

// lag returns how old the oldest record is that s does not have, over all partitions; 0 if it has all.
func (v *viewState) lag(s *shown, now time.Time) time.Duration {
	most := time.Duration(0)
	for n := range s.parts {
		_, lag := v.partLag(s, n, now)
		most = max(most, lag)
	}
	return most
}

func (v *viewState) partLag(s *shown, n int, now time.Time) (end int64, lag time.Duration) {
	p := s.parts[n]
	var oldest time.Time
	if pt := v.parts[n].Load(); pt != nil {
		end, oldest = pt.oldest(p.next)
	}
	switch {
	case p.halt != nil:
		oldest, end = p.halt.appended, max(end, p.halt.at.Offset+1)
	case p.next >= end:
		return max(end, p.next), 0
	case oldest.IsZero():
		// It is not fetched yet; it was appended after the last one that is applied.
		oldest = p.last
	}
	if oldest.IsZero() {
		return end, 0
	}
	return end, max(0, now.Sub(oldest))
}
