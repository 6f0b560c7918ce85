package sales

import (
	"testing"

	"github.com/millrace/millrace/platform/estest"
	ordersv1 "github.com/millrace/millrace/schemas/orders/v1"
	"github.com/millrace/millrace/services/orderviews/internal/history"
)

func TestView(t *testing.T) {
	var events []estest.On[ordersv1.Event]
	for _, e := range history.Events() {
		events = append(events, estest.On[ordersv1.Event](e))
	}
	estest.View(t, View, "testdata/sales.golden", events)
}
