package estest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/millrace/millrace/platform/contract"
	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/fault"
)

// A Stream is one stream of an export: its events as they are read today, with their times.
type Stream[E any] struct {
	ID     es.StreamID
	Events []E
	Times  []time.Time // when the command of each event was accepted
}

// ReadStreams reads the streams of a file, in the order in which they begin there. The file is what
//
//	curl -H 'Accept: application/x-ndjson' localhost:8088/v1/orders/o-1/events > o-1.ndjson
//	curl -H 'Accept: application/x-ndjson' localhost:8088/v1/events/orders > all.ndjson
//
// write, one event in each line, or pages of the same routes without that header. Each stream must begin with its first event and have
// every later one once. It fails the test at an event that the contract does not know, or that has members it does not know.
func ReadStreams[E any](t testing.TB, s contract.Set[E], file string) []Stream[E] {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	streams, err := readStreams(s, text)
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return streams
}

// Replay folds every stream of a file, as ReadStreams has it, and decides each of the commands after every event, or after a sample of them
// in a long stream. It fails the test if the decider panics, changes what it was given, decides or evolves differently the second time, or
// returns an error that is no fault. It returns the state at the end of each stream.
func Replay[S, C, E any](t testing.TB, d es.Decider[S, C, E], s contract.Set[E], file string, commands []C) map[es.StreamID]S {
	t.Helper()
	states := map[es.StreamID]S{}
	for _, stream := range ReadStreams(t, s, file) {
		state, err := replay(d, stream, commands)
		if err != nil {
			t.Errorf("%s: stream %s: %v", file, stream.ID, err)
		}
		states[stream.ID] = state
	}
	return states
}

// tries is after how many events of a stream commands are tried.
const tries = 64

func replay[S, C, E any](d es.Decider[S, C, E], stream Stream[E], commands []C) (state S, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic in Evolve: %v", p)
		}
	}()
	every := max(1, len(stream.Events)/tries)
	for i, e := range stream.Events {
		if state, err = evolve(d, state, e); err != nil {
			return state, fmt.Errorf("event %d, a %T: %w", i+1, e, err)
		}
		if i%every != 0 && i != len(stream.Events)-1 {
			continue
		}
		for _, c := range commands {
			m := es.Meta{Stream: stream.ID, CommandID: "replay", Time: stream.Times[i]}
			events, err := decide(d, state, c, m)
			if err == nil {
				_, err = fold(d, state, events)
			} else if fault.From(err) != nil {
				err = nil
			}
			if err != nil {
				return state, fmt.Errorf("%T after event %d: %w", c, i+1, err)
			}
		}
	}
	return state, nil
}

// exported is as much of an event in an export as a replay needs.
type exported struct {
	Stream  es.StreamID     `json:"stream"`
	Type    string          `json:"type"`
	Version es.Version      `json:"version"`
	Time    time.Time       `json:"time"`
	Part    int             `json:"part"`
	Parts   int             `json:"parts"`
	Data    json.RawMessage `json:"data"`

	Events []exported `json:"events"` // of a page
}

func readStreams[E any](s contract.Set[E], text []byte) ([]Stream[E], error) {
	types := map[string]reflect.Type{}
	for _, t := range s.Types {
		schema, err := contract.Parse(t.Schema())
		if err != nil {
			return nil, err
		}
		types[schema.Name()] = t.GoType()
	}
	var streams []Stream[E]
	last := map[es.StreamID]exported{}
	add := func(e exported) error {
		at := fmt.Sprintf("event %d of %q, a %s", e.Version, e.Stream, e.Type)
		before := last[e.Stream]
		next := e.Version == before.Version+1 && e.Part == 0
		part := e.Version == before.Version && e.Part == before.Part+1 && e.Part < e.Parts
		t, ok := types[e.Type]
		switch {
		case e.Stream == "":
			return errors.New("an event without a stream")
		case !next && !part || next && before.Part+1 < before.Parts:
			return fmt.Errorf("%s, follows event %d: a stream begins with its first event and has each later one once", at, before.Version)
		case !ok:
			return fmt.Errorf("%s: the contract has no such type", at)
		}
		last[e.Stream] = e
		v := reflect.New(t)
		decoder := json.NewDecoder(bytes.NewReader(e.Data))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(v.Interface()); err != nil {
			return fmt.Errorf("%s: %w", at, err)
		}
		i := slices.IndexFunc(streams, func(s Stream[E]) bool { return s.ID == e.Stream })
		if i < 0 {
			i = len(streams)
			streams = append(streams, Stream[E]{ID: e.Stream})
		}
		streams[i].Events = append(streams[i].Events, v.Elem().Interface().(E))
		streams[i].Times = append(streams[i].Times, e.Time)
		return nil
	}
	for d := json.NewDecoder(bytes.NewReader(text)); ; {
		var e exported
		switch err := d.Decode(&e); {
		case errors.Is(err, io.EOF) && len(streams) == 0:
			return nil, errors.New("there are no events in it")
		case errors.Is(err, io.EOF):
			return streams, nil
		case err != nil:
			return nil, fmt.Errorf("at byte %d: %w", d.InputOffset(), err)
		}
		events := e.Events
		if events == nil {
			events = []exported{e}
		}
		for _, e := range events {
			if err := add(e); err != nil {
				return nil, err
			}
		}
	}
}
