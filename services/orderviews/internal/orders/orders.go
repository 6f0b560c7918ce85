// Package orders is the view of orders by id.
package orders

import (
	"time"

	"github.com/millrace/millrace/platform/es"
	ordersv1 "github.com/millrace/millrace/schemas/orders/v1"
)

// An Order is one row; amounts are minor units of its currency.
type Order struct {
	OrderID    string    `json:"order_id"`
	CustomerID string    `json:"customer_id"`
	Status     string    `json:"status"` // placed, confirmed, cancelled
	Currency   string    `json:"currency"`
	OrderedAt  time.Time `json:"ordered_at"`
	Lines      []Line    `json:"lines"`
	Units      int64     `json:"units"`
	Total      int64     `json:"total"`
	Reason     string    `json:"reason,omitempty"` // why it was cancelled
}

// A Line is one line of an order.
type Line struct {
	SKU      string `json:"sku"`
	Quantity int64  `json:"quantity"`
	Amount   int64  `json:"amount"`
}

var (
	customer = es.Text(func(o Order) string { return o.CustomerID })
	ordered  = es.Time(func(o Order) time.Time { return o.OrderedAt })
)

// View folds the events of an order into its row.
var View = es.View[Order, ordersv1.Event]{
	Name:    "orders",
	Version: 2,
	Key:     func(e es.Envelope[ordersv1.Event]) (string, bool) { return string(e.Stream), true },
	Apply:   apply,
	Stream:  es.SameStream,
	Indexes: map[string]es.Index[Order]{
		"customer": es.By(customer, es.Descending(ordered)), // the newest first
		"status":   es.By(es.Text(func(o Order) string { return o.Status })),
		"total":    es.By(es.Text(func(o Order) string { return o.Currency }), es.Number(func(o Order) int64 { return o.Total })),
	},
}

func apply(o Order, env es.Envelope[ordersv1.Event]) Order {
	switch e := env.Event.(type) {
	case ordersv1.OrderPlaced:
		o = Order{
			OrderID: e.OrderID, CustomerID: e.CustomerID, Status: "placed", Currency: e.Currency, OrderedAt: e.OrderedAt,
			Lines: make([]Line, len(e.Lines)), Units: e.Units, Total: e.Total,
		}
		for i, l := range e.Lines {
			o.Lines[i] = Line(l)
		}
	case ordersv1.OrderLineAdded:
		o.Lines = append(o.Lines, Line{SKU: e.SKU, Quantity: e.Quantity, Amount: e.Amount})
		o.Units, o.Total = e.Units, e.Total
	case ordersv1.OrderConfirmed:
		o.Status = "confirmed"
	case ordersv1.OrderCancelled:
		o.Status, o.Reason = "cancelled", e.Reason
	}
	return o
}
