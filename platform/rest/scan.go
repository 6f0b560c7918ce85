package rest

import (
	"unicode/utf16"
	"unicode/utf8"
)

// plain marks the bytes that stand for themselves in a string and need no further look.
var plain = func() (t [256]bool) {
	for c := 0x20; c < utf8.RuneSelf; c++ {
		t[c] = c != '"' && c != '\\'
	}
	return t
}()

// str takes the string at the current position, which holds its opening quote. The result is part of the input or of scratch and
// good until the next call. False: not JSON. What is JSON but not allowed is recorded, once for a string.
func (d *decoder) str() ([]byte, bool) {
	data := d.data
	start := d.pos + 1
	i := start
	for i < len(data) && plain[data[i]] {
		i++
	}
	if i < len(data) && data[i] == '"' {
		d.pos = i + 1
		return data[start:i], true
	}
	return d.longStr(start, i)
}

// longStr is str from the first byte at i that is not plain.
func (d *decoder) longStr(start, i int) ([]byte, bool) {
	data := d.data
	out := d.scratch[:0]
	copied := start // data[start:copied] is in out
	escaped := false
	fault := ""
	for i < len(data) {
		c := data[i]
		switch {
		case plain[c]:
			i++
		case c == '"':
			d.pos = i + 1
			if fault != "" {
				d.fail("%s", fault)
			}
			if !escaped {
				return data[start:i], true
			}
			out = append(out, data[copied:i]...)
			d.scratch = out
			return out, true
		case c == '\\':
			escaped = true
			out = append(out, data[copied:i]...)
			r, n := unescape(data[i:])
			if n == 0 {
				d.pos = i
				if i+1 < len(data) {
					d.pos++
				}
				return nil, d.syntax("an escape such as \\n or \\u00e9")
			}
			switch r {
			case loneSurrogate:
				fault, r = "the string holds half of a surrogate pair", utf8.RuneError
			case 0:
				fault = "the string holds the character U+0000"
			}
			out = utf8.AppendRune(out, r)
			i += n
			copied = i
		case c < 0x20:
			d.pos = i
			return nil, d.syntax("an escaped control character")
		default:
			r, n := utf8.DecodeRune(data[i:])
			if r == utf8.RuneError && n == 1 {
				fault = "the string is not UTF-8"
			}
			i += n
		}
	}
	d.pos = i
	return nil, d.syntax("the closing quote of a string")
}

// loneSurrogate is what unescape returns for half of a surrogate pair: no character at all.
const loneSurrogate = -1

// unescape returns the character of the escape that s starts with and the length of the escape, 0 if it is none.
func unescape(s []byte) (rune, int) {
	if len(s) < 2 {
		return 0, 0
	}
	switch s[1] {
	case '"', '\\', '/':
		return rune(s[1]), 2
	case 'b':
		return '\b', 2
	case 'f':
		return '\f', 2
	case 'n':
		return '\n', 2
	case 'r':
		return '\r', 2
	case 't':
		return '\t', 2
	case 'u':
		r := hex4(s[2:])
		if r < 0 {
			return 0, 0
		}
		if !utf16.IsSurrogate(r) {
			return r, 6
		}
		if len(s) >= 8 && s[6] == '\\' && s[7] == 'u' {
			if low := hex4(s[8:]); low >= 0 {
				if both := utf16.DecodeRune(r, low); both != utf8.RuneError {
					return both, 12
				}
			}
		}
		return loneSurrogate, 6
	}
	return 0, 0
}

// hex4 returns the value of four hexadecimal digits, -1 if there are none.
func hex4(s []byte) rune {
	if len(s) < 4 {
		return -1
	}
	var r rune
	for _, c := range s[:4] {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		case c >= 'A' && c <= 'F':
			c -= 'A' - 10
		default:
			return -1
		}
		r = r<<4 | rune(c)
	}
	return r
}

// number takes the number at the current position and reports whether it is written as an integer.
func (d *decoder) number() (lit []byte, integer, ok bool) {
	data := d.data
	start, i := d.pos, d.pos
	if data[i] == '-' {
		i++
	}
	switch {
	case i < len(data) && data[i] == '0':
		i++
	case i < len(data) && data[i] >= '1' && data[i] <= '9':
		i = digits(data, i)
	default:
		d.pos = i
		return nil, false, d.syntax("a digit")
	}
	integer = true
	if i < len(data) && data[i] == '.' {
		integer = false
		end := digits(data, i+1)
		if end == i+1 {
			d.pos = end
			return nil, false, d.syntax("a digit")
		}
		i = end
	}
	if i < len(data) && (data[i] == 'e' || data[i] == 'E') {
		integer = false
		i++
		if i < len(data) && (data[i] == '+' || data[i] == '-') {
			i++
		}
		end := digits(data, i)
		if end == i {
			d.pos = end
			return nil, false, d.syntax("a digit")
		}
		i = end
	}
	d.pos = i
	return data[start:i], integer, true
}

func digits(data []byte, i int) int {
	for i < len(data) && data[i] >= '0' && data[i] <= '9' {
		i++
	}
	return i
}

// skip takes one value of any type and checks its syntax, its strings and that no name is given twice in one object.
func (d *decoder) skip() bool {
	switch c := d.next(); c {
	case '{':
		var seen names
		return d.object(func(key []byte) bool {
			if !seen.add(key) {
				d.fail("is given more than once")
			}
			return d.skip()
		})
	case '[':
		return d.array(func(int) bool { return d.skip() })
	case '"':
		_, ok := d.str()
		return ok
	case 't':
		return d.literal("true")
	case 'f':
		return d.literal("false")
	case 'n':
		return d.literal("null")
	default:
		if typeName(c) == "" {
			return d.syntax("a value")
		}
		_, _, ok := d.number()
		return ok
	}
}

// object takes the object at the current position; member is called at each value with its name, which is part of the input or a copy.
func (d *decoder) object(member func(key []byte) bool) bool {
	if !d.enter(step{index: -1}) {
		return false
	}
	level := &d.path[d.depth-1]
	d.pos++
	if d.next() == '}' {
		d.pos++
		d.leave()
		return true
	}
	for {
		key, ok := d.key()
		if !ok {
			return false
		}
		if len(d.scratch) > 0 && len(key) > 0 && &key[0] == &d.scratch[0] {
			key = append([]byte(nil), key...) // scratch is used again by the value
		}
		level.key = key
		if key == nil {
			level.key = []byte{}
		}
		if !member(level.key) {
			return false
		}
		level.key = nil
		if done, ok := d.comma('}', "a comma or the end of the object"); done || !ok {
			d.leave()
			return ok
		}
	}
}

// key takes a member's name and the colon after it.
func (d *decoder) key() ([]byte, bool) {
	if d.next() != '"' {
		return nil, d.syntax("a name in double quotes")
	}
	key, ok := d.str()
	if !ok {
		return nil, false
	}
	if d.next() != ':' {
		return nil, d.syntax("a colon")
	}
	d.pos++
	return key, true
}

// comma takes what follows a member or element: end, the closing bracket, or a comma.
func (d *decoder) comma(end byte, wanted string) (done, ok bool) {
	switch d.next() {
	case ',':
		d.pos++
		return false, true
	case end:
		d.pos++
		return true, true
	}
	return false, d.syntax(wanted)
}

// array takes the array at the current position; element is called at each value with its index.
func (d *decoder) array(element func(i int) bool) bool {
	if !d.enter(step{}) {
		return false
	}
	level := &d.path[d.depth-1]
	d.pos++
	if d.next() == ']' {
		d.pos++
		d.leave()
		return true
	}
	for i := 0; ; i++ {
		level.index = i
		if !element(i) {
			return false
		}
		if done, ok := d.comma(']', "a comma or the end of the array"); done || !ok {
			d.leave()
			return ok
		}
	}
}

// names is a set of member names: a list while it is small.
type names struct {
	few  [][]byte
	many map[string]bool
}

// add reports whether key is new.
func (n *names) add(key []byte) bool {
	if n.many != nil {
		if n.many[string(key)] {
			return false
		}
		n.many[string(key)] = true
		return true
	}
	for _, k := range n.few {
		if string(k) == string(key) {
			return false
		}
	}
	if n.few = append(n.few, key); len(n.few) > 16 {
		n.many = make(map[string]bool, 2*len(n.few))
		for _, k := range n.few {
			n.many[string(k)] = true
		}
	}
	return true
}
