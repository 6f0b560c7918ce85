package check

import (
	"slices"
	"time"
)

// A Run is everything that a run left behind.
type Run struct {
	Log     *Log
	History []Attempt
	Began   time.Time // from when the times of History count
	Spec    Spec
	Lease   time.Duration    // how old an answer that appends nothing may be
	Limit   time.Duration    // of real time, for the linearizability of one stream
	Stores  map[string][]Row // by instance; nil if there are none to check
	Rebuilt []Row            // a store that was built from the whole log
}

// All runs every checker.
func (r *Run) All() []Violation { return r.Judge(r.History) }

// Judge is All for a history that is a part of a longer one, of which sent holds at least stream and command of every attempt.
func (r *Run) Judge(sent []Attempt) []Violation {
	l := r.Log
	lists := [][]Violation{
		l.Epochs(), l.Versions(), l.Once(), l.Acked(r.History), Receipts(r.History), l.Absent(r.History, r.Began), l.Strangers(sent),
		l.Reads(r.History), l.Stale(r.History, r.Lease, r.Began), l.Linearizable(r.History, r.Spec, r.Lease, r.Limit),
	}
	if r.Stores != nil {
		lists = append(lists, l.Stores(r.Stores, r.Rebuilt))
	}
	return slices.Concat(lists...)
}
