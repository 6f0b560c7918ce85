//go:build linux || darwin

package service

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// The crowd of TestLiveCrowd.
const (
	crowdSize   = 5000 // connections
	crowdSlow   = 500  // of them watch all rows and never read
	crowdLists  = 500  // watch the rows that a filter selects
	crowdBack   = 300  // watch a row, and come back in the middle; all others watch one, too
	crowdRows   = 40   // accounts
	crowdRounds = 20   // payments into each
	crowdHot    = 10   // times as many into the first one
)

// roomFor returns how many connections to itself this process may have, at most n, after it has asked the system for more.
func roomFor(t *testing.T, n int) int {
	t.Helper()
	const others = 500 // files of the stores, the broker and the test
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		t.Fatal(err)
	}
	if need := uint64(2*n + others); l.Cur < need {
		more := l
		more.Cur = min(need, l.Max)
		if syscall.Setrlimit(syscall.RLIMIT_NOFILE, &more) == nil {
			before := l
			t.Cleanup(func() { _ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &before) })
			l = more
		}
		if l.Cur < need {
			n = (int(l.Cur) - others) / 2 //nolint:gosec // less than need
		}
	}
	if raceDetector {
		n = min(n, 1500) // it knows 8,128 goroutines at most, and a connection has several
	}
	return n
}

// An onlooker is a connection on which rows are watched, with as little to it as can be: there are thousands.
type onlooker struct {
	addr, path string
	conn       net.Conn
	in         *bufio.Reader
	began      time.Time
	frames     int    // events on this connection
	last       string // id of the last event
	event      string
	data       []byte
}

// open connects and reads the header of the answer. For a slow one the connection takes as little as the system lets it.
func (o *onlooker) open(ctx context.Context, slow bool) error {
	var d net.Dialer
	if slow {
		d.Control = func(_, _ string, c syscall.RawConn) error {
			var err1, err2 error
			err := c.Control(func(fd uintptr) {
				err1 = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4096)
				err2 = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_MAXSEG, 536) // what the server may send ahead goes by it
			})
			return errors.Join(err, err1, err2)
		}
	}
	o.began, o.frames = time.Now(), 0
	var err error
	if o.conn, err = d.DialContext(ctx, "tcp", o.addr); err != nil {
		return err
	}
	deadline, _ := ctx.Deadline()
	if err := o.conn.SetDeadline(deadline); err != nil {
		return err
	}
	back := ""
	if o.last != "" {
		back = "\r\nLast-Event-ID: " + o.last
	}
	if _, err := io.WriteString(o.conn, "GET "+o.path+" HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream"+back+"\r\n\r\n"); err != nil {
		return err
	}
	resp, err := http.ReadResponse(bufio.NewReaderSize(o.conn, 1024), nil)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	o.in = bufio.NewReaderSize(resp.Body, 1024)
	return nil
}

// next reads the next event, which is in event and data.
func (o *onlooker) next() error {
	o.data = o.data[:0]
	for {
		begin := len(o.data)
		for {
			line, err := o.in.ReadSlice('\n')
			o.data = append(o.data, line...)
			if err == nil {
				break
			}
			if !errors.Is(err, bufio.ErrBufferFull) {
				return err
			}
		}
		line := o.data[begin:]
		if value, ok := bytes.CutPrefix(line, []byte("event: ")); ok {
			o.event = string(bytes.TrimSpace(value))
		} else if value, ok := bytes.CutPrefix(line, []byte("id: ")); ok {
			o.last = string(bytes.TrimSpace(value))
		} else if bytes.HasPrefix(line, []byte("data: ")) {
			o.frames++
			return nil
		}
		o.data = o.data[:0]
	}
}

// until reads events until one has text. Who is cut off comes back with Last-Event-ID.
func (o *onlooker) until(ctx context.Context, text []byte) error {
	for {
		err := o.next()
		switch {
		case err != nil && ctx.Err() == nil:
			o.conn.Close()
			err = o.open(ctx, false)
		case err == nil && bytes.Contains(o.data, text):
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// hurried says whether there were more events on the connection than there may be. There is a time between any two when they are sent, so
// however late they are read there are not more of them than fit into all the time that passed.
func (o *onlooker) hurried() error {
	if took := time.Since(o.began); o.frames > int(took/liveInterval)+2 {
		return fmt.Errorf("%d events in %s", o.frames, took)
	}
	return nil
}

// An audience is many onlookers of the accounts a-0, a-1 and so on.
type audience struct {
	ctx   context.Context
	addr  string
	dials chan struct{} // so many at once

	events, resumed atomic.Int64
	half            chan struct{} // closed when half of the payments are made
}

// balance is how an account is after so many rounds, as its row begins.
func (c *audience) balance(account, rounds int) string {
	if account == 0 {
		rounds *= crowdHot
	}
	return fmt.Sprintf(`{"balance":%d`, rounds)
}

// each has something done with each onlooker, all at once, and returns when it is done, with the first error.
func (c *audience) each(os []*onlooker, do func(i int, o *onlooker) error) error {
	var all sync.WaitGroup
	var failed atomic.Int64
	first := make(chan error, 1)
	for i, o := range os {
		all.Go(func() {
			err := do(i, o)
			if err == nil {
				return
			}
			failed.Add(1)
			select {
			case first <- fmt.Errorf("%s: %w", o.path, err):
			default:
			}
		})
	}
	all.Wait()
	if n := failed.Load(); n > 0 {
		return fmt.Errorf("%d of %d failed, the first one: %w", n, len(os), <-first)
	}
	return nil
}

// open connects an onlooker, a few at a time.
func (c *audience) open(o *onlooker, slow bool) error {
	c.dials <- struct{}{}
	defer func() { <-c.dials }()
	return o.open(c.ctx, slow)
}

// watch reads until the account is as it will be in the end; back has it go away and come back after half of the payments.
func (c *audience) watch(o *onlooker, account int, back bool) error {
	if back {
		for o.event != "change" {
			if err := o.next(); err != nil {
				return err
			}
		}
		err := o.hurried()
		c.events.Add(int64(o.frames))
		o.conn.Close()
		<-c.half
		if err = errors.Join(err, c.open(o, false)); err == nil {
			err = o.next()
		}
		if err != nil {
			return err
		}
		if o.event == "change" {
			c.resumed.Add(1)
		}
	}
	want := []byte(c.balance(account, 1+crowdRounds) + "}")
	if !bytes.Contains(o.data, want) {
		if err := o.until(c.ctx, want); err != nil {
			return err
		}
	}
	c.events.Add(int64(o.frames))
	o.conn.Close()
	return o.hurried()
}

// catchUp reads what a slow one is told when it begins to read, until it knows how all accounts are.
func (c *audience) catchUp(o *onlooker) error {
	defer o.conn.Close()
	missing := map[string]bool{}
	for a := range crowdRows {
		missing[fmt.Sprintf(`%s,"note":"k%d-`, c.balance(a, 1+crowdRounds), a)] = true
	}
	for len(missing) > 0 {
		if err := o.until(c.ctx, nil); err != nil {
			return err
		}
		for text := range missing {
			if bytes.Contains(o.data, []byte(text)) {
				delete(missing, text)
			}
		}
	}
	return nil
}

// pay makes so many payments into each account, from four callers that have accounts of their own.
func (c *audience) pay(rounds int) error {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 8}}
	defer client.CloseIdleConnections()
	one := func(account int) error {
		body := fmt.Sprintf(`{"amount":1,"note":"k%d-%s"}`, account, strings.Repeat("n", 2000))
		req, err := http.NewRequestWithContext(c.ctx, http.MethodPost, fmt.Sprintf("http://%s/v1/accounts/a-%d/pay-in", c.addr, account), strings.NewReader(body))
		if err != nil {
			return err
		}
		req.Header.Set("Content-Type", "application/json")
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return errors.New(resp.Status)
		}
		_, err = io.Copy(io.Discard, resp.Body)
		return err
	}
	const callers = 4
	ended := make(chan error, callers)
	for caller := range callers {
		go func() {
			for range rounds {
				for a := caller; a < crowdRows; a += callers {
					times := 1
					if a == 0 {
						times = crowdHot
					}
					for range times {
						if err := one(a); err != nil {
							ended <- err
							return
						}
					}
				}
			}
			ended <- nil
		}()
	}
	var err error
	for range callers {
		err = errors.Join(err, <-ended)
	}
	return err
}

// TestLiveCrowd has 5,000 clients on one process, 500 of which do not read. Events come, and each of the others sees what becomes of what it
// watches, in no more than ten events a second; some come back in the middle and go on where they were. What the slow ones miss is kept for
// none of them: when they begin to read, they are told how it is.
//
// G44: Of thousands who watch on one process, some of whom do not read, each of the others is given how it is in at most ten events a second, and nothing is kept for those who do not read.
func TestLiveCrowd(t *testing.T) {
	size := roomFor(t, crowdSize)
	if size < crowdSize {
		t.Logf("%d connections in place of %d", size, crowdSize)
	}
	r := launch(t, App{Roles: []Role{accounts("accounts"), savings()}})
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	c := &audience{ctx: ctx, addr: strings.TrimPrefix(r.at, "http://"), dials: make(chan struct{}, 64), half: make(chan struct{})}
	if err := c.pay(1); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	part := func(n int) int { return n * size / crowdSize }
	slow, lists, back := part(crowdSlow), part(crowdLists), part(crowdBack)
	all := make([]*onlooker, size)
	for i := range all {
		all[i] = &onlooker{addr: c.addr}
		switch account := i % crowdRows; {
		case i < slow:
			all[i].path = "/v1/views/savings?limit=1000"
		case i < slow+lists:
			all[i].path = fmt.Sprintf("/v1/views/savings?fields=balance&where=note.startsWith(%%22k%d-%%22)", account)
		default:
			all[i].path = fmt.Sprintf("/v1/views/savings/a-%d?fields=balance", account)
		}
	}
	defer func() {
		for _, o := range all {
			if o.conn != nil {
				o.conn.Close()
			}
		}
	}()
	err := c.each(all, func(i int, o *onlooker) error {
		if err := c.open(o, i < slow); err != nil || i < slow {
			return err
		}
		return o.next()
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d connected after %s", size, time.Since(began))

	before := heap()
	began = time.Now()
	paid := make(chan error, 1)
	var took time.Duration
	go func() {
		err := c.pay(crowdRounds / 2)
		close(c.half)
		if err == nil {
			err = c.pay(crowdRounds - crowdRounds/2)
		}
		if err != nil {
			cancel() // nobody will see what they wait for
		}
		took = time.Since(began)
		paid <- err
	}()
	readers := all[slow:]
	err = c.each(readers, func(i int, o *onlooker) error {
		return c.watch(o, (slow+i)%crowdRows, i >= lists && i < lists+back)
	})
	if err := errors.Join(<-paid, err); err != nil {
		t.Fatal(err)
	}
	const changes = crowdRounds * (crowdRows - 1 + crowdHot)
	t.Logf("%d changes in %s, all %d have seen the last one %s later, after %d events", changes, took, len(readers), time.Since(began)-took, c.events.Load())
	if got := int(c.resumed.Load()); got != back {
		t.Errorf("%d clients of the %d that came back went on where they were", got, back)
	}
	// Were it kept for each of the slow ones what it has not read, that would be a gigabyte.
	grown := heap() - before
	t.Logf("the heap has grown by %d bytes", grown)
	if grown > 100<<20 {
		t.Errorf("%d bytes are kept for %d clients that do not read", grown, slow)
	}

	began = time.Now()
	told := atomic.Int64{}
	err = c.each(all[:slow], func(_ int, o *onlooker) error {
		err := c.catchUp(o)
		told.Add(int64(o.frames))
		if o.frames > 12 { // what was between
			err = errors.Join(err, fmt.Errorf("it was told of the past in %d events", o.frames))
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	t.Logf("the slow ones know how it is %s after they began to read, after %d events", time.Since(began), told.Load())
}

// heap returns how many bytes are in use.
func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // what is in pools, too
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc) //nolint:gosec // no such machine
}
