package contract

import (
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"

	"github.com/millrace/millrace/platform/fault"
)

// A kind is an Avro type; references are resolved while parsing, so there is none for them.
type kind uint8

const (
	kindNull kind = iota
	kindBoolean
	kindInt
	kindLong
	kindFloat
	kindDouble
	kindBytes
	kindString
	kindRecord
	kindEnum
	kindArray
	kindMap
	kindUnion
	kindFixed
)

var kindNames = [...]string{"null", "boolean", "int", "long", "float", "double", "bytes", "string", "record", "enum", "array", "map", "union", "fixed"}

func (k kind) String() string { return kindNames[k] }

func (k kind) named() bool { return k == kindRecord || k == kindEnum || k == kindFixed }

var primitives = map[string]kind{"null": kindNull, "boolean": kindBoolean, "int": kindInt, "long": kindLong, "float": kindFloat,
	"double": kindDouble, "bytes": kindBytes, "string": kindString}

// A node is one type of a schema. Named types that are used several times are one node, so the nodes of a recursive schema form a graph.
type node struct {
	kind     kind
	pointer  string // where it is defined in the text
	name     string // full name of a named type
	aliases  []string
	doc      string
	logical  string // logical type, if it is valid on this type; Avro ignores it otherwise
	prec     int    // of a decimal
	scale    int
	limit    *big.Int // 10^prec
	fields   []*field
	walk     []walked // of a record: the types of its fields, close together in memory
	items    *node    // of an array or a map
	branches []*node
	symbols  []string
	fallback int // index of an enum's default symbol, -1 = none
	size     int // of a fixed
	bounded  bool
	lo, hi   int64 // of an int or long if bounded: what its logical type can mean
	safe     int   // varints of so many bytes are all between lo and hi
	props    map[string]any

	least int64 // no value has fewer bytes
	depth int   // levels of types inside each other, recursion counted once
	nodes int   // types when all references are written out, recursion counted once
	open  bool  // while its definition is being read
}

// A walked is what the walk of a payload needs to know of a field.
type walked struct {
	kind kind
	node *node
}

// A field is one field of a record.
type field struct {
	name    string
	pointer string
	aliases []string
	doc     string
	node    *node
	hasDef  bool
	def     any    // as JSON
	encoded []byte // def in Avro
	props   map[string]any

	encoding bool // while encoded is being made
	done     bool
}

// maxPrecision is more than any decimal in use has; the powers of ten of a hostile one would take seconds.
const maxPrecision = 1000

// The limits that keep a schema's own structure from being a bomb.
const (
	maxExpanded       = 16_384 // types when all references are written out: two references on each of 30 levels are 2^30 types
	maxRecursiveTypes = 64     // named types of a recursive schema
)

// A builder reads one schema.
type builder struct {
	types     map[string]*node // by full name
	recursive bool
	steps     int // spent on defaults
}

func at(pointer, format string, args ...any) *fault.Error {
	if pointer == "" {
		return ErrSchema.Because(format, args...)
	}
	return ErrSchema.At(clip(pointer), format, args...)
}

func buildSchema(v any) (root *node, recursive bool, err error) {
	b := &builder{types: map[string]*node{}}
	if root, err = b.build(v, "", "", 0); err != nil {
		return nil, false, err
	}
	if b.recursive && len(b.types) > maxRecursiveTypes {
		return nil, false, at("", "a recursive schema may define at most %d named types, this one has %d", maxRecursiveTypes, len(b.types))
	}
	if err := b.defaults(root, map[*node]bool{}); err != nil {
		return nil, false, err
	}
	return root, b.recursive, nil
}

func (b *builder) build(v any, namespace, pointer string, depth int) (*node, error) {
	if depth > MaxDepth {
		return nil, at(pointer, "types are nested more than %d levels deep", MaxDepth)
	}
	switch v := v.(type) {
	case string:
		if k, ok := primitives[v]; ok {
			return finish(&node{kind: k, pointer: pointer})
		}
		name := qualify(v, namespace)
		n := b.types[name]
		if n == nil {
			return nil, at(pointer, "%q is not defined in this text", clip(name))
		}
		if n.open {
			b.recursive = true
		}
		return n, nil
	case []any:
		return b.union(v, namespace, pointer, depth)
	case *object:
		return b.complex(v, namespace, pointer, depth)
	}
	return nil, at(pointer, "a type is a name, an array or an object, not %s", describe(v))
}

func (b *builder) union(v []any, namespace, pointer string, depth int) (*node, error) {
	if len(v) == 0 {
		return nil, at(pointer, "a union needs a branch")
	}
	n := &node{kind: kindUnion, pointer: pointer}
	seen := map[string]bool{}
	for i, branch := range v {
		p := pointer + "/" + strconv.Itoa(i)
		child, err := b.build(branch, namespace, p, depth+1)
		if err != nil {
			return nil, err
		}
		if child.kind == kindUnion {
			return nil, at(p, "a union cannot hold a union")
		}
		id := child.kind.String()
		if child.kind.named() {
			id = child.name
		}
		if seen[id] {
			return nil, at(p, "the union has %s twice", clip(id))
		}
		seen[id] = true
		n.branches = append(n.branches, child)
	}
	return finish(n)
}

func (b *builder) complex(o *object, namespace, pointer string, depth int) (*node, error) {
	v, ok := o.get("type")
	if !ok {
		return nil, at(pointer, "has no \"type\"")
	}
	typ, ok := v.(string)
	if !ok {
		return nil, at(pointer+"/type", "is a string, not %s", describe(v))
	}
	n := &node{pointer: pointer, fallback: -1}
	var err error
	if n.doc, err = text(o, "doc", pointer); err != nil {
		return nil, err
	}
	switch typ {
	case "record", "error":
		n.kind = kindRecord
		err = b.record(n, o, namespace, depth)
	case "enum":
		n.kind = kindEnum
		err = b.enum(n, o, namespace)
	case "fixed":
		n.kind = kindFixed
		err = b.fixed(n, o, namespace)
	case "array", "map":
		key := "items"
		n.kind = kindArray
		if typ == "map" {
			key, n.kind = "values", kindMap
		}
		items, ok := o.get(key)
		if !ok {
			return nil, at(pointer, "has no %q", key)
		}
		n.items, err = b.build(items, namespace, pointer+"/"+key, depth+1)
		n.props = o.rest("type", "doc", key)
	default:
		k, ok := primitives[typ]
		if !ok { // {"type": "Name"} is the type Name
			return b.build(typ, namespace, pointer+"/type", depth)
		}
		n.kind = k
		n.props = o.rest("type", "doc")
	}
	if err != nil {
		return nil, err
	}
	setLogical(n, o)
	return finish(n)
}

// define reads the names of a named type and makes it known.
func (b *builder) define(n *node, o *object, namespace string) (string, error) {
	v, ok := o.get("name")
	name, isText := v.(string)
	if !ok || !isText {
		return "", at(n.pointer, "has no \"name\"")
	}
	if v, ok := o.get("namespace"); ok {
		if namespace, ok = v.(string); !ok {
			return "", at(n.pointer+"/namespace", "is a string, not %s", describe(v))
		}
	}
	n.name = qualify(name, namespace)
	if bad := badName(n.name); bad != "" {
		return "", at(n.pointer+"/name", "%s", bad)
	}
	if _, ok := primitives[n.name]; ok {
		return "", at(n.pointer+"/name", "%q is the name of a primitive type", n.name)
	}
	if b.types[n.name] != nil {
		return "", at(n.pointer+"/name", "%q is defined twice", clip(n.name))
	}
	namespace = ""
	if dot := strings.LastIndexByte(n.name, '.'); dot >= 0 {
		namespace = n.name[:dot]
	}
	aliases, err := texts(o, "aliases", n.pointer)
	if err != nil {
		return "", err
	}
	for i, alias := range aliases {
		alias = qualify(alias, namespace)
		if bad := badName(alias); bad != "" {
			return "", at(n.pointer+"/aliases/"+strconv.Itoa(i), "%s", bad)
		}
		n.aliases = append(n.aliases, alias)
	}
	b.types[n.name] = n
	return namespace, nil
}

func (b *builder) record(n *node, o *object, namespace string, depth int) error {
	namespace, err := b.define(n, o, namespace)
	if err != nil {
		return err
	}
	v, ok := o.get("fields")
	list, isList := v.([]any)
	if !ok || !isList {
		return at(n.pointer, "a record needs \"fields\", an array")
	}
	n.open = true
	defer func() { n.open = false }()
	seen := map[string]bool{}
	for i, v := range list {
		p := n.pointer + "/fields/" + strconv.Itoa(i)
		fo, ok := v.(*object)
		if !ok {
			return at(p, "a field is an object, not %s", describe(v))
		}
		f := &field{pointer: p}
		name, _ := fo.get("name")
		if f.name, ok = name.(string); !ok {
			return at(p, "has no \"name\"")
		}
		if bad := badName(f.name); bad != "" || strings.Contains(f.name, ".") {
			return at(p+"/name", "%q is not a field name: letters, digits and _, no digit first", clip(f.name))
		}
		if seen[f.name] {
			return at(p+"/name", "the record has the field %q twice", clip(f.name))
		}
		seen[f.name] = true
		if f.doc, err = text(fo, "doc", p); err != nil {
			return err
		}
		if f.aliases, err = texts(fo, "aliases", p); err != nil {
			return err
		}
		for j, alias := range f.aliases {
			if badName(alias) != "" || strings.Contains(alias, ".") {
				return at(p+"/aliases/"+strconv.Itoa(j), "%q is not a field name", clip(alias))
			}
		}
		switch order, err := text(fo, "order", p); {
		case err != nil:
			return err
		case order != "" && order != "ascending" && order != "descending" && order != "ignore":
			return at(p+"/order", "is ascending, descending or ignore, not %q", clip(order))
		}
		typ, ok := fo.get("type")
		if !ok {
			return at(p, "has no \"type\"")
		}
		if f.node, err = b.build(typ, namespace, p+"/type", depth+1); err != nil {
			return err
		}
		f.def, f.hasDef = fo.get("default")
		f.props = fo.rest("name", "type", "doc", "aliases", "order", "default")
		n.fields = append(n.fields, f)
	}
	n.props = o.rest("type", "name", "namespace", "doc", "aliases", "fields")
	return nil
}

func (b *builder) enum(n *node, o *object, namespace string) error {
	if _, err := b.define(n, o, namespace); err != nil {
		return err
	}
	var err error
	if n.symbols, err = texts(o, "symbols", n.pointer); err != nil {
		return err
	}
	if len(n.symbols) == 0 {
		return at(n.pointer, "an enum needs \"symbols\"")
	}
	seen := map[string]bool{}
	for i, s := range n.symbols {
		p := n.pointer + "/symbols/" + strconv.Itoa(i)
		if badName(s) != "" || strings.Contains(s, ".") {
			return at(p, "%q is not a symbol: letters, digits and _, no digit first", clip(s))
		}
		if seen[s] {
			return at(p, "the enum has %q twice", clip(s))
		}
		seen[s] = true
	}
	if v, ok := o.get("default"); ok {
		s, isText := v.(string)
		for i, symbol := range n.symbols {
			if isText && symbol == s {
				n.fallback = i
			}
		}
		if n.fallback < 0 {
			return at(n.pointer+"/default", "%s is none of the symbols", describe(v))
		}
	}
	n.props = o.rest("type", "name", "namespace", "doc", "aliases", "symbols", "default")
	return nil
}

func (b *builder) fixed(n *node, o *object, namespace string) error {
	if _, err := b.define(n, o, namespace); err != nil {
		return err
	}
	v, _ := o.get("size")
	size, ok := wholeNumber(v)
	if !ok || size < 0 || size > MaxPayloadBytes {
		return at(n.pointer, "a fixed needs \"size\", 0 to %d bytes", MaxPayloadBytes)
	}
	n.size = int(size)
	n.props = o.rest("type", "name", "namespace", "doc", "aliases", "size")
	return nil
}

// setLogical takes the logical type over if it is one of the specification and fits the type; else it stays a property.
func setLogical(n *node, o *object) {
	v, _ := o.get("logicalType")
	logical, _ := v.(string)
	switch logical {
	case "decimal":
		p, _ := o.get("precision")
		prec, ok := wholeNumber(p)
		if n.kind != kindBytes && n.kind != kindFixed || !ok || prec < 1 || prec > maxPrecision {
			return
		}
		scale := int64(0)
		if s, given := o.get("scale"); given {
			if scale, ok = wholeNumber(s); !ok || scale < 0 || scale > prec {
				return
			}
		}
		if n.kind == kindFixed && prec > int64(float64(8*n.size-1)*math.Log10(2)) {
			return
		}
		n.prec, n.scale = int(prec), int(scale)
		n.limit = new(big.Int).Exp(big.NewInt(10), big.NewInt(prec), nil)
	case "uuid":
		if n.kind != kindString && (n.kind != kindFixed || n.size != 16) {
			return
		}
	case "date", "time-millis":
		if n.kind != kindInt {
			return
		}
	case "time-micros", "timestamp-millis", "timestamp-micros", "timestamp-nanos", "local-timestamp-millis", "local-timestamp-micros", "local-timestamp-nanos":
		if n.kind != kindLong {
			return
		}
	case "duration":
		if n.kind != kindFixed || n.size != 12 {
			return
		}
	case "big-decimal":
		if n.kind != kindBytes {
			return
		}
	default:
		return
	}
	n.logical = logical
	if n.lo, n.hi, n.bounded = logicalRange(logical); n.bounded {
		for n.lo <= -1<<(7*n.safe+6) && n.hi >= 1<<(7*n.safe+6)-1 {
			n.safe++
		}
	}
	delete(n.props, "logicalType")
	if logical == "decimal" {
		delete(n.props, "precision")
		delete(n.props, "scale")
	}
}

// logicalRange returns the values that a time may have: a year from 0 to 9999, which RFC 3339 can write, or a time within one day.
// What is outside could be decoded, but not be shown as JSON, nor be written again.
func logicalRange(logical string) (lo, hi int64, bounded bool) {
	const first, last = -62_167_219_200, 253_402_300_799 // the first and the last second of those years, Unix
	switch logical {
	case "date":
		return first / 86_400, last / 86_400, true
	case "time-millis":
		return 0, 86_400_000 - 1, true
	case "time-micros":
		return 0, 86_400_000_000 - 1, true
	case "timestamp-millis", "local-timestamp-millis":
		return first * 1000, last*1000 + 999, true
	case "timestamp-micros", "local-timestamp-micros":
		return first * 1_000_000, last*1_000_000 + 999_999, true
	}
	return 0, 0, false
}

// finish computes what is known of a type once its parts are. A reference to a type that is still open counts as one level, one type and
// no bytes: the true figures of a recursive type have no bound, and a lower bound is all that least has to be.
func finish(n *node) (*node, error) {
	n.depth, n.nodes = 0, 1
	add := func(c *node) {
		if c.open {
			n.depth = max(n.depth, 1)
			n.nodes++
			return
		}
		n.depth = max(n.depth, c.depth+1)
		n.nodes += c.nodes
	}
	switch n.kind {
	case kindNull:
	case kindFloat:
		n.least = 4
	case kindDouble:
		n.least = 8
	case kindFixed:
		n.least = int64(n.size)
	case kindRecord:
		for _, f := range n.fields {
			add(f.node)
			n.walk = append(n.walk, walked{f.node.kind, f.node})
			if !f.node.open {
				n.least = min(n.least+f.node.least, MaxPayloadBytes+1)
			}
		}
	case kindArray, kindMap:
		add(n.items)
		n.least = 1
	case kindUnion:
		n.least = math.MaxInt64
		for _, c := range n.branches {
			add(c)
			if c.open {
				n.least = 0
			} else {
				n.least = min(n.least, c.least)
			}
		}
		n.least++
	default:
		n.least = 1
	}
	if n.depth > MaxDepth {
		return nil, at(n.pointer, "types are nested more than %d levels deep", MaxDepth)
	}
	if n.nodes > maxExpanded {
		return nil, at(n.pointer, "has more than %d types when all references are written out", maxExpanded)
	}
	return n, nil
}

// rest returns the properties beside the given ones.
func (o *object) rest(known ...string) map[string]any {
	props := map[string]any{}
next:
	for k, v := range o.values {
		for _, name := range known {
			if k == name {
				continue next
			}
		}
		props[k] = v
	}
	return props
}

func qualify(name, namespace string) string {
	if namespace == "" || strings.Contains(name, ".") {
		return strings.TrimPrefix(name, ".")
	}
	return namespace + "." + name
}

// badName says what is wrong with a full name, "" if nothing is.
func badName(full string) string {
	for part := range strings.SplitSeq(full, ".") {
		for i, r := range part {
			if r != '_' && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (i == 0 || r < '0' || r > '9') {
				part = ""
				break
			}
		}
		if part == "" {
			return fmt.Sprintf("%q is not a name: letters, digits and _, no digit first, parts separated by dots", clip(full))
		}
	}
	return ""
}

func text(o *object, key, pointer string) (string, error) {
	v, ok := o.get(key)
	if !ok {
		return "", nil
	}
	s, ok := v.(string)
	if !ok {
		return "", at(pointer+"/"+key, "is a string, not %s", describe(v))
	}
	return s, nil
}

func texts(o *object, key, pointer string) ([]string, error) {
	v, ok := o.get(key)
	if !ok {
		return nil, nil
	}
	list, ok := v.([]any)
	if !ok {
		return nil, at(pointer+"/"+key, "is an array of strings, not %s", describe(v))
	}
	out := make([]string, len(list))
	for i, v := range list {
		if out[i], ok = v.(string); !ok {
			return nil, at(pointer+"/"+key+"/"+strconv.Itoa(i), "is a string, not %s", describe(v))
		}
	}
	return out, nil
}

// wholeNumber reads an integer that is written as one: 1.5, 1e3 and 2^63 are none.
func wholeNumber(v any) (int64, bool) {
	number, ok := v.(json.Number)
	if !ok {
		return 0, false
	}
	i, err := strconv.ParseInt(number.String(), 10, 64)
	return i, err == nil
}
