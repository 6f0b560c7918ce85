package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/eventlog"
)

// TestArrive floods a server that answers two requests at a time, refuses every tenth and fails every eleventh.
func TestArrive(t *testing.T) {
	var seen atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		switch n := seen.Add(1); {
		case n%10 == 0:
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusServiceUnavailable)
		case n%11 == 0:
			w.WriteHeader(http.StatusGatewayTimeout)
		}
		_, _ = w.Write([]byte("{}"))
	}))
	defer s.Close()
	began := false
	f, err := arrive(t.Context(), strings.TrimPrefix(s.URL, "http://"), 20, 5000, 500*time.Millisecond, func() { began = true }, func(c *conn, _ int64) (int, time.Duration, error) {
		return c.try([]byte("o"), orderBody)
	})
	if err != nil || !began {
		t.Fatal(err, began)
	}
	// Each connection that was refused stays away for longer than the flood, so that in the end all of them have been.
	if f.done == 0 || f.refused == 0 || f.refused > 20 || f.failed == 0 || f.failure != "{}" || f.left == 0 || f.arrived < f.left+f.sent() || f.p99 < f.p50 {
		t.Errorf("got %+v", f)
	}
	if got := seen.Load(); got < f.sent() {
		t.Errorf("the server has seen %d requests, %d were counted", got, f.sent())
	}
}

func TestOnePartition(t *testing.T) {
	seen := map[string]bool{}
	var id []byte
	for n := range int64(1000) {
		id = onePartition(id[:0], n)
		if p := eventlog.PartitionOf(es.StreamID(id), eventlog.DefaultPartitions); p != 0 || seen[string(id)] {
			t.Fatalf("%s is in partition %d, or was there before", id, p)
		}
		seen[string(id)] = true
	}
}
