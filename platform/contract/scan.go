package contract

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/big"
	"unicode/utf8"
)

// The budgets of one walk. A payload can ask for far more work than it has bytes: values without bytes, in arrays of them.
const (
	baseSteps    = 200_000
	stepsPerByte = 32
	maxEmpty     = 4096 // items of arrays and maps that have no bytes
)

// A scanner walks a payload by its writer's schema before the library sees it: the library trusts lengths, counts and indexes.
// It allocates nothing unless the payload is refused.
type scanner struct {
	b     []byte
	pos   int
	steps int // values left to be visited
	empty int // array and map items without bytes that are left

	fault string // why the walk ended
	at    int    // the offset of what is wrong
	what  *node
}

// scan returns an error unless payload is exactly one value of n, within the limits.
func scan(n *node, payload []byte) error {
	if len(payload) > MaxPayloadBytes {
		return fmt.Errorf("it has %d bytes, at most %d are allowed", len(payload), MaxPayloadBytes)
	}
	s := scanner{b: payload, steps: baseSteps + stepsPerByte*len(payload), empty: maxEmpty}
	if s.value(n, 0) && s.pos == len(payload) {
		return nil
	}
	return s.err()
}

// err describes why the walk ended.
func (s *scanner) err() error {
	if s.fault == "" {
		return fmt.Errorf("byte %d: %d bytes follow after the end of the value", s.pos, len(s.b)-s.pos)
	}
	what := s.what.kind.String()
	if s.what.kind.named() {
		what = clip(s.what.name)
	}
	return fmt.Errorf("byte %d, %s (%s of the writer's schema): %s", s.at, what, clip("#"+s.what.pointer), s.fault)
}

func (s *scanner) fail(n *node, at int, fault string) bool {
	if s.fault == "" {
		s.what, s.at, s.fault = n, at, fault
	}
	return false
}

const (
	faultEnd    = "the bytes end in the middle of it"
	faultVarint = "the number has more than 64 bits"
)

// long reads a zigzag varint of at most ten bytes. It leaves the fault to the caller, to stay small.
func (s *scanner) long() (int64, string) {
	if s.pos < len(s.b) && s.b[s.pos] < 0x80 {
		u := uint64(s.b[s.pos])
		s.pos++
		return int64(u>>1) ^ -int64(u&1), ""
	}
	return s.longSlow()
}

func (s *scanner) longSlow() (int64, string) {
	var u uint64
	for i := 0; i < 10; i++ {
		if s.pos+i >= len(s.b) {
			return 0, faultEnd
		}
		c := s.b[s.pos+i]
		if c < 0x80 {
			if i == 9 && c > 1 {
				return 0, faultVarint
			}
			u |= uint64(c) << (7 * i)
			s.pos += i + 1
			return int64(u>>1) ^ -int64(u&1), ""
		}
		u |= uint64(c&0x7f) << (7 * i)
	}
	return 0, faultVarint
}

// length reads the length of bytes or a string, which must be there.
func (s *scanner) length(n *node) (int, bool) {
	start := s.pos
	l, fault := s.long()
	switch {
	case fault != "":
		return 0, s.fail(n, start, fault)
	case l < 0:
		return 0, s.fail(n, start, "the length is negative")
	case l > int64(len(s.b)-s.pos):
		return 0, s.fail(n, start, "the length goes beyond the end")
	}
	return int(l), true
}

func (s *scanner) value(n *node, depth int) bool {
	if s.steps--; s.steps < 0 {
		return s.fail(n, s.pos, "the value is too much work for its size")
	}
	start := s.pos
	switch n.kind {
	case kindNull:
		return true
	case kindString:
		l, ok := s.length(n)
		if !ok {
			return false
		}
		if !utf8.Valid(s.b[s.pos : s.pos+l]) {
			return s.fail(n, start, "the text is not UTF-8")
		}
		s.pos += l
		return true
	case kindLong, kindInt:
		switch i, fault := s.long(); {
		case fault != "":
			return s.fail(n, start, fault)
		case n.kind == kindInt && (i < math.MinInt32 || i > math.MaxInt32):
			return s.fail(n, start, "the number has more than 32 bits")
		case n.bounded && (i < n.lo || i > n.hi):
			return s.fail(n, start, "the number is no "+n.logical)
		}
		return true
	case kindRecord:
		return s.record(n, depth)
	case kindUnion:
		if depth >= MaxDepth {
			return s.fail(n, start, "values are nested too deep")
		}
		i, ok := s.index(n, len(n.branches))
		return ok && s.value(n.branches[i], depth+1)
	case kindArray, kindMap:
		if depth >= MaxDepth {
			return s.fail(n, start, "values are nested too deep")
		}
		return s.blocks(n, depth)
	case kindBytes:
		l, ok := s.length(n)
		s.pos += l
		return ok && s.decimal(n, start, s.b[s.pos-l:s.pos])
	case kindEnum:
		_, ok := s.index(n, len(n.symbols))
		return ok
	case kindBoolean:
		if s.pos >= len(s.b) {
			return s.fail(n, start, faultEnd)
		}
		if s.b[s.pos] > 1 {
			return s.fail(n, start, "the boolean is neither 0 nor 1")
		}
		s.pos++
		return true
	case kindFloat:
		return s.skip(n, 4)
	case kindDouble:
		return s.skip(n, 8)
	}
	return s.skip(n, n.size) && s.decimal(n, start, s.b[start:s.pos])
}

// decimal checks that the digits of a decimal are not more than its precision.
func (s *scanner) decimal(n *node, start int, raw []byte) bool {
	if n.logical != "decimal" {
		return true
	}
	i := new(big.Int).SetBytes(raw)
	if len(raw) > 0 && raw[0] >= 0x80 { // two's complement
		i.Sub(i, new(big.Int).Lsh(big.NewInt(1), uint(8*len(raw))))
	}
	if i.CmpAbs(n.limit) >= 0 {
		return s.fail(n, start, "the decimal has too many digits")
	}
	return true
}

// record walks the fields of a record. The most frequent types of a field are walked in the loop, with the offset in a register:
// that saves a third of the time of a typical event.
func (s *scanner) record(n *node, depth int) bool {
	if depth >= MaxDepth {
		return s.fail(n, s.pos, "values are nested too deep")
	}
	if s.steps -= 1 + len(n.walk); s.steps < 0 {
		return s.fail(n, s.pos, "the value is too much work for its size")
	}
	b, pos, walk := s.b, s.pos, n.walk
	for i := range walk {
		kind, node, from := walk[i].kind, walk[i].node, pos
		if kind == kindUnion && depth+1 < MaxDepth && pos < len(b) && b[pos]&0x81 == 0 && int(b[pos]>>1) < len(node.branches) {
			node = node.branches[b[pos]>>1]
			kind = node.kind
			pos++
		}
		switch kind {
		case kindNull:
			continue
		case kindLong:
			end := pos
			for end < len(b) && b[end] >= 0x80 {
				end++
			}
			if end >= len(b) || end-pos > 9 || end-pos == 9 && b[end] > 1 {
				break
			}
			if node.bounded && end-pos >= node.safe {
				u, _ := binary.Uvarint(b[pos:])
				if i := int64(u>>1) ^ -int64(u&1); i < node.lo || i > node.hi {
					break
				}
			}
			pos = end + 1
			continue
		case kindString:
			if pos >= len(b) || b[pos]&0x81 != 0 { // negative, or longer than 63 bytes
				break
			}
			start := pos + 1
			end := start + int(b[pos]>>1)
			if end <= len(b) && (ascii(b, start, end) || utf8.Valid(b[start:end])) {
				pos = end
				continue
			}
		case kindBoolean:
			if pos < len(b) && b[pos] <= 1 {
				pos++
				continue
			}
		}
		// All else, and what is wrong.
		if s.pos = from; !s.value(walk[i].node, depth+1) {
			return false
		}
		pos = s.pos
	}
	s.pos = pos
	return true
}

// ascii reports whether b[from:to] is ASCII; it may say no for one that is, at the very end of b. It looks at eight bytes at a time, those after the
// end of a short text masked: most texts of an event have fewer than 16 bytes, for which utf8.Valid goes byte by byte.
func ascii(b []byte, from, to int) bool {
	const high = 0x8080808080808080
	n := to - from
	if n < 8 {
		return from+8 <= len(b) && binary.LittleEndian.Uint64(b[from:])<<(8*uint(8-n))&high == 0 // all is shifted out of an empty text
	}
	text := b[from:to]
	bits := binary.LittleEndian.Uint64(text[n-8:]) // overlaps with the loop's last
	for ; len(text) >= 8; text = text[8:] {
		bits |= binary.LittleEndian.Uint64(text)
	}
	return bits&high == 0
}

func (s *scanner) skip(n *node, size int) bool {
	if size > len(s.b)-s.pos {
		return s.fail(n, s.pos, faultEnd)
	}
	s.pos += size
	return true
}

// index reads the number of an enum's symbol or a union's branch.
func (s *scanner) index(n *node, most int) (int, bool) {
	start := s.pos
	i, fault := s.long()
	switch {
	case fault != "":
		return 0, s.fail(n, start, fault)
	case i < 0 || i >= int64(most):
		return 0, s.fail(n, start, "there is no symbol or branch with the index")
	}
	return int(i), true
}

// block reads the head of a block of an array or map: the number of its items, and where it ends if it says so, else -1.
func (s *scanner) block(n *node, before int) (count, end int, ok bool) {
	start := s.pos
	c, fault := s.long()
	if fault != "" {
		return 0, 0, s.fail(n, start, fault)
	}
	end = -1
	if c < 0 {
		size, fault := s.long()
		switch {
		case fault != "":
			return 0, 0, s.fail(n, start, fault)
		case c == math.MinInt64:
			return 0, 0, s.fail(n, start, "the count is out of range")
		case size < 0 || size > int64(len(s.b)-s.pos):
			return 0, 0, s.fail(n, start, "the size of the block goes beyond the end")
		}
		c, end = -c, s.pos+int(size)
	}
	least := n.items.least
	if n.kind == kindMap {
		least++ // the key's length
	}
	switch {
	case c > int64(MaxItems-before):
		return 0, 0, s.fail(n, start, "there are too many items")
	case c*least > int64(len(s.b)-s.pos): // at most 1e5 × 2^20
		return 0, 0, s.fail(n, start, "there are more items than bytes for them")
	case least == 0:
		if s.empty -= int(c); s.empty < 0 {
			return 0, 0, s.fail(n, start, "there are too many items without bytes")
		}
	}
	return int(c), end, true
}

// blocks walks the items of an array or map.
func (s *scanner) blocks(n *node, depth int) bool {
	items, record := 0, n.items.kind == kindRecord
	for {
		count, end, ok := s.block(n, items)
		if !ok {
			return false
		}
		if count == 0 {
			return true
		}
		for range count {
			switch {
			case n.kind == kindMap && !s.key(n):
				return false
			case record:
				if !s.record(n.items, depth+1) {
					return false
				}
			case !s.value(n.items, depth+1):
				return false
			}
		}
		if end >= 0 && end != s.pos {
			return s.fail(n, s.pos, faultBlock)
		}
		items += count
	}
}

const faultBlock = "the block does not have the size that it states"

func (s *scanner) key(n *node) bool {
	start := s.pos
	l, ok := s.length(n)
	if !ok {
		return false
	}
	if !utf8.Valid(s.b[s.pos : s.pos+l]) {
		return s.fail(n, start, "the key is not UTF-8")
	}
	s.pos += l
	return true
}
