package command

import (
	"errors"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/eventlog"
	"github.com/millrace/millrace/platform/fault"
	"github.com/millrace/millrace/platform/store"
)

// ErrLog is returned by Run for a record that cannot follow what came before it on its stream. Whatever was done to the log or the store,
// nothing is decided on it.
var ErrLog = fault.New(fault.Internal, "log_inconsistent", "the log and the stream store contradict each other")

// A density checks that the versions of every stream that is read from the log are 1, 2, 3 … It remembers the streams that were read
// lately, and asks the store about the others.
type density struct {
	seen map[es.StreamID]lately
	next int64 // offset after what was read last
}

type lately struct {
	version es.Version
	offset  int64
}

// densityStreams is how many streams are remembered from one fetch to the next.
const densityStreams = 4096

// begin starts the events of one fetch, which are all remembered: they are not in the store before its end. What was remembered counts
// only if it is what came just before.
func (d *density) begin(f *eventlog.Fetched) {
	if len(d.seen) > densityStreams || d.seen == nil || len(f.Records) > 0 && f.Records[0].Position.Offset != d.next {
		d.seen = make(map[es.StreamID]lately)
	}
	d.next = f.Cursor.Next
}

// follows returns ErrLog if the event env, whose Position is set, cannot be the next one of its stream. An event that the store has
// already may come again, as after a crash between two transactions.
func (p *partition[S, C, E]) follows(env *es.Envelope[E]) error {
	d := &p.dense
	last, ok := d.seen[env.Stream]
	next := lately{env.Version, env.Position.Offset}
	switch {
	case ok && next == last, ok && next.version == last.version+1 && next.offset > last.offset, !ok && next.version == 1 && !p.filter.has(env.Stream):
	default:
		if err := p.fits(env, last); err != nil {
			return err
		}
	}
	d.seen[env.Stream] = next
	return nil
}

// fits asks the store whether an event can be where it is.
func (p *partition[S, C, E]) fits(env *es.Envelope[E], last lately) error {
	wrong := func(format string, args ...any) error {
		return ErrLog.Because("%s: "+format, append([]any{env.Position}, args...)...).WithFix(
			"build the stream store again from the log (streams rebuild); if that ends with the same words, the log was written past its owner: keep it as it is and look who did")
	}
	if at := eventlog.PartitionOf(env.Stream, p.engine.cfg.Topic.Partitions); at != p.at.Partition {
		return wrong("%q belongs to partition %d", env.Stream, at)
	}
	if last.version >= env.Version && last.offset < env.Position.Offset {
		return wrong("version %d of %q comes again, after version %d", env.Version, env.Stream, last.version)
	}
	return p.engine.cfg.Store.Read(func(rd *store.Reader) error {
		there, err := readRow(rd, eventKey(nil, p.at.Partition, env.Stream, env.Version))
		switch {
		case err == nil && there.offset != env.Position.Offset:
			return wrong("version %d of %q is at offset %d already", env.Version, env.Stream, there.offset)
		case err == nil:
			return nil
		case !errors.Is(err, store.ErrNotFound):
			return err
		}
		if env.Version == 1 || last.version == env.Version-1 && last.offset < env.Position.Offset {
			return nil
		}
		before, err := readRow(rd, eventKey(nil, p.at.Partition, env.Stream, env.Version-1))
		switch {
		case errors.Is(err, store.ErrNotFound):
			return wrong("version %d of %q comes, but there is no version %d", env.Version, env.Stream, env.Version-1)
		case err == nil && before.offset >= env.Position.Offset:
			return wrong("version %d of %q comes, but version %d is at offset %d", env.Version, env.Stream, env.Version-1, before.offset)
		}
		return err
	})
}
