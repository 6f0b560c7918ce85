// Package audit recomputes from the log, record by record, that what Millrace promises of it is true: that every record is of the latest
// claim before it and claims only rise, that no offset is missing, that the versions of each stream are 1, 2, 3 … in the order of the log
// and in the stream's one partition, that the events of a command are together, and that no command and no event is there twice. It goes
// on where it was, as slowly as it is told to, and reports every difference with its position; it changes nothing, neither in the log nor
// anywhere else, and does not share the code of what it checks but for the reading of Kafka.
//
// What it keeps for that is bounded by the number of streams, not of events: a 64-bit digest and the last version of each stream, 16 bytes,
// which take 20 to 40 in a Go map and some 10 in the state file, and the digests of the latest commands, Config.Remember of them. A command that
// took effect again after more commands than that is not found by its id.
package audit

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/eventlog"
	"github.com/millrace/millrace/platform/fault"
)

// The failures of this package.
var (
	// ErrConfig is returned by New for a configuration without which there is nothing to do.
	ErrConfig = fault.New(fault.Invalid, "invalid_audit_config", "the audit cannot be set up")
	// ErrState is returned by New for a state file that cannot be read or is damaged, and by Run and Once for one that cannot be written.
	ErrState = fault.New(fault.Unavailable, "audit_state_unusable", "the state of the audit cannot be used")
)

// A Config sets up an Audit. Zero fields mean the default that is named; Log and Topics must be given.
type Config struct {
	Log    *eventlog.Client
	Topics []string // of events, not compacted ones
	// State is the file that holds where the audit is and what it has to know; "" = none, begin at the start of the log. A file that is
	// not there is begun; it also holds what is known of topics that are not in Topics.
	State string
	// Save is how often the state is written, if anything was read; 30 s. It is also written when Run or Once ends.
	Save time.Duration
	// Rate is how many records a second are judged at most; 0 = as many as possible.
	Rate int
	// Remember is of how many commands a topic's audit knows the ids; 1,000,000, spread evenly over the partitions. One costs 30 to
	// 50 bytes in memory and 8 in the state file.
	Remember int
	// Report is told each finding, in the order of each partition's log, on the goroutine at work; nil = findings are only counted. A
	// finding is reported again if the process dies before the state is written.
	Report func(Finding)
	Logger *slog.Logger // discards by default
}

// defaultRemember is Config.Remember.
const defaultRemember = 1_000_000

// An Audit goes through the log. Its methods but Progress must not be called at the same time.
type Audit struct {
	cfg   Config
	state *state
	saved time.Time
	dirty bool                       // there is something to save
	left  map[es.TopicPartition]bool // partitions that were reported as lost

	mu       sync.Mutex
	progress Progress
	behind   map[es.TopicPartition]int64
	streams  map[es.TopicPartition]int
}

// Progress says how far an audit is.
type Progress struct {
	Records  int64    `json:"records"`         // judged by this Audit
	Behind   int64    `json:"behind"`          // records of the log that are still to be judged, as far as known
	Streams  int      `json:"streams"`         // known
	Findings int64    `json:"findings"`        // of this Audit
	First    *Finding `json:"first,omitempty"` // of them
	Earlier  int64    `json:"earlier"`         // findings of those before it that had the same state
	Before   *Finding `json:"before,omitempty"`
}

// New returns an audit that goes on where the state file says. It returns ErrConfig and ErrState.
func New(cfg Config) (*Audit, error) {
	switch {
	case cfg.Log == nil:
		return nil, ErrConfig.Because("there is no log")
	case len(cfg.Topics) == 0:
		return nil, ErrConfig.Because("no topic is named").WithFix("name one with --topic, e.g. orders.events")
	case cfg.Rate < 0 || cfg.Remember < 0 || cfg.Save < 0:
		return nil, ErrConfig.Because("a rate, number or time is negative")
	}
	if cfg.Remember == 0 {
		cfg.Remember = defaultRemember
	}
	if cfg.Save == 0 {
		cfg.Save = 30 * time.Second
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	a := &Audit{cfg: cfg, saved: time.Now(), left: map[es.TopicPartition]bool{}, behind: map[es.TopicPartition]int64{}, streams: map[es.TopicPartition]int{}}
	if cfg.State != "" {
		var err error
		if a.state, err = loadState(cfg.State); err != nil {
			return nil, err
		}
	}
	if a.state == nil {
		a.state = &state{parts: map[es.TopicPartition]*part{}}
		if _, err := rand.Read(a.state.key[:]); err != nil {
			return nil, ErrConfig.Wrap(err)
		}
	}
	a.progress.Earlier, a.progress.Before = a.state.found, a.state.first
	return a, nil
}

// Progress returns how far the audit is; it may be called at any time.
func (a *Audit) Progress() Progress {
	a.mu.Lock()
	defer a.mu.Unlock()
	p := a.progress
	for _, n := range a.behind {
		p.Behind += n
	}
	for _, n := range a.streams {
		p.Streams += n
	}
	return p
}

// Once judges what is new up to the present ends of the topics, and writes the state. It returns ctx's error when ctx ends, and the
// log's if that cannot be read; what was judged until then is kept. Findings are no error.
func (a *Audit) Once(ctx context.Context) error {
	return a.keep(func() error { return a.read(ctx, false) })
}

// Run judges what is new, and what comes, until ctx ends, and then returns its error. While the log cannot be read it tries again, less
// and less often up to every 30 s. It returns ErrState if the state cannot be written.
func (a *Audit) Run(ctx context.Context) error {
	return a.keep(func() error {
		for pause := time.Second; ; pause = min(2*pause, 30*time.Second) {
			before := a.Progress().Records
			err := a.read(ctx, true)
			switch {
			case ctx.Err() != nil:
				return ctx.Err()
			case errors.Is(err, ErrState):
				return err
			}
			if a.Progress().Records > before {
				pause = time.Second
			}
			a.cfg.Logger.Warn("the audit cannot read the log and will try again", "error", fault.Line(err), "in", pause)
			sleep(ctx, pause)
		}
	})
}

// keep writes the state after work.
func (a *Audit) keep(work func() error) error {
	return errors.Join(work(), a.save(true))
}

// save writes the state if it is time for that, or now.
func (a *Audit) save(now bool) error {
	if !a.dirty || a.cfg.State == "" || !now && time.Since(a.saved) < a.cfg.Save {
		return nil
	}
	if err := a.state.save(a.cfg.State); err != nil {
		return err
	}
	a.saved, a.dirty = time.Now(), false
	return nil
}

// report counts a finding and passes it on.
func (a *Audit) report(f Finding) {
	a.mu.Lock()
	a.progress.Findings++
	if a.progress.First == nil {
		a.progress.First = &f
	}
	a.mu.Unlock()
	a.state.found++
	if a.state.first == nil {
		a.state.first = &f
	}
	a.dirty = true
	if a.cfg.Report != nil {
		a.cfg.Report(f)
	}
}

// note takes in how far a partition is: how many records are still to come, -1 = as before, and how many were judged.
func (a *Audit) note(p *part, behind int64, records int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.progress.Records += int64(records)
	if behind >= 0 {
		a.behind[p.cursor.TopicPartition] = behind
	}
	a.streams[p.cursor.TopicPartition] = len(p.ledger.streams)
}

// read judges until the present ends, or for ever.
func (a *Audit) read(ctx context.Context, on bool) error {
	r := &reader{audit: a, pace: pace{rate: a.cfg.Rate}}
	defer r.close()
	if err := r.open(ctx); err != nil {
		return err
	}
	for {
		done := !on
		for tp, p := range r.parts {
			done = done && p.cursor.Next >= r.ends[tp]
		}
		if done {
			r.finish()
			return nil
		}
		fetched, err := r.source.Poll(ctx)
		for _, f := range fetched {
			r.judge(ctx, f)
		}
		if errors.Is(err, eventlog.ErrGap) {
			err = r.reopen(ctx, err)
		}
		if err == nil {
			err = a.save(false)
		}
		if err != nil {
			return err
		}
	}
}
