// Package history is the stream of events that the tests of all views fold: two customers, two currencies, a cancelled order.
package history

import (
	"time"

	"github.com/millrace/millrace/platform/es"
	ordersv1 "github.com/millrace/millrace/schemas/orders/v1"
)

// An On is one event of a stream, as in estest.On.
type On struct {
	Stream es.StreamID
	Event  ordersv1.Event
}

// Events returns the events in the order of the log.
func Events() []On {
	first := time.Date(2026, 1, 1, 23, 59, 59, 0, time.UTC)
	second := time.Date(2026, 1, 2, 0, 30, 0, 0, time.FixedZone("CET", 3600)) // still the first day in UTC
	third := time.Date(2026, 1, 3, 12, 0, 0, 0, time.UTC)
	placed := func(id, customer, currency string, at time.Time, lines ...ordersv1.OrderLine) On {
		e := ordersv1.OrderPlaced{OrderID: id, CustomerID: customer, Currency: currency, OrderedAt: at, Lines: lines}
		for _, l := range lines {
			e.Units, e.Total = e.Units+l.Quantity, e.Total+l.Amount
		}
		return On{es.StreamID(id), e}
	}
	line := func(sku string, quantity, amount int64) ordersv1.OrderLine {
		return ordersv1.OrderLine{SKU: sku, Quantity: quantity, Amount: amount}
	}
	return []On{
		placed("o-1", "c-1", "USD", first, line("cd", 2, 2933), line("lp", 1, 1999)),
		placed("o-2", "c-2", "EUR", second, line("cd", 1, 1466)),
		{"o-1", ordersv1.OrderLineAdded{OrderID: "o-1", CustomerID: "c-1", Currency: "USD", OrderedAt: first, SKU: "dvd", Quantity: 3, Amount: 900, Units: 6, Total: 5832}},
		placed("o-3", "c-1", "EUR", third, line("cd", 1, 1000)),
		{"o-1", ordersv1.OrderConfirmed{OrderID: "o-1", CustomerID: "c-1", OrderedAt: first}},
		{"o-3", ordersv1.OrderCancelled{OrderID: "o-3", CustomerID: "c-1", Currency: "EUR", OrderedAt: third, Units: 1, Total: 1000, Reason: "too slow"}},
		placed("o-4", "c-1", "USD", first, line("cd", 1, 0)),
	}
}
