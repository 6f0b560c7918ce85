package command

import (
	"context"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/store"
)

// A streamFilter tells streams that may be in the store from those that are not, without asking it: most commands on unknown streams
// begin one. It is zero, and tells nothing, until it is known what is in the store.
type streamFilter struct {
	known store.Filter
	built chan store.Filter // gives what the store holds once it was looked through; nil = nothing is being built
	newer []es.StreamID     // begun meanwhile
}

// has reports whether a stream may be in the store.
func (f *streamFilter) has(id es.StreamID) bool { return f.known.Has(string(id)) }

// begun notes a stream that was new until now.
func (f *streamFilter) begun(id es.StreamID) {
	if f.built != nil {
		select {
		case known := <-f.built:
			f.install(known)
		default:
			f.newer = append(f.newer, id)
		}
	}
	f.known.Add(string(id))
}

// install takes what the look through the store has found.
func (f *streamFilter) install(known store.Filter) {
	f.known, f.built = known, nil
	for _, id := range f.newer {
		f.known.Add(string(id))
	}
	f.newer = nil
}

// build looks through what the store holds of the partition, beside the traffic. It is called when nothing but the caller writes there.
func (p *partition[S, C, E]) buildFilter(ctx context.Context) {
	built := make(chan store.Filter, 1)
	p.filter.built = built
	p.engine.scans.Go(func() {
		f := store.NewFilter()
		prefix := streamsPrefix(p.at.Partition)
		err := p.engine.cfg.Store.Read(func(rd *store.Reader) error {
			last, version := "", uint64(0)
			for pair, err := range rd.Scan(store.Range{From: prefix, To: store.PrefixEnd(prefix), KeysOnly: true}) {
				if err == nil {
					err = ctx.Err()
				}
				if err != nil {
					return err
				}
				id, rest, err := store.ParseString(pair.Key[len(prefix):])
				if err != nil {
					return ErrStore.Because("key %x is not one of an event", pair.Key).Wrap(err)
				}
				if id != last {
					f.Add(id)
					last, version = id, 0
				}
				// On the way it is seen whether anything is missing inside a stream.
				switch at, _, err := store.ParseUint64(rest); {
				case err != nil:
					return ErrStore.Because("key %x is not one of an event", pair.Key).Wrap(err)
				case at == 0: // there are notes
				case at != version+1:
					return ErrStore.Because("event %d of %q is missing", version+1, id)
				default:
					version = at
				}
			}
			return nil
		})
		if err != nil {
			_ = p.engine.damaged.note(p.engine.cfg.Store, err)
			f = store.Filter{} // the store is asked each time, and will say what is wrong with it
		}
		built <- f
	})
}
