package projection

import (
	"time"

	"github.com/millrace/millrace/platform/es"
)

// A ViewStatus says how far a view is.
type ViewStatus struct {
	Name       string
	Version    int
	Topic      string
	Partitions []PartitionStatus
	Lag        time.Duration // of the partition that is furthest behind; 0 = caught up
	CaughtUp   bool          // it has reached, once, what was the end of the log when Run began; halted partitions do not count
	Halted     bool          // at least one partition has halted
	Paused     string        // why nothing is read just now, e.g. the registry cannot be reached; "" = it is
}

// The states of a partition of a view.
const (
	Running = "running"
	Halted  = "halted"
)

// A PartitionStatus says how far a view is in one partition.
type PartitionStatus struct {
	Partition int32
	Next      int64 // the first offset that is not applied
	End       int64 // the log's end, as far as known
	Lag       time.Duration
	State     string       // Running or Halted
	HaltedAt  *es.Position // where, if it is halted
	Reason    string       // why, if it is halted
}

// Status returns the committed state of all views, in the order in which they were added.
func (p *Projector) Status() []ViewStatus {
	now := time.Now()
	out := make([]ViewStatus, 0, len(p.folds))
	for _, f := range p.folds {
		v := f.state()
		s := v.shown.Load()
		st := ViewStatus{Name: v.name, Version: v.version, Topic: v.topic.Name, CaughtUp: v.caughtUp(s)}
		if why := v.paused.Load(); why != nil {
			st.Paused = *why
		}
		for n, at := range s.parts {
			ps := PartitionStatus{Partition: int32(n), Next: at.next, State: Running}
			ps.End, ps.Lag = v.partLag(s, n, now)
			if at.halt != nil {
				pos := at.halt.at
				ps.State, ps.HaltedAt, ps.Reason = Halted, &pos, at.halt.String()
				st.Halted = true
			}
			st.Lag = max(st.Lag, ps.Lag)
			st.Partitions = append(st.Partitions, ps)
		}
		out = append(out, st)
	}
	return out
}

// CaughtUp reports whether all views have reached, once, what was the end of the log when Run began, for readiness. A partition
// that has halted does not count: it goes on serving what it has.
func (p *Projector) CaughtUp() bool {
	if p.caughtUp.Load() {
		return true
	}
	for _, f := range p.folds {
		v := f.state()
		if !v.caughtUp(v.shown.Load()) {
			return false
		}
	}
	p.caughtUp.Store(true)
	return true
}

func (v *viewState) caughtUp(s *shown) bool {
	target := v.target.Load()
	if target == nil {
		return false
	}
	for n, at := range s.parts {
		if at.halt == nil && n < len(*target) && at.next < (*target)[n] {
			return false
		}
	}
	return true
}

// pause notes, and logs when it is new, why nothing goes on.
func (l *lane) pause(why string, err error) {
	if l.paused.Swap(true) {
		return
	}
	l.p.cfg.Logger.Warn("projection: paused: "+why, "error", err)
	for _, f := range l.folds {
		f.state().paused.Store(&why)
	}
}

func (l *lane) resume() {
	if !l.paused.Load() || !l.paused.Swap(false) {
		return
	}
	l.p.cfg.Logger.Info("projection: goes on")
	for _, f := range l.folds {
		f.state().paused.Store(nil)
	}
}
