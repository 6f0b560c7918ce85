package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"unicode/utf8"
)

// A fieldChange is one value of a row that two builds have differently. A nil one is not there.
type fieldChange struct {
	Path string          `json:"path"` // a.b[2].c; "" = the whole row
	Old  json.RawMessage `json:"old,omitempty"`
	New  json.RawMessage `json:"new,omitempty"`
}

// changes returns the values that differ between two JSON texts, in the order of their paths, those of arrays by index.
func changes(old, now json.RawMessage) ([]fieldChange, error) {
	a, err := tree(old)
	if err != nil {
		return nil, err
	}
	b, err := tree(now)
	if err != nil {
		return nil, err
	}
	return appendChanges(nil, "", a, b, true, true)
}

// tree decodes JSON with its numbers as they are written.
func tree(text json.RawMessage) (v any, err error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	err = d.Decode(&v)
	return v, err
}

func appendChanges(dst []fieldChange, path string, a, b any, inA, inB bool) (_ []fieldChange, err error) {
	objectA, okA := a.(map[string]any)
	objectB, okB := b.(map[string]any)
	if okA && okB {
		names := maps.Clone(objectA)
		maps.Copy(names, objectB)
		for _, name := range slices.Sorted(maps.Keys(names)) {
			valueA, hasA := objectA[name]
			valueB, hasB := objectB[name]
			if dst, err = appendChanges(dst, step(path, name), valueA, valueB, hasA, hasB); err != nil {
				return nil, err
			}
		}
		return dst, nil
	}
	listA, okA := a.([]any)
	listB, okB := b.([]any)
	if okA && okB {
		for i := range max(len(listA), len(listB)) {
			var valueA, valueB any
			if i < len(listA) {
				valueA = listA[i]
			}
			if i < len(listB) {
				valueB = listB[i]
			}
			if dst, err = appendChanges(dst, path+"["+strconv.Itoa(i)+"]", valueA, valueB, i < len(listA), i < len(listB)); err != nil {
				return nil, err
			}
		}
		return dst, nil
	}
	c := fieldChange{Path: path}
	if inA {
		if c.Old, err = compact(a); err != nil {
			return nil, err
		}
	}
	if inB {
		if c.New, err = compact(b); err != nil {
			return nil, err
		}
	}
	if inA == inB && bytes.Equal(c.Old, c.New) {
		return dst, nil
	}
	return append(dst, c), nil
}

// step adds the name of a field to a path; one that would be misread is quoted.
func step(path, name string) string {
	for _, r := range name {
		if r == '.' || r == '[' || r == ']' || r == '"' || r <= ' ' {
			return path + "[" + strconv.Quote(name) + "]"
		}
	}
	if path == "" {
		return name
	}
	return path + "." + name
}

func compact(v any) (json.RawMessage, error) {
	var b bytes.Buffer
	if err := line(&b, v); err != nil {
		return nil, err
	}
	return bytes.TrimRight(b.Bytes(), "\n"), nil
}

// writeChanges writes a line for each value: old → new, + for one that came, - for one that went.
func writeChanges(w io.Writer, all []fieldChange) {
	width := 0
	for _, c := range all {
		width = max(width, utf8.RuneCountInString(c.Path))
	}
	for _, c := range all {
		path := c.Path
		if path == "" {
			path = "the row"
		}
		switch {
		case c.Old == nil:
			fmt.Fprintf(w, "  + %-*s  %s\n", width, path, clipped(c.New))
		case c.New == nil:
			fmt.Fprintf(w, "  - %-*s  %s\n", width, path, clipped(c.Old))
		default:
			fmt.Fprintf(w, "  ~ %-*s  %s → %s\n", width, path, clipped(c.Old), clipped(c.New))
		}
	}
}

// clipped shortens a value that is longer than a line.
func clipped(text json.RawMessage) string {
	const most = 200
	if len(text) <= most {
		return string(text)
	}
	n := most
	for !utf8.RuneStart(text[n]) {
		n--
	}
	return string(text[:n]) + "… (" + count(int64(len(text))) + " bytes)"
}
