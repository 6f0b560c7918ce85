package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/millrace/millrace/platform/es"
	ordersv1 "github.com/millrace/millrace/schemas/orders/v1"
)

// streams measures what the role orders, with its default settings, holds in memory of many streams: after it has built its store from the
// log, after commands on more streams than it keeps in memory, and after a restart.
func (p *plan) streams(ctx context.Context) ([]row, error) {
	const each = 10
	count := p.times(1_000_000, 50_000)
	ready1 := row{what: "role orders, 1,000,000 streams of 10 events each: store built from the log", show: perSecond("events")}
	after := row{what: "– resident memory after commands on 200,000 of them", reach: "< 1 GiB", reached: below(1024), show: megabytes}
	anon := row{what: "– of that, without the mapped files of the store, which the kernel takes back when it needs room", show: megabytes}
	peak := row{what: "– at its highest until then", show: megabytes}
	again := row{what: "– after a restart, at rest", show: megabytes}
	random := row{what: "– and after 100,000 reads and commands all over the million", reach: "< 1 GiB", reached: below(1024), show: megabytes}
	randomAnon := row{what: "– of that, without the mapped files", show: megabytes}
	err := p.onKafka(ctx, func(kafka string) (err error) {
		registry, err := p.registry(ctx, kafka)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, registry.stop()) }()
		if err := writeStreams(ctx, kafka, "http://"+registry.addr("registry"), count, each); err != nil {
			return err
		}
		dir := filepath.Join(p.dir, "streams")
		for range 1 { // it takes minutes, and memory varies little
			err := func() error {
				d, err := ready(ctx, p.serve(ctx, dir, kafka, registry, "orders"))
				if err != nil {
					return err
				}
				ready1.values = append(ready1.values, float64(count*each)/d.took.Seconds())
				if _, err := orders(ctx, d.addr("http"), "m-", 16, count/5, 0); err != nil {
					return errors.Join(err, d.stop())
				}
				now, err1 := p.resting(ctx, d, "VmRSS")
				own, err2 := d.resident("RssAnon")
				most, err3 := d.resident("VmHWM")
				if err := errors.Join(err1, err2, err3, d.stop()); err != nil {
					return err
				}
				after.values, anon.values, peak.values = append(after.values, now), append(anon.values, own), append(peak.values, most)
				if d, err = ready(ctx, p.serve(ctx, dir, kafka, registry, "orders")); err != nil {
					return err
				}
				now, err = p.resting(ctx, d, "VmRSS")
				again.values = append(again.values, now)
				if err != nil {
					return errors.Join(err, d.stop())
				}
				_, err1 = drive(ctx, d.addr("http"), 16, p.times(100_000, 10_000), 0, func(c *conn, n int64) error {
					c.id = strconv.AppendUint(append(c.id[:0], "m-"...), 1+uint64(n)*0x9e3779b97f4a7c15>>20%uint64(count), 10)
					if n%2 == 0 {
						return c.get("/v1/orders/"+string(c.id), "")
					}
					_, err := c.post(c.id, orderBody)
					return err
				})
				now, err2 = p.resting(ctx, d, "VmRSS")
				own, err3 = d.resident("RssAnon")
				random.values, randomAnon.values = append(random.values, now), append(randomAnon.values, own)
				return errors.Join(err1, err2, err3, d.stop())
			}()
			if err := errors.Join(err, os.RemoveAll(dir)); err != nil {
				return err
			}
		}
		return nil
	})
	return []row{ready1, after, anon, peak, again, random, randomAnon}, err
}

// writeStreams appends orders m-1, m-2 … of so many events each: the order of the load generator, and lines that were added to it.
func writeStreams(ctx context.Context, kafka, registryURL string, count, each int) error {
	at := time.Date(1997, 1, 1, 0, 0, 0, 0, time.UTC)
	order, line := 1, 0
	return writeEvents(ctx, kafka, registryURL, count*each, at, func() (es.StreamID, es.Version, ordersv1.Event) {
		if line == each {
			order, line = order+1, 0
		}
		line++
		id := "m-" + strconv.Itoa(order)
		if line == 1 {
			return es.StreamID(id), 1, ordersv1.OrderPlaced{OrderID: id, CustomerID: "c-1", Currency: "USD", OrderedAt: at,
				Lines: []ordersv1.OrderLine{{SKU: "cd", Quantity: 2, Amount: 2933}}, Units: 2, Total: 2933}
		}
		n := int64(line)
		return es.StreamID(id), es.Version(line), ordersv1.OrderLineAdded{OrderID: id, CustomerID: "c-1", Currency: "USD", OrderedAt: at,
			SKU: "book-" + strconv.Itoa(line), Quantity: 1, Amount: 1550, Units: n + 1, Total: 2933 + 1550*(n-1)}
	})
}
