// Package orders is the command service of the shop's orders.
package orders

import (
	"github.com/millrace/millrace/platform/service"
	ordersv1 "github.com/millrace/millrace/schemas/orders/v1"
	"github.com/millrace/millrace/services/orders/internal/order"
)

// Service accepts the commands place, add-line, confirm and cancel under /v1/orders/{id}/ and appends to ordersv1.Topic.
func Service() service.Role {
	return service.Aggregate[order.State, order.Command, ordersv1.Event]{
		Name:     "orders",
		Decider:  order.Decider,
		Contract: ordersv1.Contract,
		Commands: []order.Command{order.Place{}, order.AddLine{}, order.Confirm{}, order.Cancel{}},
	}
}
