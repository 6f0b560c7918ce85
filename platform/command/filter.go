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
			last := ""
			for pair, err := range rd.Scan(store.Range{From: prefix, To: store.PrefixEnd(prefix), KeysOnly: true}) {
				if err == nil {
					err = ctx.Err()
				}
				if err != nil {
					return err
				}
				id, _, err := store.ParseString(pair.Key[len(prefix):])
				if err != nil {
					return err
				}
				if id != last {
					f.Add(id)
					last = id
				}
			}
			return nil
		})
		if err != nil {
			f = store.Filter{} // the store is asked each time, and will say what is wrong with it
		}
		built <- f
	})
}
