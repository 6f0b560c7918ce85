package command

import (
	"container/list"

	"github.com/millrace/millrace/platform/es"
)

// maxPasts is how many commands of a stream stay in memory: older ones are found in the store's index.
const maxPasts = 16

// A stream is one aggregate in the memory of its partition's owner: its state after everything decided so far, also what is still
// on its way to the log.
type stream[S any] struct {
	id      es.StreamID
	state   S
	version es.Version
	last    int64 // offset of the last acked event; -1 = none

	// The newest batch with an event of this stream while it is unacked (0 = none), and the place of that event in the batch:
	// an answer that rests on this state must wait for that batch.
	batch uint64
	place int

	pasts    []past
	complete bool // pasts holds every command that ever took effect, so the store need not be asked
	element  *list.Element
}

func (s *stream[S]) find(commandID string) *past {
	for i := range s.pasts {
		if s.pasts[i].id == commandID {
			return &s.pasts[i]
		}
	}
	return nil
}

// remember adds a command; what is safely in the store makes room.
func (s *stream[S]) remember(p past, stored int64) {
	if len(s.pasts) >= maxPasts {
		if old := &s.pasts[0]; old.batch == 0 && old.offset < stored {
			copy(s.pasts, s.pasts[1:])
			s.pasts = s.pasts[:len(s.pasts)-1]
			s.complete = false
		}
	}
	s.pasts = append(s.pasts, p)
}

// A cache keeps the streams used last. Those whose events are not all in the store yet stay whatever its size.
type cache[S any] struct {
	limit   int
	streams map[es.StreamID]*stream[S]
	order   list.List // of *stream, the one used last in front
}

func newCache[S any](limit int) *cache[S] {
	return &cache[S]{limit: limit, streams: make(map[es.StreamID]*stream[S])}
}

func (c *cache[S]) get(id es.StreamID) *stream[S] {
	s := c.streams[id]
	if s != nil {
		c.order.MoveToFront(s.element)
	}
	return s
}

// add puts s in and lets go of the least used streams that the store can give back: all their events lie below stored.
func (c *cache[S]) add(s *stream[S], stored int64) {
	s.element = c.order.PushFront(s)
	c.streams[s.id] = s
	// A few looks are enough: each add removes at most what it brought, plus what was pinned at its turn.
	for looks := 0; len(c.streams) > c.limit && looks < 4; looks++ {
		old := c.order.Back().Value.(*stream[S])
		if old == s {
			return
		}
		if old.batch != 0 || old.last >= stored {
			c.order.MoveToFront(old.element)
			continue
		}
		c.order.Remove(old.element)
		delete(c.streams, old.id)
	}
}
