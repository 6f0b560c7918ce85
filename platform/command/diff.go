package command

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// A Change is one difference between two JSON documents, an operation of RFC 6902 that also tells what was there before.
type Change struct {
	Op   string          `json:"op"`             // add, remove or replace
	Path string          `json:"path"`           // RFC 6901; "" is the whole document
	From json.RawMessage `json:"from,omitempty"` // what remove and replace take away
	To   json.RawMessage `json:"to,omitempty"`   // what add and replace put there
}

// Diff returns what turns one JSON document into another: applied one after the other, its changes do. Objects are compared by name,
// arrays by what they begin and end with. Numbers are compared as they are written.
func Diff(from, to []byte) ([]Change, error) {
	a, err := decodeJSON(from)
	if err != nil {
		return nil, err
	}
	b, err := decodeJSON(to)
	if err != nil {
		return nil, err
	}
	d := differ{changes: []Change{}}
	d.compare("", a, b)
	return d.changes, d.err
}

func decodeJSON(text []byte) (v any, err error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber() // 64-bit numbers do not fit in a float
	if err = d.Decode(&v); err != nil {
		return nil, fmt.Errorf("command: diff: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("command: diff: there is something after the document")
	}
	return v, nil
}

type differ struct {
	changes []Change
	err     error
}

func (d *differ) compare(path string, a, b any) {
	switch from := a.(type) {
	case map[string]any:
		if to, ok := b.(map[string]any); ok {
			d.objects(path, from, to)
			return
		}
	case []any:
		if to, ok := b.([]any); ok {
			d.arrays(path, from, to)
			return
		}
	}
	if !reflect.DeepEqual(a, b) {
		d.add(Change{Op: "replace", Path: path, From: d.text(a), To: d.text(b)})
	}
}

func (d *differ) objects(path string, a, b map[string]any) {
	names := slices.Collect(maps.Keys(a))
	for name := range b {
		if _, ok := a[name]; !ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		from, was := a[name]
		to, is := b[name]
		at := path + "/" + pointerEscape.Replace(name)
		switch {
		case !was:
			d.add(Change{Op: "add", Path: at, To: d.text(to)})
		case !is:
			d.add(Change{Op: "remove", Path: at, From: d.text(from)})
		default:
			d.compare(at, from, to)
		}
	}
}

// arrays leaves out the equal elements at both ends: then what lies between was changed in place, added or removed.
func (d *differ) arrays(path string, a, b []any) {
	begin := 0
	for begin < len(a) && begin < len(b) && reflect.DeepEqual(a[begin], b[begin]) {
		begin++
	}
	endA, endB := len(a), len(b)
	for endA > begin && endB > begin && reflect.DeepEqual(a[endA-1], b[endB-1]) {
		endA--
		endB--
	}
	at := func(i int) string { return path + "/" + strconv.Itoa(i) }
	common := min(endA, endB)
	for i := begin; i < common; i++ {
		d.compare(at(i), a[i], b[i])
	}
	for i := endA - 1; i >= common; i-- { // from the end: the places of the others stay what they are
		d.add(Change{Op: "remove", Path: at(i), From: d.text(a[i])})
	}
	for i := common; i < endB; i++ {
		d.add(Change{Op: "add", Path: at(i), To: d.text(b[i])})
	}
}

func (d *differ) add(c Change) { d.changes = append(d.changes, c) }

// text writes a value again. Nothing is escaped for HTML: it is shown as it is.
func (d *differ) text(v any) json.RawMessage {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil && d.err == nil {
		d.err = fmt.Errorf("command: diff: %w", err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

var pointerEscape = strings.NewReplacer("~", "~0", "/", "~1")
