package command

import "sync"

// A warmth is whether the store has met the end of the log since the partition was attached to the follower.
type warmth struct {
	mu     sync.Mutex
	aim    int64 // -1 = not known yet
	warm   bool
	change chan struct{} // closed and replaced when warm changes
}

func newWarmth() *warmth { return &warmth{aim: -1, change: make(chan struct{})} }

func (w *warmth) is() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.warm
}

// changed returns a channel that is closed with the next change.
func (w *warmth) changed() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.change
}

func (w *warmth) reset() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.aim = -1
	w.set(false)
}

// reached notes that the store is at next, and that the log ended at end.
func (w *warmth) reached(next, end int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.aim < 0 {
		w.aim = end
	}
	if next >= w.aim {
		w.set(true)
	}
}

func (w *warmth) set(warm bool) {
	if warm != w.warm {
		w.warm = warm
		close(w.change)
		w.change = make(chan struct{})
	}
}
