package avrofile

import (
	"bytes"
	"encoding/json"
	"iter"
)

// space is what may be between the values of a document.
const space = " \t\r\n"

// elements yields the members of an object, or the values of an array with nil keys, each as it stands in the document, which must be valid.
func elements(v []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func(key, value []byte) bool) {
		object := v[0] == '{'
		for i := 1; ; i++ {
			i = blank(v, i)
			if v[i] == '}' || v[i] == ']' {
				return
			}
			var key []byte
			if object {
				end := skip(v, i)
				key = v[i:end]
				i = blank(v, blank(v, end)+1) // behind the colon
			}
			end := skip(v, i)
			if !yield(key, v[i:end]) {
				return
			}
			if i = blank(v, end); v[i] != ',' {
				return
			}
		}
	}
}

func blank(v []byte, i int) int {
	for v[i] <= ' ' {
		i++
	}
	return i
}

// skip returns where the value ends that begins at i.
func skip(v []byte, i int) int {
	depth := 0
	for ; i < len(v); i++ {
		switch v[i] {
		case '"':
			for i++; v[i] != '"'; i++ {
				if v[i] == '\\' {
					i++
				}
			}
		case '{', '[':
			depth++
			continue
		case '}', ']':
			depth--
		case ',', ':', ' ', '\t', '\r', '\n':
			continue
		default:
			for i+1 < len(v) && !bytes.ContainsRune([]byte(",:]}"+space), rune(v[i+1])) {
				i++
			}
		}
		if depth == 0 {
			return i + 1
		}
	}
	return len(v)
}

// unquote returns the text that a value is.
func unquote(v []byte) (text []byte, ok bool) {
	if len(v) < 2 || v[0] != '"' {
		return nil, false
	}
	if bytes.IndexByte(v, '\\') < 0 {
		return v[1 : len(v)-1], true
	}
	var s string
	ok = json.Unmarshal(v, &s) == nil
	return []byte(s), ok
}
