package contract

import (
	"context"
	"encoding/binary"
	"fmt"

	"github.com/modern-go/reflect2"
)

// frameBytes is the length of the Confluent frame's head: 0x00 and the schema id, big-endian.
const frameBytes = 5

// A Codec writes and reads the events of one Set. It is safe for concurrent use. Make it with Bind.
type Codec[E any] struct {
	resolver Resolver
	topic    string
	guards   guards
	byType   map[uintptr]*bound[E]
	byName   map[string]*bound[E]
	plans    plans[int32, E]
	guids    plans[GUID, E] // what was found by a header, not by a frame
}

// A plan says how the payloads of one schema id are read.
type plan[E any] struct {
	what     string    // the schema, for messages
	bound    *bound[E] // the type they become
	writer   *node
	conv     *conv // how they become the reader's, nil = they are
	straight bool  // all payloads of the reader's schema are the writer's, too
	err      error // why they cannot be read
}

// Append appends e to dst as 0x00, schema id, Avro, and returns the extended buffer. It fails with ErrUnknownType if e's Go type is
// not in the set (a pointer to an event is not the event) and with ErrUnencodable if the bytes could not be read again; dst is then
// returned as it was. Times are kept in microseconds, UTC.
func (c *Codec[E]) Append(dst []byte, e E) ([]byte, error) {
	b := c.byType[reflect2.RTypeOf(e)]
	if b == nil {
		return dst, ErrUnknownType.Because("Go type %T, topic %s", e, c.topic)
	}
	dst = append(dst, 0)
	dst = binary.BigEndian.AppendUint32(dst, uint32(b.id))
	out, err := b.encode(dst, e)
	if err != nil {
		return dst[:len(dst)-frameBytes], ErrUnencodable.Because("%s", b.schema.Name()).Wrap(err)
	}
	return out, nil
}

// TypeName returns the full record name of e's type, "" if it is not in the set.
func (c *Codec[E]) TypeName(e E) string {
	if b := c.byType[reflect2.RTypeOf(e)]; b != nil {
		return b.schema.Name()
	}
	return ""
}

// Decode reads one framed event. The result is the value type inside E, shares no memory with frame, and has all fields of the
// reader's schema, whichever version wrote it. It fails with ErrUnknownType if the schema's record is none of the set's,
// with ErrUndecodable if the frame is damaged or its schema cannot be read as the set's, with ErrUpcast or ErrSplit for a retired type, and with the Resolver's error if the schema
// cannot be had now. ctx bounds the look-up of a schema id that was not seen before.
func (c *Codec[E]) Decode(ctx context.Context, frame []byte) (E, error) {
	var none E
	p, err := c.plan(ctx, frame)
	if err != nil {
		return none, err
	}
	if p.bound.old != nil {
		all, err := c.decodeOld(nil, p, frame[frameBytes:])
		switch {
		case err != nil:
			return none, err
		case len(all) > 1:
			return none, ErrSplit.Because("%s, %s: %d events", p.what, p.bound.subject, len(all))
		}
		return all[0], nil
	}
	e, err := readPlanned(p, frame[frameBytes:], p.bound.read)
	if err != nil {
		return none, ErrUndecodable.Because("%s, %s", p.what, p.bound.subject).Wrap(err)
	}
	return e, nil
}

// DecodeAll is Decode for sets with upcasters that split: it appends to dst the events, one or more, that the framed one is today. On an
// error dst is returned as it was; beside Decode's errors there is ErrUpcast.
func (c *Codec[E]) DecodeAll(ctx context.Context, dst []E, frame []byte) ([]E, error) {
	p, err := c.plan(ctx, frame)
	if err != nil {
		return dst, err
	}
	return c.decodeAll(dst, p, frame[frameBytes:])
}

// decodeAll appends the events that a payload is.
func (c *Codec[E]) decodeAll(dst []E, p *plan[E], payload []byte) ([]E, error) {
	if p.bound.old != nil {
		return c.decodeOld(dst, p, payload)
	}
	e, err := readPlanned(p, payload, p.bound.read)
	if err != nil {
		return dst, ErrUndecodable.Because("%s, %s", p.what, p.bound.subject).Wrap(err)
	}
	return append(dst, e), nil
}

// decodeOld reads an event of a retired type.
func (c *Codec[E]) decodeOld(dst []E, p *plan[E], payload []byte) ([]E, error) {
	v, err := readPlanned(p, payload, p.bound.old.read)
	if err != nil {
		return dst, ErrUndecodable.Because("%s, %s", p.what, p.bound.subject).Wrap(err)
	}
	out, err := c.upcast(dst, p.bound.old.steps, v)
	if err != nil {
		return dst, fmt.Errorf("contract: %s, %s: %w", p.what, p.bound.subject, err)
	}
	return out, nil
}

// plan returns how a frame is read.
func (c *Codec[E]) plan(ctx context.Context, frame []byte) (*plan[E], error) {
	if len(frame) < frameBytes || frame[0] != 0 {
		return nil, badFrame(frame)
	}
	return c.planByID(ctx, int32(binary.BigEndian.Uint32(frame[1:frameBytes])))
}

func (c *Codec[E]) planByID(ctx context.Context, id int32) (*plan[E], error) {
	p := c.plans.known(id)
	if p == nil {
		if id <= 0 {
			return nil, ErrUndecodable.Because("schema id %d is not positive", id)
		}
		var err error
		if p, err = c.plans.load(ctx, id, c.newPlanByID); err != nil {
			return nil, fmt.Errorf("contract: schema id %d: %w", id, err)
		}
	}
	return p, p.err
}

func badFrame(frame []byte) error {
	switch {
	case len(frame) == 0:
		return ErrUndecodable.Because("the value is empty")
	case frame[0] != 0:
		return ErrUndecodable.Because("the value starts with byte 0x%02x, a frame starts with 0x00", frame[0]).
			WithFix("let only producers with a Confluent Avro serializer write to the topic")
	}
	return ErrUndecodable.Because("the value has %d bytes, a frame has at least %d", len(frame), frameBytes)
}

// newPlanByID looks an id up.
func (c *Codec[E]) newPlanByID(ctx context.Context, id int32) (*plan[E], error) {
	text, err := c.resolver.SchemaByID(ctx, id)
	if err != nil {
		return nil, err
	}
	return c.newPlan(fmt.Sprintf("schema id %d", id), text), nil
}

// newPlan decides how what was written with the text, which what names, is read.
func (c *Codec[E]) newPlan(what, text string) *plan[E] {
	writer, err := Parse(text)
	if err != nil {
		return &plan[E]{err: ErrUndecodable.Because("%s", what).Wrap(err)}
	}
	b := c.byName[writer.Name()]
	if b == nil {
		return &plan[E]{err: ErrUnknownType.Because("%s (%s, topic %s)", writer.Name(), what, c.topic)}
	}
	p := &plan[E]{what: what, bound: b, writer: writer.root}
	if writer.Text() == b.schema.Text() {
		p.straight = true
		return p
	}
	switch c := resolve(b.schema.root, writer.root); c.op {
	case opCopy:
		p.straight = resolve(writer.root, b.schema.root).op == opCopy
		return p
	case opFail:
		return &plan[E]{err: ErrUndecodable.Because("%s, %s: %s", what, b.subject, c.reason).
			WithFix("register only compatible versions, and read older ones with a program that knows them")}
	default:
		p.conv = c
		return p
	}
}

// A rewrite is the memory for one payload in the reader's schema.
type rewrite struct {
	out    []byte
	bounds []int
}

func readPlanned[E, T any](p *plan[E], payload []byte, read reading[T]) (T, error) {
	var none T
	if p.conv == nil {
		if p.straight {
			if v, ok := decodeStraight(p.bound.binding, payload, read); ok {
				return v, nil
			}
		}
		if !p.bound.noScan {
			if err := scan(p.writer, payload); err != nil {
				return none, err
			}
		}
		return decode(p.bound.binding, payload, read)
	}
	w := p.bound.rewrites.Get().(*rewrite)
	defer func() {
		if cap(w.out) <= maxKept {
			p.bound.rewrites.Put(w)
		}
	}()
	var err error
	if w.out, w.bounds, err = p.conv.transcode(w.out[:0], payload, w.bounds); err != nil {
		return none, err
	}
	if v, ok := decodeStraight(p.bound.binding, w.out, read); ok { // it and decode copy all that they keep
		return v, nil
	}
	return decode(p.bound.binding, w.out, read)
}
