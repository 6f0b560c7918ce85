package command

import (
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/platform/es"
)

// An admission bounds how many callers wait for a partition, by how long they wait. A bounded queue alone does not do: how long it takes
// to get through it depends on the machine and the brokers, and if that is longer than callers wait, everything is decided for
// nobody. So as many are let in as have been answered in time lately, and the others are told to come back before anything is done for them.
type admission struct {
	within  time.Duration // in which callers shall be answered
	waiting atomic.Int64
	most    atomic.Int64 // who may wait at once; written by the partition's loop only
}

const (
	fewest  = 64      // may always wait: hardly more would share a write, and one slow write should not shut everybody out
	unbound = 1 << 20 // more than a queue holds
)

func newAdmission(within time.Duration) *admission {
	a := &admission{within: within}
	a.most.Store(unbound)
	return a
}

// enter lets a caller in, who must leave; false = too many are waiting. One who is urgent always comes in.
func (a *admission) enter(urgent bool) bool {
	if a.waiting.Add(1) > a.most.Load() && !urgent {
		a.waiting.Add(-1)
		return false
	}
	return true
}

func (a *admission) leave() { a.waiting.Add(-1) }

// full reports whether there is no room for one more.
func (a *admission) full() bool { return a.waiting.Load() >= a.most.Load() }

// answered learns from a write how long the first of its commands has waited.
func (a *admission) answered(took time.Duration) {
	most, waiting := a.most.Load(), a.waiting.Load()
	switch {
	case took > a.within:
		// Who waits is answered at some rate; at this rate fewer wait for less long.
		fit := int64(float64(waiting) * a.within.Seconds() / took.Seconds())
		a.most.Store(min(most, max(fewest, fit)))
	case most < unbound && waiting > most/2:
		a.most.Store(min(unbound, most+most/8))
	}
}

// overloaded is the answer to who was not let in. Not all shall come back at the same time.
func overloaded(at es.TopicPartition, waiting int64) error {
	return ErrOverloaded.Because("%d wait for %s", waiting, at).After(time.Duration(1+rand.IntN(4)) * time.Second)
}
