package eventlog

import "time"

// A MarkKind says what a record of the platform itself is for; 0 is no mark but an event.
type MarkKind uint8

// The marks that an owner writes beside the events.
const (
	MarkClaim   MarkKind = iota + 1 // the partition has a new owner
	MarkBarrier                     // the owner is alive: keeps or renews its fence
	MarkClose                       // an older producer id is shut out for good
	MarkNote                        // a command had nothing to do: it is remembered, and no event
)

var markNames = [...]string{"", "claim", "barrier", "close", "note"}

// String returns the kind's name as it stands in the record's header.
func (k MarkKind) String() string {
	if int(k) < len(markNames) {
		return markNames[k]
	}
	return "unknown"
}

// An Identity says who owns a partition: Instance tells processes apart, Address is where commands can be forwarded to, host:port.
type Identity struct{ Instance, Address string }

// Marks gives the marks of one topic their content, so that consumers of the topic can decode or skip them. Key and value nil
// are Kafka's null. The headers by which readers recognise a mark are added by the Owner.
type Marks interface {
	Mark(kind MarkKind, who Identity, at time.Time) (key, value []byte, headers []Header, err error)
}

// The headers of a mark.
const (
	headerMark     = "millrace-mark"
	headerInstance = "millrace-instance"
	headerAddress  = "millrace-address"
)

// markHeaders returns headers and, after them, those by which a mark is recognised.
func markHeaders(headers []Header, kind MarkKind, who Identity) []Header {
	return append(headers[:len(headers):len(headers)],
		Header{Key: headerMark, Value: []byte(kind.String())},
		Header{Key: headerInstance, Value: []byte(who.Instance)},
		Header{Key: headerAddress, Value: []byte(who.Address)})
}

// markOf reads what markHeaders wrote. The mark headers come last, so the search starts there and is short for events.
func markOf(headers []Header) (MarkKind, Identity) {
	n := len(headers)
	if n < 3 || headers[n-3].Key != headerMark || headers[n-2].Key != headerInstance || headers[n-1].Key != headerAddress {
		return 0, Identity{}
	}
	for k := MarkClaim; k <= MarkNote; k++ {
		if string(headers[n-3].Value) == markNames[k] {
			return k, Identity{Instance: string(headers[n-2].Value), Address: string(headers[n-1].Value)}
		}
	}
	return 0, Identity{}
}

// NoopMarks are Confluent's NOOP records, which every schema registry skips: the marks of the topic _schemas.
var NoopMarks Marks = noopMarks{}

type noopMarks struct{}

func (noopMarks) Mark(MarkKind, Identity, time.Time) (key, value []byte, headers []Header, err error) {
	return []byte(`{"keytype":"NOOP","magic":0}`), nil, nil, nil
}
