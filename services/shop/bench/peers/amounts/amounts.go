// Package amounts is the contract of the events that Millrace and its peers count and sum in the figure "peers", and the view of them.
package amounts

import (
	_ "embed" // the schema

	"github.com/millrace/millrace/platform/contract"
	"github.com/millrace/millrace/platform/es"
)

// Topic carries the events; it has Partitions partitions.
const (
	Topic      = "bench.amounts"
	Partitions = 8
)

// Event is one of the events of the topic, as a value: there is only Booked.
//
//sumtype:decl
type Event interface{ isEvent() }

// Booked says that an amount was booked on a key.
type Booked struct {
	// The key, which is also the id of the stream.
	Key string `avro:"key" json:"key"`
	// What is added to the key's sum.
	Amount int64 `avro:"amount" json:"amount"`
	// Bytes that make the event as large as it shall be.
	Padding []byte `avro:"padding" json:"padding"`
}

func (Booked) isEvent() {}

//go:embed shop.bench.v1.Booked.avsc
var bookedSchema string

// Contract is the closed set of the topic's events with their schemas.
var Contract = contract.Set[Event]{Topic: Topic, Types: []contract.Type[Event]{contract.For[Booked, Event](bookedSchema)}}

// A Sum is a row of the view: how many events a key has had, and what their amounts add up to.
type Sum struct {
	Count int64 `json:"count"`
	Sum   int64 `json:"sum"`
}

// View has a Sum for each key.
var View = es.View[Sum, Event]{
	Name:    "sums",
	Version: 1,
	Key:     func(e es.Envelope[Event]) (string, bool) { return string(e.Stream), true },
	Apply: func(row Sum, e es.Envelope[Event]) Sum {
		if b, ok := e.Event.(Booked); ok {
			row.Count++
			row.Sum += b.Amount
		}
		return row
	},
}
