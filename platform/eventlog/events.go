package eventlog

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/platform/contract"
	"github.com/millrace/millrace/platform/es"
)

// The headers of an event: the CloudEvents 1.0 Kafka binding in binary content mode, with the extensions of Millrace.
const (
	headerSpecVersion = "ce_specversion"
	headerID          = "ce_id"
	headerSource      = "ce_source"
	headerType        = "ce_type"
	headerSubject     = "ce_subject"
	headerTime        = "ce_time"
	headerVersion     = "ce_streamversion"
	headerCommand     = "ce_commandid"
	headerHash        = "ce_commandhash"
	headerIndex       = "ce_commandindex"
	headerCount       = "ce_commandcount"
	headerCorrelation = "ce_correlationid"
	headerCausation   = "ce_causationid"
	headerActor       = "ce_actor"
	headerContentType = "content-type"
	headerTrace       = "traceparent"
)

// Values that are the same for every event.
var (
	specVersion = []byte("1.0")
	contentType = []byte("application/avro")
)

// Events writes and reads the events of one contract as records: key = stream, value = framed Avro, everything else in headers.
// It is safe for concurrent use.
type Events[E any] struct {
	codec  *contract.Codec[E]
	source []byte
}

// NewEvents returns the binding of a contract. source, a URI reference, says where the events come from: ce_source of all of them.
func NewEvents[E any](codec *contract.Codec[E], source string) *Events[E] {
	return &Events[E]{codec: codec, source: []byte(source)}
}

// Add encodes an event at the end of the batch. It returns the codec's error, or ErrBatchFull or ErrTooLarge; the batch is unchanged
// then, and ErrRecord for an envelope that Envelope could not read again. The envelope's Position is the log's to give, and ignored, as is Time: ce_time is Meta.Time.
func (x *Events[E]) Add(b *Batch, env es.Envelope[E]) error {
	if env.Stream == "" || env.Meta.CommandID == "" || env.Index < 0 || env.Index >= env.Count || env.Version <= es.Version(env.Index) {
		return ErrRecord.Because("event %d of %d of command %q, version %d of stream %q", env.Index, env.Count, env.Meta.CommandID, env.Version, env.Stream)
	}
	frame, err := x.codec.Append(b.frame[:0], env.Event)
	if err != nil {
		return err
	}
	b.frame = frame
	return x.AddFrame(b, &env, frame)
}

// AddFrame is Add for an event that the codec has framed already, for callers that need the frame themselves.
func (x *Events[E]) AddFrame(b *Batch, env *es.Envelope[E], frame []byte) error {
	if env.Type == "" {
		env.Type = x.codec.TypeName(env.Event)
	}
	return x.add(b, env, frame, nil)
}

// typeNote is the ce_type of notes.
const typeNote = "millrace.v1.CommandNoted"

// AddNote encodes, at the end of the batch, that a command was decided on a stream and had nothing to do: of the envelope, Stream,
// Version (of the stream then, 0 = it has no events) and Meta count. The errors are those of Add.
func (x *Events[E]) AddNote(b *Batch, env es.Envelope[E], m Marks, who Identity) error {
	_, value, _, err := m.Mark(MarkNote, who, env.Meta.Time)
	if err != nil {
		return err
	}
	env.Type, env.Index, env.Count = typeNote, 0, 0
	return x.add(b, &env, value, markHeaders(nil, MarkNote, who))
}

func (x *Events[E]) add(b *Batch, env *es.Envelope[E], frame []byte, more []Header) error {
	s := b.scratch[:0]
	typ, id := env.Type, env.ID
	if id == "" {
		id = es.EventID(env.Stream, env.Meta.CommandID, env.Index)
	}
	// All texts go into one buffer first: it may move while it grows, so headers are cut from it at the end.
	var marks [16]struct {
		key      string
		from, to int
	}
	n := 0
	text := func(key, v string) {
		from := len(s)
		s = append(s, v...)
		marks[n].key, marks[n].from, marks[n].to = key, from, len(s)
		n++
	}
	number := func(key string, v int64) {
		from := len(s)
		s = strconv.AppendInt(s, v, 10)
		marks[n].key, marks[n].from, marks[n].to = key, from, len(s)
		n++
	}
	optional := func(key, v string) {
		if v != "" {
			text(key, v)
		}
	}
	text(headerID, id)
	text(headerType, typ)
	text(headerSubject, string(env.Stream))
	from := len(s)
	s = env.Meta.Time.UTC().AppendFormat(s, time.RFC3339Nano)
	marks[n].key, marks[n].from, marks[n].to = headerTime, from, len(s)
	n++
	number(headerVersion, int64(env.Version))
	text(headerCommand, env.Meta.CommandID)
	optional(headerHash, env.Meta.CommandHash)
	number(headerIndex, int64(env.Index))
	number(headerCount, int64(env.Count))
	optional(headerCorrelation, env.Meta.CorrelationID)
	optional(headerCausation, env.Meta.CausationID)
	optional(headerActor, env.Meta.Actor)
	optional(headerTrace, env.Meta.TraceParent)
	key := len(s)
	s = append(s, env.Stream...)
	b.scratch = s

	h := append(b.headers[:0], Header{Key: headerSpecVersion, Value: specVersion}, Header{Key: headerSource, Value: x.source},
		Header{Key: headerContentType, Value: contentType})
	for _, m := range marks[:n] {
		h = append(h, Header{Key: m.key, Value: s[m.from:m.to]})
	}
	h = append(h, more...)
	b.headers = h
	return b.Add(s[key:], frame, h)
}

// Facts reads all of a record but the event itself: Type is the type that was written. Of a note it reads what AddNote was given. It returns ErrRecord for headers that Add did not
// write. Time is ce_time, when the command was accepted, and so the same wherever the event is kept; when the log took it is the
// record's Time.
func (*Events[E]) Facts(r Record) (es.Envelope[E], error) {
	env := es.Envelope[E]{Position: r.Position}
	if r.Mark != 0 && r.Mark != MarkNote {
		return env, ErrRecord.Because("%s is a %s, not an event", r.Position, r.Mark)
	}
	if err := parseHeaders(&r, &env.ID, &env.Type, &env.Stream, &env.Version, &env.Index, &env.Count, &env.Meta); err != nil {
		return env, err
	}
	env.Time = env.Meta.Time
	return env, nil
}

// Envelope reads a record that is one event today; Envelopes reads any. It returns the errors of Facts, and the codec's for the value,
// with the position before them; what is known of the event, its type above all, is in the envelope even then. Type is what the
// event is read as: it is not what was written if that has another name today.
func (x *Events[E]) Envelope(ctx context.Context, r Record) (es.Envelope[E], error) {
	if r.Mark != 0 {
		return es.Envelope[E]{Position: r.Position}, ErrRecord.Because("%s is a %s, not an event", r.Position, r.Mark)
	}
	env, err := x.Facts(r)
	if err != nil {
		return env, err
	}
	event, err := x.codec.Decode(ctx, r.Value)
	if err != nil {
		return env, fmt.Errorf("eventlog: decode %s: %w", r.Position, err)
	}
	env.Event = event
	x.name(&env)
	return env, nil
}

// Envelopes appends to dst the envelopes of the events, one or more, that a record is today: parts of one stored event have its version
// and position. With an error it appends one, with what is known of the event.
func (x *Events[E]) Envelopes(ctx context.Context, dst []es.Envelope[E], r Record) ([]es.Envelope[E], error) {
	if r.Mark != 0 {
		return append(dst, es.Envelope[E]{Position: r.Position}), ErrRecord.Because("%s is a %s, not an event", r.Position, r.Mark)
	}
	env, err := x.Facts(r)
	if err != nil {
		return append(dst, env), err
	}
	dst, err = x.Read(ctx, dst, env, r.Value)
	if err != nil {
		return dst, fmt.Errorf("eventlog: decode %s: %w", r.Position, err)
	}
	return dst, nil
}

// Read is Envelopes for an event that is kept elsewhere: env holds its Facts, and frame is the record's value. Its errors are the codec's.
func (x *Events[E]) Read(ctx context.Context, dst []es.Envelope[E], env es.Envelope[E], frame []byte) ([]es.Envelope[E], error) {
	var one [1]E // the usual number
	events, err := x.codec.DecodeAll(ctx, one[:0], frame)
	if err != nil {
		return append(dst, env), err
	}
	id := env.ID
	for i, event := range events {
		env.Event = event
		x.name(&env)
		if len(events) > 1 {
			env.ID, env.Part, env.Parts = es.PartID(id, i), i, len(events)
		}
		dst = append(dst, env)
	}
	return dst, nil
}

// name gives an envelope the name that its event has today.
func (x *Events[E]) name(env *es.Envelope[E]) {
	if name := x.codec.TypeName(env.Event); name != env.Type {
		env.Type = name
	}
}

// parseHeaders reads what Add wrote. All texts that are kept are cut from one string: one allocation instead of ten.
func parseHeaders(r *Record, id, typ *string, stream *es.StreamID, version *es.Version, index, count *int, meta *es.Meta) error {
	size := 0
	for i := range r.Headers {
		size += len(r.Headers[i].Value)
	}
	var all strings.Builder
	all.Grow(size)
	for i := range r.Headers {
		all.Write(r.Headers[i].Value)
	}
	rest := all.String()
	var subject, when, number, at, of, spec string
	seen := 0
	for i := range r.Headers {
		h := &r.Headers[i]
		v := rest[:len(h.Value)]
		rest = rest[len(h.Value):]
		var to *string
		switch h.Key {
		case headerSpecVersion:
			to = &spec
		case headerID:
			to = id
		case headerType:
			to = typ
		case headerSubject:
			to = &subject
		case headerTime:
			to = &when
		case headerVersion:
			to = &number
		case headerCommand:
			to = &meta.CommandID
		case headerHash:
			to = &meta.CommandHash
		case headerIndex:
			to = &at
		case headerCount:
			to = &of
		case headerCorrelation:
			to = &meta.CorrelationID
		case headerCausation:
			to = &meta.CausationID
		case headerActor:
			to = &meta.Actor
		case headerTrace:
			to = &meta.TraceParent
		default:
			continue
		}
		if *to != "" {
			return ErrRecord.Because("%s: the header %s is there twice", r.Position, h.Key)
		}
		*to = v
		seen++
	}
	switch {
	case seen == 0:
		return ErrRecord.Because("%s has no CloudEvents headers", r.Position)
	case spec != "1.0":
		return ErrRecord.Because("%s: ce_specversion is %q, not 1.0", r.Position, spec)
	case *id == "" || *typ == "" || meta.CommandID == "":
		return ErrRecord.Because("%s: ce_id, ce_type or ce_commandid is missing", r.Position)
	case subject != string(r.Key):
		return ErrRecord.Because("%s: ce_subject %q is not the key %q", r.Position, subject, r.Key)
	}
	if err := es.CheckID(subject); err != nil {
		return ErrRecord.Because("%s: ce_subject", r.Position).Wrap(err)
	}
	*stream = es.StreamID(subject)
	v, err1 := strconv.ParseInt(number, 10, 64)
	i, err2 := strconv.ParseInt(at, 10, 32)
	n, err3 := strconv.ParseInt(of, 10, 32)
	event := v >= 1 && i >= 0 && i < n && v > i
	note := v >= 0 && i == 0 && n == 0
	if err1 != nil || err2 != nil || err3 != nil || r.Mark == 0 && !event || r.Mark == MarkNote && !note {
		return ErrRecord.Because("%s: ce_streamversion %q, ce_commandindex %q, ce_commandcount %q are no numbers of an event", r.Position, number, at, of)
	}
	*version, *index, *count = es.Version(v), int(i), int(n)
	t, err := time.Parse(time.RFC3339Nano, when)
	if err != nil {
		return ErrRecord.Because("%s: ce_time %q is no RFC 3339 time", r.Position, when)
	}
	meta.Time = t.UTC()
	return nil
}
