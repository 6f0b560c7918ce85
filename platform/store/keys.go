package store

import (
	"encoding/binary"
	"unicode/utf8"
)

// Strings in keys are escaped so that byte order is string order and no encoding is the beginning of another one:
// 0x00 becomes 0x00 0xff, and the end is 0x00 0x01, which is less than any byte that could go on.
const (
	escape     = 0x00
	escapedNul = 0xff
	terminator = 0x01
)

// AppendString appends s to a key, escaped and terminated: keys order as their strings do, and no appended string is a prefix
// of another one, so that what follows it never changes the order. It takes any bytes and adds 2, plus 1 for each zero byte.
func AppendString(dst []byte, s string) []byte {
	for {
		i := 0
		for i < len(s) && s[i] != escape {
			i++
		}
		dst = append(dst, s[:i]...)
		if i == len(s) {
			return append(dst, escape, terminator)
		}
		dst = append(dst, escape, escapedNul)
		s = s[i+1:]
	}
}

// ParseString reads what AppendString appended from the front of key and returns what follows it, or ErrKey.
func ParseString(key []byte) (s string, rest []byte, err error) {
	// Nearly no string holds a zero byte: then the bytes up to the first one are the string.
	for i := range key {
		if key[i] != escape {
			continue
		}
		if i+1 == len(key) {
			return "", nil, ErrKey.Because("it ends within an escape")
		}
		if key[i+1] == terminator {
			return string(key[:i]), key[i+2:], nil
		}
		return parseEscaped(key, i)
	}
	return "", nil, ErrKey.Because("a string in it has no end")
}

func parseEscaped(key []byte, i int) (string, []byte, error) {
	buf := append([]byte(nil), key[:i]...)
	for ; i < len(key); i++ {
		if key[i] != escape {
			buf = append(buf, key[i])
			continue
		}
		i++
		switch {
		case i == len(key):
			return "", nil, ErrKey.Because("it ends within an escape")
		case key[i] == terminator:
			return string(buf), key[i+1:], nil
		case key[i] == escapedNul:
			buf = append(buf, 0)
		default:
			return "", nil, ErrKey.Because("it holds the unknown escape %#x", key[i])
		}
	}
	return "", nil, ErrKey.Because("a string in it has no end")
}

// AppendUint64 appends n in 8 bytes that order as the numbers do.
func AppendUint64(dst []byte, n uint64) []byte { return binary.BigEndian.AppendUint64(dst, n) }

// ParseUint64 reads what AppendUint64 appended from the front of key and returns what follows it, or ErrKey.
func ParseUint64(key []byte) (n uint64, rest []byte, err error) {
	if len(key) < 8 {
		return 0, nil, ErrKey.Because("it ends within a number")
	}
	return binary.BigEndian.Uint64(key), key[8:], nil
}

// AppendInt64 appends n in 8 bytes that order as the numbers do, negative ones first.
func AppendInt64(dst []byte, n int64) []byte { return AppendUint64(dst, uint64(n)^1<<63) }

// ParseInt64 reads what AppendInt64 appended from the front of key and returns what follows it, or ErrKey.
func ParseInt64(key []byte) (n int64, rest []byte, err error) {
	u, rest, err := ParseUint64(key)
	return int64(u ^ 1<<63), rest, err
}

// PrefixEnd returns the first key after all keys that begin with prefix, for Range.To; nil, the end of everything, if there is none.
func PrefixEnd(prefix []byte) []byte {
	for i := len(prefix) - 1; i >= 0; i-- {
		if prefix[i] != 0xff {
			end := append([]byte(nil), prefix[:i+1]...)
			end[i]++
			return end
		}
	}
	return nil
}

// Prefix returns the range of all keys that begin with prefix.
func Prefix(prefix []byte) Range { return Range{From: prefix, To: PrefixEnd(prefix)} }

// printable shortens a key for an error text.
func printable(key []byte) string {
	const most = 80
	if len(key) > most {
		key = key[:most]
	}
	if utf8.Valid(key) {
		return string(key)
	}
	return string(appendHex(nil, key))
}

func appendHex(dst, b []byte) []byte {
	const digits = "0123456789abcdef"
	for _, c := range b {
		dst = append(dst, digits[c>>4], digits[c&15])
	}
	return dst
}
