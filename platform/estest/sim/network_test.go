package sim

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// produceRequest looks like one as far as the network knows.
func produceRequest(text string) []byte {
	b := make([]byte, 8, 8+len(text))
	binary.BigEndian.PutUint16(b[4:], uint16(kmsg.Produce))
	return append(b, text...)
}

// onNetwork runs a test in a bubble with a broker that answers each message with itself, and keeps what it got.
func onNetwork(t *testing.T, test func(l *link, c net.Conn, got *[]string)) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{}
		listener, err := n.Listen("tcp", "localhost:1")
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		go func() {
			for {
				c, err := listener.Accept()
				if err != nil {
					return
				}
				go func() {
					b := make([]byte, 100)
					for {
						n, err := c.Read(b)
						if err != nil {
							return
						}
						got = append(got, string(b[:n]))
						if _, err := c.Write(b[:n]); err != nil {
							return
						}
					}
				}()
			}
		}()
		l := newLink(n, 1, 1, time.Millisecond)
		c, err := l.dial(context.Background(), "tcp", "localhost:1")
		if err != nil {
			t.Fatal(err)
		}
		test(l, c, &got)
		n.late.Wait()
		c.Close()
		listener.Close()
		synctest.Wait()
	})
}

func say(t *testing.T, c net.Conn, text []byte) {
	t.Helper()
	if n, err := c.Write(text); err != nil || n != len(text) {
		t.Fatalf("write: %d, %v", n, err)
	}
}

func hear(c net.Conn) (string, error) {
	if err := c.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
		return "", err
	}
	b := make([]byte, 100)
	n, err := c.Read(b)
	return string(b[:n]), err
}

func TestNetwork(t *testing.T) {
	onNetwork(t, func(l *link, c net.Conn, got *[]string) {
		began := time.Now()
		say(t, c, []byte("hello"))
		if text, err := hear(c); text != "hello" || err != nil || time.Since(began) <= 0 {
			t.Errorf("%q, %v after %v", text, err, time.Since(began))
		}
		if _, err := hear(c); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("nothing to hear: %v", err)
		}
		// A frozen process does not notice that its deadline passes, and goes on with what arrived.
		l.set((*link).freeze)
		time.AfterFunc(time.Hour, func() { l.set((*link).thaw) })
		began = time.Now()
		say(t, c, []byte("again"))
		if text, err := hear(c); text != "again" || err != nil || time.Since(began) < time.Hour {
			t.Errorf("%q, %v after %v", text, err, time.Since(began))
		}
		l.set(func(l *link) { l.down = true; l.cut("") })
		if _, err := hear(c); !errors.Is(err, errCut) {
			t.Errorf("after the cut: %v", err)
		}
		var op *net.OpError
		if _, err := l.dial(context.Background(), "tcp", "localhost:1"); !errors.As(err, &op) || op.Op != "dial" {
			t.Errorf("dial without a network: %v", err)
		}
		if len(*got) != 2 {
			t.Errorf("the broker got %q", *got)
		}
	})
}

// TestLost: what of a produce request and its answer arrives.
func TestLost(t *testing.T) {
	for name, c := range map[string]struct {
		fault  func(*link)
		got    int // how often the broker got it, in the end
		err    error
		silent bool // the answer does not come, and the connection stays
	}{
		"nothing":     {func(*link) {}, 1, nil, false},
		"the answer":  {func(l *link) { l.loseReply = 1 }, 1, errCut, false},
		"the request": {func(l *link) { l.loseRequest = 1 }, 0, errCut, false},
		"late":        {func(l *link) { l.late, l.lateCount = time.Minute, 1 }, 1, errCut, false},
		"twice":       {func(l *link) { l.twice = 1 }, 2, nil, false},
		"deaf":        {func(l *link) { l.deafIn = true }, 1, os.ErrDeadlineExceeded, true},
		"dumb":        {func(l *link) { l.deafOut = true }, 0, os.ErrDeadlineExceeded, true},
	} {
		t.Run(name, func(t *testing.T) {
			onNetwork(t, func(l *link, conn net.Conn, got *[]string) {
				l.set(c.fault)
				request := produceRequest("batch")
				say(t, conn, request)
				if text, err := hear(conn); !errors.Is(err, c.err) || err == nil && text != string(request) {
					t.Errorf("heard %q, %v, want %v", text, err, c.err)
				}
				if c.silent { // and is of no more use when the network is back
					l.heal()
					say(t, conn, []byte("more"))
					if _, err := hear(conn); !errors.Is(err, c.err) {
						t.Errorf("a poisoned connection: %v", err)
					}
				}
				l.network.late.Wait()
				n := 0
				for _, g := range *got {
					if bytes.Equal([]byte(g), request) {
						n++
					}
				}
				if n != c.got {
					t.Errorf("the broker got it %d times, want %d: %q", n, c.got, *got)
				}
			})
		})
	}
}

// TestCoordinator: epochs rise with each claim, a renewal is for the latest only and may be repeated, and an id that was forgotten gets
// another producer.
func TestCoordinator(t *testing.T) {
	k := newCoordinator()
	ask := func(pid int64, epoch int16) (int64, int16, int16) {
		req := kmsg.NewPtrInitProducerIDRequest()
		id := "env/topic/3"
		req.TransactionalID, req.ProducerID, req.ProducerEpoch = &id, pid, epoch
		r := k.answer(req)
		return r.ProducerID, r.ProducerEpoch, r.ErrorCode
	}
	pid, epoch, _ := ask(-1, -1)
	if _, second, _ := ask(-1, -1); second != epoch+1 {
		t.Errorf("epoch %d after %d", second, epoch)
	}
	if _, _, code := ask(pid, epoch); code == 0 {
		t.Error("a deposed owner renewed its epoch")
	}
	if _, third, code := ask(pid, epoch+1); third != epoch+2 || code != 0 {
		t.Errorf("renewed to %d, code %d", third, code)
	}
	if _, third, code := ask(pid, epoch+1); third != epoch+2 || code != 0 {
		t.Errorf("the repeated renewal: %d, code %d", third, code)
	}
	k.forget(3)
	if other, _, _ := ask(-1, -1); other == pid {
		t.Error("a forgotten id got the same producer")
	}
	if _, _, code := ask(pid, epoch+2); code == 0 {
		t.Error("a forgotten producer was renewed")
	}
}

// TestSchedulesDiffer: a seed is a schedule, and another one is another.
func TestSchedulesDiffer(t *testing.T) {
	text := func(seed uint64) string {
		s := newSchedule(seed)
		var b bytes.Buffer
		for _, f := range s.steps {
			_, _ = io.WriteString(&b, f.String()+"\n")
		}
		return b.String()
	}
	if first, again := text(7), text(7); first != again || first == text(8) {
		t.Errorf("seed 7:\n%s\nseed 8:\n%s", text(7), text(8))
	}
}
