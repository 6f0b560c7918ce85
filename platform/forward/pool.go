package forward

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

// PoolOptions are the settings of a Pool; each zero field means the default that its comment names.
type PoolOptions struct {
	Instance     string                                                            // name of this process, unique among the instances; required
	Dial         func(ctx context.Context, network, addr string) (net.Conn, error) // net.Dialer's
	TLS          *tls.Config                                                       // of connections to peers; nil = plain TCP
	Sign         func(handshake *http.Request) error                               // adds the credentials that the peers' Authorize asks for; none
	MaxBody      int                                                               // longest body of an answer in bytes; 4 MiB
	DialTimeout  time.Duration                                                     // from dialling to the end of the handshake; 3 s
	PingInterval time.Duration                                                     // silence after which the peer is pinged; 1 s
	PingTimeout  time.Duration                                                     // silence after which the connection is given up, found within one more interval; 4 s
	Logger       *slog.Logger                                                      // of connections that come and break; nothing is logged by default
	// OnForward is called at the end of each Do with the status of the answer (0 = none), the error, and how long it took.
	OnForward func(addr string, status int, err error, took time.Duration)
}

// A Pool holds the connections of one process to its peers, one for each address. Its methods may be called at the same time.
type Pool struct {
	o     PoolOptions
	nonce string
	ended sync.WaitGroup
	calls sync.Pool // of *call

	mu      sync.Mutex
	links   map[string]*link
	dials   map[string]*dial
	live    map[*link]struct{} // also those that take no new requests
	session uint64
	closed  bool
}

// A dial is one attempt to connect, which all that need the connection wait for.
type dial struct {
	cancel context.CancelFunc
	done   chan struct{} // closed when the rest is set
	link   *link
	err    error
}

// NewPool returns a Pool without connections; they are made when they are first needed. A Pool without an instance name is a bug and panics.
func NewPool(o PoolOptions) *Pool {
	if !validInstance(o.Instance) {
		panic("forward: the instance needs a name of 1 to 256 visible ASCII characters")
	}
	if o.Dial == nil {
		o.Dial = new(net.Dialer).DialContext
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	setDefault(&o.MaxBody, defaultBody)
	setDefault(&o.DialTimeout, 3*time.Second)
	setDefault(&o.PingInterval, time.Second)
	setDefault(&o.PingTimeout, 4*time.Second)
	p := &Pool{o: o, nonce: rand.Text(), links: map[string]*link{}, dials: map[string]*dial{}, live: map[*link]struct{}{}}
	p.calls.New = func() any { return &call{answered: make(chan struct{}, 1)} }
	return p
}

const defaultBody = 4 << 20

func setDefault[T int | time.Duration](v *T, d T) {
	if *v == 0 {
		*v = d
	}
}

// Do lets the process at addr, "host:port", run r, and returns its answer, whatever its status. The deadline of ctx travels along, and when ctx ends
// the peer's handler is told. Of every error Unsent tells whether the request may be repeated without a thought:
// ErrUnsent, ErrRefused, ErrBusy, ErrTooLarge and ErrInvalid say so; after ErrBroken and ErrUnanswered the outcome is unknown.
// The errors of dialling and of ctx are causes of those, e.g. for errors.Is(err, syscall.ECONNREFUSED).
func (p *Pool) Do(ctx context.Context, addr string, r *Request) (*Response, error) {
	if p.o.OnForward == nil {
		return p.do(ctx, addr, r)
	}
	began := time.Now()
	resp, err := p.do(ctx, addr, r)
	status := 0
	if resp != nil {
		status = resp.Status
	}
	p.o.OnForward(addr, status, err, time.Since(began))
	return resp, err
}

func (p *Pool) do(ctx context.Context, addr string, r *Request) (*Response, error) {
	for {
		l, fresh, err := p.link(ctx, addr)
		if err != nil {
			return nil, err
		}
		resp, err := l.do(ctx, r)
		if !errors.Is(err, errRetired) {
			return resp, err
		}
		p.retired(l)
		if fresh {
			return nil, ErrUnsent.Because("%s shuts down or broke the connection at once", addr)
		}
		// It took no new requests any more; the next look finds another one or none.
	}
}

// link returns the connection to addr, and whether it was made just now.
func (p *Pool) link(ctx context.Context, addr string) (l *link, fresh bool, err error) {
	p.mu.Lock()
	if l := p.links[addr]; l != nil {
		p.mu.Unlock()
		return l, false, nil
	}
	if p.closed {
		p.mu.Unlock()
		return nil, false, errPoolClosed
	}
	if ctx.Err() != nil {
		p.mu.Unlock()
		return nil, false, unsent(ctx, addr)
	}
	d := p.dials[addr]
	if d == nil {
		p.session++
		// Others wait for it too, so it outlives the request that needs it first.
		limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), p.o.DialTimeout)
		d = &dial{cancel: cancel, done: make(chan struct{})}
		p.dials[addr] = d
		number := p.session
		p.ended.Go(func() { p.connect(limit, addr, number, d) })
	}
	p.mu.Unlock()
	select {
	case <-d.done:
		return d.link, true, d.err
	case <-ctx.Done():
		return nil, false, unsent(ctx, addr)
	}
}

var errPoolClosed = ErrUnsent.Because("this process shuts down")

func unsent(ctx context.Context, addr string) error {
	return ErrUnsent.Because("%s was not reached in time", addr).Wrap(ctx.Err())
}

// connect dials addr and runs the connection until it ends.
func (p *Pool) connect(ctx context.Context, addr string, number uint64, d *dial) {
	l, err := p.dial(ctx, addr, number)
	d.cancel()
	p.mu.Lock()
	delete(p.dials, addr)
	if p.closed {
		if err == nil {
			l.close(errClosed)
		}
		err = errPoolClosed
	}
	if err == nil {
		p.links[addr] = l
		p.live[l] = struct{}{}
	}
	d.link, d.err = l, err
	p.mu.Unlock()
	close(d.done)
	if err != nil {
		p.o.Logger.Info("a peer cannot be reached", "peer", addr, "error", err.Error())
		return
	}
	p.o.Logger.Debug("connected to a peer", "peer", addr)
	l.run()
}

// retired takes a link that takes no new requests out of the way of another one.
func (p *Pool) retired(l *link) {
	p.mu.Lock()
	if p.links[l.addr] == l {
		delete(p.links, l.addr)
	}
	p.mu.Unlock()
}

// gone forgets a link that broke.
func (p *Pool) gone(l *link) {
	p.retired(l)
	p.mu.Lock()
	delete(p.live, l)
	p.mu.Unlock()
}

// Close breaks all connections, so that every waiting Do returns an error, and waits until they have ended. Later calls of Do return ErrUnsent.
func (p *Pool) Close() {
	p.mu.Lock()
	p.closed = true
	for _, d := range p.dials {
		d.cancel()
	}
	links := make([]*link, 0, len(p.live))
	for l := range p.live {
		links = append(links, l)
	}
	p.mu.Unlock()
	for _, l := range links {
		l.close(errClosed)
	}
	p.ended.Wait()
}
