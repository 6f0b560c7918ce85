package forward

import (
	"bufio"
	"context"
	"errors"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

const (
	queueLimit = 4 << 20   // bytes that may wait to be written before more has to wait for room
	keepBuffer = 256 << 10 // larger buffers are given back to the collector
	writeChunk = 256 << 10 // what must get through within the timeout, roughly
)

var (
	errSilent = errors.New("nothing was heard from the peer in time")
	errClosed = errors.New("it was closed here")
	errEnded  = errors.New("the peer closed it")
)

// A wire is one connection after its handshake, seen from either side: frames come in through one reader, frames go out through one
// goroutine that writes all that waits at once.
type wire struct {
	conn     net.Conn // set once, by attach
	in       *bufio.Reader
	limit    int // longest payload taken
	interval time.Duration
	timeout  time.Duration
	dead     chan struct{} // closed when the connection is of no use any more

	reads  atomic.Uint64 // calls of Read that brought something: signs of life
	writes atomic.Uint64 // chunks written
	paused atomic.Bool   // our reader waits for room, so silence proves nothing

	mu     sync.Mutex    // guards the rest, and what the two sides add to it
	work   sync.Cond     // there is something to write, or the wire is dead
	buf    []byte        // whole frames that wait to be written
	batch  uint64        // how many batches were taken from buf: the batch that is filled now has this number
	room   chan struct{} // closed when a batch is taken; nil while nobody waits for it
	pongs  bool          // a pong is in buf; one answers any number of pings
	reason error         // why it is dead; nil = it is not
}

func newWire(limit int, interval, timeout time.Duration) *wire {
	w := &wire{limit: limit, interval: interval, timeout: timeout, dead: make(chan struct{})}
	w.work.L = &w.mu
	return w
}

// attach gives the wire its connection; false if it is dead already.
func (w *wire) attach(conn net.Conn) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.reason != nil {
		return false
	}
	w.conn = conn
	w.in = bufio.NewReaderSize(heard{w}, readBuffer)
	return true
}

// heard is the connection's reading side; it notes signs of life.
type heard struct{ w *wire }

func (h heard) Read(p []byte) (int, error) {
	n, err := h.w.conn.Read(p)
	if n > 0 {
		h.w.reads.Add(1)
	}
	return n, err
}

// close makes the wire dead for a reason, the first one given: nothing more is written, and reads fail.
func (w *wire) close(reason error) {
	w.mu.Lock()
	if w.reason != nil {
		w.mu.Unlock()
		return
	}
	w.reason = reason
	conn := w.conn
	w.work.Signal()
	w.mu.Unlock()
	close(w.dead)
	if conn != nil {
		_ = conn.Close() // whatever it says, the connection is not used again
	}
}

// write sends what waits until the wire is dead.
func (w *wire) write() {
	var spare []byte
	for {
		w.mu.Lock()
		for len(w.buf) == 0 && w.reason == nil {
			w.work.Wait()
		}
		w.mu.Unlock()
		// Whoever is ready to run may have something to add, and one write costs more than anything else here.
		runtime.Gosched()
		w.mu.Lock()
		if w.reason != nil {
			w.mu.Unlock()
			return
		}
		out := w.buf
		w.buf = spare[:0]
		w.batch++
		w.pongs = false
		if w.room != nil {
			close(w.room)
			w.room = nil
		}
		w.mu.Unlock()
		if err := w.flush(out); err != nil {
			w.close(err)
			return
		}
		if spare = out; cap(out) > keepBuffer {
			spare = nil
		}
	}
}

func (w *wire) flush(out []byte) error {
	for len(out) > 0 {
		n := len(out)
		if n >= 2*writeChunk {
			n = writeChunk
		}
		if _, err := w.conn.Write(out[:n]); err != nil {
			return err
		}
		w.writes.Add(1)
		out = out[n:]
	}
	return nil
}

// wake lets the writer run; mu is held and something was added to an empty buffer.
func (w *wire) wake(was int) {
	if was == 0 {
		w.work.Signal()
	}
}

// awaitRoom waits until not too much waits to be written. mu is held before and after, but not while waiting.
// It returns the context's error, or nil also if the wire is dead.
func (w *wire) awaitRoom(ctx context.Context) error {
	for len(w.buf) >= queueLimit && w.reason == nil {
		if w.room == nil {
			w.room = make(chan struct{})
		}
		room := w.room
		w.mu.Unlock()
		var err error
		select {
		case <-room:
		case <-w.dead:
		case <-ctx.Done():
			err = ctx.Err()
		}
		w.mu.Lock()
		if err != nil {
			return err
		}
	}
	return nil
}

// send adds a ping, a pong or a goaway.
func (w *wire) send(kind uint8) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if kind == kindPong {
		if w.pongs {
			return
		}
		w.pongs = true
	}
	was := len(w.buf)
	w.buf = appendHeader(w.buf, kind, 0, 0)
	w.wake(was)
}

// refuse adds a refusal.
func (w *wire) refuse(id uint64, reason uint8, text string) {
	w.mu.Lock()
	was := len(w.buf)
	w.buf = appendRefusal(w.buf, id, reason, text)
	w.wake(was)
	w.mu.Unlock()
}

// watch pings a silent peer, and gives the connection up after a whole timeout of silence, counted in ticks: a process that was
// stopped itself for a while must not take that for the peer's silence.
func (w *wire) watch() {
	tick := time.NewTicker(w.interval)
	defer tick.Stop()
	patience := max(2, int((w.timeout+w.interval-1)/w.interval))
	var seen uint64
	silent := 0
	for {
		select {
		case <-w.dead:
			return
		case <-tick.C:
		}
		now := w.reads.Load()
		if w.paused.Load() {
			now += w.writes.Load()
		}
		if now != seen {
			seen, silent = now, 0
			continue
		}
		if silent++; silent >= patience {
			w.close(errSilent)
			return
		}
		w.send(kindPing)
	}
}
