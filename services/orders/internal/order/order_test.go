package order

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/estest"
	"github.com/millrace/millrace/platform/fault"
	ordersv1 "github.com/millrace/millrace/schemas/orders/v1"
)

var (
	noon    = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	earlier = time.Date(1997, 1, 1, 12, 0, 0, 0, time.UTC)
	place   = Place{CustomerID: "c-1", Currency: "USD", OrderedAt: &earlier, Lines: []Line{{"cd", 2, 2933}, {"lp", 1, 1000}}}
	placed  = ordersv1.OrderPlaced{
		OrderID: "o-1", CustomerID: "c-1", Currency: "USD", OrderedAt: earlier,
		Lines: []ordersv1.OrderLine{{SKU: "cd", Quantity: 2, Amount: 2933}, {SKU: "lp", Quantity: 1, Amount: 1000}}, Units: 3, Total: 3933,
	}
	added     = ordersv1.OrderLineAdded{OrderID: "o-1", CustomerID: "c-1", Currency: "USD", OrderedAt: earlier, SKU: "dvd", Quantity: 4, Amount: 50, Units: 7, Total: 3983}
	confirmed = ordersv1.OrderConfirmed{OrderID: "o-1", CustomerID: "c-1", OrderedAt: earlier}
	cancelled = ordersv1.OrderCancelled{OrderID: "o-1", CustomerID: "c-1", Currency: "USD", OrderedAt: earlier, Units: 3, Total: 3933, Reason: "changed my mind"}
)

func TestDecide(t *testing.T) {
	type events = []ordersv1.Event
	later := place
	later.OrderedAt = nil
	placedNow := placed
	placedNow.OrderedAt = noon
	other := place
	other.CustomerID = "c-2"
	estest.Decide(t, Decider, es.Meta{Stream: "o-1", Time: noon}, []estest.Case[Command, ordersv1.Event]{
		{Name: "place", When: place, Then: events{placed}},
		{Name: "place now", When: later, Then: events{placedNow}},
		{Name: "place again", Given: events{placed}, When: place},
		{Name: "place again without a time", Given: events{placed}, When: later},
		{Name: "place again after a line was added", Given: events{placed, added}, When: place},
		{Name: "place again after it was cancelled", Given: events{placed, cancelled}, When: place},
		{Name: "place another under the same id", Given: events{placed}, When: other, Err: ErrExists},
		{Name: "add a line", Given: events{placed}, When: AddLine{"dvd", 4, 50}, Then: events{added}, Repeats: true},
		{Name: "add a line to nothing", When: AddLine{"dvd", 4, 50}, Err: ErrNotFound},
		{Name: "add a line to a confirmed order", Given: events{placed, confirmed}, When: AddLine{"dvd", 4, 50}, Err: ErrConfirmed},
		{Name: "add a line to a cancelled order", Given: events{placed, cancelled}, When: AddLine{"dvd", 4, 50}, Err: ErrCancelled},
		{Name: "add a line of nothing", Given: events{placed}, When: AddLine{"dvd", 0, 50}, Err: ErrInvalid},
		{Name: "add more than fits", Given: events{placed}, When: AddLine{"dvd", 1, math.MaxInt64}, Err: ErrInvalid},
		{Name: "confirm", Given: events{placed}, When: Confirm{}, Then: events{confirmed}},
		{Name: "confirm again", Given: events{placed, confirmed}, When: Confirm{}},
		{Name: "confirm nothing", When: Confirm{}, Err: ErrNotFound},
		{Name: "confirm a cancelled order", Given: events{placed, cancelled}, When: Confirm{}, Err: ErrCancelled},
		{Name: "cancel", Given: events{placed}, When: Cancel{"changed my mind"}, Then: events{cancelled}},
		{Name: "cancel again", Given: events{placed, cancelled}, When: Cancel{}},
		{Name: "cancel nothing", When: Cancel{}, Err: ErrNotFound},
		{Name: "cancel for too long a reason", Given: events{placed}, When: Cancel{strings.Repeat("x", 501)}, Err: ErrInvalid},
		{Name: "cancel with an added line", Given: events{placed, added}, When: Cancel{}, Then: events{ordersv1.OrderCancelled{
			OrderID: "o-1", CustomerID: "c-1", Currency: "USD", OrderedAt: earlier, Units: 7, Total: 3983,
		}}},
	})
}

// TestPlaceNamesEverythingWrong: a refusal lists all faulty places at once, with their pointers.
func TestPlaceNamesEverythingWrong(t *testing.T) {
	year0 := time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC)
	year10000 := time.Date(9999, 12, 31, 23, 30, 0, 0, time.FixedZone("", -3600))
	for _, tc := range []struct {
		name  string
		place Place
		want  []string
	}{
		{"nothing at all", Place{}, []string{"/customer_id", "/currency", "/lines"}},
		{"bad lines", Place{CustomerID: "c-1", Currency: "usd", OrderedAt: &year0, Lines: []Line{{"", 0, -1}, {strings.Repeat("x", 65), MaxQuantity + 1, 0}, {"a/b", 1, 1}}},
			[]string{"/currency", "/ordered_at", "/lines/0/sku", "/lines/0/quantity", "/lines/0/amount", "/lines/1/sku", "/lines/1/quantity", "/lines/2/sku"}},
		{"too many lines", Place{CustomerID: "c-1", Currency: "USD", Lines: make([]Line, MaxLines+1)}, nil},
		{"a total beyond the bound", Place{CustomerID: "c-1", Currency: "USD", Lines: []Line{{"cd", 1, MaxTotal}, {"cd", 1, 1}}}, []string{"/lines/1/amount"}},
		{"a total beyond 64 bits", Place{CustomerID: "c-1", Currency: "USD", Lines: []Line{{"cd", 1, math.MaxInt64}, {"cd", 1, 1}}}, []string{"/lines/0/amount"}},
		{"a year that is another one in UTC", Place{CustomerID: "c-1", Currency: "USD", OrderedAt: &year10000, Lines: []Line{{"cd", 1, 1}}}, []string{"/ordered_at"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := Decider.Decide(State{}, tc.place, es.Meta{Stream: "o-1", Time: noon})
			if !errors.Is(err, ErrInvalid) {
				t.Fatalf("got %v, want ErrInvalid", err)
			}
			var got []string
			for _, f := range fault.From(err).Fields {
				got = append(got, f.Pointer)
			}
			if tc.want == nil {
				if got[0] != "/lines" {
					t.Errorf("first pointer %q, want /lines", got[0])
				}
				return
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("pointers (-want +got):\n%s", diff)
			}
		})
	}
}
