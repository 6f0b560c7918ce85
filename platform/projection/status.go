package projection

import (
	"slices"
	"time"

	"github.com/millrace/millrace/platform/es"
)

// A ViewStatus says how a view is: its builds, the one that answers queries first.
type ViewStatus struct {
	Name     string        `json:"name"`
	Live     string        `json:"live"`               // the build that answers queries
	Previous string        `json:"previous,omitempty"` // the one that did before
	Paused   bool          `json:"paused"`
	Builds   []BuildStatus `json:"builds"`
}

// The states of a build.
const (
	Building = "building" // it has not caught up yet
	Running  = "running"  // it has caught up, and follows
	Halted   = "halted"   // a partition of it has stopped at an event that it cannot handle
	Stalled  = "stalled"  // it has caught up once, and there are events that it does not apply
	Paused   = "paused"   // it is not kept up to date
	Complete = "complete" // it has reached the end that it was given
	Frozen   = "frozen"   // the program does not have its code any more
)

// A BuildStatus says how a build is.
type BuildStatus struct {
	ID         string            `json:"id"`
	Version    int               `json:"version"`
	State      string            `json:"state"`
	Why        string            `json:"why,omitempty"` // it does not go on
	Created    time.Time         `json:"created"`
	Topics     []string          `json:"topics"`
	Indexes    []string          `json:"indexes,omitempty"`
	Partitions []PartitionStatus `json:"partitions"`
	Applied    es.Positions      `json:"-"`
	Until      es.Positions      `json:"-"`
	Records    int64             `json:"lag_records"` // that are in the log and not applied
	Lag        time.Duration     `json:"-"`           // the age of the oldest of them; 0 = caught up
	LagSeconds float64           `json:"lag_seconds"`
	Progress   float64           `json:"progress"`              // 0 to 1: how much of the log is applied
	Rate       float64           `json:"rate"`                  // events per second of late
	ETASeconds float64           `json:"eta_seconds,omitempty"` // until it has caught up at that rate; 0 = it has, or it is not known
	CaughtUp   bool              `json:"caught_up"`             // it has reached, once, what was the end of the log when it began to be read
	Letters    int               `json:"dead_letters"`
	Bytes      int64             `json:"bytes"` // on the disk
}

// A PartitionStatus says how far a build is in one partition.
type PartitionStatus struct {
	Topic     string        `json:"topic"`
	Partition int32         `json:"partition"`
	Next      int64         `json:"next"` // the first offset that is not applied
	End       int64         `json:"end"`  // the log's end, as far as known
	Lag       time.Duration `json:"-"`
	Seconds   float64       `json:"lag_seconds"`
	State     string        `json:"state"` // Running or Halted
	HaltedAt  *es.Position  `json:"halted_at,omitempty"`
	Reason    string        `json:"reason,omitempty"` // why, if it is halted
}

// stallTime is for how long a build that has caught up once may apply nothing although there is something until it is said to be stalled.
const stallTime = 10 * time.Second

// Status returns the state of all views, in the order in which they were added.
func (p *Projector) Status() []ViewStatus {
	out := make([]ViewStatus, 0, len(p.views))
	for _, v := range p.views {
		out = append(out, v.status(time.Now()))
	}
	return out
}

// StatusOf returns the state of one view, or ErrViewNotFound.
func (p *Projector) StatusOf(name string) (ViewStatus, error) {
	v := p.byName[name]
	if v == nil {
		return ViewStatus{}, ErrViewNotFound.Because("%.100q", name)
	}
	return v.status(time.Now()), nil
}

func (v *view) status(now time.Time) ViewStatus {
	s := ViewStatus{Name: v.name}
	there := v.seen.Load()
	if there == nil {
		return s // it is not open
	}
	s.Live, s.Previous, s.Paused = there.ctl.Live, there.ctl.Previous, there.ctl.Paused
	for _, g := range there.builds {
		s.Builds = append(s.Builds, g.status(now, s.Paused))
	}
	slices.SortStableFunc(s.Builds, func(a, b BuildStatus) int {
		switch s.Live {
		case a.ID:
			return -1
		case b.ID:
			return 1
		}
		return 0
	})
	return s
}

func (g *generation) status(now time.Time, paused bool) BuildStatus {
	s := g.shown.Load()
	st := BuildStatus{ID: g.born.id(), Version: g.born.Version, Created: g.born.Created, Topics: g.shape.Topics, Indexes: g.shape.names(), Until: g.born.Until,
		Applied: g.positions(s), CaughtUp: g.reached.Load(), Rate: g.applied.perSecond(now), Letters: g.letters.count(), Bytes: g.db.Size()}
	var next, end int64
	ended := true
	for n, at := range s.slots {
		ended = ended && at.next >= g.limit(n)
		ps := PartitionStatus{Topic: g.slots[n].Topic, Partition: g.slots[n].Partition, Next: at.next, State: Running}
		ps.End, ps.Lag = g.slotLag(s, n, now)
		ps.Seconds = ps.Lag.Seconds()
		if at.halt != nil {
			pos := at.halt.at
			ps.State, ps.HaltedAt, ps.Reason = Halted, &pos, at.halt.String()
			if st.Why == "" {
				st.State, st.Why = Halted, ps.Reason
			}
		}
		next, end = next+at.next, end+max(ps.End, at.next)
		st.Lag = max(st.Lag, ps.Lag)
		st.Partitions = append(st.Partitions, ps)
	}
	st.LagSeconds, st.Records = st.Lag.Seconds(), end-next
	switch {
	case end > 0:
		st.Progress = float64(next) / float64(end)
	case st.CaughtUp:
		st.Progress = 1 // of nothing; else the end is not known yet
	}
	if st.Records > 0 && st.Rate > 0 {
		st.ETASeconds = float64(st.Records) / st.Rate
	}
	switch {
	case g.code == nil:
		st.State, st.Why = Frozen, "the program does not have this version any more"
	case g.until.Load() != nil && ended && st.CaughtUp:
		st.State = Complete
	case paused:
		st.State = Paused
	case g.paused.Load() != nil:
		st.State, st.Why = Stalled, *g.paused.Load()
	case st.State == Halted:
	case !st.CaughtUp:
		st.State = Building
	case st.Records > 0 && st.Lag > stallTime && st.Rate == 0:
		st.State, st.Why = Stalled, "nothing was applied of late, although there is something"
	default:
		st.State = Running
	}
	return st
}

// CaughtUp reports whether all views have reached, once, what was the end of the log when they began to be read, for readiness; a new
// version that takes over by itself counts, too. A partition that has halted does not: it goes on serving what it has.
func (p *Projector) CaughtUp() bool {
	if p.caughtUp.Load() {
		return true
	}
	for _, v := range p.views {
		if !v.caughtUp() {
			return false
		}
	}
	p.caughtUp.Store(true)
	return true
}

func (v *view) caughtUp() bool {
	there := v.seen.Load()
	if there == nil {
		return false
	}
	if there.ctl.Paused {
		return true
	}
	live, _ := v.serving()
	for _, g := range there.builds {
		b, _ := there.ctl.find(g.born.id())
		// What is shown may be seen before it is noted that it is enough.
		if (b.Auto || g == live) && g.code != nil && !g.reached.Load() && !g.caughtUp(g.shown.Load()) {
			return false
		}
	}
	// What answers from a version that is gone goes on doing so until somebody switches: to what has to be there then.
	return live.code != nil || v.p.cfg.Manual && slices.ContainsFunc(there.builds, func(g *generation) bool {
		return g.born.Version == v.newest() && g.reached.Load()
	})
}
