package command

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/eventlog"
	"github.com/millrace/millrace/platform/store"
)

// A Progress is how far the rebuilding of one partition has come.
type Progress struct {
	Partition   int32
	Offset, End int64         // the store holds what lies before Offset; it is done at End
	Events      int64         // read until now
	PerSecond   float64       // events, since the beginning
	Left        time.Duration // at this rate; 0 = done, or not known yet
}

// progressEvery is how often a rebuild tells how far it has come.
const progressEvery = time.Second

// Rebuild builds partitions of the stream store (nil = all) again from the log, up to its present end. What the store holds of them goes
// first. report is called with all of them, in their order, at the beginning, at the end, and about once a second. If it is interrupted, the engine that
// runs next goes on where it was. It is called instead of Run.
func (e *Engine[S, C, E]) Rebuild(ctx context.Context, partitions []int32, report func([]Progress)) error {
	if e.running.Swap(true) {
		return errors.New("command: Rebuild called after Run or Rebuild")
	}
	if partitions == nil {
		for id := range e.cfg.Topic.Partitions {
			partitions = append(partitions, id)
		}
	}
	var cursors []eventlog.Cursor
	for _, id := range partitions {
		if id < 0 || id >= e.cfg.Topic.Partitions {
			return es.ErrPosition.Because("%s has no partition %d", e.cfg.Topic.Name, id)
		}
		cursors = append(cursors, e.cfg.Topic.Start(id))
	}
	// Before anything is lost: whether the log is there, from its beginning on.
	source, err := e.cfg.Log.NewSource(ctx, cursors...)
	if err != nil {
		return err
	}
	defer source.Close()
	ends, err := e.cfg.Log.Ends(ctx, e.cfg.Topic)
	if err != nil {
		return err
	}
	states := map[int32]*Progress{}
	for _, id := range partitions {
		if err := wipe(ctx, e.cfg.Store, id); err != nil {
			return err
		}
		e.partitions[id].filter.known = store.NewFilter()
		states[id] = &Progress{Partition: id, End: ends[id]}
	}
	began := time.Now()
	tell := func() {
		all := make([]Progress, 0, len(partitions))
		for _, id := range partitions {
			s := *states[id]
			if took := time.Since(began).Seconds(); took > 0 && s.Offset > 0 {
				s.PerSecond = float64(s.Events) / took
				s.Left = max(0, time.Duration(float64(s.End-s.Offset)*took/float64(s.Offset)*float64(time.Second)))
			}
			all = append(all, s)
		}
		report(all)
	}
	fold, err := e.keeping.begin()
	if err != nil {
		return err
	}
	tell()
	for told := began; slices.ContainsFunc(partitions, func(id int32) bool { return states[id].Offset < states[id].End }); {
		fetched, err := source.Poll(ctx)
		if err != nil {
			return err
		}
		g, writing := errgroup.WithContext(ctx)
		g.SetLimit(runtime.GOMAXPROCS(0))
		for _, f := range fetched {
			p, s := e.partitions[f.Cursor.TopicPartition.Partition], states[f.Cursor.TopicPartition.Partition]
			g.Go(func() error {
				if err := p.follow(writing, f); err != nil {
					return err
				}
				p.stored.set(f.Cursor.Next)
				s.Offset = f.Cursor.Next
				for i := range f.Records {
					if f.Records[i].Mark == 0 {
						s.Events++
					}
				}
				return nil
			})
		}
		if err := g.Wait(); err != nil {
			return err
		}
		if fold != nil {
			if err := e.keeping.do(ctx, *fold, e.keeping.take()); err != nil {
				return err
			}
		}
		if time.Since(told) >= progressEvery {
			told = time.Now()
			tell()
		}
	}
	tell()
	return ctx.Err()
}

// wipe removes everything that the store holds of a partition, the cursor first: what is left if it is interrupted is not taken for whole.
func wipe(ctx context.Context, db *store.DB, partition int32) error {
	for _, space := range []byte{'p', 'o', 'w', 's', 'c', 'e'} {
		prefix := streamsPrefix(partition)
		prefix[0] = space
		for more := true; more; {
			more = false
			b := db.NewBatch()
			err := db.Read(func(rd *store.Reader) error {
				for pair, err := range rd.Scan(store.Range{From: prefix, To: store.PrefixEnd(prefix), KeysOnly: true}) {
					if err == nil {
						err = ctx.Err()
					}
					if err != nil {
						return err
					}
					if err := b.Delete(pair.Key); err != nil {
						if more = isFull(err); more {
							return nil
						}
						return err
					}
				}
				return nil
			})
			if err == nil {
				err = b.Commit()
			}
			b.Discard()
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// CheckStore compares a stream store with the log before an engine uses it. ErrStore and store.ErrDamaged say that the store is not what
// was written and has to be built again; eventlog.ErrCursor says, with the reason, that it was built from another log than this one, or
// that the log is not what it was.
func CheckStore(ctx context.Context, log *eventlog.Client, topic eventlog.Topic, db *store.DB) error {
	var cursors []eventlog.Cursor
	err := db.Read(func(rd *store.Reader) error {
		known := map[int32]bool{}
		for pair, err := range rd.Scan(store.Prefix([]byte{'p'})) {
			if err != nil {
				return err
			}
			var c eventlog.Cursor
			if err := c.UnmarshalBinary(pair.Value); err != nil {
				return ErrStore.Because("the cursor under %x", pair.Key).Wrap(err)
			}
			at := c.TopicPartition
			if string(cursorKey(at.Partition)) != string(pair.Key) {
				return ErrStore.Because("the cursor under %x is one of %s", pair.Key, at)
			}
			if at.Topic != topic.Name || at.Partition >= topic.Partitions {
				return eventlog.ErrCursor.Because("the store holds events of %s, the topic is %s with %d partitions", at, topic.Name, topic.Partitions)
			}
			known[at.Partition] = true
			cursors = append(cursors, c)
		}
		// Without its cursor, what there is of a partition would be read a second time, and what is missing of it not be noticed.
		for id := range topic.Partitions {
			if known[id] {
				continue
			}
			for _, err := range rd.Scan(store.Range{From: streamsPrefix(id), To: store.PrefixEnd(streamsPrefix(id)), KeysOnly: true}) {
				if err == nil {
					err = ErrStore.Because("there are events of partition %d, but no cursor", id)
				}
				return err
			}
		}
		return nil
	})
	if err != nil || len(cursors) == 0 {
		return err
	}
	// A broker that is away for a moment is no reason not to start.
	var source *eventlog.Source
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		if source, err = log.NewSource(ctx, cursors...); err == nil || !errors.Is(err, eventlog.ErrRead) || ctx.Err() != nil {
			break
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
	if err != nil {
		return err
	}
	source.Close()
	return nil
}
