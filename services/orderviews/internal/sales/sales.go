// Package sales is the view of what was sold on each day.
package sales

import (
	"time"

	"github.com/millrace/millrace/platform/es"
	ordersv1 "github.com/millrace/millrace/schemas/orders/v1"
)

// A Day is one row: the orders of one UTC day that are not cancelled.
type Day struct {
	Day     string           `json:"day"` // yyyy-mm-dd, also the row's key
	Orders  int64            `json:"orders"`
	Units   int64            `json:"units"`
	Revenue map[string]int64 `json:"revenue"` // minor units by currency
}

// View folds the events of all orders into a row per day.
var View = es.View[Day, ordersv1.Event]{Name: "sales", Version: 1, Key: key, Apply: apply}

func day(t time.Time) string { return t.UTC().Format(time.DateOnly) }

func key(env es.Envelope[ordersv1.Event]) (string, bool) {
	switch e := env.Event.(type) {
	case ordersv1.OrderPlaced:
		return day(e.OrderedAt), true
	case ordersv1.OrderLineAdded:
		return day(e.OrderedAt), true
	case ordersv1.OrderCancelled:
		return day(e.OrderedAt), true
	case ordersv1.OrderConfirmed:
		return "", false
	}
	return "", false
}

func apply(d Day, env es.Envelope[ordersv1.Event]) Day {
	switch e := env.Event.(type) {
	case ordersv1.OrderPlaced:
		d.Day = day(e.OrderedAt)
		d.Orders++
		d.sell(e.Units, e.Currency, e.Total)
	case ordersv1.OrderLineAdded:
		d.sell(e.Quantity, e.Currency, e.Amount)
	case ordersv1.OrderCancelled:
		d.Orders--
		d.sell(-e.Units, e.Currency, -e.Total)
	case ordersv1.OrderConfirmed:
	}
	return d
}

func (d *Day) sell(units int64, currency string, amount int64) {
	d.Units += units
	if d.Revenue == nil {
		d.Revenue = make(map[string]int64)
	}
	d.Revenue[currency] += amount
}
