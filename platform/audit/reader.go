package audit

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/eventlog"
	"github.com/millrace/millrace/platform/fault"
)

// fetchBytes is how much is read at a time: an audit has time, and who answers queries beside it has not.
const fetchBytes = 1 << 20

// A reader brings the records of all partitions to their ledgers.
type reader struct {
	audit  *Audit
	topics map[string]eventlog.Topic
	parts  map[es.TopicPartition]*part // those that can be read
	ends   map[es.TopicPartition]int64 // when it was opened
	source *eventlog.Source
	pace   pace
	looked int // how many dropped records were looked at
}

// enough is how many dropped records one reader looks at: each costs a connection, and there can be as many as somebody likes to write.
const enough = 20

// open finds the partitions and begins to read them.
func (r *reader) open(ctx context.Context) error {
	a := r.audit
	r.topics, r.parts, r.ends = map[string]eventlog.Topic{}, map[es.TopicPartition]*part{}, map[es.TopicPartition]int64{}
	for _, name := range a.cfg.Topics {
		topic, err := a.cfg.Log.FindTopic(ctx, name)
		if err != nil {
			return err
		}
		ends, err := a.cfg.Log.Ends(ctx, topic)
		if err != nil {
			return err
		}
		r.topics[name] = topic
		for n := range topic.Partitions {
			tp := es.TopicPartition{Topic: name, Partition: n}
			if a.left[tp] {
				continue
			}
			p := a.state.parts[tp]
			if p == nil {
				p = &part{cursor: topic.Start(n), ledger: newLedger(tp, a.state.key)}
				a.state.parts[tp] = p
			}
			p.ledger.partitions = topic.Partitions
			p.ledger.recall.bound(max(1, a.cfg.Remember/int(topic.Partitions)))
			r.parts[tp], r.ends[tp] = p, ends[n]
			a.note(p, ends[n]-p.cursor.Next, 0)
		}
	}
	return r.begin(ctx)
}

// begin reads all partitions from their cursors on. Those from which the log cannot be read any more are reported and left.
func (r *reader) begin(ctx context.Context) error {
	r.close()
	var all []eventlog.Cursor
	for _, p := range r.parts {
		all = append(all, p.cursor)
	}
	var err error
	if r.source, err = r.audit.cfg.Log.NewSourceWithin(ctx, fetchBytes, all...); err == nil || !errors.Is(err, eventlog.ErrCursor) {
		return err
	}
	if r.source, err = r.audit.cfg.Log.NewSourceWithin(ctx, fetchBytes); err != nil {
		return err
	}
	for _, tp := range inOrder(r.parts) {
		switch err := r.source.Add(ctx, r.parts[tp].cursor); {
		case errors.Is(err, eventlog.ErrCursor):
			r.lost(tp, err)
		case err != nil:
			return err
		}
	}
	return nil
}

// inOrder returns the partitions in the order of their topics' names and their numbers.
func inOrder(parts map[es.TopicPartition]*part) []es.TopicPartition {
	return slices.SortedFunc(maps.Keys(parts), func(x, y es.TopicPartition) int {
		return cmp.Or(strings.Compare(x.Topic, y.Topic), cmp.Compare(x.Partition, y.Partition))
	})
}

// lost reports that a partition cannot be read from where the audit is, and leaves it.
func (r *reader) lost(tp es.TopicPartition, err error) {
	why := err.Error()
	if e := fault.From(err); e != nil && e.Detail != "" {
		why = e.Detail
	}
	p := r.parts[tp]
	delete(r.parts, tp)
	r.audit.left[tp] = true
	r.audit.note(p, 0, 0)
	r.audit.report(Finding{Code: Lost, Position: es.Position{TopicPartition: tp, Offset: p.cursor.Next}, Want: fmt.Sprint(p.cursor.Next), Text: why + "; the partition is not judged any further"})
}

// reopen goes on after the log did not continue where it must: who it is of the partitions is found by reading each alone.
func (r *reader) reopen(ctx context.Context, gap error) error {
	before := len(r.parts)
	for _, tp := range inOrder(r.parts) {
		p := r.parts[tp]
		err := func() error {
			source, err := r.audit.cfg.Log.NewSourceWithin(ctx, fetchBytes, p.cursor)
			if err != nil {
				return err
			}
			defer source.Close()
			if source.End(tp) <= p.cursor.Next {
				return nil
			}
			ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
			defer cancel()
			_, err = source.Poll(ctx)
			return err
		}()
		switch {
		case errors.Is(err, eventlog.ErrCursor), errors.Is(err, eventlog.ErrGap):
			r.lost(tp, err)
		case ctx.Err() != nil:
			return ctx.Err()
		}
	}
	if len(r.parts) == before {
		return gap // it passed, or is not to be found: the caller's to try again
	}
	return r.begin(ctx)
}

// judge takes in what was read of a partition. When ctx ends it goes on to the end of that, without waiting: only there is a cursor.
func (r *reader) judge(ctx context.Context, f eventlog.Fetched) {
	a, p := r.audit, r.parts[f.Cursor.TopicPartition]
	if p == nil {
		return
	}
	records, next := f.Records, p.cursor.Next
	for len(records) > 0 {
		n := min(len(records), r.pace.step())
		r.pace.wait(ctx, n)
		for i := range records[:n] {
			if at := records[i].Position.Offset; at > next {
				r.dropped(ctx, p, next, at)
			}
			p.ledger.judge(&records[i], a.report)
			next = records[i].Position.Offset + 1
		}
		records = records[n:]
		a.note(p, f.End-next, n)
	}
	if next < f.Cursor.Next {
		r.dropped(ctx, p, next, f.Cursor.Next)
	}
	p.cursor = f.Cursor
	a.note(p, f.End-f.Cursor.Next, 0)
	a.dirty = true
}

// dropped reports the records between two offsets, which the source left out because they are not of the latest claim before them: that
// no offset is missing otherwise, it has checked.
func (r *reader) dropped(ctx context.Context, p *part, from, before int64) {
	at := es.Position{TopicPartition: p.cursor.TopicPartition, Offset: from}
	f := Finding{Code: Rogue, Position: at, Want: p.ledger.owner.String()}
	if n := before - from; n == 1 {
		f.Text = fmt.Sprintf("the record is not of the latest claim before it, of producer %s, and readers drop it", p.ledger.owner)
	} else {
		f.Text = fmt.Sprintf("%d records are not of the latest claim before them, of producer %s, and readers drop them", n, p.ledger.owner)
	}
	r.audit.note(p, -1, int(before-from))
	if r.looked++; r.looked <= enough {
		raw, err := r.audit.cfg.Log.RecordAt(ctx, r.topics[at.Topic], at)
		if err != nil {
			r.audit.cfg.Logger.Warn("a record that readers drop cannot be looked at", "position", at.String(), "error", fault.Line(err))
		} else {
			f.Got = owner{raw.ProducerID, raw.Epoch}.String()
			f.Text += fmt.Sprintf("; the first is of producer %s, key %.60q, written at %s", f.Got, raw.Key, raw.Time.UTC().Format(time.RFC3339Nano))
		}
	}
	r.audit.report(f)
}

// finish reports what a log that ends here leaves open: all events of a command are in one batch, which is there as a whole or not at all.
func (r *reader) finish() {
	for _, tp := range inOrder(r.parts) {
		r.parts[tp].ledger.missing(r.audit.report)
	}
}

// close ends the reading.
func (r *reader) close() {
	if r.source != nil {
		r.source.Close()
		r.source = nil
	}
}
