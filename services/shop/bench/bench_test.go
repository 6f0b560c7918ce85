package main

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	ordersv1 "github.com/millrace/millrace/schemas/orders/v1"
)

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   float64
	}{{nil, 0}, {[]float64{3}, 3}, {[]float64{9, 1, 5}, 5}, {[]float64{4, 1, 2, 3}, 2.5}} {
		if got := median(c.values); got != c.want {
			t.Errorf("median of %v is %v, want %v", c.values, got, c.want)
		}
	}
}

func TestParseBenchmarks(t *testing.T) {
	got := map[string][]float64{}
	parseBenchmarks("goos: linux\nBenchmarkEngine/kgo/callers=512-2 \t  500000\t 8123 ns/op\t 123108 commands/s\t 4.1 p50-ms\nPASS\n", got)
	if v := got["BenchmarkEngine/kgo/callers=512 commands/s"]; len(v) != 1 || v[0] != 123108 {
		t.Errorf("got %v", got)
	}
}

func TestExactly(t *testing.T) {
	if got, want := exactly("BenchmarkAppend/real/fenced/partitions=1/callers=1"), "^BenchmarkAppend$/^real$/^fenced$/^partitions=1$/^callers=1$"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestPostgresVersion(t *testing.T) {
	for path, want := range map[string]int{"15/bin/initdb": 15, "9.6/bin/initdb": 0, "": 0} {
		if got := version(path); got != want {
			t.Errorf("version of %q is %d, want %d", path, got, want)
		}
	}
}

func TestBetween(t *testing.T) {
	got, err := between("a\n"+beginMark+"old\n"+endMark+"z\n", "new\n")
	if want := "a\n" + beginMark + "new\n" + endMark + "z\n"; err != nil || got != want {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
	for _, bad := range []string{"", beginMark, endMark + beginMark} {
		if _, err := between(bad, "x"); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func TestTable(t *testing.T) {
	got := table([]row{{what: "a", reach: "≥ 10/s", reached: atLeast(10), show: perSecond("x"), values: []float64{1234567, 8, 999}}, {what: "b", show: ratio, values: []float64{2}}})
	if want := "| a | ≥ 10/s | 999 x/s | 8 x/s – 1,234,567 x/s | reached |\n| b |  | 2.00 × | 2.00 × – 2.00 ×"; !strings.Contains(got, want) {
		t.Errorf("got\n%s\nwant a part\n%s", got, want)
	}
}

func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	release, err := acquire(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := acquire(path); !errors.Is(err, errBusy) {
		t.Errorf("the second one got %v, want errBusy", err)
	}
	release()
	if release, err = acquire(path); err != nil {
		t.Errorf("after the release: %v", err)
	} else {
		release()
	}
}

// TestOrders drives a server that refuses one of the orders.
func TestOrders(t *testing.T) {
	var seen atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen.Add(1)
		if strings.HasSuffix(r.URL.Path, "/bad-7/place") {
			w.WriteHeader(http.StatusConflict)
			return
		}
		w.Header().Set("Millrace-Position", "orders.events/0@1")
		_, _ = w.Write([]byte("{}"))
	}))
	defer s.Close()
	addr := strings.TrimPrefix(s.URL, "http://")
	l, err := orders(t.Context(), addr, "good-", 4, 100, 0)
	if err != nil || l.requests != 100 || seen.Load() != 100 || !slices.IsSorted(l.sorted) {
		t.Errorf("got %d requests, the server %d, %v", l.requests, seen.Load(), err)
	}
	if _, err := orders(t.Context(), addr, "bad-", 4, 100, 0); err == nil || !strings.Contains(err.Error(), "409") {
		t.Errorf("a refused order gave %v", err)
	}
}

// TestEcho asks the yardstick what the load asks.
func TestEcho(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := newEcho().Server
	go func() { _ = server.Serve(l) }()
	defer server.Close()
	d, err := dial(t.Context(), l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	if _, err := d.post([]byte("o-1"), orderBody); err != nil || !strings.HasPrefix(string(d.body), `{"id":"o-1","version":1,"events":[{"type":"shop.orders.v1.OrderPlaced"`) {
		t.Errorf("got %s, %v", d.body, err)
	}
	if _, err := d.post([]byte("o-1"), "{"); err == nil {
		t.Error("half a body was accepted")
	}
}

// TestHistory folds the events that the projector will read.
func TestHistory(t *testing.T) {
	h := &history{events: 50_000}
	versions := map[string]int64{}
	closed := map[string]bool{}
	kinds := map[string]int{}
	var got sum
	for range h.events {
		stream, version, event := h.next()
		if versions[string(stream)]++; versions[string(stream)] != int64(version) {
			t.Fatalf("%s has version %d after %d events", stream, version, versions[string(stream)]-1)
		}
		if closed[string(stream)] {
			t.Fatalf("%s goes on after it was cancelled", stream)
		}
		switch e := event.(type) {
		case ordersv1.OrderPlaced:
			kinds["placed"]++
			got.orders++
			got.units += e.Units
			got.revenue += e.Total
		case ordersv1.OrderLineAdded:
			kinds["added"]++
			got.units += e.Quantity
			got.revenue += e.Amount
		case ordersv1.OrderConfirmed:
			kinds["confirmed"]++
		case ordersv1.OrderCancelled:
			kinds["cancelled"]++
			closed[string(stream)] = true
			got.orders--
			got.units -= e.Units
			got.revenue -= e.Total
		}
	}
	if got != h.sum {
		t.Errorf("the events add up to %+v, the history says %+v", got, h.sum)
	}
	if kinds["added"] < 4000 || kinds["confirmed"] < 8000 || kinds["cancelled"] < 4000 {
		t.Errorf("got %v", kinds)
	}
}

// TestDrive registers at a server that refuses one of the subjects.
func TestDrive(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || string(body) != "{}" || r.URL.Path == "/subjects/7/versions" {
			w.WriteHeader(http.StatusConflict)
		}
		_, _ = w.Write([]byte("{}"))
	}))
	defer s.Close()
	addr := strings.TrimPrefix(s.URL, "http://")
	register := func(offset int64) func(*conn, int64) error {
		return func(c *conn, n int64) error { return c.register(strconv.FormatInt(n+offset, 10), "{}") }
	}
	if l, err := drive(t.Context(), addr, 4, 100, 0, register(100)); err != nil || l.requests != 100 || !slices.IsSorted(l.sorted) {
		t.Errorf("got %d requests, %v", l.requests, err)
	}
	if _, err := drive(t.Context(), addr, 4, 100, 0, register(0)); err == nil || !strings.Contains(err.Error(), "409") {
		t.Errorf("a refused registration gave %v", err)
	}
}
