package command

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/platform/eventlog"
	"github.com/millrace/millrace/platform/store"
)

// A gate holds back what is written to its connections while it is shut.
type gate struct{ sync.RWMutex }

type gated struct {
	net.Conn
	gate *gate
}

func (g gated) Write(b []byte) (int, error) {
	g.gate.RLock()
	defer g.gate.RUnlock()
	return g.Conn.Write(b)
}

func (g *gate) dial(ctx context.Context, network, host string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, network, host)
	return gated{c, g}, err
}

// TestClaimHangs: an instance that is about to take a partition and does not get on with it sends commands to the one that serves it.
func TestClaimHangs(t *testing.T) {
	f := newFleet(t, 1)
	one := f.start()
	until(t, "at the first", f.serves(one))
	var g gate
	two := f.start(func(c *eventlog.Config) { c.Dial = g.dial })
	p := two.engine.partitions[0]
	until(t, "followed", func() bool { return p.warm.is() && p.route.get().Owner.Address == one.address })
	g.Lock()
	defer g.Unlock()
	p.wish.set(guessed)
	for n := range 200 {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		_, err := two.send(ctx, "a", fmt.Sprint("k-", n), credit{Amount: 1})
		cancel()
		if err != nil {
			t.Fatalf("command %d: %v", n, err)
		}
	}
}

// TestNothingWaitsForAnotherClaim: a command that an owner could not write because another one took the partition is not decided by it
// later, when it is the owner again: between, its caller may have been told that it will not take effect.
//
// G10: A caller that is told that its command will not take effect can rely on it; where that is not certain, the answer is outcome_unknown.
func TestNothingWaitsForAnotherClaim(t *testing.T) {
	f := newFleet(t, 1)
	one := f.start()
	until(t, "at the first", f.serves(one))
	p := one.engine.partitions[0]
	until(t, "wanted", p.wish.sure)
	two := f.start()
	q := two.engine.partitions[0]
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	handle := func(i *instance, id string, c cmd) error {
		_, err := i.engine.Handle(ctx, Command[cmd]{Stream: "a", ID: id, Payload: c})
		return err
	}
	if err := handle(one, "k", credit{Amount: 100}); err != nil {
		t.Fatal(err)
	}
	moved := func(err error) bool { return errors.Is(err, ErrMoved) || errors.Is(err, ErrElsewhere) }
	for n, proved := 0, 0; proved < 3; n++ {
		until(t, "followed", func() bool { return q.warm.is() && p.serving.Load() })
		noticed := p.route.get().Changed
		one.gone.Store(true) // nobody tells it that it was deposed
		q.wish.set(guessed)
		until(t, "taken", func() bool { return q.serving.Load() || !q.wish.get() })
		one.gone.Store(false)
		order := fmt.Sprint("order-", n)
		if err := handle(two, fmt.Sprint("empty-", n), sweep{}); moved(err) {
			continue // the first took it back
		} else if err != nil {
			t.Fatal(err)
		}
		if err := handle(two, order, debit{Amount: 50}); moved(err) {
			continue
		} else if !errors.Is(err, errOverdrawn) {
			t.Fatalf("%s: %v", order, err)
		}
		if err := handle(two, fmt.Sprint("full-", n), credit{Amount: 100}); moved(err) {
			continue
		} else if err != nil {
			t.Fatal(err)
		}
		select {
		case <-noticed:
			continue
		default:
		}
		// The first attempt, which was on its way all the time.
		if err := handle(one, order, debit{Amount: 50}); !moved(err) {
			t.Errorf("%s took effect after it was refused: %v", order, err)
		}
		proved++
	}
}

// TestDeposedWhenAsked: an owner that finds that it was deposed when it is to have its partition again goes on.
func TestDeposedWhenAsked(t *testing.T) {
	r := newRig(t, func(r *rig) { r.cfg.Topic.Partitions = 1 })
	r.mustSend("a", "k-1", credit{Amount: 1})
	two, _, _ := r.second(r.openStore(store.Options{}))
	until(t, "taken", func() bool { return two.Serves() == 1 })
	r.engine.partitions[0].wish.set(wanted)
	until(t, "noticed", func() bool { return two.Confirm(t.Context(), 0) == nil && r.engine.Serves() == 1 })
	if _, err := r.send("a", "k-2", credit{Amount: 1}); err != nil {
		t.Error(err)
	}
}
