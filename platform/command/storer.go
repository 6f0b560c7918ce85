package command

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/millrace/millrace/platform/eventlog"
	"github.com/millrace/millrace/platform/store"
)

const (
	// storeDelay is how long events may wait for company on their way to the store: they are safe in the log, and one synced
	// transaction costs as much for many events as for one. Whoever needs them in the store does not wait for it.
	storeDelay = 20 * time.Millisecond
	// storeBatch is how many bytes make waiting for more pointless.
	storeBatch = 2 << 20
	// storeBehind is how many bytes may be on their way to the store before the partitions wait for it.
	storeBehind = 48 << 20
)

// A storer writes acked batches to the stream store behind the partitions' backs, many in one synced transaction.
type storer struct {
	db     *store.DB
	logger *slog.Logger
	failed chan struct{} // closed with err set
	err    error
	rows   rowWriter

	mu      sync.Mutex
	jobs    []storeJob
	bytes   int           // in jobs and in the transaction under way
	closed  bool          // nothing is added any more
	ending  bool          // nobody waits for room any more
	urgent  chan struct{} // holds one: write now
	arrived chan struct{} // holds one: jobs were added, or closed was set
	room    sync.Cond     // bytes fell
}

// A storeJob is one acked batch. write puts its events from a place on into a store batch: -1 when all are in, else the place to go on
// with and the error. done is called when they are in the store and cursor with them.
type storeJob struct {
	bytes  int // of memory, about
	cursor eventlog.Cursor
	write  func(w *rowWriter, b *store.Batch, from int) (next int, err error)
	done   func()
}

func newStorer(db *store.DB, logger *slog.Logger) *storer {
	s := &storer{db: db, logger: logger, failed: make(chan struct{}), urgent: make(chan struct{}, 1), arrived: make(chan struct{}, 1)}
	s.room.L = &s.mu
	return s
}

// add hands a job over; it waits while too much is unwritten, which is how a slow disk slows the partitions down.
func (s *storer) add(j storeJob) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.bytes >= storeBehind && s.err == nil && !s.ending {
		s.room.Wait()
	}
	s.jobs = append(s.jobs, j)
	s.bytes += j.bytes
	notify(s.arrived)
	if s.bytes >= storeBatch {
		notify(s.urgent)
	}
}

// error returns why the store takes no more, nil while it does.
func (s *storer) error() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// hurry ends the wait for more events.
func (s *storer) hurry() { notify(s.urgent) }

// stop lets go of those who wait for room: on a full disk there will be none, and what they still bring is little, and in the log.
func (s *storer) stop() {
	s.mu.Lock()
	s.ending = true
	s.mu.Unlock()
	s.room.Broadcast()
}

func (s *storer) close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	notify(s.arrived)
	notify(s.urgent)
}

func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// run writes until close, or until the store fails: then nothing may go on, for the store would lag behind for good.
func (s *storer) run() error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		<-s.arrived
		timer.Reset(storeDelay)
		select {
		case <-s.urgent:
		case <-timer.C:
		}
		s.mu.Lock()
		jobs, closed := s.jobs, s.closed
		s.jobs = nil
		s.mu.Unlock()
		if err := s.write(jobs); err != nil {
			s.mu.Lock()
			s.err = fmt.Errorf("command: stream store: %w", err)
			s.mu.Unlock()
			close(s.failed)
			s.room.Broadcast()
			return s.err
		}
		s.mu.Lock()
		for _, j := range jobs {
			s.bytes -= j.bytes
		}
		s.mu.Unlock()
		s.room.Broadcast()
		if closed {
			return nil
		}
	}
}

// write commits jobs in order; a transaction that is full is committed between two events, without the cursor of the job it cuts:
// writing those events again after a crash changes nothing.
func (s *storer) write(jobs []storeJob) error {
	if len(jobs) == 0 {
		return nil
	}
	b := s.db.NewBatch()
	defer func() { b.Discard() }()
	finished := 0 // jobs wholly in committed transactions
	for i := range jobs {
		for from := 0; ; {
			next, err := jobs[i].write(&s.rows, b, from)
			if err == nil {
				if err = putCursor(b, jobs[i].cursor); err == nil {
					break
				}
				next = from
			}
			if !isFull(err) || b.Len() == 0 {
				return err
			}
			if err := s.commit(b); err != nil {
				return err
			}
			b = s.db.NewBatch()
			for ; finished < i; finished++ {
				jobs[finished].done()
			}
			from = next
		}
	}
	if err := s.commit(b); err != nil {
		return err
	}
	for ; finished < len(jobs); finished++ {
		jobs[finished].done()
	}
	return nil
}

// fullPause is how long the storer waits before it tries again on a full disk.
const fullPause = time.Second

// commit commits b; on a full disk it goes on trying, while the partitions wait for room in turn: the events are safe in the log. Once
// nothing is added any more it gives up, for they are read from there again.
func (s *storer) commit(b *store.Batch) error {
	for {
		err := b.Commit()
		if !errors.Is(err, store.ErrDiskFull) {
			return err
		}
		s.mu.Lock()
		closed := s.closed
		s.mu.Unlock()
		if closed {
			return err
		}
		s.logger.Warn("the stream store waits for room on the disk", "error", err)
		time.Sleep(fullPause)
	}
}
