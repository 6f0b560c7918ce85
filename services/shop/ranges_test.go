package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestRangesKafka divides the view of orders among three processes, two copies of each range, and kills one of them with kill -9, on a real Kafka if
// there is one: the others go on answering everything, and what was killed comes back with what it had.
func TestRangesKafka(t *testing.T) {
	f := newFleet(t)
	f.add(t.TempDir())
	prefix := fmt.Sprintf("r-%d-", time.Now().UnixNano()) // a real Kafka may have other orders
	var want []string
	place := func(n int) {
		t.Helper()
		for range n {
			id := fmt.Sprintf("%s%05d", prefix, len(want))
			if _, err := f.send(id, "place", id, `{"customer_id":"c-1","currency":"USD","lines":[{"sku":"a","quantity":1,"amount":100}]}`); err != nil {
				t.Fatal(err)
			}
			want = append(want, id)
		}
	}
	place(100)
	views := func(dir string) *process {
		t.Helper()
		return start(t, "serve", "order-views", "--kafka-brokers", f.kafka, "--registry-url", f.registry.at.Registry, "--http-addr", "127.0.0.1:0", "--admin-addr", "127.0.0.1:0",
			"--data-dir", dir, "--view-ranges", "6", "--view-copies", "2")
	}
	dirs := []string{t.TempDir(), t.TempDir(), t.TempDir()}
	var all []*process
	for _, dir := range dirs {
		all = append(all, views(dir))
	}
	// A page after the other, as any client that comes back when it is told to.
	ids := func(p *process) (got []string) {
		t.Helper()
		at := positionOfAll(t, f.any().at.HTTP)
		cursor := ""
		for late := time.Now().Add(time.Minute); ; {
			status, header, body := p.ask("GET", "/v1/views/orders?prefix="+prefix+"&limit=30&cursor="+cursor, "", "Millrace-At-Least: "+at)
			if status == http.StatusServiceUnavailable && header.Get("Retry-After") != "" && time.Now().Before(late) {
				<-time.After(20 * time.Millisecond)
				continue
			}
			var page struct {
				Rows []struct {
					ID string `json:"order_id"`
				}
				Next string
			}
			if err := json.Unmarshal([]byte(body), &page); err != nil || status != http.StatusOK {
				t.Fatalf("%d %s\n%s", status, body, p.output)
			}
			for _, row := range page.Rows {
				got = append(got, row.ID)
			}
			if cursor = page.Next; cursor == "" {
				return got
			}
		}
	}
	check := func(when string, ps ...*process) {
		t.Helper()
		for i, p := range ps {
			if got := ids(p); !slices.Equal(got, want) {
				t.Errorf("%s, instance %d: %d orders of %d, or in another order", when, i, len(got), len(want))
			}
			if status, _, body := p.ask("GET", "/v1/views/sales/"+time.Now().UTC().Format("2006-01-02"), ""); status >= 500 {
				t.Errorf("a view that is not divided: %d %s", status, body)
			}
		}
	}
	check("three", all...)
	settled := func(ps ...*process) func() bool {
		return func() bool {
			for _, p := range ps {
				resp, err := clients.Get(p.at.Admin + "/v1/views/orders/ranges")
				if err != nil {
					t.Fatal(err)
				}
				var got struct {
					Ranges []struct{ Ready, Wanted []string }
				}
				err = errors.Join(json.NewDecoder(resp.Body).Decode(&got), resp.Body.Close())
				if err != nil {
					t.Fatal(err)
				}
				for _, r := range got.Ranges {
					if len(r.Ready) != 2 || len(r.Wanted) != 2 || !slices.Equal(slices.Sorted(slices.Values(r.Ready)), slices.Sorted(slices.Values(r.Wanted))) {
						return false
					}
				}
			}
			return true
		}
	}
	all[0].until("sure who has which range", settled(all...))
	// What is given up goes from the disk a little later than from who is asked.
	all[0].until("twelve copies on disk, four at each instance", func() bool {
		return !slices.ContainsFunc(dirs, func(dir string) bool {
			held, err := os.ReadDir(dir + "/order-views/ranges/6")
			return err != nil || len(held) != 4
		})
	})
	all[2].kill()
	for range 5 {
		place(10)
		check("one is killed", all[:2]...)
	}
	for i, id := range want {
		if status, _, body := all[i%2].ask("GET", "/v1/views/orders/"+id, ""); status != http.StatusOK || !strings.Contains(body, id) {
			t.Errorf("%s: %d %s", id, status, body)
		}
	}
	all[2] = views(dirs[2])
	place(10)
	check("it is back", all...)
	all[0].until("as it was", settled(all...))
	check("all is as it was", all...)
}
