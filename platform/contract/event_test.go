package contract

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	oracle "github.com/twmb/avro"
)

// The events of the tests: a typical one with ten fields and five lines, and a small one beside it.

//sumtype:decl
type event interface{ isEvent() }

type placed struct {
	OrderID    string    `avro:"order_id" json:"order_id"`
	CustomerID string    `avro:"customer_id" json:"customer_id"`
	Currency   string    `avro:"currency" json:"currency"`
	OrderedAt  time.Time `avro:"ordered_at" json:"ordered_at"`
	Channel    string    `avro:"channel" json:"channel"`
	Note       *string   `avro:"note" json:"note"`
	Lines      []line    `avro:"lines" json:"lines"`
	Gift       bool      `avro:"gift" json:"gift"`
	Units      int64     `avro:"units" json:"units"`
	Total      int64     `avro:"total" json:"total"`
}

type line struct {
	SKU      string `avro:"sku" json:"sku"`
	Name     string `avro:"name" json:"name"`
	Quantity int64  `avro:"quantity" json:"quantity"`
	Amount   int64  `avro:"amount" json:"amount"`
}

type cancelled struct {
	OrderID string `avro:"order_id"`
}

func (placed) isEvent()    {}
func (cancelled) isEvent() {}

const lineSchema = `{"type":"record","name":"Line","fields":[
	{"name":"sku","type":"string"},{"name":"name","type":"string"},{"name":"quantity","type":"long"},{"name":"amount","type":"long"}]}`

const placedSchema = `{"type":"record","name":"Placed","namespace":"test.v1","fields":[
	{"name":"order_id","type":"string"},{"name":"customer_id","type":"string"},{"name":"currency","type":"string"},
	{"name":"ordered_at","type":{"type":"long","logicalType":"timestamp-micros"}},{"name":"channel","type":"string","default":"web"},
	{"name":"note","type":["null","string"],"default":null},{"name":"lines","type":{"type":"array","items":` + lineSchema + `}},
	{"name":"gift","type":"boolean","default":false},{"name":"units","type":"long"},{"name":"total","type":"long"}]}`

// What the event was two versions ago: no channel, no gift, units an int, a field that is gone, another order, the note not nullable.
const placedOldSchema = `{"type":"record","name":"Placed","namespace":"test.v1","fields":[
	{"name":"order_id","type":"string"},{"name":"customer_id","type":"string"},{"name":"currency","type":"string"},
	{"name":"ordered_at","type":{"type":"long","logicalType":"timestamp-micros"}},
	{"name":"note","type":"string"},{"name":"lines","type":{"type":"array","items":` + lineSchema + `}},
	{"name":"legacy","type":{"type":"map","values":"double"}},{"name":"units","type":"int"},{"name":"total","type":"long"}]}`

const cancelledSchema = `{"type":"record","name":"Cancelled","namespace":"test.v1","fields":[{"name":"order_id","type":"string"}]}`

var testSet = Set[event]{Topic: "test.events", Types: []Type[event]{For[placed, event](placedSchema), For[cancelled, event](cancelledSchema)}}

func typical() placed {
	note := "leave it with the neighbours if nobody opens"
	p := placed{OrderID: "o-1001-7f3a", CustomerID: "c-00042", Currency: "USD", OrderedAt: time.Date(2026, 3, 1, 12, 30, 15, 123456000, time.UTC),
		Channel: "mobile", Note: &note, Units: 15, Total: 123456}
	for i := range 5 {
		p.Lines = append(p.Lines, line{fmt.Sprintf("SKU-2002-%04d", i), "a compact disc with a rather long title, part " + fmt.Sprint(i), int64(i + 1), int64(1000 * i)})
	}
	return p
}

func bindTest(t testing.TB, g guards) (*Codec[event], *Memory) {
	t.Helper()
	m := NewMemory()
	c, err := bindSet(context.Background(), testSet, m, g)
	if err != nil {
		t.Fatal(err)
	}
	return c, m
}

// placedNoNoteSchema is placedSchema with a note that is not nullable.
var placedNoNoteSchema = strings.Replace(placedSchema, `["null","string"],"default":null`, `"string"`, 1)

// oldPayload is an event as a program with placedOldSchema wrote it.
func oldPayload(t testing.TB) []byte {
	t.Helper()
	e := typical()
	lines := []any{}
	for _, l := range e.Lines {
		lines = append(lines, map[string]any{"sku": l.SKU, "name": l.Name, "quantity": l.Quantity, "amount": l.Amount})
	}
	b, err := oracle.MustParse(placedOldSchema).Encode(map[string]any{"order_id": e.OrderID, "customer_id": e.CustomerID, "currency": e.Currency,
		"ordered_at": e.OrderedAt, "note": *e.Note, "lines": lines, "legacy": map[string]any{"x": 1.5}, "units": int32(e.Units), "total": e.Total})
	if err != nil {
		t.Fatal(err)
	}
	return b
}
