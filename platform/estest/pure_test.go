package estest

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/platform/contract"
	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/fault"
)

// The model: a list of names, of which deciders below get something wrong.

type event interface{ isEvent() }

type named struct {
	Names []string `avro:"names" json:"names"`
}
type cleared struct {
	By string `avro:"by" json:"by"`
}

func (named) isEvent()   {}
func (cleared) isEvent() {}

type state struct {
	Names []string
	seen  map[string]bool
	first *string
}

type name struct{ Names []string }

var errKnown = fault.New(fault.Conflict, "known", "the name is known")

// good keeps its word.
var good = es.Decider[state, name, event]{
	Decide: func(s state, c name, _ es.Meta) ([]event, error) {
		switch {
		case len(c.Names) == 0:
			return nil, nil
		case c.Names[0] == "taken":
			return nil, errKnown
		case s.seen[c.Names[0]]:
			return nil, nil
		}
		return []event{named{append([]string(nil), c.Names...)}}, nil
	},
	Evolve: func(s state, e event) state {
		switch e := e.(type) {
		case named:
			seen := map[string]bool{}
			for n := range s.seen {
				seen[n] = true
			}
			for _, n := range e.Names {
				seen[n] = true
			}
			s.Names, s.seen = append(s.Names[:len(s.Names):len(s.Names)], e.Names...), seen
			if s.first == nil && len(e.Names) > 0 {
				first := e.Names[0]
				s.first = &first
			}
		case cleared:
			s = state{}
		}
		return s
	},
}

var history = []event{named{[]string{"a", "b", "c"}}, named{[]string{"d"}}, named{[]string{"e"}}, cleared{"x"}, named{[]string{"f"}}}

// TestFold: a decider that keeps its word passes; each way to break it is found.
func TestFold(t *testing.T) {
	calls := 0
	with := func(f func(s state, e named) state) es.Decider[state, name, event] {
		d := good
		d.Evolve = func(s state, e event) state {
			if n, ok := e.(named); ok {
				return f(s, n)
			}
			return good.Evolve(s, e)
		}
		return d
	}
	saves := func(save func(state) ([]byte, error), restore func([]byte) (state, error)) es.Decider[state, name, event] {
		d := good
		d.Save, d.Restore = save, restore
		return d
	}
	list := func(s state) ([]byte, error) { return json.Marshal(s.Names) }
	for _, tc := range []struct {
		name  string
		d     es.Decider[state, name, event]
		finds string
	}{
		{"good", good, ""},
		{"changes the event", with(func(s state, e named) state { e.Names[0] = "x"; return s }), "the event was changed"},
		{"changes the event later", with(func(s state, e named) state {
			if s.Names != nil {
				s.Names[0] = "x"
			}
			return state{Names: e.Names}
		}), "changed by Evolve"},
		{"changes a slice of the state", with(func(s state, e named) state {
			if len(s.Names) > 0 {
				s.Names[0] = "x"
			}
			return good.Evolve(s, e)
		}), "state before the event was changed"},
		{"appends in place", with(func(s state, e named) state { s.Names = append(s.Names, e.Names...); return s }), "appended to in place"},
		{"changes a map of the state", with(func(s state, e named) state {
			if s.seen == nil {
				s.seen = map[string]bool{}
			}
			s.seen[e.Names[0]] = true
			return s
		}), "state before the event was changed"},
		{"changes what a pointer points to", with(func(s state, e named) state {
			if s.first == nil {
				s.first = new(string)
			}
			*s.first += e.Names[0]
			return s
		}), "state before the event was changed"},
		{"is not the same twice", with(func(s state, _ named) state { calls++; s.Names = make([]string, calls); return s }), "differently"},
		{"loses some when it is saved", saves(list, func(b []byte) (s state, err error) { return s, json.Unmarshal(b, &s.Names) }), "does not come back"},
		{"cannot be saved", saves(func(state) ([]byte, error) { return nil, errors.New("full") }, func([]byte) (state, error) { return state{}, nil }), "cannot be saved"},
		{"cannot be restored", saves(list, func([]byte) (state, error) { return state{}, errors.New("empty") }), "cannot be restored"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var events []event
			for _, e := range history { // some of the deciders change them
				if n, ok := e.(named); ok {
					e = named{append([]string(nil), n.Names...)}
				}
				events = append(events, e)
			}
			_, err := fold(tc.d, state{}, events)
			found(t, err, tc.finds)
		})
	}
	if s := Fold(t, good, history); len(s.Names) != 1 || *s.first != "f" {
		t.Errorf("%+v", s)
	}
}

func found(t *testing.T, err error, what string) {
	t.Helper()
	if (err == nil) != (what == "") || err != nil && !strings.Contains(err.Error(), what) {
		t.Errorf("found %v, want %q", err, what)
	}
}

// TestTry: cases of a table pass and fail as they should, and each way in which Decide breaks its word is found.
func TestTry(t *testing.T) {
	calls := 0
	with := func(f func(s state, c name) ([]event, error)) es.Decider[state, name, event] {
		d := good
		d.Decide = func(s state, c name, _ es.Meta) ([]event, error) { return f(s, c) }
		return d
	}
	a := Case[name, event]{When: name{[]string{"a"}}, Then: []event{named{[]string{"a"}}}}
	for _, tc := range []struct {
		name  string
		d     es.Decider[state, name, event]
		c     Case[name, event]
		finds string
	}{
		{"good", good, a, ""},
		{"good, given something", good, Case[name, event]{Given: history, When: name{[]string{"f"}}}, ""},
		{"a refusal", good, Case[name, event]{When: name{[]string{"taken"}}, Err: errKnown}, ""},
		{"other events", good, Case[name, event]{When: name{[]string{"a"}}, Then: []event{named{[]string{"b"}}}}, "-want +got"},
		{"no refusal", good, Case[name, event]{When: name{[]string{"a"}}, Err: errKnown}, "refusal: got no refusal"},
		{"an unexpected refusal", good, Case[name, event]{When: name{[]string{"taken"}}}, "refused"},
		{"a refusal with events", with(func(state, name) ([]event, error) { return []event{cleared{}}, errKnown }), Case[name, event]{Err: errKnown}, "with 1 events"},
		{"different events", with(func(state, name) ([]event, error) { calls++; return []event{named{make([]string, calls)}}, nil }), a, "differently"},
		{"different refusals", with(func(state, name) ([]event, error) { calls++; return nil, errKnown.Because("%d", calls) }), Case[name, event]{Err: errKnown}, "differently"},
		{"a changed state", with(func(s state, _ name) ([]event, error) { s.Names[0] = "x"; return nil, nil }), Case[name, event]{Given: history[:1]}, "the state was changed"},
		{"a changed command", with(func(_ state, c name) ([]event, error) { c.Names[0] = "x"; return nil, nil }), Case[name, event]{When: name{[]string{"a"}}}, "the command was changed"},
		{"a panic", with(func(s state, _ name) ([]event, error) { return nil, errors.New(s.Names[7]) }), Case[name, event]{}, "panic in Decide"},
		{"not done after the first time", with(func(_ state, c name) ([]event, error) { return []event{named{append([]string(nil), c.Names...)}}, nil }), a, "decided again"},
	} {
		t.Run(tc.name, func(t *testing.T) { found(t, try(tc.d, es.Meta{}, tc.c), tc.finds) })
	}
	Idempotent(t, good, es.Meta{}, history, []name{{}, {[]string{"new"}}, {[]string{"f"}}, {[]string{"taken"}}})
}

var names = contract.Set[event]{Topic: "names.events", Types: []contract.Type[event]{
	contract.For[named, event](`{"type":"record","name":"Named","namespace":"test.v1","fields":[{"name":"names","type":{"type":"array","items":"string"}}]}`),
	contract.For[cleared, event](`{"type":"record","name":"Cleared","namespace":"test.v1","fields":[{"name":"by","type":"string"}]}`),
}}

// line writes one event as the routes do.
func line(stream string, version int, rest string) string {
	return `{"id":"x","stream":"` + stream + `","version":` + string(rune('0'+version)) + `,"time":"2026-01-02T12:00:00Z",` + rest + "}\n"
}

const anna, clear = `"type":"test.v1.Named","data":{"names":["anna"]}`, `"type":"test.v1.Cleared","data":{"by":"bert"}`

// TestReadStreams: lines and pages are read, several streams at once; what is missing, twice or unknown is named.
func TestReadStreams(t *testing.T) {
	for _, tc := range []struct {
		name, text string
		finds      string
		streams    int
	}{
		{"lines", line("a", 1, anna) + line("b", 1, anna) + line("a", 2, clear), "", 2},
		{"pages", `{"events":[` + strings.TrimSpace(line("a", 1, anna)) + `],"next":2}{"events":[` + strings.TrimSpace(line("a", 2, clear)) + `],"last_version":2}`, "", 1},
		{"parts", line("a", 1, `"parts":2,`+anna) + line("a", 1, `"part":1,"parts":2,`+clear) + line("a", 2, anna), "", 1},
		{"nothing", "", "no events", 0},
		{"not JSON", "x", "byte", 0},
		{"no stream", `{"type":"test.v1.Named","version":1}`, "without a stream", 0},
		{"a later beginning", line("a", 2, anna), "begins with its first event", 0},
		{"a hole", line("a", 1, anna) + line("a", 3, anna), "follows event 1", 0},
		{"an event twice", line("a", 1, anna) + line("a", 1, anna), "follows event 1", 0},
		{"a part missing", line("a", 1, `"parts":2,`+anna) + line("a", 2, anna), "follows event 1", 0},
		{"an unknown type", line("a", 1, `"type":"test.v1.Other","data":{}`), "test.v1.Other", 0},
		{"an unknown member", line("a", 1, `"type":"test.v1.Cleared","data":{"by":"x","at":1}`), "at", 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			streams, err := readStreams(names, []byte(tc.text))
			found(t, err, tc.finds)
			if err == nil && len(streams) != tc.streams {
				t.Errorf("%d streams, want %d", len(streams), tc.streams)
			}
		})
	}
}

// TestReplay: the states at the end come back, and what a decider does wrong on the way is found.
func TestReplay(t *testing.T) {
	file := filepath.Join(t.TempDir(), "names.ndjson")
	if err := os.WriteFile(file, []byte(line("a", 1, anna)+line("b", 1, anna)+line("a", 2, clear)), 0o600); err != nil {
		t.Fatal(err)
	}
	states := Replay(t, good, names, file, []name{{[]string{"anna"}}, {[]string{"taken"}}})
	if len(states) != 2 || len(states["a"].Names) != 0 || len(states["b"].Names) != 1 {
		t.Errorf("%+v", states)
	}
	stream := ReadStreams(t, names, file)[0]
	if want := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC); !stream.Times[0].Equal(want) {
		t.Errorf("time %v, want %v", stream.Times[0], want)
	}
	for finds, d := range map[string]es.Decider[state, name, event]{
		"panic in Evolve": {Decide: good.Decide, Evolve: func(s state, e event) state { return state{Names: []string{s.Names[0]}} }},
		"panic in Decide": {Evolve: good.Evolve, Decide: func(s state, _ name, _ es.Meta) ([]event, error) { return nil, errors.New(s.Names[7]) }},
		"is no fault":     {Evolve: good.Evolve, Decide: func(state, name, es.Meta) ([]event, error) { return nil, errors.New("is no fault") }},
		"after event 1":   {Evolve: good.Evolve, Decide: func(s state, _ name, _ es.Meta) ([]event, error) { s.Names[0] = "x"; return nil, nil }},
	} {
		_, err := replay(d, stream, []name{{}})
		found(t, err, finds)
	}
}

// TestSnapshot: an event that is changed later, through a row that shares its memory, is found.
func TestSnapshot(t *testing.T) {
	events := []On[event]{{"a", named{[]string{"a"}}}, {"a", named{[]string{"b"}}}}
	kept := snap(&events)
	row := []string(nil)
	for _, on := range events {
		if row != nil {
			row[0] = "x"
		}
		row = on.Event.(named).Names
	}
	if kept.changed() == "" {
		t.Error("a changed event is not found")
	}
}

// FuzzReadStreams: whatever an export holds, it is read or refused, and what is read is whole streams.
func FuzzReadStreams(f *testing.F) {
	f.Add(line("a", 1, anna) + line("b", 1, anna) + line("a", 2, clear))
	f.Add(`{"events":[` + line("a", 1, anna) + `]}`)
	f.Add(`{"events":[{"events":[]}]}`)
	f.Fuzz(func(t *testing.T, text string) {
		streams, err := readStreams(names, []byte(text))
		if err == nil && len(streams) == 0 {
			t.Error("no streams and no error")
		}
		for _, s := range streams {
			if len(s.Events) == 0 || len(s.Events) != len(s.Times) {
				t.Errorf("%+v", s)
			}
		}
	})
}
