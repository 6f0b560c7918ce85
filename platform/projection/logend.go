package projection

import (
	"context"

	"github.com/millrace/millrace/platform/es"
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
