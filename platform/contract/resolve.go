package contract

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strings"
)

// Resolution rewrites a payload of the writer's schema into the reader's schema, in the same pass that checks it; then the library
// reads it with the reader's schema. The library's own resolution is not used: it overflows the stack on recursive types, refuses unions with
// two numeric branches, cannot read T as a nullable T, and swallows errors in defaults.

// A convOp is what has to be done with one value.
type convOp uint8

const (
	opCopy  convOp = iota // both schemas write it the same way
	opFail                // it cannot be read; only a value that gets here fails
	opIndex               // it becomes branch index of the reader's union
	opUnion               // the writer's branch decides
	opRecord
	opBlocks // array or map
	opEnum
	opText // bytes become a string
	opNumber
)

// A conv converts the values of one writer type into one reader type.
type conv struct {
	op     convOp
	w, r   *node
	reason string  // opFail
	index  int     // opIndex
	item   *conv   // opIndex, opBlocks
	each   []*conv // opUnion: by the writer's branch
	steps  []step  // opRecord: by the writer's order, with the defaults between them if sorted
	pieces []piece // opRecord unless sorted: by the reader's order
	values []int   // opEnum: the reader's index by the writer's, -1 = none
}

// A step handles one field of the writer, or, if conv is nil, adds the default of one field of the reader.
type step struct {
	conv    *conv
	skip    bool // the reader does not have the field
	encoded []byte
}

// A piece is one field of the reader: the writer's field, or its default.
type piece struct {
	field   int // -1 = the default
	encoded []byte
}

type pair struct{ r, w *node }

// A resolver builds the conversion of one pair of schemas.
type resolver struct {
	convs map[pair]*conv
	same  map[pair]bool // pairs known to be written the same way
}

// resolve returns the conversion from what writer writes to what reader reads; opCopy at the root means that nothing has to be done.
func resolve(reader, writer *node) *conv {
	v := &resolver{convs: map[pair]*conv{}, same: map[pair]bool{}}
	return v.conv(reader, writer)
}

func (v *resolver) conv(r, w *node) *conv {
	if c := v.convs[pair{r, w}]; c != nil {
		return c
	}
	c := &conv{r: r, w: w}
	v.convs[pair{r, w}] = c // before its parts: they may refer to it
	if v.sameWire(r, w) {
		return c
	}
	switch {
	case w.kind == kindUnion:
		c.op = opUnion
		for _, branch := range w.branches {
			c.each = append(c.each, v.conv(r, branch))
		}
	case r.kind == kindUnion:
		if i := chooseBranch(r, w, func(b *node) bool { return v.conv(b, w).op != opFail }); i >= 0 {
			c.op, c.index, c.item = opIndex, i, v.conv(r.branches[i], w)
			break
		}
		c.fail("the reader's union has no branch for it")
	case r.kind == w.kind:
		v.sameKind(c, r, w)
	case r.kind == kindString && w.kind == kindBytes:
		c.op = opText
	case !promotes(w.kind, r.kind):
		c.fail("%s cannot be read as %s", w.kind, r.kind)
	default:
		if changed := logicalConflict(r, w); changed != "" {
			c.fail("%s", changed)
			break
		}
		if r.kind == kindFloat || r.kind == kindDouble {
			c.op = opNumber
		} // else int as long, string as bytes: written the same way
	}
	return c
}

func (c *conv) fail(format string, args ...any) {
	c.op, c.reason = opFail, fmt.Sprintf(format, args...)
}

func (v *resolver) sameKind(c *conv, r, w *node) {
	if r.kind.named() && !namesMatch(r, w) {
		c.fail("%s cannot be read as %s: other name, no alias", clip(w.name), clip(r.name))
		return
	}
	if changed := logicalConflict(r, w); changed != "" {
		c.fail("%s", changed)
		return
	}
	switch r.kind {
	case kindArray, kindMap:
		c.op, c.item = opBlocks, v.conv(r.items, w.items)
	case kindFixed:
		if c.w = r; r.size != w.size {
			c.fail("%d bytes cannot be read as %d bytes", w.size, r.size)
		}
	case kindEnum:
		c.op = opEnum
		for _, symbol := range w.symbols {
			i := slices.Index(r.symbols, symbol)
			if i < 0 {
				i = r.fallback
			}
			c.values = append(c.values, i)
		}
	case kindRecord:
		v.record(c, r, w)
	default: // they differ in the logical type, one of them has none: checked for what the reader's can mean
		c.w = r
	}
}

func (v *resolver) record(c *conv, r, w *node) {
	match, clash := matchFields(r, w)
	if clash != nil {
		c.fail("two fields of the reader claim the field %q", clash.name)
		return
	}
	c.op = opRecord
	convs := make([]*conv, len(w.fields))
	sorted, last := true, -1
	for i, f := range r.fields {
		switch {
		case match[i] >= 0:
			convs[match[i]] = v.conv(f.node, w.fields[match[i]].node)
			c.pieces = append(c.pieces, piece{field: match[i]})
			sorted = sorted && match[i] > last
			last = match[i]
		case f.hasDef:
			c.pieces = append(c.pieces, piece{field: -1, encoded: f.encoded})
		default:
			c.fail("the writer's %s has no field %q, and the reader has no default for it", clip(w.name), f.name)
			return
		}
	}
	next := 0
	through := func(end int) {
		for ; next < end; next++ {
			c.steps = append(c.steps, step{conv: convs[next], skip: convs[next] == nil})
			if convs[next] == nil {
				c.steps[len(c.steps)-1].conv = &conv{w: w.fields[next].node}
			}
		}
	}
	if sorted {
		for _, p := range c.pieces {
			if p.field < 0 {
				c.steps = append(c.steps, step{encoded: p.encoded})
			} else {
				through(p.field + 1)
			}
		}
		c.pieces = nil
	}
	through(len(w.fields))
}

// sameWire reports whether every payload of w is the payload of r with the same meaning. A pair that is met again inside itself is taken to be
// the same: only a difference found elsewhere can make it another.
func (v *resolver) sameWire(r, w *node) bool {
	seen := map[pair]bool{}
	if !v.walkSame(r, w, seen) {
		return false
	}
	for p := range seen {
		v.same[p] = true
	}
	return true
}

func (v *resolver) walkSame(r, w *node, seen map[pair]bool) bool {
	p := pair{r, w}
	if r == w || v.same[p] || seen[p] {
		return true
	}
	seen[p] = true
	if r.kind != w.kind || r.logical != w.logical || r.prec != w.prec || r.scale != w.scale || r.kind.named() && !namesMatch(r, w) {
		return false
	}
	switch r.kind {
	case kindArray, kindMap:
		return v.walkSame(r.items, w.items, seen)
	case kindFixed:
		return r.size == w.size
	case kindEnum:
		return len(w.symbols) <= len(r.symbols) && slices.Equal(w.symbols, r.symbols[:len(w.symbols)])
	case kindUnion:
		for i, branch := range w.branches {
			if i >= len(r.branches) || chooseBranch(r, branch, func(*node) bool { return true }) != i ||
				r.branches[i].kind != branch.kind || !v.walkSame(r.branches[i], branch, seen) {
				return false
			}
		}
	case kindRecord:
		match, clash := matchFields(r, w)
		if clash != nil || len(r.fields) != len(w.fields) {
			return false
		}
		for i, f := range r.fields {
			if match[i] != i || !v.walkSame(f.node, w.fields[i].node, seen) {
				return false
			}
		}
	}
	return true
}

// chooseBranch returns the branch of the reader's union for a writer's type that is no union, -1 = none: the same type before another that it promotes to,
// and among the named ones the same full name before the same name or an alias. Of several, the first that is readable, else the first.
func chooseBranch(r, w *node, readable func(*node) bool) int {
	found := -1
	for rank := range 3 {
		for i, b := range r.branches {
			var fits bool
			switch rank {
			case 0:
				fits = b.kind == w.kind && (!b.kind.named() || b.name == w.name)
			case 1:
				fits = b.kind == w.kind && b.kind.named() && b.name != w.name && namesMatch(b, w)
			case 2:
				fits = promotes(w.kind, b.kind)
			}
			if !fits {
				continue
			}
			if readable(b) {
				return i
			}
			if found < 0 {
				found = i
			}
		}
	}
	return found
}

// promotes reports whether Avro reads a w as an r.
func promotes(w, r kind) bool {
	switch w {
	case kindInt:
		return r == kindLong || r == kindFloat || r == kindDouble
	case kindLong:
		return r == kindFloat || r == kindDouble
	case kindFloat:
		return r == kindDouble
	case kindString:
		return r == kindBytes
	case kindBytes:
		return r == kindString
	}
	return false
}

// namesMatch reports whether the reader's named type takes the writer's: the same name, the namespace aside, or an alias.
func namesMatch(r, w *node) bool {
	return shortName(r.name) == shortName(w.name) || slices.Contains(r.aliases, w.name)
}

func shortName(full string) string { return full[strings.LastIndexByte(full, '.')+1:] }

// matchFields returns for each field of the reader the number of the writer's field that it reads, -1 = none,
// and a field of the writer that two of the reader claim, if there is one.
func matchFields(r, w *node) (match []int, clash *field) {
	byName := make(map[string]int, len(w.fields))
	for i, f := range w.fields {
		byName[f.name] = i
	}
	claimed := make([]bool, len(w.fields))
	for _, f := range r.fields {
		found := -1
		for _, name := range append([]string{f.name}, f.aliases...) {
			if i, ok := byName[name]; ok {
				found = i
				break
			}
		}
		if found >= 0 {
			if claimed[found] && clash == nil {
				clash = w.fields[found]
			}
			claimed[found] = true
		}
		match = append(match, found)
	}
	return match, clash
}

// logicalConflict says why the reader would understand another value than the writer meant, "" if it would not: Avro's type rules do not
// look at logical types, so 10.00 is read as 0.10 and a time in milliseconds as one in microseconds. A logical type on one side only is let
// pass here, because there is no second meaning to mistake it for; Compatible is stricter.
func logicalConflict(r, w *node) string {
	switch {
	case r.logical == "" || w.logical == "":
		return ""
	case r.logical != w.logical:
		return fmt.Sprintf("%s cannot be read as %s", w.logical, r.logical)
	case r.prec != w.prec || r.scale != w.scale:
		return fmt.Sprintf("decimal(%d, %d) cannot be read as decimal(%d, %d)", w.prec, w.scale, r.prec, r.scale)
	}
	return ""
}

// A transcoder runs a conversion over one payload.
type transcoder struct {
	scanner
	out    []byte
	bounds []int // start and end in out of the fields of records that have to be put in another order
}

// transcode appends the reader's form of payload to dst.
func (c *conv) transcode(dst, payload []byte, bounds []int) (out []byte, scratch []int, err error) {
	if len(payload) > MaxPayloadBytes {
		return dst, bounds, fmt.Errorf("it has %d bytes, at most %d are allowed", len(payload), MaxPayloadBytes)
	}
	t := transcoder{
		scanner: scanner{b: payload, steps: baseSteps + stepsPerByte*len(payload), empty: maxEmpty},
		out:     dst, bounds: bounds[:0],
	}
	if !t.run(c, 0) || t.pos != len(payload) {
		return dst, t.bounds, t.err()
	}
	return t.out, t.bounds, nil
}

func (t *transcoder) run(c *conv, depth int) bool {
	start := t.pos
	if len(t.out) > MaxPayloadBytes {
		return t.fail(c.w, start, "the value is too large in the reader's schema")
	}
	if c.op == opCopy {
		if !t.value(c.w, depth) {
			return false
		}
		t.out = append(t.out, t.b[start:t.pos]...)
		return true
	}
	if t.steps--; t.steps < 0 {
		return t.fail(c.w, start, "the value is too much work for its size")
	}
	if depth >= MaxDepth {
		return t.fail(c.w, start, "values are nested too deep")
	}
	switch c.op {
	case opFail:
		return t.fail(c.w, start, c.reason)
	case opIndex:
		t.out = appendLong(t.out, int64(c.index))
		return t.run(c.item, depth+1)
	case opUnion:
		i, ok := t.index(c.w, len(c.each))
		return ok && t.run(c.each[i], depth+1)
	case opRecord:
		return t.record(c, depth)
	case opBlocks:
		return t.convBlocks(c, depth)
	case opEnum:
		i, ok := t.index(c.w, len(c.values))
		if ok && c.values[i] < 0 {
			return t.fail(c.w, start, "the reader does not have the symbol "+clip(c.w.symbols[i])+", nor a default")
		}
		if ok {
			t.out = appendLong(t.out, int64(c.values[i]))
		}
		return ok
	case opText:
		if !t.value(textNode, depth) {
			return false
		}
		t.out = append(t.out, t.b[start:t.pos]...)
		return true
	}
	return t.number(c)
}

var textNode = &node{kind: kindString}

func (t *transcoder) number(c *conv) bool {
	start := t.pos
	if !t.value(c.w, 0) {
		return false
	}
	var x float64
	if c.w.kind == kindFloat {
		x = float64(math.Float32frombits(binary.LittleEndian.Uint32(t.b[start:])))
	} else {
		u, _ := binary.Uvarint(t.b[start:]) // value has checked it
		i := int64(u>>1) ^ -int64(u&1)
		if c.r.kind == kindFloat { // straight to the nearest float: by way of double it would be rounded twice
			t.out = binary.LittleEndian.AppendUint32(t.out, math.Float32bits(float32(i)))
			return true
		}
		x = float64(i)
	}
	t.out = binary.LittleEndian.AppendUint64(t.out, math.Float64bits(x))
	return true
}

func (t *transcoder) record(c *conv, depth int) bool {
	start, mark := len(t.out), len(t.bounds)
	for i := range c.steps {
		s := &c.steps[i]
		from := len(t.out)
		switch {
		case s.conv == nil:
			t.out = append(t.out, s.encoded...)
			continue
		case s.skip:
			if !t.value(s.conv.w, depth+1) {
				return false
			}
		case !t.run(s.conv, depth+1):
			return false
		}
		if c.pieces != nil {
			t.bounds = append(t.bounds, from, len(t.out))
		}
	}
	if c.pieces == nil {
		return true
	}
	end := len(t.out)
	for _, p := range c.pieces {
		if p.field < 0 {
			t.out = append(t.out, p.encoded...)
		} else {
			t.out = append(t.out, t.out[t.bounds[mark+2*p.field]:t.bounds[mark+2*p.field+1]]...)
		}
	}
	t.out = t.out[:start+copy(t.out[start:], t.out[end:])]
	t.bounds = t.bounds[:mark]
	return true
}

// convBlocks writes each block with its count only: the size of its items may be another.
func (t *transcoder) convBlocks(c *conv, depth int) bool {
	items := 0
	for {
		count, end, ok := t.block(c.w, items)
		if !ok {
			return false
		}
		t.out = appendLong(t.out, int64(count))
		if count == 0 {
			return true
		}
		for range count {
			if c.w.kind == kindMap {
				from := t.pos
				if !t.key(c.w) {
					return false
				}
				t.out = append(t.out, t.b[from:t.pos]...)
			}
			if !t.run(c.item, depth+1) {
				return false
			}
		}
		if end >= 0 && end != t.pos {
			return t.fail(c.w, t.pos, faultBlock)
		}
		items += count
	}
}
