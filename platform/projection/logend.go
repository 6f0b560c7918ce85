package projection

import (
	"context"
	"errors"
	"time"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/eventlog"
)

// LogEnd returns where the log ends now, for those who wait until a view has all of it: the position of the last record of each partition
// that the view's newest version reads and that has any. Errors: ErrViewNotFound, the log's.
func (p *Projector) LogEnd(ctx context.Context, name string) (es.Positions, error) {
	v := p.byName[name]
	if v == nil {
		return nil, ErrViewNotFound.Because("%.100q", name)
	}
	var last es.Positions
	for _, in := range v.codes[v.newest()].inputs {
		ends, err := p.log.Ends(ctx, in.topic)
		if err != nil {
			return nil, err
		}
		for n, end := range ends {
			if end > 0 && p.cfg.Range.Has(int32(n), in.topic.Partitions) {
				last = last.With(es.Position{TopicPartition: es.TopicPartition{Topic: in.topic.Name, Partition: int32(n)}, Offset: end - 1})
			}
		}
	}
	return last, nil
}

// endsEvery is how often the log is asked where it ends for builds that no lane reads for: what is paused is to say how far behind it is.
const endsEvery = 5 * time.Second

// lookAtEnds looks at the ends of the log, until ctx ends, for builds that are not kept up to date.
func (p *Projector) lookAtEnds(ctx context.Context) {
	tick := time.NewTicker(endsEvery)
	defer tick.Stop()
	for {
		known := map[string][]int64{} // what cannot be asked for now is nil
		for _, v := range p.views {
			for _, g := range v.seen.Load().builds {
				for n := range g.slots {
					if g.rests(n) {
						p.lookAtEnd(ctx, g, n, known)
					}
				}
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// rests reports whether a slot is not kept up to date, though it could be, or has an end and answers queries all the same.
func (g *generation) rests(n int) bool {
	return g.code != nil && g.runner.Load() == nil && g.shown.Load().slots[n].next < g.wanted(n)
}

// lookAtEnd has what is known of a slot that rests be what the log says: where it ends, and when the first record was appended that is not applied.
func (p *Projector) lookAtEnd(ctx context.Context, g *generation, n int, known map[string][]int64) {
	tp, topic := g.slots[n], g.code.inputs[g.topicOf(n)].topic
	ends, asked := known[topic.Name]
	if !asked {
		var err error
		if ends, err = p.log.Ends(ctx, topic); err != nil && ctx.Err() == nil {
			p.cfg.Logger.Debug("projection: the end of the log is not known", "topic", topic.Name, "error", err)
		}
		known[topic.Name] = ends
	}
	if int(tp.Partition) >= len(ends) {
		return
	}
	old := g.parts[n].Load()
	if !g.rests(n) { // a lane that has begun before old was loaded knows better, and one that begins later replaces it
		return
	}
	next, end := g.shown.Load().slots[n].next, ends[tp.Partition]
	if old != nil && old.resting && (end <= next || old.remembers()) {
		old.raise(end)
		return
	}
	pt := &part{tp: tp, end: end, resting: true}
	if next < end {
		rec, err := p.log.RecordAt(ctx, topic, es.Position{TopicPartition: tp, Offset: next})
		if err == nil || errors.Is(err, eventlog.ErrCursor) { // if there is none, as in a log that is compacted, nothing is known of its time
			pt.pending = []stretch{{next: 1<<63 - 1, first: rec.Time}}
		}
	}
	g.parts[n].CompareAndSwap(old, pt)
}
