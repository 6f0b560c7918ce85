package registry

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/millrace/millrace/platform/eventlog"
	"github.com/millrace/millrace/platform/fault"
)

// ErrServer is returned by NewServer and Run for what keeps the registry from working.
var ErrServer = fault.New(fault.Unavailable, "registry_failed", "the schema registry cannot work")

// Topic is the name of the topic that holds the registry's state; every Confluent-compatible registry calls it so.
const Topic = "_schemas"

// ServerConfig is what a Server needs. Zero fields mean the default that is named.
type ServerConfig struct {
	Log      *eventlog.Client // must be given; it stays the caller's
	Logger   *slog.Logger     // discards by default
	Instance string           // tells the instances of one registry apart; must be given if there are several
	Address  string           // where other instances forward writes to, host:port or https://host:port; "" = they refuse writes instead
	TLS      *tls.Config      // for forwarding to instances that serve HTTPS; nil = they are trusted as the system trusts
	Auth     *Auth            // who may do what; nil = everybody everything
	Version  string           // of the program, for GET /v1/metadata/version
}

// A Server is one instance of the registry. Any number may run; the one that claimed the topic last writes, the others follow it
// and forward writes to it.
type Server struct {
	cfg   ServerConfig
	topic eventlog.Topic

	writes   chan *write
	takeover chan struct{} // asks a standby to claim: the owner cannot be reached

	mu       sync.RWMutex
	state    *state
	applied  int64         // offset of the last record in state
	progress chan struct{} // closed and renewed when applied grows
	poison   error         // a record that was not understood: reads go on, writes end
	caughtUp bool
	standby  bool              // another instance writes
	turned   chan struct{}     // closed and renewed when standby changes
	leader   eventlog.Identity // who made the latest claim
	claimed  int64             // its offset
}

// A write is one request for the writer goroutine.
type write struct {
	plan  func(*state) ([]record, any, *apiError)
	reply chan written // has room for one
}

type written struct {
	answer any
	err    *apiError
}

// NewServer creates the topic if it is absent and returns a server that answers 503 until Run has read it.
func NewServer(ctx context.Context, cfg ServerConfig) (*Server, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	topic, err := cfg.Log.EnsureTopic(ctx, eventlog.TopicSpec{Name: Topic, Partitions: 1, Compacted: true})
	if err != nil {
		return nil, ErrServer.Because("topic %s", Topic).Wrap(err)
	}
	return &Server{cfg: cfg, topic: topic, writes: make(chan *write), takeover: make(chan struct{}, 1), state: newState(), applied: -1,
		progress: make(chan struct{}), turned: make(chan struct{})}, nil
}

// Ready reports whether the registry has read its topic and so can answer; writes need an owner besides.
func (s *Server) Ready() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.caughtUp
}

// Run reads the topic, claims it and serves writes until ctx ends; it then returns nil. It goes on without writing when another
// instance claims the topic. Any other return is ErrServer: the state cannot be followed any more. Run is called once.
func (s *Server) Run(ctx context.Context) error {
	source, err := s.cfg.Log.NewSource(ctx, s.topic.Start(0))
	if err != nil {
		return ErrServer.Because("%s cannot be read", Topic).Wrap(err)
	}
	defer source.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	followed := make(chan error, 1)
	go func() {
		followed <- s.follow(ctx, source)
		cancel()
	}()
	s.write(ctx)
	cancel()
	err = <-followed
	s.mu.Lock()
	s.caughtUp = false
	s.mu.Unlock()
	if err != nil {
		return ErrServer.Because("%s cannot be followed", Topic).Wrap(err)
	}
	return nil
}

// follow applies what is written to the topic, by whomever, until ctx ends.
func (s *Server) follow(ctx context.Context, source *eventlog.Source) error {
	ends, err := s.cfg.Log.Ends(ctx, s.topic)
	if err != nil {
		return ignoreDone(ctx, err)
	}
	if ends[0] == 0 {
		s.advance(nil, 0)
	}
	for {
		fetched, err := source.Poll(ctx)
		if err != nil {
			return ignoreDone(ctx, err)
		}
		for _, f := range fetched {
			s.advance(f.Records, f.Cursor.Next)
			if f.Cursor.Next >= ends[0] {
				s.mu.Lock()
				s.caughtUp = true
				s.mu.Unlock()
			}
		}
	}
}

func ignoreDone(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// advance applies records and then says that everything before next is applied.
func (s *Server) advance(records []eventlog.Record, next int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range records {
		r := &records[i]
		if r.Mark != 0 {
			if r.Mark == eventlog.MarkClaim {
				s.leader, s.claimed = r.Owner, r.Position.Offset
			}
			continue
		}
		if err := s.state.apply(r.Key, r.Value); err != nil {
			s.cfg.Logger.Error("a record of the registry's topic is not understood, the registry is read-only from now on", "position", r.Position.String(), "error", err.Error())
			if s.poison == nil {
				s.poison = fault.New(fault.Internal, "registry_poisoned", "the record is not understood").Because("%s", r.Position).Wrap(err)
			}
		}
	}
	s.applied = next - 1
	close(s.progress)
	s.progress = make(chan struct{})
}

// awaitApplied waits until offset is applied; false if ctx ended first.
func (s *Server) awaitApplied(ctx context.Context, offset int64) bool {
	for {
		s.mu.RLock()
		applied, progress := s.applied, s.progress
		s.mu.RUnlock()
		if applied >= offset {
			return true
		}
		select {
		case <-progress:
		case <-ctx.Done():
			return false
		}
	}
}

// retryPause is the pause before the topic is claimed again after a failure that another instance did not cause.
const retryPause = time.Second

// write claims the topic and serves writes, again and again until ctx ends.
func (s *Server) write(ctx context.Context) {
	who := eventlog.Identity{Instance: s.cfg.Instance, Address: s.cfg.Address}
	for ctx.Err() == nil {
		owner, err := s.cfg.Log.Claim(ctx, s.topic, 0, who, eventlog.NoopMarks)
		if err == nil {
			err = s.own(ctx, owner)
		}
		if ctx.Err() != nil {
			return
		}
		if deposed(err) {
			// Two that claim from each other would never end: the loser waits until the winner is gone.
			s.cfg.Logger.Info("another instance writes the registry's topic, this one forwards to it")
			s.setStandby(true)
			select {
			case <-s.takeover:
			case <-ctx.Done():
			}
			s.setStandby(false)
			continue
		}
		s.cfg.Logger.Warn("the registry's topic is claimed again", "error", err.Error())
		pause := time.NewTimer(retryPause)
		select {
		case <-pause.C:
		case <-ctx.Done():
		}
		pause.Stop()
	}
}

// deposed reports whether an owner ended because another instance has the topic now.
func deposed(err error) bool {
	return errors.Is(err, eventlog.ErrFenced) || errors.Is(err, eventlog.ErrDeposed)
}

// own serves writes as long as owner may write and returns why that ended.
func (s *Server) own(ctx context.Context, owner *eventlog.Owner) error {
	defer owner.Release()
	if !s.awaitApplied(ctx, owner.Claimed().Offset) {
		return ctx.Err()
	}
	s.mu.Lock()
	s.caughtUp = true
	s.mu.Unlock()
	select {
	case <-s.takeover: // of before this claim
	default:
	}
	g := &group{s: s, owner: owner, batch: eventlog.NewBatch(0)}
	g.restart()
	for {
		s.mu.RLock()
		newer, progress := s.claimed > owner.Claimed().Offset, s.progress
		s.mu.RUnlock()
		if newer {
			return eventlog.ErrFenced.Because("the log holds a newer claim")
		}
		select {
		case <-progress:
		case <-ctx.Done():
			return ctx.Err()
		case <-owner.Lost():
			return owner.Err()
		case w := <-s.writes:
			g.commit(ctx, w)
		}
	}
}

func (s *Server) setStandby(standby bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.standby = standby
	close(s.turned)
	s.turned = make(chan struct{})
}

// submit hands a write to the writer goroutine and waits for its answer. Where another instance has become the writer meanwhile it is
// moved: not made here, nor ever will be.
func (s *Server) submit(ctx context.Context, plan func(*state) ([]record, any, *apiError)) (any, *apiError) {
	w := &write{plan: plan, reply: make(chan written, 1)}
	for waiting := true; waiting; {
		s.mu.RLock()
		standby, turned := s.standby, s.turned
		s.mu.RUnlock()
		if standby {
			return nil, moved()
		}
		select {
		case s.writes <- w:
			waiting = false
		case <-turned:
		case <-ctx.Done():
			return nil, refuse(codeTimeout, "The registry has no writer at the moment; repeat the request.")
		}
	}
	select {
	case r := <-w.reply:
		return r.answer, r.err
	case <-ctx.Done():
		return nil, refuse(codeTimeout, "It is not known whether the write was made; repeat the request.")
	}
}

// moved is the refusal of a write that belongs to another instance now.
func moved() *apiError {
	return &apiError{code: codeUnknownLeader, text: "Another instance has become the writer; repeat the request.", moved: true}
}

const (
	writeTime  = 10 * time.Second // how long a write may take, its turn included
	leaderTime = 2 * time.Second  // how long the claim of another instance may take to be read after it has taken effect
)

// read calls f with the state, which it may not change or keep.
func (s *Server) read(f func(*state) (any, *apiError)) (any, *apiError) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return f(s.state)
}

// writer returns whether this instance writes, else who does. Who was deposed waits until it has read by whom: until then the latest
// claim is its own. If there is no other claim, the other one has ended before it made one, and this instance claims again.
func (s *Server) writer(ctx context.Context) (here bool, leader eventlog.Identity) {
	limit, cancel := context.WithTimeout(ctx, leaderTime)
	defer cancel()
	own := eventlog.Identity{Instance: s.cfg.Instance, Address: s.cfg.Address}
	for {
		s.mu.RLock()
		standby, leader, progress, turned := s.standby, s.leader, s.progress, s.turned
		s.mu.RUnlock()
		if !standby || leader != own {
			return !standby, leader
		}
		select {
		case <-progress:
		case <-turned:
		case <-limit.Done():
			s.takeOver()
			return false, eventlog.Identity{}
		}
	}
}

// takeOver makes a standby claim the topic: the owner seems gone. Should it be there after all, the fence decides who writes.
func (s *Server) takeOver() {
	select {
	case s.takeover <- struct{}{}:
	default:
	}
}

// role returns whether another instance writes, whether this one has read the topic, and who made the latest claim.
func (s *Server) role() (standby, caughtUp bool, leader eventlog.Identity) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.standby, s.caughtUp, s.leader
}

// Handler returns the registry's HTTP API.
func (s *Server) Handler() http.Handler { return newAPI(s) }
