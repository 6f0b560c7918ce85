package projection

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/millrace/millrace/platform/es"
)

// A Change is what a batch did to one row.
type Change struct {
	Row    Row  // as it is after it; only the Key, and the event that deleted it, of one that is gone
	Gone   bool // it was deleted
	values []string
	before []string // as values, before it; nil = there was no row
}

// A listener is somebody who watches rows of a list.
type listener struct {
	x       *plan
	pending bool   // something that it has not looked at may concern it
	clean   uint64 // nothing up to this batch that it has not looked at does
}

// A hub keeps the latest changes of a generation for those who watch it, each of whom reads them at a pace of its own. Nobody waits for a
// watcher: who falls behind what is kept begins anew.
type hub struct {
	mu      sync.Mutex
	batches []published // in the order of their numbers, without gaps
	changes int         // in all of them
	bytes   int         // of the rows in them
	floor   uint64      // the number of the last batch that is not kept
	lists   map[*Watch]*listener
	rows    map[string]map[*Watch]struct{} // by the key of the row that is watched
	until   time.Time                      // changes are kept until then though nobody watches
	count   int
	closed  bool
}

// A published is what one batch changed.
type published struct {
	shown   *shown
	changes []Change
}

const (
	// keptChanges is how many changes are kept for those who are behind.
	keptChanges = 1 << 14
	// keptBytes is how many bytes their rows may have, beside those of the latest batch.
	keptBytes = 16 << 20
	// keptBatches is how many batches are.
	keptBatches = 1 << 12
	// mostTried is for how many pairs of a change and somebody who watches a list it is found out whether the one concerns the other.
	mostTried = 200_000
	// lingering is for how long changes are kept when the last watcher has gone, who may come back.
	lingering = time.Minute
)

func (h *hub) init() {
	h.lists, h.rows = map[*Watch]*listener{}, map[string]map[*Watch]struct{}{}
}

// watched reports whether changes are to be kept.
func (h *hub) watched() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.count > 0 || time.Now().Before(h.until)
}

// publish keeps the changes of the batch with which s was reached and wakes those whom they may concern. known is false if it is not known
// what changed: then everybody begins anew.
func (h *hub) publish(known bool, changes []Change, s *shown) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !known {
		h.batches, h.changes, h.bytes, h.floor = nil, 0, 0, s.number
		h.wakeAll()
		return
	}
	h.batches = append(h.batches, published{s, changes})
	h.changes += len(changes)
	h.bytes += sizeOf(changes)
	drop := 0
	for drop < len(h.batches)-1 && (h.changes > keptChanges || h.bytes > keptBytes || len(h.batches)-drop > keptBatches) {
		h.changes -= len(h.batches[drop].changes)
		h.bytes -= sizeOf(h.batches[drop].changes)
		h.floor = h.batches[drop].shown.number
		drop++
	}
	if drop > 0 {
		clear(h.batches[:drop]) // what append leaves behind when it moves must not keep them
		h.batches = h.batches[drop:]
	}
	// Who is woken for nothing takes more than it takes to find that out, unless there is very much to go through.
	all := len(changes)*len(h.lists) > mostTried
	for w, l := range h.lists {
		switch {
		case l.pending:
		case all || slices.ContainsFunc(changes, l.x.concerns):
			l.pending = true
			w.call()
		default:
			l.clean = s.number
		}
	}
	for i := range changes {
		for w := range h.rows[changes[i].Row.Key] {
			w.call()
		}
	}
}

// sizeOf is about how much memory changes take.
func sizeOf(changes []Change) (n int) {
	for i := range changes {
		n += 200 + len(changes[i].Row.Key) + len(changes[i].Row.JSON)
	}
	return n
}

func (h *hub) wakeAll() {
	for w, l := range h.lists {
		l.pending = true
		w.call()
	}
	for _, ws := range h.rows {
		for w := range ws {
			w.call()
		}
	}
}

// add begins to keep changes for w.
func (h *hub) add(w *Watch) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.count++
	if w.key == "" {
		h.lists[w] = &listener{x: w.x, pending: true} // it may go on from long ago
		return
	}
	if h.rows[w.key] == nil {
		h.rows[w.key] = map[*Watch]struct{}{}
	}
	h.rows[w.key][w] = struct{}{}
}

func (h *hub) remove(w *Watch) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.count--; h.count == 0 {
		h.until = time.Now().Add(lingering)
	}
	if w.key == "" {
		delete(h.lists, w)
		return
	}
	if delete(h.rows[w.key], w); len(h.rows[w.key]) == 0 {
		delete(h.rows, w.key)
	}
}

// since returns the batches after the one with a number that may concern w, those of one row as if they were one; ok is false if some of them
// are not kept any more.
func (h *hub) since(w *Watch, number uint64) (batches []published, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	l := h.lists[w]
	if l != nil {
		number = max(number, l.clean)
	}
	if h.closed || number < h.floor {
		return nil, false
	}
	if l != nil {
		l.pending = false
		if n := len(h.batches); n > 0 {
			l.clean = h.batches[n-1].shown.number
		}
	}
	skip, _ := slices.BinarySearchFunc(h.batches, number+1, func(b published, n uint64) int { return cmp.Compare(b.shown.number, n) })
	if w.key == "" || skip == len(h.batches) {
		return slices.Clone(h.batches[skip:]), true
	}
	// How the row is in the end counts. Somebody whose row has just changed for the first time in an hour finds it in the last batch.
	all := published{shown: h.batches[len(h.batches)-1].shown}
	for _, b := range slices.Backward(h.batches[skip:]) {
		i := slices.IndexFunc(b.changes, func(c Change) bool { return c.Row.Key == w.key })
		if i >= 0 {
			all.changes = b.changes[i : i+1]
			break
		}
	}
	return []published{all}, true
}

// at returns the number of the batch with which these positions were reached, if all that came after it is still kept. Many may ask at
// once, when whatever was between them and this process comes back.
func (h *hub) at(g *generation, positions string) (number uint64, ok bool) {
	ps, err := es.ParsePositions(positions)
	if err != nil {
		return 0, false
	}
	reach := int64(0)
	for _, p := range ps {
		reach += p.Offset + 1
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	i, found := slices.BinarySearchFunc(h.batches, reach, func(b published, n int64) int { return cmp.Compare(b.shown.reach(), n) })
	if !found || h.batches[i].shown.text(g) != positions {
		return 0, false
	}
	// What dead letters have changed there is told again: whether the client has seen it cannot be told from positions.
	number = h.batches[i].shown.first
	return number, number >= h.floor
}

// rest is for how long somebody who watches rows of a list waits who has looked at changes in vain: all of them together look about
// 100,000 times a second at most, however many batches there are. Who was given something waits longer anyway.
func (h *hub) rest() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	return min(time.Duration(len(h.lists))*10*time.Microsecond, 100*time.Millisecond)
}

// close wakes everybody: another generation is watched from now on, or none.
func (h *hub) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	h.wakeAll()
}
