package projection

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/millrace/millrace/platform/store"
)

// scrubEvery is how often each store is read again, if that can be done in this time: when it is opened, all of it was.
const scrubEvery = time.Hour

// scrub reads the stores of the builds that answer queries again and again, until ctx ends or one of them is damaged.
func (p *Projector) scrub(ctx context.Context) error {
	for {
		next := time.NewTimer(p.scrubEvery)
		select {
		case <-ctx.Done():
			next.Stop()
			return nil
		case <-next.C:
		}
		for _, v := range p.views {
			g, _ := v.serving()
			if err := g.scrub(ctx); err != nil {
				return err
			}
		}
	}
}

// scrub returns store.ErrDamaged if what is stored is not what was written, and sees to it that the next start does not open it.
func (g *generation) scrub(ctx context.Context) error {
	ctx, cancel := g.lasting(ctx)
	defer cancel()
	err := g.db.Scrub(ctx, g.p.cfg.ScrubRate, nil)
	switch {
	case errors.Is(err, store.ErrDamaged):
		g.p.cfg.Logger.Error("projection: a scrub found damage", "view", g.view.name, "build", g.born.id(), "error", err)
		return errors.Join(fmt.Errorf("projection: view %s, build %s: %w", g.view.name, g.born.id(), err), g.db.Condemn(err.Error()))
	case ctx.Err() != nil, errors.Is(err, store.ErrClosed):
		return nil // the build was dropped, or all ends
	}
	return err
}

// StoreStats returns which build of a view answers queries, and what its store takes. Errors: ErrViewNotFound, the store's.
func (p *Projector) StoreStats(view string) (build string, s store.Stats, err error) {
	g, err := p.live(view)
	if err != nil {
		return "", store.Stats{}, err
	}
	s, err = g.db.Stats()
	return g.born.id(), s, err
}
