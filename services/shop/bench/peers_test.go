package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/services/shop/bench/peers/amounts"
)

// counted returns a counter of a server that has one more event of every key each time that it is asked.
func counted(t *testing.T, waits bool) (c *counter, asked *atomic.Int64, atLeast *atomic.Value) {
	asked, atLeast = &atomic.Int64{}, &atomic.Value{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		atLeast.Store(r.Header.Get("Millrace-At-Least"))
		fmt.Fprintf(w, `{"count":%d,"sum":7}`, asked.Add(1))
	}))
	t.Cleanup(s.Close)
	return &counter{url: s.URL + "/count/", waits: waits, client: s.Client()}, asked, atLeast
}

func TestCounterAsksAgain(t *testing.T) {
	c, asked, atLeast := counted(t, false)
	if err := c.shows(t.Context(), "k-000001", es.Position{}, 3); err != nil || asked.Load() != 3 || atLeast.Load() != "" {
		t.Errorf("asked %d times, at least %q, %v", asked.Load(), atLeast.Load(), err)
	}
}

func TestCounterWaits(t *testing.T) {
	c, asked, atLeast := counted(t, true)
	at := es.Position{TopicPartition: es.TopicPartition{Topic: amounts.Topic, Partition: 3}, Offset: 41}
	if err := c.shows(t.Context(), "k-000001", at, 1); err != nil || asked.Load() != 1 || atLeast.Load() != "bench.amounts/3@41" {
		t.Errorf("asked %d times, at least %q, %v", asked.Load(), atLeast.Load(), err)
	}
	if err := c.shows(t.Context(), "k-000001", at, 9); err == nil || !strings.Contains(err.Error(), "has 2 events") {
		t.Errorf("a row that is too old gave %v", err)
	}
}

// TestCounterAgrees shows that a contender that counts wrongly is not measured.
func TestCounterAgrees(t *testing.T) {
	want := make([]amounts.Sum, ledgerKeys)
	c, _, _ := counted(t, false)
	if err := c.agrees(t.Context(), want); err == nil || !strings.Contains(err.Error(), "k-000000") {
		t.Errorf("a row that should not be there gave %v", err)
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"count":0,"sum":0}`) }))
	defer s.Close()
	if err := (&counter{url: s.URL + "/count/", client: s.Client()}).agrees(t.Context(), want); err != nil {
		t.Error(err)
	}
}
