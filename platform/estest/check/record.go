// Package check judges what a run of command engines left behind: the log, read raw, what clients were told, and the stores of the
// instances. Its functions are pure; they know the rules of Millrace and nothing of its engines, whose code they could share a
// mistake with. Packages sim and chaos produce what is judged.
package check

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"time"
)

// A Violation is a broken rule: which checker found it, and what it found.
type Violation struct{ Checker, Text string }

// String returns "checker: text".
func (v Violation) String() string { return v.Checker + ": " + v.Text }

// found collects the violations of one checker.
type found struct {
	checker string
	list    []Violation
}

func (f *found) add(format string, args ...any) {
	f.list = append(f.list, Violation{f.checker, fmt.Sprintf(format, args...)})
}

// A Header is one header of a record.
type Header struct {
	Key   string
	Value []byte
}

// A Record is one record of the log as any consumer sees it.
type Record struct {
	Partition  int32
	Offset     int64
	ProducerID int64
	Epoch      int16
	Time       time.Time // when it was appended, or sealed to be
	Control    bool      // a transaction's marker, or of a transaction: nobody of Millrace writes such
	Key, Value []byte
	Headers    []Header
}

func (r *Record) String() string { return fmt.Sprintf("%d@%d", r.Partition, r.Offset) }

// header returns the only value of a header; ok is false if there is none or more than one.
func (r *Record) header(key string) (value string, ok bool) {
	n := 0
	for _, h := range r.Headers {
		if h.Key == key {
			value = string(h.Value)
			n++
		}
	}
	return value, n == 1
}

// The marks of owners, as their header names them.
const (
	markClaim   = "claim"
	markBarrier = "barrier"
	markClose   = "close"
	markNote    = "note"
)

// closedEpoch is the epoch of a closing record.
const closedEpoch = 1<<15 - 1

// An Event is a record that is one event, or the note of a command that had nothing to do, read by this package's own reading of the
// headers. A note has Count 0, and the Version that the stream had.
type Event struct {
	*Record
	ID, Type     string
	Stream       string
	Command      string
	Hash         string
	Version      int64
	Index, Count int
}

// event reads the headers of an event.
func event(r *Record) (Event, error) {
	e := Event{Record: r}
	for _, f := range []struct {
		header string
		text   *string
	}{{"ce_id", &e.ID}, {"ce_type", &e.Type}, {"ce_subject", &e.Stream}, {"ce_commandid", &e.Command}, {"ce_commandhash", &e.Hash}} {
		v, ok := r.header(f.header)
		if !ok || v == "" {
			return e, fmt.Errorf("header %s is missing or there twice", f.header)
		}
		*f.text = v
	}
	number := func(header string, least int64) (n int64, err error) {
		v, ok := r.header(header)
		if !ok {
			return 0, fmt.Errorf("header %s is missing or there twice", header)
		}
		if n, err = strconv.ParseInt(v, 10, 64); err != nil || n < least {
			return 0, fmt.Errorf("header %s is %q", header, v)
		}
		return n, nil
	}
	var err error
	if e.Version, err = number("ce_streamversion", 0); err != nil {
		return e, err
	}
	index, err := number("ce_commandindex", 0)
	if err != nil {
		return e, err
	}
	count, err := number("ce_commandcount", 0)
	if err != nil {
		return e, err
	}
	e.Index, e.Count = int(index), int(count)
	if e.note() {
		if count != 0 || index != 0 {
			return e, fmt.Errorf("a note of event %d of %d", index, count)
		}
	} else if count <= index || e.Version <= index {
		return e, fmt.Errorf("event %d of %d is version %d", index, count, e.Version)
	}
	if e.Stream != string(r.Key) {
		return e, fmt.Errorf("the key is %q and the subject %q", r.Key, e.Stream)
	}
	return e, nil
}

// note reports whether a record is the note of a command.
func (r *Record) note() bool {
	mark, _ := r.header("millrace-mark")
	return mark == markNote
}

// A Log is what the records of a topic say to a reader that keeps to the reader rule.
type Log struct {
	Ends    map[int32]int64    // offset after the last record
	Events  map[int32][]Event  // in order
	Streams map[string][]Event // the same by stream, in order; a stream that is in two partitions is in the order of the partitions
	Rogue   []*Record          // records that are not of the latest claim before them
	Claims  int
	// Foreign says which records the test itself wrote beside all owners; nil = none. They must be rogue, and no other record may be.
	Foreign  func(*Record) bool
	notes    []Event
	claims   map[int32][]*Record    // of each partition
	commands map[commandKey][]Event // events and notes
	broken   []Violation            // what New found
}

type commandKey struct{ stream, id string }

// NewLog reads records, in any order of partitions, each partition's in order of offsets. What cannot be read is a violation of
// checker "Log", kept for Log.Epochs.
func NewLog(records []Record, foreign func(*Record) bool) *Log {
	l := &Log{Ends: map[int32]int64{}, Events: map[int32][]Event{}, Streams: map[string][]Event{}, Foreign: foreign,
		claims: map[int32][]*Record{}, commands: map[commandKey][]Event{}}
	f := found{checker: "Epochs"}
	type owner struct {
		pid    int64
		epoch  int16
		closed map[int64]bool // producer ids that another one has followed
		shut   map[int64]bool // producer ids with a closing record
		serves bool           // it wrote more than its claim: what it has to shut out is shut out
	}
	owners := map[int32]*owner{}
	for i := range records {
		r := &records[i]
		if want := l.Ends[r.Partition]; r.Offset != want {
			f.add("the log goes on at %v instead of %d", r, want)
		}
		l.Ends[r.Partition] = r.Offset + 1
		o := owners[r.Partition]
		if o == nil {
			o = &owner{pid: -1, epoch: -1, closed: map[int64]bool{}, shut: map[int64]bool{}}
			owners[r.Partition] = o
		}
		mark, _ := r.header("millrace-mark")
		admitted := !r.Control
		switch mark {
		case markClaim:
			if admitted = admitted && r.ProducerID >= 0 && (r.ProducerID != o.pid || r.Epoch > o.epoch) && !o.shut[r.ProducerID]; admitted {
				if o.pid >= 0 && o.pid != r.ProducerID {
					o.closed[o.pid] = true
				}
				delete(o.closed, r.ProducerID)
				o.pid, o.epoch, o.serves = r.ProducerID, r.Epoch, false
				l.Claims++
				l.claims[r.Partition] = append(l.claims[r.Partition], r)
			}
		case markBarrier:
			if admitted = admitted && r.ProducerID >= 0 && r.ProducerID == o.pid && r.Epoch >= o.epoch; admitted {
				o.epoch, o.serves = r.Epoch, true
			}
		case markClose:
			if admitted = admitted && r.ProducerID >= 0 && r.Epoch == closedEpoch; admitted {
				o.shut[r.ProducerID] = true
			}
		default:
			admitted = admitted && r.ProducerID >= 0 && r.ProducerID == o.pid && r.Epoch == o.epoch
			o.serves = o.serves || admitted
		}
		isForeign := foreign != nil && foreign(r)
		if !admitted {
			l.Rogue = append(l.Rogue, r)
			// The coordinator had forgotten the producer id of an owner that claimed while its successor did: it can write until the closing
			// record, which comes before the successor serves. Readers drop that, as here, and if it was acknowledged nevertheless, Acked finds
			// out.
			late := o.closed[r.ProducerID] && !o.shut[r.ProducerID] && !o.serves && !r.Control
			if !isForeign && !late {
				f.add("%v %s is of %d/%d, the latest claim before it of %d/%d", r, mark, r.ProducerID, r.Epoch, o.pid, o.epoch)
			}
			continue
		}
		if isForeign {
			f.add("%v was written beside the owner and passes the reader rule", r)
		}
		if mark != "" && mark != markNote {
			continue
		}
		e, err := event(r)
		if err != nil {
			f.add("%v is no event: %v", r, err)
			continue
		}
		if mark == markNote {
			l.notes = append(l.notes, e)
		} else {
			l.Events[r.Partition] = append(l.Events[r.Partition], e)
			l.Streams[e.Stream] = append(l.Streams[e.Stream], e)
		}
		k := commandKey{e.Stream, e.Command}
		l.commands[k] = append(l.commands[k], e)
	}
	l.broken = f.list
	return l
}

// Command returns the events, or the note, of a command on a stream, in the order of the log; none if it did not take effect.
func (l *Log) Command(stream, id string) []Event { return l.commands[commandKey{stream, id}] }

// Epochs checks that every record is of the latest claim before it, claims rising, without a gap in the offsets: no owner wrote after
// a newer claim. Records that the test wrote itself are to be rogue.
func (l *Log) Epochs() []Violation { return slices.Clone(l.broken) }

// Versions checks that the versions of each stream are 1..n in the order of the log, in one partition, that the events of each command
// follow one another with nothing between them, complete, and under one epoch, and that each note names the version of its stream.
func (l *Log) Versions() []Violation {
	f := found{checker: "Versions"}
	for stream, events := range l.Streams {
		for i, e := range events {
			if e.Version != int64(i)+1 {
				f.add("%v is version %d of %q, there are %d before it", e, e.Version, stream, i)
			}
			if e.Partition != events[0].Partition {
				f.add("%q is in partitions %d and %d", stream, e.Partition, events[0].Partition)
			}
		}
	}
	for _, n := range l.notes {
		before := 0
		for _, e := range l.Streams[n.Stream] {
			if e.Partition == n.Partition && e.Offset < n.Offset {
				before++
			}
		}
		if n.Version != int64(before) {
			f.add("%v notes version %d of %q, there are %d events before it", n, n.Version, n.Stream, before)
		}
	}
	for _, events := range l.Events {
		for i, e := range events {
			follows := e.Index == 0
			if i > 0 && e.Index > 0 {
				p := events[i-1]
				follows = p.Offset == e.Offset-1 && p.Index == e.Index-1 && p.Stream == e.Stream && p.Command == e.Command && p.Count == e.Count &&
					p.ProducerID == e.ProducerID && p.Epoch == e.Epoch && p.Hash == e.Hash
			}
			if !follows {
				f.add("%v is event %d of %d of %q on %q, and does not follow the one before", e, e.Index, e.Count, e.Command, e.Stream)
			}
			if e.Index < e.Count-1 && (i+1 == len(events) || events[i+1].Index != e.Index+1) {
				f.add("%v is event %d of %d of %q on %q, and the next is missing", e, e.Index, e.Count, e.Command, e.Stream)
			}
		}
	}
	return f.list
}

// Once checks that each command is in the log once: its events, or its note.
func (l *Log) Once() []Violation {
	f := found{checker: "Once"}
	for k, events := range l.commands {
		first := 0
		ids := map[string]bool{}
		for _, e := range events {
			if e.Index == 0 {
				first++
			}
			if ids[e.ID] {
				f.add("the event id %s is there twice, at %v again", e.ID, e)
			}
			ids[e.ID] = true
		}
		if first != 1 {
			f.add("command %q took effect on %q %d times: %v", k.id, k.stream, first, at(events))
		}
	}
	return f.list
}

func at(events []Event) string {
	var b bytes.Buffer
	for i, e := range events {
		if i > 0 {
			b.WriteByte(' ')
		}
		fmt.Fprintf(&b, "%v=v%d", e, e.Version)
	}
	return b.String()
}
