package contract

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxJSONDepth bounds objects and arrays inside each other in a schema text: three levels for each level of types, and some for properties.
const maxJSONDepth = 4 * MaxDepth

// An object is a JSON object that keeps its order: codegen and messages follow the text.
type object struct {
	keys   []string
	values map[string]any // nil, bool, string, json.Number, []any or *object
}

func (o *object) get(key string) (any, bool) {
	v, ok := o.values[key]
	return v, ok
}

// parseJSON reads exactly one JSON value. Numbers keep their digits, because a default beyond 2^53 must not be rounded,
// and a key given twice is refused, because readers differ in which one they take.
func parseJSON(text string) (any, error) {
	if !utf8.ValidString(text) {
		return nil, ErrSchema.Because("the text is not UTF-8")
	}
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	v, err := parseValue(d, "", 0)
	if err != nil {
		return nil, err
	}
	if rest := bytes.TrimLeft([]byte(text[d.InputOffset():]), " \t\r\n"); len(rest) > 0 {
		return nil, ErrSchema.Because("there is more text after the schema, at byte %d", len(text)-len(rest))
	}
	return v, nil
}

func parseValue(d *json.Decoder, pointer string, depth int) (any, error) {
	if depth > maxJSONDepth {
		return nil, ErrSchema.At(clip(pointer), "is nested more than %d levels deep", maxJSONDepth)
	}
	token, err := d.Token()
	if err != nil {
		return nil, ErrSchema.Because("it is not JSON, at byte %d", d.InputOffset()).Wrap(err)
	}
	delim, ok := token.(json.Delim)
	if !ok {
		return token, nil
	}
	if delim == '[' {
		list := []any{}
		for d.More() {
			v, err := parseValue(d, pointer+"/"+strconv.Itoa(len(list)), depth+1)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		if _, err := d.Token(); err != nil {
			return nil, ErrSchema.Because("it is not JSON, at byte %d", d.InputOffset()).Wrap(err)
		}
		return list, nil
	}
	o := &object{values: map[string]any{}}
	for d.More() {
		token, err := d.Token()
		if err != nil {
			return nil, ErrSchema.Because("it is not JSON, at byte %d", d.InputOffset()).Wrap(err)
		}
		key, _ := token.(string) // the decoder lets nothing else be a key
		at := pointer + "/" + escapePointer(key)
		if _, twice := o.values[key]; twice {
			return nil, ErrSchema.At(clip(at), "is given twice")
		}
		v, err := parseValue(d, at, depth+1)
		if err != nil {
			return nil, err
		}
		o.keys = append(o.keys, key)
		o.values[key] = v
	}
	if _, err := d.Token(); err != nil {
		return nil, ErrSchema.Because("it is not JSON, at byte %d", d.InputOffset()).Wrap(err)
	}
	return o, nil
}

var pointerEscape = strings.NewReplacer("~", "~0", "/", "~1")

func escapePointer(key string) string { return pointerEscape.Replace(key) }

// clip keeps hostile names out of messages.
func clip(s string) string {
	const most = 200
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

// describe names the JSON type of v for a message.
func describe(v any) string {
	switch v := v.(type) {
	case nil:
		return "null"
	case bool:
		return "a boolean"
	case string:
		return fmt.Sprintf("the string %q", clip(v))
	case json.Number:
		return "the number " + clip(v.String())
	case []any:
		return "an array"
	}
	return "an object"
}
