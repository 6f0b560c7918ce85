// Package orderviews is the projector of the shop's orders: it serves the views orders, customers and sales.
package orderviews

import (
	"github.com/millrace/millrace/platform/service"
	ordersv1 "github.com/millrace/millrace/schemas/orders/v1"
	"github.com/millrace/millrace/services/orderviews/internal/customers"
	"github.com/millrace/millrace/services/orderviews/internal/orders"
	"github.com/millrace/millrace/services/orderviews/internal/sales"
)

// Service keeps the views up to date and answers queries under /v1/views/.
func Service() service.Role {
	return service.Projector{
		Name: "order-views",
		Views: []service.View{
			service.ViewOf(ordersv1.Contract, orders.View),
			service.ViewOf(ordersv1.Contract, customers.View),
			service.ViewOf(ordersv1.Contract, sales.View),
		},
	}
}
