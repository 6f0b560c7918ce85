package order

import (
	"testing"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/estest"
	ordersv1 "github.com/millrace/millrace/schemas/orders/v1"
)

// real holds streams of a running shop, as
//
//	curl -H 'Accept: application/x-ndjson' localhost:8088/v1/events/orders
//
// writes them.
const real = "testdata/orders.ndjson"

// TestReplay: at every point of real orders every command is decided without a panic, the same way twice, and without changing anything;
// at the end the orders are what they were.
func TestReplay(t *testing.T) {
	states := estest.Replay(t, Decider, ordersv1.Contract, real, []Command{place, Place{}, AddLine{"dvd", 4, 50}, Confirm{}, Cancel{"changed my mind"}})
	for id, want := range map[es.StreamID]struct {
		status Status
		total  int64
		lines  int
	}{"o-1": {Cancelled, 3996, 4}, "o-2": {Cancelled, 1466, 1}, "o-3": {Confirmed, 6790, 32}, "ö-4": {Placed, 0, 1}} {
		if got := states[id]; got.Status != want.status || got.Total != want.total || len(got.Lines) != want.lines {
			t.Errorf("%s is %s, worth %d, with %d lines; want %+v", id, got.Status, got.Total, len(got.Lines), want)
		}
	}
}

// TestIdempotent: whatever happened to an order, placing, confirming or cancelling it again changes nothing.
func TestIdempotent(t *testing.T) {
	for _, stream := range estest.ReadStreams(t, ordersv1.Contract, real) {
		for n := range stream.Events {
			estest.Idempotent(t, Decider, es.Meta{Stream: stream.ID, Time: noon}, stream.Events[:n+1], []Command{place, Confirm{}, Cancel{}})
		}
	}
}
