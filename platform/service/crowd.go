package service

import (
	"os"
	"runtime"
	"sync"
)

// A crowd has the Go scheduler run twice as many goroutines at a time as there are processors, for as long as there are builds beside views that
// answer queries. A build and the store that sorts its rows compute for tens of milliseconds on end, on as many goroutines as there are
// processors and more; a request that comes then is not even seen before one of them is interrupted, which takes up to 10 ms each time. With
// threads to spare it is the kernel that shares the processors out, and whoever has slept comes first there. Measured with two processors: the
// p99 of queries beside a build goes down to a third; without a build, queries by key would cost a third more.
type crowd struct {
	mu sync.Mutex
	n  int // projectors with such builds
}

// change notes that a projector begins or ends to have such builds. Whoever has set GOMAXPROCS keeps it.
func (c *crowd) change(more bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.n
	if c.n--; more {
		c.n = before + 1
	}
	if os.Getenv("GOMAXPROCS") != "" || (before > 0) == (c.n > 0) {
		return
	}
	runtime.SetDefaultGOMAXPROCS() // which other hosts in this process, if there are any, may have changed
	if more {
		runtime.GOMAXPROCS(2 * runtime.GOMAXPROCS(0))
	}
}
