package contract

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/hamba/avro/v2"
	oracle "github.com/twmb/avro"
)

// A maker makes random schemas, mutations of them, and payloads.
type maker struct {
	*rand.Rand
	names   int
	logical bool // logical types too
	goTypes bool // only what has a Go type
}

type doc = map[string]any

func (m *maker) name(prefix string) string {
	m.names++
	return fmt.Sprintf("%s%d", prefix, m.names)
}

func (m *maker) of(options ...string) string { return options[m.IntN(len(options))] }

func (m *maker) schema(depth int) any {
	n := 12
	if depth <= 0 {
		n = 7
	}
	switch m.IntN(n) {
	case 0:
		return m.of("boolean", "bytes")
	case 1, 2:
		return m.of("int", "long")
	case 3:
		return m.of("float", "double")
	case 4:
		if m.logical {
			return m.logicalType()
		}
		return "string"
	case 5:
		return doc{"type": "enum", "name": m.name("E"), "symbols": []any{"A", "B", "C"}[:1+m.IntN(3)]}
	case 6:
		return doc{"type": "fixed", "name": m.name("F"), "size": m.IntN(4)}
	case 7:
		return doc{"type": "array", "items": m.schema(depth - 1)}
	case 8:
		return doc{"type": "map", "values": m.schema(depth - 1)}
	case 9:
		return m.union(depth)
	}
	return m.record(depth)
}

func (m *maker) logicalType() any {
	switch m.IntN(8) {
	case 0:
		return doc{"type": "bytes", "logicalType": "decimal", "precision": 10 + m.IntN(2), "scale": m.IntN(3)}
	case 1:
		return doc{"type": "int", "logicalType": m.of("date", "time-millis")}
	case 2:
		return doc{"type": "string", "logicalType": "uuid"}
	case 3:
		return doc{"type": "long", "logicalType": "time-micros"}
	}
	return doc{"type": "long", "logicalType": m.of("timestamp-millis", "timestamp-micros")}
}

func (m *maker) union(depth int) any {
	if m.goTypes {
		for {
			t := m.schema(depth - 1)
			d, isDoc := t.(doc)
			_, isUnion := t.([]any)
			if !isUnion && (!isDoc || d["logicalType"] != "decimal") {
				if m.IntN(4) == 0 {
					return []any{t, "null"}
				}
				return []any{"null", t}
			}
		}
	}
	var out []any
	seen := map[string]bool{}
	for range 1 + m.IntN(4) {
		var t any = "null"
		if m.IntN(3) > 0 {
			t = m.schema(depth - 1)
		}
		id := fmt.Sprint(t)
		switch d := t.(type) {
		case []any:
			continue
		case doc:
			id = fmt.Sprint(d["type"])
			if name, ok := d["name"]; ok {
				id = fmt.Sprint(name)
			}
		}
		if !seen[id] {
			seen[id] = true
			out = append(out, t)
		}
	}
	if out == nil {
		return "null"
	}
	return out
}

func (m *maker) record(depth int) any {
	fields := []any{}
	for i := range m.IntN(5) {
		fields = append(fields, m.field(fmt.Sprintf("f%d", i), depth))
	}
	return doc{"type": "record", "name": m.name("R"), "fields": fields}
}

func (m *maker) field(name string, depth int) any {
	f := doc{"name": name, "type": m.schema(depth - 1)}
	for m.goTypes && f["type"] == "null" {
		f["type"] = m.schema(depth - 1)
	}
	if m.IntN(2) == 0 {
		if def, ok := m.defaultFor(f["type"]); ok {
			f["default"] = def
		}
	}
	return f
}

func (m *maker) defaultFor(t any) (any, bool) {
	switch t := t.(type) {
	case string:
		switch t {
		case "null":
			return nil, true
		case "boolean":
			return true, true
		case "int", "long":
			return m.IntN(100), true
		case "float", "double":
			return 0.5, true
		}
		return "x", true
	case []any:
		return m.defaultFor(t[0]) // the first branch: what every implementation takes
	case doc:
		switch t["type"] {
		case "enum":
			return t["symbols"].([]any)[0], true
		case "fixed":
			return strings.Repeat("z", t["size"].(int)), true
		case "array":
			return []any{}, true
		case "map":
			return doc{}, true
		case "record":
			return nil, false
		case "int", "long":
			return 1000, true
		case "bytes":
			return "\u0001", true
		}
		if t["logicalType"] == "uuid" {
			return "0191d5a4-0000-7000-8000-000000000000", true
		}
		return "x", true
	}
	return nil, false
}

// clone copies a schema, with all names kept.
func clone(t any) any {
	switch t := t.(type) {
	case doc:
		c := doc{}
		for k, v := range t {
			c[k] = clone(v)
		}
		return c
	case []any:
		c := make([]any, len(t))
		for i, v := range t {
			c[i] = clone(v)
		}
		return c
	}
	return t
}

// mutate changes a schema a little, in a legal or a breaking way.
func (m *maker) mutate(t any, depth int) any {
	switch t := t.(type) {
	case string:
		if m.IntN(6) == 0 {
			return m.of("int", "long", "float", "double", "string", "bytes", "boolean")
		}
		if m.IntN(10) == 0 && t != "null" {
			return []any{"null", t}
		}
		return t
	case []any:
		out := t
		if m.IntN(4) == 0 {
			m.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
		}
		if m.IntN(6) == 0 && len(out) > 1 {
			out = out[:len(out)-1]
		}
		if m.IntN(6) == 0 && len(out) == 1 {
			return out[0]
		}
		for i, b := range out {
			if _, isDoc := b.(doc); isDoc { // names stay, so branches stay apart
				if c, ok := m.mutate(b, depth).(doc); ok {
					out[i] = c
				}
			}
		}
		return out
	case doc:
		switch t["type"] {
		case "enum":
			symbols := slices.Clone(t["symbols"].([]any))
			switch m.IntN(6) {
			case 0:
				symbols = append(symbols, m.name("Z"))
			case 1:
				slices.Reverse(symbols)
			case 2:
				symbols = symbols[:max(1, len(symbols)-1)]
			case 3:
				t["default"] = symbols[0]
			case 4:
				symbols = symbols[:max(1, len(symbols)-1)]
				t["default"] = symbols[0]
			}
			t["symbols"] = symbols
		case "fixed":
			if m.IntN(8) == 0 {
				t["size"] = 5
			}
		case "array":
			t["items"] = m.mutate(t["items"], depth-1)
		case "map":
			t["values"] = m.mutate(t["values"], depth-1)
		case "record":
			m.mutateRecord(t, depth)
		}
		if name, ok := t["name"].(string); ok && m.IntN(12) == 0 {
			t["name"] = m.name("N")
			if m.IntN(2) == 0 {
				t["aliases"] = []any{name}
			}
		}
	}
	return t
}

func (m *maker) mutateRecord(t doc, depth int) {
	fields := slices.Clone(t["fields"].([]any))
	for _, f := range fields {
		f := f.(doc)
		before := fmt.Sprint(f["type"])
		f["type"] = m.mutate(f["type"], depth-1)
		if fmt.Sprint(f["type"]) != before {
			delete(f, "default")
			if def, ok := m.defaultFor(f["type"]); ok && m.IntN(2) == 0 {
				f["default"] = def
			}
		}
		if m.IntN(12) == 0 {
			if m.IntN(2) == 0 {
				f["aliases"] = []any{f["name"]}
			}
			f["name"] = m.name("g")
		}
	}
	if m.IntN(4) == 0 && len(fields) > 0 {
		fields = slices.Delete(fields, 0, 1)
	}
	if m.IntN(4) == 0 {
		fields = append(fields, m.field(m.name("h"), depth-1))
	}
	if m.IntN(4) == 0 {
		m.Shuffle(len(fields), func(i, j int) { fields[i], fields[j] = fields[j], fields[i] })
	}
	t["fields"] = fields
}

func jsonOf(t testing.TB, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// payload writes a random value of n.
func (m *maker) payload(dst []byte, n *node) []byte {
	switch n.kind {
	case kindNull:
		return dst
	case kindBoolean:
		return append(dst, byte(m.IntN(2)))
	case kindInt:
		i := int64(int32(m.Uint32())) >> m.IntN(32)
		switch n.logical {
		case "time-millis":
			i = m.Int64N(86_400_000)
		case "date":
			i %= 100_000
		}
		return appendLong(dst, i)
	case kindLong:
		i := int64(m.Uint64()) >> m.IntN(64)
		switch n.logical {
		case "time-micros":
			i = m.Int64N(86_400_000_000)
		case "timestamp-millis":
			i = n.lo + m.Int64N(n.hi-n.lo)
		case "timestamp-micros":
			i %= 1e14
		}
		return appendLong(dst, i)
	case kindFloat:
		return binary.LittleEndian.AppendUint32(dst, math.Float32bits(m.Float32()))
	case kindDouble:
		return binary.LittleEndian.AppendUint64(dst, math.Float64bits(m.NormFloat64()))
	case kindString, kindBytes:
		if n.logical == "uuid" {
			var u UUID
			for i := range u {
				u[i] = byte(m.Uint32())
			}
			return append(appendLong(dst, 36), u.String()...)
		}
		if n.logical == "decimal" {
			return append(appendLong(dst, 3), byte(m.IntN(256)), byte(m.IntN(256)), byte(m.IntN(256)))
		}
		s := []string{"", "a", "grüße", "a rather long text, longer than 63 bytes, so that its length takes two"}[m.IntN(4)]
		return append(appendLong(dst, int64(len(s))), s...)
	case kindEnum:
		return appendLong(dst, int64(m.IntN(len(n.symbols))))
	case kindFixed:
		return append(dst, make([]byte, n.size)...)
	case kindUnion:
		i := m.IntN(len(n.branches))
		return m.payload(appendLong(dst, int64(i)), n.branches[i])
	case kindRecord:
		for _, f := range n.fields {
			dst = m.payload(dst, f.node)
		}
		return dst
	}
	for range m.IntN(3) { // blocks
		count := 1 + m.IntN(3)
		var items []byte
		for i := range count {
			if n.kind == kindMap {
				key := fmt.Sprintf("k%d-%d", len(dst), i)
				items = append(appendLong(items, int64(len(key))), key...)
			}
			items = m.payload(items, n.items)
		}
		if m.IntN(2) == 0 {
			dst = appendLong(dst, int64(count))
		} else {
			dst = appendLong(appendLong(dst, -int64(count)), int64(len(items)))
		}
		dst = append(dst, items...)
	}
	return append(dst, 0)
}

const (
	randomPairs = 20_000
	randomSeed  = 20260301
)

// pairs calls f with random readers and writers, half of them mutations of each other.
func pairs(t *testing.T, n int, logical bool, f func(m *maker, reader, writer string)) {
	t.Logf("seed %d", randomSeed)
	m := &maker{Rand: rand.New(rand.NewPCG(randomSeed, 1)), logical: logical}
	if raceDetector {
		n /= 10 // nothing here runs at the same time
	}
	for range n {
		m.names = 0
		writer := m.record(3)
		reader := clone(writer)
		if m.IntN(20) == 0 {
			m.names = 0
			reader = m.record(3)
		}
		for range 1 + m.IntN(2) {
			reader = m.mutate(reader, 3)
		}
		f(m, jsonOf(t, reader), jsonOf(t, writer))
	}
}

// TestCompatibleAgrees compares verdicts with two other implementations. The bare library agrees on all of them (and with Java's,
// which is why it is asked). The oracle differs in one class: a new field of the reader without a default counts as
// null if its type is nullable. The specification does not have that rule.
func TestCompatibleAgrees(t *testing.T) {
	var compatible, incompatible, known int
	pairs(t, randomPairs, false, func(_ *maker, reader, writer string) {
		found := Compatible(mustParse(t, reader), mustParse(t, writer))
		ours := found == nil
		if ours {
			compatible++
		} else {
			incompatible++
		}
		if slices.ContainsFunc(found, func(i Incompatibility) bool {
			return i.Rule == RuleType && i.Pointer == "" && strings.Contains(i.Message, "reader schema")
		}) {
			t.Errorf("only the library finds a fault: %v\nreader %s\nwriter %s", found, reader, writer)
		}
		err := avro.NewSchemaCompatibility().Compatible(mustLibrary(t, reader), mustLibrary(t, writer))
		if (err == nil) != ours && !slices.ContainsFunc(found, func(i Incompatibility) bool { return i.Rule == RuleAlias }) {
			t.Errorf("ours %v, library %v\nreader %s\nwriter %s", found, err, reader, writer)
		}
		r, err1 := oracle.Parse(reader)
		w, err2 := oracle.Parse(writer)
		if err1 != nil || err2 != nil {
			t.Fatalf("%v, %v\nreader %s\nwriter %s", err1, err2, reader, writer)
		}
		err = oracle.CheckCompatibility(w, r)
		switch {
		case (err == nil) == ours:
		case err == nil && knownClass(mustParse(t, reader).root, found):
			known++
		default:
			t.Errorf("ours %v, oracle %v\nreader %s\nwriter %s", found, err, reader, writer)
		}
	})
	t.Logf("%d compatible, %d incompatible, %d of the known class", compatible, incompatible, known)
	if compatible < incompatible/2 || incompatible < compatible/2 || known > randomPairs/100 {
		t.Error("the pairs are too much alike, or the known class is too large")
	}
}

// knownClass reports whether each finding is a field without a default whose type is a union with null.
func knownClass(reader *node, found []Incompatibility) bool {
	nullable := map[string]bool{}
	var walk func(n *node)
	walk = func(n *node) {
		for _, f := range n.fields {
			nullable[f.pointer] = f.node.kind == kindUnion && slices.ContainsFunc(f.node.branches, func(b *node) bool { return b.kind == kindNull })
			walk(f.node)
		}
		for _, b := range n.branches {
			walk(b)
		}
		if n.items != nil {
			walk(n.items)
		}
	}
	walk(reader)
	return !slices.ContainsFunc(found, func(i Incompatibility) bool { return i.Rule != RuleDefault || !nullable[i.Pointer] })
}

// TestResolveAgrees reads random payloads of random writers as random readers, ours and the oracle's way.
func TestResolveAgrees(t *testing.T) {
	var done, same int
	pairs(t, 6000, false, func(m *maker, reader, writer string) {
		r, w := mustParse(t, reader), mustParse(t, writer)
		if Compatible(r, w) != nil {
			return
		}
		or, ow := oracle.MustParse(reader), oracle.MustParse(writer)
		resolved, err := oracle.Resolve(ow, or)
		if err != nil {
			t.Fatalf("%v\nreader %s\nwriter %s", err, reader, writer)
		}
		conv := resolve(r.root, w.root)
		for range 3 {
			payload := m.payload(nil, w.root)
			if err := scan(w.root, payload); err != nil {
				t.Fatalf("a valid payload is refused: %v\n%x\n%s", err, payload, writer)
			}
			ours, _, err := conv.transcode(nil, payload, nil)
			if err != nil {
				t.Fatalf("%v\n%x\nreader %s\nwriter %s", err, payload, reader, writer)
			}
			if conv.op == opCopy {
				same++
			}
			if err := scan(r.root, ours); err != nil {
				t.Fatalf("the result is not of the reader's schema: %v\n%x\nreader %s\nwriter %s", err, payload, reader, writer)
			}
			var got, want any
			if _, err := or.Decode(ours, &got); err != nil {
				t.Fatal(err)
			}
			if _, err := resolved.Decode(payload, &want); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got %v\nwant %v\npayload %x\nreader %s\nwriter %s", got, want, payload, reader, writer)
			}
			done++
		}
	})
	t.Logf("%d payloads, %d of them read as they are", done, same)
	if done < 500 || same > done/2 {
		t.Error("too few payloads are converted")
	}
}
