package command

import (
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/millrace/millrace/platform/eventlog"
	"github.com/millrace/millrace/platform/store"
)

// TestStopOnFullDisk: who waits for room on a full disk does not hold up the end.
func TestStopOnFullDisk(t *testing.T) {
	db, err := store.Open(t.TempDir(), store.Options{MinFree: 1 << 60})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	s := newStorer(db, slog.New(slog.DiscardHandler))
	ended := make(chan error, 1)
	go func() { ended <- s.run() }()
	job := storeJob{
		bytes: storeBehind, cursor: eventlog.Topic{Name: "t"}.Start(0), done: func() {},
		write: func(*rowWriter, *store.Batch, int) (int, error) { return -1, nil },
	}
	s.add(job)
	added := make(chan struct{})
	go func() {
		s.add(job)
		close(added)
	}()
	s.stop()
	select {
	case <-added:
	case <-time.After(10 * time.Second):
		t.Fatal("it waits for room while everything ends")
	}
	s.close()
	select {
	case err := <-ended:
		if !errors.Is(err, store.ErrDiskFull) {
			t.Errorf("ended with %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("it does not end")
	}
}
