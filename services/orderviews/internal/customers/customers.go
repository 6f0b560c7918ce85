// Package customers is the view of what each customer ordered.
package customers

import (
	"time"

	"github.com/millrace/millrace/platform/es"
	ordersv1 "github.com/millrace/millrace/schemas/orders/v1"
)

// A Customer is one row.
type Customer struct {
	CustomerID string           `json:"customer_id"`
	Orders     int64            `json:"orders"`      // placed, also those cancelled later
	Cancelled  int64            `json:"cancelled"`   // of them
	Spent      map[string]int64 `json:"spent"`       // minor units by currency, without cancelled orders
	FirstOrder time.Time        `json:"first_order"` // the earliest and the latest time of an order, whatever became of it
	LastOrder  time.Time        `json:"last_order"`
}

// View folds the events of all orders into a row per customer.
var View = es.View[Customer, ordersv1.Event]{Name: "customers", Version: 1, Key: key, Apply: apply}

func key(env es.Envelope[ordersv1.Event]) (string, bool) {
	switch e := env.Event.(type) {
	case ordersv1.OrderPlaced:
		return e.CustomerID, true
	case ordersv1.OrderLineAdded:
		return e.CustomerID, true
	case ordersv1.OrderCancelled:
		return e.CustomerID, true
	case ordersv1.OrderConfirmed:
		return "", false
	}
	return "", false
}

func apply(c Customer, env es.Envelope[ordersv1.Event]) Customer {
	switch e := env.Event.(type) {
	case ordersv1.OrderPlaced:
		c.CustomerID = e.CustomerID
		c.Orders++
		c.spend(e.Currency, e.Total)
		if c.FirstOrder.IsZero() || e.OrderedAt.Before(c.FirstOrder) {
			c.FirstOrder = e.OrderedAt
		}
		if e.OrderedAt.After(c.LastOrder) {
			c.LastOrder = e.OrderedAt
		}
	case ordersv1.OrderLineAdded:
		c.spend(e.Currency, e.Amount)
	case ordersv1.OrderCancelled:
		c.Cancelled++
		c.spend(e.Currency, -e.Total)
	case ordersv1.OrderConfirmed:
	}
	return c
}

func (c *Customer) spend(currency string, amount int64) {
	if c.Spent == nil {
		c.Spent = make(map[string]int64)
	}
	c.Spent[currency] += amount
}
