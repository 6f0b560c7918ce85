package forward

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// errRetired is returned by link.do if nothing was sent because the connection takes no new requests.
var errRetired = errors.New("the connection takes no new requests")

// A link is the sender's side of a connection.
type link struct {
	*wire
	pool *Pool
	addr string
	body int // longest body that the peer takes

	// guarded by wire.mu
	calls   map[uint64]*call
	last    uint64
	retired bool // the peer shuts down, or the wire is dead
}

// A call is one request that waits for its answer.
type call struct {
	answered chan struct{} // gets one value when the rest is set
	resp     *Response
	err      error
	batch    uint64 // the batch that the request was put into
}

// do sends r and waits for its answer.
func (l *link) do(ctx context.Context, r *Request) (*Response, error) {
	if err := checkRequest(r, l.body); err != nil {
		return nil, err
	}
	c := l.pool.calls.Get().(*call)
	l.mu.Lock()
	var left time.Duration
	err := l.awaitRoom(ctx)
	if err == nil {
		left, err = remaining(ctx)
	}
	switch {
	case l.retired || l.reason != nil:
		l.mu.Unlock()
		l.pool.calls.Put(c)
		return nil, errRetired
	case err != nil:
		l.mu.Unlock()
		l.pool.calls.Put(c)
		return nil, ErrUnsent.Because("%s was not reached in time", l.addr).Wrap(err)
	}
	l.last++
	id := l.last
	l.calls[id] = c
	c.batch = l.batch
	was := len(l.buf)
	l.buf = appendRequest(l.buf, id, r, left)
	l.wake(was)
	l.mu.Unlock()
	select {
	case <-c.answered:
	case <-ctx.Done():
		if l.cancel(id) {
			l.pool.calls.Put(c)
			return nil, ErrUnanswered.Because("%s", l.addr).Wrap(ctx.Err())
		}
		<-c.answered // it came at the same moment
	}
	resp, err := c.resp, c.err
	c.resp, c.err = nil, nil
	l.pool.calls.Put(c)
	return resp, err
}

// remaining returns the time to the deadline, 0 if there is none, or why ctx ended.
func remaining(ctx context.Context) (time.Duration, error) {
	if ctx.Err() != nil {
		return 0, ctx.Err()
	}
	deadline, ok := ctx.Deadline()
	if !ok {
		return 0, nil
	}
	left := time.Until(deadline)
	if left <= 0 {
		return 0, context.DeadlineExceeded
	}
	return left, nil
}

// cancel gives a request up and tells the peer; false if its answer is there already.
func (l *link) cancel(id uint64) bool {
	l.mu.Lock()
	_, waits := l.calls[id]
	if waits {
		delete(l.calls, id)
		if l.reason == nil {
			was := len(l.buf)
			l.buf = appendHeader(l.buf, kindCancel, id, 0)
			l.wake(was)
		}
	}
	finished := l.retired && len(l.calls) == 0
	l.mu.Unlock()
	if finished {
		l.close(errClosed)
	}
	return waits
}

// take removes the call that an answer is for; nil if nobody waits for it. finished says that no further answer will come.
func (l *link) take(id uint64) (c *call, finished bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if id > l.last {
		return nil, false, fmt.Errorf("%w: an answer to request %d, which was not sent", errFrame, id)
	}
	c = l.calls[id]
	delete(l.calls, id)
	return c, l.retired && len(l.calls) == 0, nil
}

// run works until the connection ends, and then ends all calls.
func (l *link) run() {
	var parts sync.WaitGroup
	parts.Go(l.write)
	parts.Go(l.watch)
	err := l.read()
	if errors.Is(err, io.EOF) {
		err = errEnded
	}
	l.close(err)
	parts.Wait()
	l.pool.gone(l)
	l.mu.Lock()
	l.retired = true
	waiting := l.calls
	l.calls = nil
	reason, sent := l.reason, l.batch
	l.mu.Unlock()
	for _, c := range waiting {
		if c.batch >= sent {
			c.err = ErrUnsent.Because("the connection to %s broke before", l.addr).Wrap(reason)
		} else {
			c.err = ErrBroken.Because("%s", l.addr).Wrap(reason)
		}
		c.answered <- struct{}{}
	}
	if len(waiting) > 0 || !errors.Is(reason, errClosed) && !errors.Is(reason, errEnded) {
		l.pool.o.Logger.Warn("the connection to a peer broke", "peer", l.addr, "reason", reason.Error(), "waiting", len(waiting))
		return
	}
	l.pool.o.Logger.Debug("the connection to a peer ended", "peer", l.addr)
}

func (l *link) read() error {
	for {
		f, err := readFrame(l.in, l.limit)
		if err != nil {
			return err
		}
		finished := false
		switch f.kind {
		case kindResponse, kindRefusal:
			finished, err = l.answer(f)
		case kindPing:
			l.send(kindPong)
		case kindPong:
		case kindGoaway:
			finished = l.retire()
		default:
			err = fmt.Errorf("%w: kind %d from the peer that answers", errFrame, f.kind)
		}
		if err != nil {
			return err
		}
		if finished {
			return errClosed
		}
	}
}

// retire sends no new requests over this connection; true if no answer is awaited either.
func (l *link) retire() bool {
	l.pool.retired(l)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.retired = true
	return len(l.calls) == 0
}

// answer gives an answer to the call that waits for it. What nobody waits for is not even parsed.
func (l *link) answer(f frame) (finished bool, err error) {
	c, finished, err := l.take(f.id)
	if c == nil {
		return finished, err
	}
	if f.kind == kindResponse {
		c.resp, c.err = l.response(f)
	} else {
		c.err = l.refusal(f.payload)
	}
	if errors.Is(c.err, errFrame) {
		err = c.err
		c.err = ErrBroken.Because("%s", l.addr).Wrap(err)
	}
	c.answered <- struct{}{}
	return finished, err
}

func (l *link) response(f frame) (*Response, error) {
	m, err := parseResponse(f.payload)
	if err != nil {
		return nil, err
	}
	if !f.owned {
		m.body = append([]byte(nil), m.body...)
	}
	return &Response{Status: m.status, Header: m.fields, Body: m.body}, nil
}

func (l *link) refusal(p []byte) error {
	if len(p) == 0 {
		return short("refusal")
	}
	text := string(p[1:min(len(p), 1025)])
	switch p[0] {
	case reasonBusy:
		return ErrBusy.Because("%s: %s", l.addr, text).After(time.Second).Wrap(ErrUnsent)
	case reasonDraining:
		return ErrUnsent.Because("%s shuts down", l.addr)
	case reasonInvalid:
		return ErrInvalid.Because("%s", text).Wrap(ErrUnsent)
	case reasonAborted:
		return ErrBroken.Because("%s ended the request without an answer", l.addr)
	case reasonTooLong:
		return ErrBroken.Because("%s: %s", l.addr, text)
	}
	return fmt.Errorf("%w: refusal for reason %d", errFrame, p[0])
}
