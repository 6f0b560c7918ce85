package filter_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/millrace/millrace/platform/fault"
	"github.com/millrace/millrace/platform/filter"
)

// FuzzCompile: no text makes the compiler or the filter panic, and whatever is refused is refused with a code and a way out.
func FuzzCompile(f *testing.F) {
	for _, s := range []string{`true`, `total > 1.0 && status in ["a", "b"]`, `items.exists(i, i.sku.matches("(a+)+b") && i.qty / count > 1)`, `labels["x"] == 1 || floors[-1] == "a"`, "row.`dashed-name` == 4",
		`at + duration("1h") > timestamp("2026-01-31T12:00:00Z")`, `has(row.customer.home)`, `{"a": [1, 2.0, b"x", r"\"]}.a[0] == next`, `string(row) == ""`, `items.map(i, i.tags).all(t, size(t) > extra.a)`,
		`totl`, `((((`, `"\u{110000}"`, `type(row) == type(next)`, `dyn(hash) == dyn(discount)`, `google.protobuf.Timestamp{seconds: 1} > at`, `row == next.next.next`} {
		f.Add(s)
	}
	l, err := filter.NewLanguage(orderType)
	if err != nil {
		f.Fatal(err)
	}
	rows := [][]byte{[]byte(`{}`)}
	if row, err := json.Marshal(full); err != nil {
		f.Fatal(err)
	} else {
		rows = append(rows, row)
	}
	f.Fuzz(func(t *testing.T, text string) {
		compiled, err := l.Compile(text)
		if err != nil {
			if e := fault.From(err); e == nil || e.Kind != fault.Invalid || e.Fix == "" || e.Code != "invalid_filter" && e.Code != "filter_too_costly" {
				t.Fatalf("%q: %s", text, fault.Lines(err))
			}
			return
		}
		for _, row := range rows {
			first, err := compiled.Matches(row)
			if err != nil && fault.KindOf(err) != fault.Invalid {
				t.Fatalf("%q of %s: %v", text, row, err)
			}
			if again, other := compiled.Matches(row); again != first || (err == nil) != (other == nil) {
				t.Fatalf("%q of %s: %v, %v and then %v, %v", text, row, first, err, again, other)
			}
		}
	})
}

// FuzzMatches: no bytes make a filter panic, what is JSON to encoding/json is to the filter, and the values are the same.
func FuzzMatches(f *testing.F) {
	f.Add(`{"id":"a","total":1e3,"count":-0,"items":[{"sku":"\u0041\n","qty":1},null],"labels":{"a":1},"at":"2026-01-31T12:00:00Z"}`, "a", 1.5, int64(3))
	f.Add(`{"id":"\ud800","id":null,"big":"1","hash":"AQI=","customer":{"home":{"zip":0.5}}}`, "\\\xff\"<", math.MaxFloat64, int64(math.MinInt64))
	f.Add(`[1,{"a":tru}]`, "\u2028", math.Copysign(0, -1), int64(1<<53+1))
	f.Add("{\"a\": 01}", "é\x00", 1e-300, int64(-1))
	f.Add(" { } \x00", "", 0.0, int64(0))
	var all []*filter.Filter
	for _, text := range []string{`true`, `id == "a" && total > 1.0 || count == 3`, `items.exists(i, i.sku == id || i.qty > 2)`, `"a" in labels && -1 in floors`, `row == next`, `extra == raw`, `hash == b"a" || big == 1 || at < timestamp("2026-01-31T12:00:00Z")`,
		`customer.home.City == City || has(row.customer.home.zip)`, `string(row.shade) == "dark"`} {
		compiled, err := filter.Compile(orderType, text)
		if err != nil {
			f.Fatal(err)
		}
		all = append(all, compiled)
	}
	l, err := filter.NewLanguage(orderType)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, row, text string, total float64, count int64) {
		for i, compiled := range all {
			_, err := compiled.Matches([]byte(row))
			valid := json.Valid([]byte(row)) && strings.HasPrefix(strings.TrimLeft(row, " \t\r\n"), "{")
			if i == 0 && valid != (err == nil) && strings.Count(row, "[")+strings.Count(row, "{") < 1000 && strings.TrimSpace(row) != "null" {
				t.Fatalf("%q: valid %v, %v", row, valid, err)
			}
			if err != nil && !errors.Is(err, filter.ErrRow) && !errors.Is(err, filter.ErrInvalid) && !errors.Is(err, filter.ErrTooCostly) {
				t.Fatalf("%q: %v", row, err)
			}
		}
		if math.IsNaN(total) || math.IsInf(total, 0) || !utf8.ValidString(text) {
			return
		}
		if text = text[:min(len(text), 300)]; !utf8.ValidString(text) {
			return
		}
		o := order{ID: text, Total: total, Count: int(count), Customer: &customer{Name: text}, Items: []item{{Tags: []string{text}}}, Labels: map[string]int{text: 1},
			Corner: [2]int{0, int(count)}}
		written, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		q := strconv.QuoteToASCII(text)
		same, err := l.Compile(fmt.Sprintf(`id == %[1]s && total == %[2]s && count == %[3]d && corner[1] == %[3]d && customer.name == %[1]s && items[0].tags[0] == %[1]s && labels[%[1]s] == 1`,
			q, strconv.FormatFloat(total, 'e', -1, 64), count))
		if err != nil {
			t.Fatal(fault.Lines(err))
		}
		if got, err := same.Matches(written); err != nil || !got {
			t.Fatalf("%s of %s: %v, %v", same, written, got, err)
		}
	})
}
