package command

import (
	"fmt"
	"sync"

	"github.com/millrace/millrace/platform/eventlog"
	"github.com/millrace/millrace/platform/store"
)

// A storer writes acked batches to the stream store behind the partitions' backs: as many as wait go into one synced transaction.
type storer struct {
	db     *store.DB
	in     chan storeJob
	failed chan struct{} // closed with err set
	err    error
	once   sync.Once
}

// A storeJob is one acked batch: write puts its rows, one event boundary at a time; done is told the cursor that is safe now.
type storeJob struct {
	write  func(b *store.Batch, from int) (next int, err error) // next = -1: everything is in b
	cursor eventlog.Cursor
	done   func()
}

func newStorer(db *store.DB) *storer {
	return &storer{db: db, in: make(chan storeJob, 64), failed: make(chan struct{})}
}

// add hands a job over; it waits while too much is unwritten, which is how a slow disk slows the partitions down.
func (s *storer) add(j storeJob) {
	select {
	case s.in <- j:
	case <-s.failed:
	}
}

func (s *storer) close() { close(s.in) }

// run writes until close, or until the store fails: then nothing may go on, for the store would lag behind for good.
func (s *storer) run() error {
	for j := range s.in {
		jobs := []storeJob{j}
	more:
		for len(jobs) < cap(s.in) {
			select {
			case j, ok := <-s.in:
				if !ok {
					break more
				}
				jobs = append(jobs, j)
			default:
				break more
			}
		}
		if err := s.write(jobs); err != nil {
			s.err = fmt.Errorf("command: stream store: %w", err)
			s.once.Do(func() { close(s.failed) })
			return s.err
		}
	}
	return nil
}

// write commits jobs in order; a transaction that is full is committed between two events, without the cursor of the job it cuts:
// writing those events again after a crash changes nothing.
func (s *storer) write(jobs []storeJob) error {
	b := s.db.NewBatch()
	defer func() { b.Discard() }()
	commit := func() error {
		if err := b.Commit(); err != nil {
			return err
		}
		b = s.db.NewBatch()
		return nil
	}
	finished := 0 // jobs wholly in committed transactions
	for i := range jobs {
		for from := 0; ; {
			next, err := jobs[i].write(b, from)
			if err == nil && next < 0 {
				if err = putCursor(b, jobs[i].cursor); err == nil {
					break
				}
				next = from
			}
			if !isFull(err) || b.Len() == 0 {
				return err
			}
			if err := commit(); err != nil {
				return err
			}
			for ; finished < i; finished++ {
				jobs[finished].done()
			}
			from = next
		}
	}
	if err := b.Commit(); err != nil {
		return err
	}
	for ; finished < len(jobs); finished++ {
		jobs[finished].done()
	}
	return nil
}
