package estest_test

import (
	"testing"

	"github.com/millrace/millrace/platform/contract"
	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/estest"
	"github.com/millrace/millrace/platform/fault"
)

// A lamp is switched on and off, a hundred times at most.

type (
	lampEvent interface{ isLampEvent() }
	switched  struct {
		On bool `avro:"on" json:"on"`
	}
	lamp struct {
		On    bool
		Times int
	}
	lampCommand interface{ isLampCommand() }
	switchOn    struct{}
	switchOff   struct{}
)

func (switched) isLampEvent()    {}
func (switchOn) isLampCommand()  {}
func (switchOff) isLampCommand() {}

var errWornOut = fault.New(fault.Rejected, "worn_out", "the lamp is worn out")

var lamps = es.Decider[lamp, lampCommand, lampEvent]{
	Decide: func(s lamp, c lampCommand, _ es.Meta) ([]lampEvent, error) {
		_, on := c.(switchOn)
		switch {
		case s.On == on:
			return nil, nil
		case s.Times == 100:
			return nil, errWornOut
		}
		return []lampEvent{switched{on}}, nil
	},
	Evolve: func(s lamp, e lampEvent) lamp { return lamp{On: e.(switched).On, Times: s.Times + 1} },
}

var lampContract = contract.Set[lampEvent]{Topic: "lamps.events", Types: []contract.Type[lampEvent]{
	contract.For[switched, lampEvent](`{"type":"record","name":"Switched","namespace":"home.v1","fields":[{"name":"on","type":"boolean"}]}`),
}}

var t *testing.T // of the test that the example stands in

func ExampleDecide() {
	type events = []lampEvent
	estest.Decide(t, lamps, es.Meta{Stream: "hall"}, []estest.Case[lampCommand, lampEvent]{
		{Name: "on", When: switchOn{}, Then: events{switched{true}}},
		{Name: "on again", Given: events{switched{true}}, When: switchOn{}},
		{Name: "worn out", Given: make100(), When: switchOn{}, Err: errWornOut},
	})
}

// Real streams make the best tests: export them from a running service,
//
//	curl -H 'Accept: application/x-ndjson' localhost:8088/v1/events/lamps > testdata/lamps.ndjson
//
// and decide every command at every point of their lives.
func ExampleReplay() {
	states := estest.Replay(t, lamps, lampContract, "testdata/lamps.ndjson", []lampCommand{switchOn{}, switchOff{}})
	if !states["hall"].On {
		t.Error("the lamp in the hall is off")
	}
}

func ExampleIdempotent() {
	for _, stream := range estest.ReadStreams(t, lampContract, "testdata/lamps.ndjson") {
		estest.Idempotent(t, lamps, es.Meta{Stream: stream.ID}, stream.Events, []lampCommand{switchOn{}, switchOff{}})
	}
}

func ExampleFold() {
	if s := estest.Fold(t, lamps, []lampEvent{switched{true}, switched{false}}); s.On || s.Times != 2 {
		t.Errorf("%+v", s)
	}
}

func make100() (events []lampEvent) {
	for i := range 100 {
		events = append(events, switched{i%2 == 0})
	}
	return events
}

// TestExamples runs what the examples show.
func TestExamples(real *testing.T) {
	t = real
	ExampleDecide()
	ExampleReplay()
	ExampleIdempotent()
	ExampleFold()
}
