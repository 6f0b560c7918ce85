package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/millrace/millrace/platform/contract"
	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/eventlog"
	"github.com/millrace/millrace/platform/registry"
	ordersv1 "github.com/millrace/millrace/schemas/orders/v1"
)

// The history that the projector reads: of every ten events six place an order, one adds a line to it, two confirm orders and one
// cancels one, each some thousand orders after it was placed; 20,000 customers, 500 days.
const (
	historyCustomers = 20_000
	historyDays      = 500
	historyLater     = 1_000 // orders
)

// A sum is what the views must show in the end.
type sum struct{ orders, units, revenue int64 }

// A history makes events one after the other, without keeping them.
type history struct {
	events int
	begin  time.Time
	sum    sum
	made   int
	placed int
}

// next returns the next event with its stream and version.
func (h *history) next() (es.StreamID, es.Version, ordersv1.Event) {
	kind := h.made % 10
	h.made++
	if h.placed < 3*historyLater {
		kind = 0 // nothing is old enough to be changed
	}
	// Each kind takes other orders, so that no order is both confirmed and cancelled: those placed at places 1, 2, 3 and 4 of six.
	later := func(place int) int {
		n := h.placed - historyLater
		return n - (n-place+6)%6
	}
	switch kind {
	case 6:
		o := later(1)
		h.sum.units++
		h.sum.revenue += 1299
		return h.id(o), 2, ordersv1.OrderLineAdded{OrderID: string(h.id(o)), CustomerID: h.customer(o), Currency: "USD", OrderedAt: h.at(o),
			SKU: "poster", Quantity: 1, Amount: 1299, Units: 4, Total: 4483 + 1299}
	case 7, 8:
		o := later(kind - 5)
		return h.id(o), 2, ordersv1.OrderConfirmed{OrderID: string(h.id(o)), CustomerID: h.customer(o), OrderedAt: h.at(o)}
	case 9:
		o := later(4)
		h.sum.orders--
		h.sum.units -= 3
		h.sum.revenue -= 4483
		return h.id(o), 2, ordersv1.OrderCancelled{OrderID: string(h.id(o)), CustomerID: h.customer(o), Currency: "USD", OrderedAt: h.at(o),
			Units: 3, Total: 4483, Reason: "changed my mind"}
	}
	o := h.placed
	h.placed++
	h.sum.orders++
	h.sum.units += 3
	h.sum.revenue += 4483
	return h.id(o), 1, ordersv1.OrderPlaced{OrderID: string(h.id(o)), CustomerID: h.customer(o), Currency: "USD", OrderedAt: h.at(o),
		Lines: []ordersv1.OrderLine{{SKU: "cd", Quantity: 2, Amount: 2933}, {SKU: "book-" + strconv.Itoa(o%100), Quantity: 1, Amount: 1550}}, Units: 3, Total: 4483}
}

func (h *history) id(order int) es.StreamID { return es.StreamID(fmt.Sprintf("o-%07d", order)) }

// customer spreads the orders over the customers without any order to it.
func (h *history) customer(order int) string {
	return fmt.Sprintf("c-%05d", uint64(order)*0x9e3779b97f4a7c15>>32%historyCustomers)
}

func (h *history) at(order int) time.Time {
	return h.begin.AddDate(0, 0, order*historyDays/h.events).Add(time.Duration(order%86_400) * time.Second)
}

// writeHistory appends so many events to the topic of orders, as their owner would, and returns what they add up to.
func writeHistory(ctx context.Context, kafka, registryURL string, events int) (sum, error) {
	h := &history{events: events, begin: time.Date(1997, 1, 1, 0, 0, 0, 0, time.UTC)}
	err := writeEvents(ctx, kafka, registryURL, events, h.begin, h.next)
	return h.sum, err
}

// writeEvents appends so many events to the topic of orders, as their owner would, each as a command of its own, a millisecond after the
// one before.
func writeEvents(ctx context.Context, kafka, registryURL string, events int, begin time.Time, next func() (es.StreamID, es.Version, ordersv1.Event)) error {
	a, err := openAppender(ctx, kafka, registryURL, begin, next)
	if err != nil {
		return err
	}
	defer a.close()
	return a.append(ctx, events)
}

// An appender appends events to the topic of orders, as their owner.
type appender struct {
	log     *eventlog.Client
	binding *eventlog.Events[ordersv1.Event]
	parts   []writer
	begin   time.Time
	next    func() (es.StreamID, es.Version, ordersv1.Event)
	made    int
}

func openAppender(ctx context.Context, kafka, registryURL string, begin time.Time, next func() (es.StreamID, es.Version, ordersv1.Event)) (a *appender, err error) {
	log, err := eventlog.Open(ctx, eventlog.Config{Brokers: []string{kafka}, Env: "dev", ClientID: "bench"})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			log.Close()
		}
	}()
	contracts, err := registry.Dial(registry.ClientConfig{URLs: []string{registryURL}})
	if err != nil {
		return nil, err
	}
	topic, err := log.EnsureTopic(ctx, eventlog.TopicSpec{Name: ordersv1.Topic})
	if err != nil {
		return nil, err
	}
	codec, err := contract.Bind(ctx, ordersv1.Contract, contracts)
	if err != nil {
		return nil, err
	}
	marks, err := eventlog.AvroMarks(ctx, topic.Name, contracts)
	if err != nil {
		return nil, err
	}
	a = &appender{log: log, binding: eventlog.NewEvents(codec, "/shop/orders"), begin: begin, next: next}
	a.parts, err = claimAll(ctx, log, topic, marks)
	return a, err
}

// append appends so many events, and returns when all are acknowledged.
func (a *appender) append(ctx context.Context, events int) error {
	for range events {
		stream, version, event := a.next()
		id := "b-" + strconv.Itoa(a.made)
		env := es.Envelope[ordersv1.Event]{Stream: stream, Version: version, Count: 1, Event: event, Meta: es.Meta{
			CommandID: id, CommandHash: "0123456789abcdef0123456789abcdef", CorrelationID: id, Time: a.begin.Add(time.Duration(a.made) * time.Millisecond)}}
		a.made++
		w := &a.parts[eventlog.PartitionOf(stream, int32(len(a.parts)))] //nolint:gosec // few partitions
		if err := w.put(ctx, func(b *eventlog.Batch) error { return a.binding.Add(b, env) }); err != nil {
			return err
		}
	}
	for n := range a.parts {
		if err := a.parts[n].send(ctx); err != nil {
			return err
		}
	}
	for n := range a.parts {
		if err := a.parts[n].wait(ctx); err != nil {
			return err
		}
	}
	return nil
}

// flow appends so many events a second, evenly, until ctx ends; then it returns nil.
func (a *appender) flow(ctx context.Context, rate int) error {
	const step = 10 * time.Millisecond
	tick := time.NewTicker(step)
	defer tick.Stop()
	began, done := time.Now(), 0
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		due := int(time.Since(began).Seconds() * float64(rate))
		if err := a.append(context.WithoutCancel(ctx), due-done); err != nil {
			return err
		}
		done = due
	}
}

// close gives up the partitions.
func (a *appender) close() { a.log.Close() }

// A writer appends to one partition; while one batch is under way the other fills.
type writer struct {
	owner        *eventlog.Owner
	batch, spare *eventlog.Batch
	flying       bool
	done         chan error
}

func (w *writer) send(ctx context.Context) error {
	if err := w.wait(ctx); err != nil || w.batch.Len() == 0 {
		return err
	}
	w.batch, w.spare = w.spare, w.batch
	w.batch.Reset()
	w.flying = true
	w.owner.Append(w.spare, func(_ int64, err error) { w.done <- err })
	return nil
}

// wait waits until nothing is under way.
func (w *writer) wait(ctx context.Context) error {
	if !w.flying {
		return nil
	}
	w.flying = false
	select {
	case err := <-w.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}
