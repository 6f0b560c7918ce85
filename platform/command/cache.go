package command

import (
	"reflect"
	"slices"

	"github.com/millrace/millrace/platform/es"
)

// maxPasts is how many commands of a stream stay in memory: those that are repeated are mostly the last ones. Older ones are found in the
// store.
const maxPasts = 4

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

	size   int        // of memory, about, when it was last measured
	resize es.Version // measured again from this version on

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
	if gone > 4*maxPasts {
		s.pasts, gone = slices.Clone(s.pasts[gone:]), 0 // it was busy once, and gives the memory back
	}
	s.pasts = append(slices.Delete(s.pasts, 0, gone), p)
}

// A cache keeps the streams used last. Those whose events are not all in the store yet stay whatever its size.
type cache[S any] struct {
	limit   int // streams
	room    int // bytes
	bytes   int // that the streams take, about
	sizes   *sizer
	each    int        // bytes of a stream without what it holds
	used    *stream[S] // the one used last; nil = none, or gone
	streams map[es.StreamID]*stream[S]
	root    stream[S] // root.older is the stream used last, root.newer the one not used for longest
}

func newCache[S any](limit, room int) *cache[S] {
	c := &cache[S]{limit: limit, room: room, sizes: newSizer(), each: streamBytes + int(reflect.TypeFor[stream[S]]().Size()), streams: make(map[es.StreamID]*stream[S])}
	c.root.newer, c.root.older = &c.root, &c.root
	return c
}

func (c *cache[S]) get(id es.StreamID) *stream[S] {
	c.measure()
	s := c.streams[id]
	if s != nil {
		s.unlink()
		c.front(s)
		c.used = s
	}
	return s
}

// streamBytes is about what the place of a stream in the table takes, and pastBytes what a command takes without its texts.
const streamBytes = 64

var pastBytes = int(reflect.TypeFor[past]().Size())

// measure notes how large the stream used last has become: whenever its events have doubled, so that it costs next to nothing.
func (c *cache[S]) measure() {
	s := c.used
	if s == nil || s.version < s.resize {
		return
	}
	s.resize = max(1, 2*s.version)
	size := c.each + len(s.id) + cap(s.pasts)*pastBytes + 8*cap(s.early)
	for i := range s.pasts {
		size += len(s.pasts[i].id) + len(s.pasts[i].hash)
		if n := len(s.pasts[i].types); n > 1 {
			size += 16 * n // the names are shared
		}
	}
	size += c.sizes.of(reflect.ValueOf(&s.state).Elem())
	c.bytes += size - s.size
	s.size = size
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
	c.bytes -= s.size
	if c.used == s {
		c.used = nil
	}
}

// add puts s in and lets go of the least used streams that the store can give back: all their events lie below stored.
func (c *cache[S]) add(s *stream[S], stored int64) {
	c.front(s)
	c.streams[s.id], c.used = s, s
	c.trim(stored)
}

// full reports whether there is more in memory than there should be.
func (c *cache[S]) full() bool { return len(c.streams) > c.limit || c.bytes > c.room }

// trim lets go of streams that were not used for long. A few looks are enough: there are at most those too many that one command brought,
// and those that were pinned at their turn.
func (c *cache[S]) trim(stored int64) {
	for looks := 0; c.full() && looks < 4; looks++ {
		old := c.root.newer
		if old == c.used {
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
