package audit

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/eventlog"
)

// A ledger is what has to be known of a partition to judge its next record. Its size is that of the number of streams: 16 bytes of each,
// and what a Go map adds to that, some 20 to 40 bytes in all. It is pure: no I/O, no clock.
type ledger struct {
	tp         es.TopicPartition
	partitions int32 // of the topic
	key        [16]byte

	owner   owner
	closed  []int64 // producer ids that another one has followed: they never write again
	open    group   // the command of which not all events have come
	streams map[uint64]uint64
	recall  recall
}

// An owner is who has the latest claim.
type owner struct {
	pid   int64
	epoch int16
}

func (o owner) String() string { return fmt.Sprintf("%d/%d", o.pid, o.epoch) }

// A group is a command under way.
type group struct {
	stream, command, hash string
	offset                int64 // of its last event so far
	index, count          uint64
	owner                 owner
}

func newLedger(tp es.TopicPartition, key [16]byte) *ledger {
	return &ledger{tp: tp, key: key, owner: owner{-1, -1}, streams: map[uint64]uint64{}, recall: recall{known: map[uint64]struct{}{}}}
}

// closing is the epoch of the record that shuts out a producer id.
const closing = 1<<15 - 1

// judge takes in the next record and reports what is wrong with it.
func (l *ledger) judge(r *eventlog.Record, report func(Finding)) {
	if !l.admit(r, report) || r.Mark != 0 && r.Mark != eventlog.MarkNote {
		return
	}
	at := r.Position
	e, err := readEvent(r)
	if err != nil {
		report(Finding{Code: Malformed, Position: at, Got: err.Error(), Text: fmt.Sprintf("the record is no event: %v", err)})
		return
	}
	stream := es.StreamID(e.stream)
	if p := eventlog.PartitionOf(stream, l.partitions); p != at.Partition {
		report(Finding{Code: Partition, Position: at, Stream: stream, Want: fmt.Sprint(p), Got: fmt.Sprint(at.Partition),
			Text: fmt.Sprintf("the stream %q belongs to partition %d of %d", stream, p, l.partitions)})
	}
	if want := es.EventID(stream, string(e.command), int(e.index)); string(e.id) != want && r.Mark == 0 { //nolint:gosec // of 31 bits
		report(Finding{Code: EventID, Position: at, Stream: stream, Want: want, Got: string(e.id),
			Text: fmt.Sprintf("event %d of command %q on %q has the id %s, not %s", e.index, e.command, stream, e.id, want)})
	}
	if r.Mark == 0 {
		l.follow(r, &e, report)
	}
	if e.index == 0 && !l.recall.add(l.digest(e.stream, e.command)) {
		report(Finding{Code: Twice, Position: at, Stream: stream, Got: string(e.command), Text: fmt.Sprintf("the command %q took effect on %q before", e.command, stream)})
	}
	hash := l.digest(e.stream, nil)
	last := l.streams[hash]
	switch {
	case r.Mark == eventlog.MarkNote:
		if e.version != last {
			report(Finding{Code: Note, Position: at, Stream: stream, Want: fmt.Sprint(last), Got: fmt.Sprint(e.version),
				Text: fmt.Sprintf("the note of command %q names version %d of %q, which has %d", e.command, e.version, stream, last)})
		}
	case e.version != last+1:
		report(Finding{Code: Version, Position: at, Stream: stream, Want: fmt.Sprint(last + 1), Got: fmt.Sprint(e.version),
			Text: fmt.Sprintf("version %d of %q follows version %d", e.version, stream, last)})
		fallthrough
	default:
		l.streams[hash] = max(last, e.version) // so that one fault is one finding
	}
}

// admit applies the reader rule, by this package's own reading of it, to a record that the platform's readers let pass.
func (l *ledger) admit(r *eventlog.Record, report func(Finding)) bool {
	by := owner{r.ProducerID, r.Epoch}
	var ok bool
	switch r.Mark {
	case eventlog.MarkClaim:
		if ok = by.pid >= 0 && by.epoch >= 0 && (by.pid != l.owner.pid || by.epoch > l.owner.epoch) && !slices.Contains(l.closed, by.pid); ok {
			if l.owner.pid >= 0 && l.owner.pid != by.pid {
				l.closed = append(l.closed, l.owner.pid)
			}
			l.owner = by
		}
	case eventlog.MarkBarrier:
		if ok = by.pid >= 0 && by.pid == l.owner.pid && by.epoch >= l.owner.epoch; ok {
			l.owner = by
		}
	case eventlog.MarkClose:
		ok = by.pid >= 0 && by.epoch == closing
	default:
		ok = by.pid >= 0 && by == l.owner
	}
	if !ok {
		what := "the record"
		if r.Mark != 0 {
			what = "the " + r.Mark.String()
		}
		report(Finding{Code: Claim, Position: r.Position, Want: l.owner.String(), Got: by.String(),
			Text: fmt.Sprintf("%s is of producer %s, the latest claim before it of %s, and readers take it all the same", what, by, l.owner)})
	}
	return ok
}

// follow checks that the events of a command are one after the other, all of them, under one epoch.
func (l *ledger) follow(r *eventlog.Record, e *event, report func(Finding)) {
	g := &l.open
	by := owner{r.ProducerID, r.Epoch}
	next := g.count > 0 && g.offset+1 == r.Position.Offset && g.index+1 == e.index && g.count == e.count && g.owner == by &&
		g.stream == string(e.stream) && g.command == string(e.command) && g.hash == string(e.hash)
	if !next {
		l.missing(report)
		if e.index > 0 {
			report(Finding{Code: Torn, Position: r.Position, Stream: es.StreamID(e.stream), Want: fmt.Sprintf("event %d of %d before it", e.index-1, e.count),
				Text: fmt.Sprintf("event %d of %d of command %q on %q does not follow the one before it", e.index, e.count, e.command, e.stream)})
		}
	}
	switch {
	case e.index+1 == e.count:
		*g = group{}
	case next:
		g.offset, g.index = r.Position.Offset, e.index
	default:
		*g = group{string(e.stream), string(e.command), string(e.hash), r.Position.Offset, e.index, e.count, by}
	}
}

// missing reports a command of which no more events can come.
func (l *ledger) missing(report func(Finding)) {
	g := l.open
	if g.count == 0 {
		return
	}
	l.open = group{}
	report(Finding{Code: Torn, Position: es.Position{TopicPartition: l.tp, Offset: g.offset}, Stream: es.StreamID(g.stream), Want: fmt.Sprintf("event %d of %d after it", g.index+1, g.count),
		Text: fmt.Sprintf("after event %d of %d of command %q on %q, the next is missing", g.index, g.count, g.command, g.stream)})
}

// digest returns 64 bits that stand for a stream, or a command on it. Clients choose these names: the key, a secret of the state, keeps
// them from choosing two with one digest. By chance, two of 10 million streams share one with a probability of 3 in a million, and
// would look like a version out of order.
func (l *ledger) digest(stream, command []byte) uint64 {
	var buf [256]byte
	b := append(buf[:0], l.key[:]...)
	b = append(b, stream...)
	if command != nil {
		b = append(append(b, 0), command...)
	}
	sum := sha256.Sum256(b)
	return binary.BigEndian.Uint64(sum[:])
}
