package check

import (
	"math"
	"slices"
	"time"
)

// An Outcome is what a client learnt of one attempt.
type Outcome uint8

// The outcomes.
const (
	Unknown  Outcome = iota // nothing, or that it is not known: the command may take effect at any time after the call, or never
	Acked                   // a receipt
	Refused                 // the domain's refusal
	Conflict                // the stream is not at the expected version
	Reused                  // the command id was used for another payload
	Absent                  // this attempt will not take effect
	Read                    // the events of the stream
	NotFound                // a look-up of a command id that took no effect
)

var outcomeNames = [...]string{"unknown", "acked", "refused", "conflict", "reused", "absent", "read", "not found"}

// String returns the outcome's name.
func (o Outcome) String() string { return outcomeNames[o] }

// Forever is the Return of an attempt that was never answered.
const Forever = time.Duration(math.MaxInt64)

// An Attempt is one request of a client and its answer. Times count from the beginning of the run.
type Attempt struct {
	Client, Node string
	Stream       string
	Command      string // the command id; "" for a read
	Payload      any    // as the Spec takes it; nil for reads and look-ups
	Expect       *int64
	Call, Return time.Duration
	Outcome      Outcome
	Receipt      Receipt // of Acked
	Code         string  // of Refused: the refusal's code
	Current      int64   // of Conflict: the version that the answer named
	Events       []Ref   // of Read: all events of the stream
	Note         string  // for people: what the client saw
}

// A Receipt is what a client was told of a command that took effect.
type Receipt struct {
	Version   int64
	Events    []Ref
	Partition int32 // of the last event, or of the note of a command that had nothing to do
	Offset    int64
	Replayed  bool
}

// A Ref names an event.
type Ref struct {
	ID, Type string
	Version  int64
}

// took reports whether the attempt is a receipt.
func (a *Attempt) took() bool { return a.Outcome == Acked }

// rests reports whether the answer appended nothing, and so may be as old as the lease.
func (a *Attempt) rests() bool {
	switch a.Outcome {
	case Refused, Conflict, Reused, Read, NotFound:
		return true
	}
	return false
}

// Acked checks that the events of each acknowledged command are in the log, once, at the position and with the versions, ids and types
// that its receipt names, and the note of one that had nothing to do.
func (l *Log) Acked(history []Attempt) []Violation {
	f := found{checker: "Acked"}
	for i := range history {
		a := &history[i]
		if !a.took() {
			continue
		}
		events := l.Command(a.Stream, a.Command)
		r := &a.Receipt
		note := len(events) == 1 && events[0].Count == 0
		if !note && len(events) != len(r.Events) || note && len(r.Events) > 0 || len(events) == 0 {
			f.add("%s of %q on %q was acknowledged with %d events, the log has %d: %s", a.Node, a.Command, a.Stream, len(r.Events), len(events), at(events))
			continue
		}
		for j, e := range events[:len(r.Events)] {
			if got := (Ref{e.ID, e.Type, e.Version}); got != r.Events[j] {
				f.add("%s of %q on %q: the receipt says %v, the log %v", a.Node, a.Command, a.Stream, r.Events[j], got)
			}
		}
		last := events[len(events)-1]
		if last.Partition != r.Partition || last.Offset != r.Offset || last.Version != r.Version {
			f.add("%s of %q on %q: the receipt says version %d at %d@%d, the log %d at %v", a.Node, a.Command, a.Stream, r.Version, r.Partition, r.Offset, last.Version, last)
		}
	}
	return f.list
}

// Receipts checks that all receipts of a command are the same, whoever gave them and whenever, and that no other payload got one under
// its id.
func Receipts(history []Attempt) []Violation {
	f := found{checker: "Receipts"}
	first := map[commandKey]*Attempt{}
	for i := range history {
		a := &history[i]
		if !a.took() {
			continue
		}
		k := commandKey{a.Stream, a.Command}
		b := first[k]
		if b == nil {
			first[k] = a
			continue
		}
		x, y := a.Receipt, b.Receipt
		if x.Version != y.Version || x.Partition != y.Partition || x.Offset != y.Offset || !slices.Equal(x.Events, y.Events) {
			f.add("%q on %q got %+v of %s and %+v of %s", a.Command, a.Stream, y, b.Node, x, a.Node)
		}
		if a.Payload != nil && b.Payload != nil && a.Payload != b.Payload {
			f.add("%q on %q was acknowledged for %v and for %v", a.Command, a.Stream, b.Payload, a.Payload)
		}
	}
	return f.list
}

// Absent checks that no command took effect by an attempt of which the client was told that it will not: it is not in the log, or it is
// there not before another attempt was made that can have put it there. The attempts' times count from began.
func (l *Log) Absent(history []Attempt, began time.Time) []Violation {
	f := found{checker: "Absent"}
	may := map[commandKey]time.Duration{} // when the first attempt was made that can have taken effect
	told := map[commandKey]*Attempt{}
	for i := range history {
		a := &history[i]
		k := commandKey{a.Stream, a.Command}
		switch a.Outcome {
		case Acked, Unknown:
			if a.Payload == nil {
				continue // a look-up causes nothing
			}
			if first, ok := may[k]; !ok || a.Call < first {
				may[k] = a.Call
			}
		case Absent, Refused, Conflict, Reused:
			told[k] = a
		}
	}
	for k, a := range told {
		events := l.commands[k]
		if k.id == "" || len(events) == 0 {
			continue
		}
		if first, ok := may[k]; !ok || !events[0].Time.IsZero() && events[0].Time.Add(stamp).Before(began.Add(first)) {
			f.add("%q on %q was told %v by %s, and took effect: %s", k.id, k.stream, a.Outcome, a.Node, at(events))
		}
	}
	return f.list
}

// Strangers checks that every command in the log was sent by somebody.
func (l *Log) Strangers(history []Attempt) []Violation {
	f := found{checker: "Strangers"}
	sent := map[commandKey]bool{}
	for i := range history {
		sent[commandKey{history[i].Stream, history[i].Command}] = true
	}
	for k, events := range l.commands {
		if !sent[k] {
			f.add("nobody sent %q on %q: %s", k.id, k.stream, at(events))
		}
	}
	return f.list
}

// Reads checks that each read saw the first events of its stream in the log, none left out and no other.
func (l *Log) Reads(history []Attempt) []Violation {
	f := found{checker: "Reads"}
	for i := range history {
		a := &history[i]
		if a.Outcome != Read {
			continue
		}
		events := l.Streams[a.Stream]
		if len(a.Events) > len(events) {
			f.add("%s read %d events of %q, the log has %d", a.Node, len(a.Events), a.Stream, len(events))
			continue
		}
		for j, got := range a.Events {
			if want := (Ref{events[j].ID, events[j].Type, events[j].Version}); got != want {
				f.add("%s read event %d of %q as %v, the log has %v", a.Node, j+1, a.Stream, got, want)
			}
		}
	}
	return f.list
}

// Stale checks that no answer that appended nothing was older than the lease when it was asked for, and that none was old at all unless
// the partition had got another owner within the lease: an event that somebody had been told of before must have been known. The attempts'
// times count from began.
func (l *Log) Stale(history []Attempt, lease time.Duration, began time.Time) []Violation {
	f := found{checker: "Stale"}
	// When the first client knew of each event, by stream and version.
	known := map[string][]time.Duration{}
	learn := func(stream string, version int64, at time.Duration) {
		k := known[stream]
		for int64(len(k)) < version {
			k = append(k, Forever)
		}
		k[version-1] = min(k[version-1], at)
		known[stream] = k
	}
	for i := range history {
		a := &history[i]
		switch {
		case a.took() && a.Receipt.Version > 0:
			learn(a.Stream, a.Receipt.Version, a.Return)
		case a.Outcome == Read && len(a.Events) > 0:
			learn(a.Stream, int64(len(a.Events)), a.Return)
		case a.Outcome == Conflict && a.Current > 0:
			learn(a.Stream, a.Current, a.Return)
		}
	}
	// Who knows a version knows those before.
	for _, k := range known {
		for i := len(k) - 2; i >= 0; i-- {
			k[i] = min(k[i], k[i+1])
		}
	}
	for i := range history {
		a := &history[i]
		if !a.rests() {
			continue
		}
		var version int64
		switch a.Outcome {
		case Conflict:
			version = a.Current
		case Read:
			version = int64(len(a.Events))
		case NotFound:
			events := l.Command(a.Stream, a.Command)
			if len(events) == 0 || events[0].Count == 0 {
				continue
			}
			version = events[0].Version - 1
		default:
			continue // Refused and Reused name no version: Linearizable judges them
		}
		k := known[a.Stream]
		switch {
		case version >= int64(len(k)) || k[version] >= a.Call:
		case k[version] < a.Call-lease:
			f.add("%s answered %q on %q from version %d at %v..%v, version %d was known at %v: %v before, the lease is %v",
				a.Node, a.Command, a.Stream, version, a.Call, a.Return, version+1, k[version], a.Call-k[version], lease)
		case !l.claimed(a, version, began.Add(a.Call-lease), began.Add(k[version])):
			f.add("%s answered %q on %q from version %d at %v..%v, version %d was known at %v, and the owner was the same",
				a.Node, a.Command, a.Stream, version, a.Call, a.Return, version+1, k[version])
		}
	}
	return f.list
}

// claimed reports whether a partition got an owner, between two times, to which the first events of a stream may be all that the owner
// before knew. That one may not have known its own last write.
func (l *Log) claimed(a *Attempt, version int64, from, to time.Time) bool {
	events := l.Streams[a.Stream]
	if version >= int64(len(events)) {
		return true // known, and not there: another checker's matter
	}
	known := int64(-1)
	if version > 0 && a.Outcome != NotFound { // which says of one command only that it is later
		known = events[version-1].Offset
	}
	return slices.ContainsFunc(l.claims[events[version].Partition], func(c *Record) bool {
		return c.Offset > known && (c.Time.IsZero() || !c.Time.Before(from.Add(-stamp-underway)) && !c.Time.After(to.Add(stamp)))
	})
}

const (
	// stamp is how exact the times of records are.
	stamp = 2 * time.Millisecond
	// underway is how long a claim may be on its way to the log: kfake gives records the time at which they were made.
	underway = 300 * time.Millisecond
)
