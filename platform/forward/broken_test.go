package forward

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A mute peer accepts connections in memory and shakes hands; what becomes of them then is the test's affair.
type mute struct{ conns chan net.Conn }

func (m mute) dial(context.Context, string, string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	go func() {
		if _, err := http.ReadRequest(bufio.NewReaderSize(theirs, 16)); err != nil {
			return
		}
		_, _ = io.WriteString(theirs, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+protocol+"\r\n"+bodyHeader+": 10000000\r\n\r\n")
		m.conns <- theirs
	}()
	return ours, nil
}

// asks starts a Do whose error arrives at the channel.
func asks(ctx context.Context, p *Pool, r *Request) <-chan error {
	failed := make(chan error, 1)
	go func() {
		_, err := p.Do(ctx, "peer:1", r)
		failed <- err
	}()
	return failed
}

func TestWhatWasSentWhenItBroke(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mute{make(chan net.Conn, 1)}
		p := NewPool(PoolOptions{Instance: "shop-1", Dial: m.dial, PingInterval: time.Hour})
		defer p.Close()
		first := asks(t.Context(), p, place())
		synctest.Wait() // it is being written, for nobody reads
		second := asks(t.Context(), p, place())
		synctest.Wait()
		if err := (<-m.conns).Close(); err != nil {
			t.Fatal(err)
		}
		if err := <-first; !errors.Is(err, ErrBroken) || Unsent(err) {
			t.Errorf("what was handed to the connection: %v", err)
		}
		if err := <-second; !Unsent(err) || errors.Is(err, ErrBroken) {
			t.Errorf("what still waited: %v", err)
		}
		// The next request has a connection of its own.
		third := asks(t.Context(), p, place())
		conn := <-m.conns
		if f, err := readFrame(bufio.NewReader(conn), 1000); err != nil || f.kind != kindRequest || f.id != 1 {
			t.Errorf("the second connection begins with kind %d, id %d, %v", f.kind, f.id, err)
		}
		if err := conn.Close(); err != nil {
			t.Fatal(err)
		}
		<-third
	})
}

func TestSilentPeer(t *testing.T) {
	for name, reads := range map[string]bool{"that reads": true, "that does not even read": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mute{make(chan net.Conn, 1)}
				p := NewPool(PoolOptions{Instance: "shop-1", Dial: m.dial})
				defer p.Close()
				began := time.Now()
				failed := asks(t.Context(), p, place())
				conn := <-m.conns
				if reads {
					go func() { _, _ = io.Copy(io.Discard, conn) }()
				}
				err := <-failed
				if took := time.Since(began); !errors.Is(err, ErrBroken) || !errors.Is(err, errSilent) || took < 4*time.Second || took > 5*time.Second {
					t.Errorf("after %s: %v", took, err)
				}
			})
		})
	}
}

func TestSilentSender(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := make(chan time.Duration, 1)
		began := time.Now()
		_, l := piped(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			<-r.Context().Done()
			ended <- time.Since(began)
		}), ServerOptions{})
		conn, status := sender{t, "shop-1", l.dial}.open("x-1")
		if got := <-status; got != http.StatusSwitchingProtocols {
			t.Fatal(got)
		}
		if _, err := conn.Write(appendRequest(nil, 1, place(), 0)); err != nil {
			t.Fatal(err)
		}
		go func() { _, _ = io.Copy(io.Discard, conn) }()
		if took := <-ended; took < 4*time.Second || took > 5*time.Second {
			t.Errorf("the handler was cancelled after %s", took)
		}
	})
}

func TestLongSilenceWithPings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, l := piped(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			select {
			case <-time.After(time.Hour):
			case <-r.Context().Done():
				t.Error("the request was cancelled")
			}
		}), ServerOptions{})
		p := NewPool(PoolOptions{Instance: "shop-1", Dial: l.dial})
		defer p.Close()
		if err := <-asks(t.Context(), p, place()); err != nil { // an hour for an answer
			t.Error(err)
		}
		<-time.After(time.Hour) // an hour of idleness
		if err := <-asks(t.Context(), p, place()); err != nil {
			t.Error(err)
		}
		if p.session != 1 {
			t.Errorf("%d connections were made", p.session)
		}
	})
}

func TestDeadlineTravels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := make(chan time.Duration, 1)
		_, l := piped(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			began := time.Now()
			<-r.Context().Done()
			ended <- time.Since(began)
		}), ServerOptions{})
		p := NewPool(PoolOptions{Instance: "shop-1", Dial: l.dial})
		defer p.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
		defer cancel()
		err := <-asks(ctx, p, place())
		if !errors.Is(err, ErrUnanswered) || !errors.Is(err, context.DeadlineExceeded) || Unsent(err) {
			t.Errorf("got %v", err)
		}
		if took := <-ended; took != 1500*time.Millisecond {
			t.Errorf("the handler had %s", took)
		}
	})
}

func TestDialTakesTooLong(t *testing.T) {
	for name, dial := range map[string]func(context.Context, string, string) (net.Conn, error){
		"no answer to the connection": func(ctx context.Context, _, _ string) (net.Conn, error) { <-ctx.Done(); return nil, ctx.Err() },
		"no answer to the handshake": func(context.Context, string, string) (net.Conn, error) {
			ours, theirs := net.Pipe()
			go func() { _, _ = io.Copy(io.Discard, theirs) }()
			return ours, nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var dials atomic.Int32
				p := NewPool(PoolOptions{Instance: "shop-1", Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
					dials.Add(1)
					return dial(ctx, network, addr)
				}})
				defer p.Close()
				began := time.Now()
				hasty, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				first, second := asks(hasty, p, place()), asks(t.Context(), p, place())
				if err := <-first; !Unsent(err) || !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != time.Second {
					t.Errorf("after %s: %v", time.Since(began), err)
				}
				// The second one's own context has not ended, and its error must not look so.
				if err := <-second; !Unsent(err) || errors.Is(err, context.DeadlineExceeded) || time.Since(began) != 3*time.Second {
					t.Errorf("after %s: %v", time.Since(began), err)
				}
				if dials.Load() != 1 {
					t.Errorf("dialled %d times", dials.Load())
				}
				// Close does not wait for a dial to time out.
				third := asks(t.Context(), p, place())
				synctest.Wait()
				began = time.Now()
				p.Close()
				if err := <-third; !Unsent(err) || time.Since(began) != 0 {
					t.Errorf("after %s: %v", time.Since(began), err)
				}
			})
		})
	}
}

// A peer that reads nothing gets so many bytes and no more; who comes then waits without being sent.
func TestQueueIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mute{make(chan net.Conn, 1)}
		p := NewPool(PoolOptions{Instance: "shop-1", Dial: m.dial, PingInterval: time.Hour})
		defer p.Close()
		large := &Request{Method: "PUT", Target: "/", Body: make([]byte, queueLimit)}
		var sent []<-chan error
		for range 2 { // one is being written, one fills the queue
			sent = append(sent, asks(t.Context(), p, large))
			synctest.Wait()
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		began := time.Now()
		if err := <-asks(ctx, p, place()); !Unsent(err) || !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != time.Minute {
			t.Errorf("after %s: %v", time.Since(began), err)
		}
		waits := asks(t.Context(), p, place())
		synctest.Wait()
		l := p.links["peer:1"]
		l.mu.Lock()
		if n := len(l.buf); n > queueLimit+1000 {
			t.Errorf("%d bytes wait", n)
		}
		l.mu.Unlock()
		// When the peer reads, there is room again.
		conn := <-m.conns
		in := bufio.NewReader(conn)
		for range 3 {
			if f, err := readFrame(in, queueLimit+1000); err != nil || f.kind != kindRequest {
				t.Fatalf("kind %d, %v", f.kind, err)
			}
		}
		if err := conn.Close(); err != nil {
			t.Fatal(err)
		}
		for _, failed := range append(sent, waits) {
			if err := <-failed; !errors.Is(err, ErrBroken) {
				t.Errorf("got %v", err)
			}
		}
	})
}

// A sender that fetches no answers is not served for ever: the server stops reading, and gives it up when nothing moves.
func TestAnswersNobodyFetches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var begun atomic.Int32
		server, l := piped(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			begun.Add(1)
			_, _ = w.Write(make([]byte, 900_000))
		}), ServerOptions{})
		conn, status := sender{t, "shop-1", l.dial}.open("x-1")
		if got := <-status; got != http.StatusSwitchingProtocols {
			t.Fatal(got)
		}
		began := time.Now()
		id, request := uint64(0), &Request{Method: "GET", Target: "/", Body: make([]byte, 10_000)}
		for {
			id++
			if _, err := conn.Write(appendRequest(nil, id, request, 0)); err != nil {
				break
			}
			synctest.Wait()
		}
		if n := begun.Load(); n > 10 {
			t.Errorf("%d requests were run, whose answers take 900,000 bytes each", n)
		}
		if took := time.Since(began); took > 6*time.Second {
			t.Errorf("the connection was given up after %s", took)
		}
		synctest.Wait()
		server.mu.Lock()
		defer server.mu.Unlock()
		if len(server.slots) != 0 {
			t.Error("the session is still there")
		}
	})
}

// A sender that fetches its answers slowly is alive, although the server reads nothing from it meanwhile.
func TestAnswersFetchedSlowly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, l := piped(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write(make([]byte, 900_000))
		}), ServerOptions{})
		conn, status := sender{t, "shop-1", l.dial}.open("x-1")
		if got := <-status; got != http.StatusSwitchingProtocols {
			t.Fatal(got)
		}
		const requests = 40
		var writer sync.WaitGroup
		writer.Go(func() {
			for id := uint64(1); ; id++ {
				out := []byte(raw(kindPing, 0, ""))
				if id <= requests {
					out = appendRequest(nil, id, place(), 0)
				}
				if _, err := conn.Write(out); err != nil {
					return
				}
				synctest.Wait() // the answer is there before the next request
				if id >= requests {
					<-time.After(time.Second)
				}
			}
		})
		began := time.Now()
		in := bufio.NewReaderSize(slow{conn}, 300_000)
		for got := 0; got < requests; {
			f, err := readFrame(in, 1_000_000)
			if err != nil {
				t.Fatalf("after %d answers and %s: %v", got, time.Since(began), err)
			}
			if f.kind == kindResponse {
				got++
			}
		}
		if took := time.Since(began); took < time.Minute {
			t.Errorf("it took %s only, this test shows nothing", took)
		}
		if err := conn.Close(); err != nil {
			t.Fatal(err)
		}
		writer.Wait()
	})
}

// slow reads once in 600 ms.
type slow struct{ net.Conn }

func (s slow) Read(p []byte) (int, error) {
	<-time.After(600 * time.Millisecond)
	return s.Conn.Read(p)
}

func TestShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, l := piped(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			<-time.After(time.Second)
			_, _ = io.WriteString(w, r.URL.Path)
		}), ServerOptions{})
		p := NewPool(PoolOptions{Instance: "shop-1", Dial: l.dial})
		defer p.Close()
		var running []<-chan error
		for range 10 {
			running = append(running, asks(t.Context(), p, place()))
		}
		synctest.Wait()
		began := time.Now()
		ended := make(chan error, 1)
		go func() { ended <- server.Shutdown(t.Context()) }()
		synctest.Wait()
		if err := <-asks(t.Context(), p, place()); !Unsent(err) || errors.Is(err, ErrRefused) || time.Since(began) != 0 {
			t.Errorf("a new request after %s: %v", time.Since(began), err)
		}
		for _, answered := range running {
			if err := <-answered; err != nil {
				t.Errorf("a running request: %v", err)
			}
		}
		if err := <-ended; err != nil || time.Since(began) != time.Second {
			t.Errorf("Shutdown after %s: %v", time.Since(began), err)
		}
		if err := server.Shutdown(t.Context()); err != nil {
			t.Errorf("again: %v", err)
		}
	})
}

// A peer that does not stop when it is asked to gets refusals.
func TestRequestsAfterGoaway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, l := piped(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("it was run") }), ServerOptions{})
		conn, status := sender{t, "shop-1", l.dial}.open("x-1")
		if got := <-status; got != http.StatusSwitchingProtocols {
			t.Fatal(got)
		}
		ended := make(chan error, 1)
		go func() { ended <- server.Shutdown(t.Context()) }()
		in := bufio.NewReader(conn)
		if f, err := readFrame(in, 1000); err != nil || f.kind != kindGoaway {
			t.Fatalf("kind %d, %v", f.kind, err)
		}
		if _, err := conn.Write(appendRequest(nil, 1, place(), 0)); err != nil {
			t.Fatal(err)
		}
		if f, err := readFrame(in, 1000); err != nil || f.kind != kindRefusal || f.id != 1 || f.payload[0] != reasonDraining {
			t.Errorf("kind %d, id %d, %q, %v", f.kind, f.id, f.payload, err)
		}
		if err := conn.Close(); err != nil {
			t.Fatal(err)
		}
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func TestShutdownThatIsCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cancelled := make(chan struct{})
		server, l := piped(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			<-r.Context().Done()
			close(cancelled)
		}), ServerOptions{})
		p := NewPool(PoolOptions{Instance: "shop-1", Dial: l.dial})
		defer p.Close()
		failed := asks(t.Context(), p, place())
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		began := time.Now()
		if err := server.Shutdown(ctx); !errors.Is(err, ErrShutdown) || time.Since(began) != 3*time.Second {
			t.Errorf("after %s: %v", time.Since(began), err)
		}
		<-cancelled
		if err := <-failed; !errors.Is(err, ErrBroken) || Unsent(err) {
			t.Errorf("what was running: %v", err)
		}
	})
}

// Whatever is under way when a server shuts down gracefully is either answered, or was not run and says so.
func TestShutdownUnderLoad(t *testing.T) {
	for range 10 {
		var run, answered, unsent atomic.Int64
		server, addr := serving(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { run.Add(1) }), ServerOptions{})
		p := pool(t, PoolOptions{})
		ctx := within(t, wait)
		var callers sync.WaitGroup
		started := make(chan struct{}, 32)
		for range cap(started) {
			callers.Go(func() {
				for i := 0; ; i++ {
					_, err := p.Do(ctx, addr, place())
					if err != nil {
						if !Unsent(err) || ctx.Err() != nil {
							t.Errorf("a request that has no outcome: %v", err)
						}
						unsent.Add(1)
						return
					}
					answered.Add(1)
					if i == 5 {
						started <- struct{}{}
					}
				}
			})
		}
		for range cap(started) {
			arrives(t, "a caller's start", started)
		}
		if err := server.Shutdown(ctx); err != nil {
			t.Fatal(err)
		}
		callers.Wait()
		if run.Load() != answered.Load() {
			t.Errorf("%d were run, %d answered", run.Load(), answered.Load())
		}
	}
}
