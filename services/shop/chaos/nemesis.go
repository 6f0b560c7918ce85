package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	ordersv1 "github.com/millrace/millrace/schemas/orders/v1"
)

// A nemesis breaks instances, brokers and what is between them.
type nemesis struct {
	rng       *rand.Rand
	cluster   *cluster
	instances []*instance
	disks     []*disk // nil where there are none
	resets    bool    // connections can be reset
	log       io.Writer
	began     time.Time

	work     sync.WaitGroup
	mu       sync.Mutex
	counts   map[string]int
	busy     map[string]bool // what is broken now
	failures []string        // of the nemesis itself, and of processes that did not stop well
}

// faults are what happens, each as often as its weight says.
var faults = []struct {
	name   string
	weight int
	do     func(n *nemesis, ctx context.Context, of int, rng *rand.Rand) bool
}{
	{"service killed", 60, (*nemesis).killService},
	{"service killed, store lost", 6, (*nemesis).wipeService},
	{"service paused", 30, (*nemesis).pauseService},
	{"service stopped and started", 8, (*nemesis).stopService},
	{"services restarted one after the other", 2, (*nemesis).rollServices},
	{"broker killed", 50, (*nemesis).killBroker},
	{"broker paused", 10, (*nemesis).pauseBroker},
	{"connections to a broker reset", 16, (*nemesis).resetBroker},
	{"leaders moved", 12, (*nemesis).moveLeaders},
	{"disk of a service full", 5, (*nemesis).fillDisk},
}

// run breaks things until ctx ends, then waits until everything is as it was.
func (n *nemesis) run(ctx context.Context, pace time.Duration) {
	sum := 0
	for _, f := range faults {
		sum += f.weight
	}
	for ctx.Err() == nil {
		pick := n.rng.IntN(sum)
		of, seed := n.rng.IntN(len(n.instances)), n.rng.Uint64()
		for _, f := range faults {
			if pick -= f.weight; pick >= 0 {
				continue
			}
			if f.do(n, ctx, of, rand.New(rand.NewPCG(seed, 1))) {
				n.count(f.name)
				fmt.Fprintf(n.log, "%8.2fs %s %d\n", time.Since(n.began).Seconds(), f.name, of)
			}
			break
		}
		pause(ctx, time.Duration(n.rng.Int64N(int64(2*pace))))
	}
	n.work.Wait()
}

func (n *nemesis) count(what string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.counts[what]++
}

func (n *nemesis) fail(format string, args ...any) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.failures = append(n.failures, fmt.Sprintf(format, args...))
}

// take reserves a thing; false if it is broken already.
func (n *nemesis) take(what string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.busy[what] {
		return false
	}
	n.busy[what] = true
	return true
}

func (n *nemesis) give(what string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.busy, what)
}

// on does something to a thing that is not broken yet, beside the rest.
func (n *nemesis) on(what string, do func()) bool {
	if !n.take(what) {
		return false
	}
	n.work.Go(func() {
		defer n.give(what)
		do()
	})
	return true
}

// within returns a time between two.
func within(rng *rand.Rand, low, top time.Duration) time.Duration {
	return low + time.Duration(rng.Int64N(int64(top-low)))
}

func (n *nemesis) killService(ctx context.Context, of int, rng *rand.Rand) bool {
	i := n.instances[of]
	return n.on(i.name, func() {
		i.kill()
		pause(ctx, within(rng, 0, 1500*time.Millisecond))
		n.begin(i)
	})
}

func (n *nemesis) begin(i *instance) {
	if err := i.start(); err != nil {
		n.fail("%s does not start: %v", i.name, err)
	}
}

func (n *nemesis) wipeService(ctx context.Context, of int, rng *rand.Rand) bool {
	i := n.instances[of]
	return n.on(i.name, func() {
		i.kill()
		// The directory itself may be where a file system is mounted.
		entries, err := os.ReadDir(i.dir)
		for _, e := range entries {
			if err == nil {
				err = os.RemoveAll(filepath.Join(i.dir, e.Name()))
			}
		}
		if err != nil {
			n.fail("%s: %v", i.dir, err)
		}
		pause(ctx, within(rng, 0, 1500*time.Millisecond))
		n.begin(i)
	})
}

func (n *nemesis) pauseService(_ context.Context, of int, rng *rand.Rand) bool {
	i := n.instances[of]
	return n.on(i.name, func() {
		length := within(rng, 100*time.Millisecond, 3*time.Second)
		if rng.IntN(3) == 0 {
			length *= 4 // longer than the group waits
		}
		if i.signal(syscall.SIGSTOP) {
			time.Sleep(length)
			i.signal(syscall.SIGCONT)
		}
	})
}

func (n *nemesis) stopService(ctx context.Context, of int, rng *rand.Rand) bool {
	i := n.instances[of]
	return n.on(i.name, func() {
		if err := i.stop(45 * time.Second); err != nil {
			n.fail("%v", err)
		}
		pause(ctx, within(rng, 0, 1500*time.Millisecond))
		n.begin(i)
	})
}

func (n *nemesis) rollServices(ctx context.Context, of int, rng *rand.Rand) bool {
	return n.on("roll", func() {
		for k := range n.instances {
			for !n.stopService(ctx, (of+k)%len(n.instances), rng) {
				if pause(ctx, 100*time.Millisecond); ctx.Err() != nil {
					return
				}
			}
			pause(ctx, 3*time.Second)
		}
	})
}

// killBroker kills one broker at a time: with two of them down nothing can be written.
func (n *nemesis) killBroker(ctx context.Context, of int, rng *rand.Rand) bool {
	return n.on("broker", func() {
		if err := n.cluster.signal(of, syscall.SIGKILL); err != nil {
			n.fail("kill broker %d: %v", of+1, err)
		}
		pause(ctx, within(rng, 100*time.Millisecond, 4*time.Second))
		for {
			err := n.cluster.start(context.WithoutCancel(ctx))
			if err == nil {
				return
			}
			fmt.Fprintf(n.log, "a broker is started again: %v\n", err)
			time.Sleep(time.Second)
		}
	})
}

func (n *nemesis) pauseBroker(_ context.Context, of int, rng *rand.Rand) bool {
	return n.on("broker", func() {
		if err := n.cluster.signal(of, syscall.SIGSTOP); err != nil {
			n.fail("pause broker %d: %v", of+1, err)
			return
		}
		// Now and then the second one, too: then nothing can be written.
		other := (of + 1) % brokers
		both := rng.IntN(5) == 0 && n.cluster.signal(other, syscall.SIGSTOP) == nil
		time.Sleep(within(rng, 200*time.Millisecond, 6*time.Second))
		if both {
			_ = n.cluster.signal(other, syscall.SIGCONT)
		}
		if err := n.cluster.signal(of, syscall.SIGCONT); err != nil {
			n.fail("go on broker %d: %v", of+1, err)
		}
	})
}

func (n *nemesis) resetBroker(ctx context.Context, of int, _ *rand.Rand) bool {
	if !n.resets {
		return false
	}
	if err := n.cluster.reset(ctx, of); err != nil && ctx.Err() == nil {
		n.fail("%v", err)
	}
	return true
}

func (n *nemesis) moveLeaders(ctx context.Context, _ int, rng *rand.Rand) bool {
	return n.on("leaders", func() {
		// It may fail while a broker is down; then leaders move anyway.
		if err := n.cluster.moveLeaders(ctx, ordersv1.Topic, rng); err != nil {
			fmt.Fprintf(n.log, "leaders were not moved: %v\n", err)
		}
	})
}

func (n *nemesis) fillDisk(ctx context.Context, of int, rng *rand.Rand) bool {
	if n.disks[of] == nil {
		return false
	}
	return n.on(fmt.Sprint("disk ", of), func() {
		free, err := n.disks[of].fill()
		if err != nil && free == nil {
			n.fail("fill %s: %v", n.disks[of].dir, err)
			return
		}
		pause(ctx, within(rng, time.Second, 8*time.Second))
		free()
	})
}
