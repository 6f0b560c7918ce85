package sim

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// errCut is what a process sees of a connection that was reset.
var errCut = errors.New("the connection was reset")

// A network is what the processes and the brokers have between them.
type network struct {
	kfake.VirtualNetwork
	late sync.WaitGroup // requests that arrive by themselves
}

// A link is the network of one process: everything that it dials goes through it. Its zero value is not usable; see newLink.
type link struct {
	network *network

	mu      sync.Mutex
	rng     *rand.Rand
	conns   map[*conn]struct{}
	most    time.Duration // latency of a message, at most
	down    bool          // nothing can be dialled
	brokers map[string]bool
	dead    bool // of a process that was killed: for good
	deafIn  bool // what arrives is lost
	deafOut bool // what is sent is lost
	frozen  chan struct{}

	loseReply   int           // so many answers to produce requests are lost, with their connections
	loseRequest int           // so many produce requests are lost, with their connections
	late        time.Duration // so much later produce requests arrive, whose connections are reset meanwhile
	lateCount   int
	lag         time.Duration // so much later arrives what brokers answer to fetches
	twice       int           // so many produce requests arrive twice, the second time later than the first
}

func newLink(network *network, seed, stream uint64, most time.Duration) *link {
	return &link{network: network, rng: rand.New(rand.NewPCG(seed, stream)), conns: map[*conn]struct{}{}, most: most, brokers: map[string]bool{}}
}

// set changes the link.
func (l *link) set(f func(*link)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f(l)
}

// heal ends every fault but death.
func (l *link) heal() {
	l.set(func(l *link) {
		l.down, l.deafIn, l.deafOut = false, false, false
		l.loseReply, l.loseRequest, l.lateCount, l.twice, l.late, l.lag = 0, 0, 0, 0, 0, 0
		clear(l.brokers)
		l.thaw()
	})
}

// freeze stops the process as far as it can be seen from outside: it sends nothing and takes nothing in. Called with mu held.
func (l *link) freeze() {
	if l.frozen == nil {
		l.frozen = make(chan struct{})
	}
}

// thaw ends it. Called with mu held.
func (l *link) thaw() {
	if l.frozen != nil {
		close(l.frozen)
		l.frozen = nil
	}
}

// awake waits until the process is not frozen.
func (l *link) awake() {
	for {
		l.mu.Lock()
		frozen := l.frozen
		l.mu.Unlock()
		if frozen == nil {
			return
		}
		<-frozen
	}
}

// cut resets the connections to a broker, "" = to all. Called with mu held.
func (l *link) cut(broker string) {
	for c := range l.conns {
		if broker == "" || c.to == broker {
			go c.reset()
		}
	}
}

// kill cuts the process off for good.
func (l *link) kill() {
	l.set(func(l *link) {
		l.dead = true
		l.cut("")
		l.thaw()
	})
}

func (l *link) latency() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.someLatency()
}

// someLatency is latency with mu held. It is never 0, so that what happens has an order in fake time.
func (l *link) someLatency() time.Duration {
	return time.Microsecond + time.Duration(l.rng.Int64N(int64(l.most)))
}

// travel takes as long as a message.
func (l *link) travel() { time.Sleep(l.latency()) }

func refused(host string) error {
	return &net.OpError{Op: "dial", Net: "tcp", Err: errors.New(host + " refuses the connection")}
}

// dialTimeout is how long a connection may take: net.Dialer would have one, too.
const dialTimeout = 500 * time.Millisecond

// dial is what eventlog.Config.Dial takes.
func (l *link) dial(ctx context.Context, network, host string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	l.awake()
	select {
	case <-time.After(l.latency()):
	case <-ctx.Done():
		return nil, &net.OpError{Op: "dial", Net: network, Err: ctx.Err()}
	}
	l.mu.Lock()
	shut := l.down || l.dead || l.brokers[host]
	deaf := l.deafIn || l.deafOut
	l.mu.Unlock()
	if shut {
		return nil, refused(host)
	}
	if deaf {
		<-ctx.Done() // the handshake is lost
		return nil, &net.OpError{Op: "dial", Net: network, Err: ctx.Err()}
	}
	pipe, err := l.network.DialContext(ctx, network, host)
	if err != nil {
		return nil, refused(host)
	}
	c := &conn{link: l, to: host, pipe: pipe, done: make(chan struct{}), wake: make(chan struct{}, 1), sent: make(chan struct{}, 1)}
	l.mu.Lock()
	c.slow = l.rng.IntN(2) == 0
	l.conns[c] = struct{}{}
	dead := l.dead
	l.mu.Unlock()
	if dead {
		c.reset()
		return nil, refused(host)
	}
	go c.pumpOut()
	go c.pumpIn()
	return c, nil
}

// A segment is on its way and arrives at a time.
type segment struct {
	at    time.Time
	bytes []byte
	lose  bool // the connection ends instead of its arrival
	deaf  bool // as of one whose answer is lost: the connection ends once it is there
}

// A conn is one end of a connection to a broker, with a network between.
type conn struct {
	link *link
	to   string
	pipe net.Conn

	mu       sync.Mutex
	in       []byte
	ended    error // what Read returns after in
	out      []segment
	sent     chan struct{} // holds one: out has grown
	wake     chan struct{} // holds one: in has grown, or ended was set
	done     chan struct{} // closed with the connection
	closed   bool
	swallow  bool // the answer that comes next is lost
	fetches  bool // fetches go over it, and kgo sends nothing else there
	slow     bool // lags, if the link does: not all connections do, or nobody would be behind the others
	poisoned bool // bytes were lost on the way in: nothing arrives any more
	read     deadline
}

func (c *conn) reset() { c.end(errCut) }

func (c *conn) end(why error) {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return
	}
	c.closed, c.ended = true, why
	c.mu.Unlock()
	close(c.done)
	_ = c.pipe.Close()
	c.link.mu.Lock()
	delete(c.link.conns, c)
	c.link.mu.Unlock()
}

// Close is the process's own.
func (c *conn) Close() error {
	c.end(net.ErrClosed)
	return nil
}

// isA reports whether a written request is of a kind: kgo writes each in one piece.
func isA(b []byte, key kmsg.Key) bool {
	return len(b) > 8 && binary.BigEndian.Uint16(b[4:]) == uint16(key) //nolint:gosec // small
}

func (c *conn) Write(b []byte) (int, error) {
	l := c.link
	l.awake()
	c.mu.Lock()
	ended := c.ended
	c.mu.Unlock()
	if ended != nil {
		return 0, ended
	}
	s := segment{at: time.Now().Add(l.latency()), bytes: append([]byte(nil), b...)}
	if isA(b, kmsg.Fetch) {
		c.mu.Lock()
		c.fetches = true
		c.mu.Unlock()
	}
	if isA(b, kmsg.Produce) {
		l.mu.Lock()
		switch {
		case l.lateCount > 0:
			l.lateCount--
			s.lose = true
			c.deliver(s.bytes, l.late+l.someLatency())
		case l.loseRequest > 0:
			l.loseRequest--
			s.lose = true
		case l.loseReply > 0:
			l.loseReply--
			s.deaf = true
		case l.twice > 0:
			l.twice--
			c.deliver(s.bytes, 20*l.someLatency())
		}
		l.mu.Unlock()
	}
	c.mu.Lock()
	c.out = append(c.out, s)
	c.mu.Unlock()
	notify(c.sent)
	return len(b), nil
}

// deliver brings a request to the broker on a connection of its own, after a while, and takes no answer.
func (c *conn) deliver(request []byte, after time.Duration) {
	n := c.link.network
	n.late.Go(func() {
		time.Sleep(after)
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		pipe, err := n.DialContext(ctx, "tcp", c.to)
		if err != nil {
			return // the broker is down
		}
		defer pipe.Close()
		_ = pipe.SetDeadline(time.Now().Add(10 * time.Second))
		if _, err := pipe.Write(request); err == nil {
			_, _ = io.ReadFull(pipe, make([]byte, 4))
		}
	})
}

// pumpOut brings what was written to the broker, in order.
func (c *conn) pumpOut() {
	for {
		c.mu.Lock()
		var s segment
		found := len(c.out) > 0
		if found {
			s, c.out = c.out[0], c.out[1:]
		}
		c.mu.Unlock()
		if !found {
			select {
			case <-c.sent:
				continue
			case <-c.done:
				return
			}
		}
		if !c.until(s.at) {
			return
		}
		if s.lose {
			c.reset()
			return
		}
		c.link.mu.Lock()
		deaf := c.link.deafOut
		c.link.mu.Unlock()
		if deaf {
			<-c.done // TCP brings nothing after what it could not bring
			return
		}
		if s.deaf {
			c.mu.Lock()
			c.swallow = true
			c.mu.Unlock()
		}
		if _, err := c.pipe.Write(s.bytes); err != nil {
			c.end(io.EOF)
			return
		}
	}
}

// until waits for a time; false if the connection ends before.
func (c *conn) until(at time.Time) bool {
	timer := time.NewTimer(time.Until(at))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-c.done:
		return false
	}
}

// pumpIn takes what the broker sends.
func (c *conn) pumpIn() {
	buf := make([]byte, 64<<10)
	for {
		n, err := c.pipe.Read(buf)
		if n > 0 {
			c.mu.Lock()
			lags := c.fetches && c.slow
			c.mu.Unlock()
			c.link.mu.Lock()
			wait := c.link.someLatency()
			if lags {
				wait += c.link.lag
			}
			c.link.mu.Unlock()
			if !c.until(time.Now().Add(wait)) {
				return
			}
			c.link.mu.Lock()
			deaf := c.link.deafIn
			c.link.mu.Unlock()
			c.mu.Lock()
			swallow := c.swallow
			c.poisoned = c.poisoned || deaf
			if !c.poisoned && !swallow {
				c.in = append(c.in, buf[:n]...)
			}
			c.mu.Unlock()
			if swallow {
				c.reset()
				return
			}
			notify(c.wake)
		}
		if err != nil {
			c.end(io.EOF)
			return
		}
	}
}

func (c *conn) Read(b []byte) (int, error) {
	for {
		c.link.awake()
		c.mu.Lock()
		n := copy(b, c.in)
		c.in = c.in[n:]
		ended := c.ended
		c.mu.Unlock()
		switch {
		case n > 0:
			return n, nil
		case ended != nil:
			return 0, ended
		}
		select {
		case <-c.wake:
		case <-c.done:
		case <-c.read.passed():
			c.link.awake()
			return 0, os.ErrDeadlineExceeded
		}
	}
}

// LocalAddr returns the pipe's.
func (c *conn) LocalAddr() net.Addr { return c.pipe.LocalAddr() }

// RemoteAddr returns the pipe's.
func (c *conn) RemoteAddr() net.Addr { return c.pipe.RemoteAddr() }

// SetDeadline sets the deadline of Read; Write never waits.
func (c *conn) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }

// SetReadDeadline sets the deadline of Read.
func (c *conn) SetReadDeadline(t time.Time) error {
	c.read.set(t)
	return nil
}

// SetWriteDeadline does nothing: Write never waits.
func (c *conn) SetWriteDeadline(time.Time) error { return nil }

// A deadline is a time that can be moved while somebody waits for it.
type deadline struct {
	mu    sync.Mutex
	timer *time.Timer
	done  chan struct{}
}

func (d *deadline) passed() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.done == nil {
		d.done = make(chan struct{})
	}
	return d.done
}

func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil && !d.timer.Stop() {
		// It has passed, or is about to; those who waited for it know.
		d.done = nil
	}
	d.timer = nil
	if d.done == nil {
		d.done = make(chan struct{})
	} else {
		select {
		case <-d.done:
			d.done = make(chan struct{})
		default:
		}
	}
	if t.IsZero() {
		return
	}
	done := d.done
	if left := time.Until(t); left > 0 {
		d.timer = time.AfterFunc(left, func() { closeOnce(d, done) })
		return
	}
	close(done)
}

// closeOnce closes done unless it is closed or another deadline's.
func closeOnce(d *deadline, done chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	select {
	case <-done:
	default:
		close(done)
	}
}

func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
