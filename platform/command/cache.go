package command

import (
	"slices"

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

	// The newest batch with a record of this stream while it is unacked, 0 = none: an answer that rests on this state must wait for it.
	batch uint64

	pasts    []past   // the latest commands
	complete bool     // they are all that ever took effect, so the store need not be asked
	early    []uint64 // hashes of the ids of older commands that have no index entry
	kept     bool     // the state rests on a snapshot
	noted    bool     // there are notes in the store that are not among pasts

	newer, older *stream[S] // in the cache's ring
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
	gone := 0
	for ; len(s.pasts)-gone >= maxPasts; gone++ {
		old := &s.pasts[gone]
		if old.batch != 0 || old.offset >= stored {
			break
		}
		if len(old.types) == 0 {
			s.noted = true
		} else if old.first <= unindexed {
			s.early = append(s.early, hashID(old.id))
		}
		s.complete = false
	}
	s.pasts = append(slices.Delete(s.pasts, 0, gone), p)
}

// A cache keeps the streams used last. Those whose events are not all in the store yet stay whatever its size.
type cache[S any] struct {
	limit   int
	streams map[es.StreamID]*stream[S]
	root    stream[S] // root.older is the stream used last, root.newer the one not used for longest
}

func newCache[S any](limit int) *cache[S] {
	c := &cache[S]{limit: limit, streams: make(map[es.StreamID]*stream[S])}
	c.root.newer, c.root.older = &c.root, &c.root
	return c
}

func (c *cache[S]) get(id es.StreamID) *stream[S] {
	s := c.streams[id]
	if s != nil {
		s.unlink()
		c.front(s)
	}
	return s
}

func (s *stream[S]) unlink() {
	s.newer.older, s.older.newer = s.older, s.newer
}

func (c *cache[S]) front(s *stream[S]) {
	s.newer, s.older = &c.root, c.root.older
	s.newer.older, s.older.newer = s, s
}

func (c *cache[S]) remove(s *stream[S]) {
	s.unlink()
	delete(c.streams, s.id)
}

// add puts s in and lets go of the least used streams that the store can give back: all their events lie below stored.
func (c *cache[S]) add(s *stream[S], stored int64) {
	c.front(s)
	c.streams[s.id] = s
	// A few looks are enough: each add removes at most what it brought, plus what was pinned at its turn.
	for looks := 0; len(c.streams) > c.limit && looks < 4; looks++ {
		old := c.root.newer
		if old == s {
			return
		}
		if old.batch != 0 || old.last >= stored {
			old.unlink()
			c.front(old)
			continue
		}
		c.remove(old)
	}
}
