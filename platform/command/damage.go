package command

import (
	"context"
	"errors"
	"sync"

	"github.com/millrace/millrace/platform/store"
)

// A damage ends the engine when something is found in the store that was never written there: whatever is served from then on could be
// wrong.
type damage struct {
	once  sync.Once
	found chan struct{} // closed with err set
	err   error
}

func newDamage() *damage { return &damage{found: make(chan struct{})} }

// note returns err, and ends the engine if it says that the store is damaged.
func (d *damage) note(db *store.DB, err error) error {
	if errors.Is(err, ErrStore) || errors.Is(err, store.ErrDamaged) {
		d.once.Do(func() {
			d.err = errors.Join(err, db.Condemn(err.Error()))
			close(d.found)
		})
	}
	return err
}

// watch returns what was found, or nil when ctx ends.
func (d *damage) watch(ctx context.Context) error {
	select {
	case <-d.found:
		return d.err
	case <-ctx.Done():
		return nil
	}
}
