package check

import "time"

// A Run is everything that a run left behind.
type Run struct {
	Log     *Log
	History []Attempt
	Spec    Spec
	Lease   time.Duration    // how old an answer that appends nothing may be
	Limit   time.Duration    // of real time, for the linearizability of one stream
	Stores  map[string][]Row // by instance; nil if there are none to check
	Rebuilt []Row            // a store that was built from the whole log
}

// All runs every checker.
func (r *Run) All() []Violation {
	l := r.Log
	lists := [][]Violation{
		l.Epochs(), l.Versions(), l.Once(), l.Acked(r.History), Receipts(r.History), l.Absent(r.History), l.Strangers(r.History),
		l.Reads(r.History), l.Stale(r.History, r.Lease), l.Linearizable(r.History, r.Spec, r.Lease, r.Limit),
	}
	if r.Stores != nil {
		lists = append(lists, l.Stores(r.Stores, r.Rebuilt))
	}
	var all []Violation
	for _, list := range lists {
		all = append(all, list...)
	}
	return all
}
