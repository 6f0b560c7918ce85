package service

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/platform/contract"
	"github.com/millrace/millrace/platform/eventlog"
	"github.com/millrace/millrace/platform/fault"
	"github.com/millrace/millrace/platform/forward"
	"github.com/millrace/millrace/platform/registry"
	"github.com/millrace/millrace/platform/rest"
	"github.com/millrace/millrace/platform/store"
)

// A Role is one part that a process can play: an Aggregate, a Projector, or the schema registry that every application has.
type Role interface {
	role() string
	check() error // of what its author got wrong
	contracts() []contract.Subject
	start(ctx context.Context, h *host) error
}

// A host is what the roles of one process share. Roles add to it while it starts; then it runs what they added.
type host struct {
	app, short      string
	config          Config
	logger          *slog.Logger
	instance        string
	advertise       string
	registryAddress string // where other registries forward to; "" = there is none here
	log             *eventlog.Client
	registry        *registry.Client
	http            *rest.Server
	metrics         *metrics
	authorize       rest.Authorizer // the application's rule
	trace           Tracer
	peers           *forward.Pool
	forwarded       *forward.Server
	streams         *http.Transport // to other instances, for answers without a bound
	stopping        atomic.Bool
	dev             bool // everything is in this process, with a broker of its own
	secured         bool // whether the application may refuse somebody

	tasks      []task
	handOvers  []func(context.Context)
	confirms   map[string]func(ctx context.Context, partition int32) error // by aggregate
	drains     []func()                                                    // wait for what requests left behind, after the last request and before the tasks end
	closers    []func() error
	operations map[string]operations
	batches    map[string]batched
	views      viewAdmin
	crowd      crowd
	described  []route // for the OpenAPI document

	mu     sync.Mutex
	checks []rest.Check
}

type task struct {
	name string
	run  func(context.Context) error
}

func newHost(a App, c Config, logger *slog.Logger) *host {
	views := newViewSet()
	h := &host{
		app: a.Name, short: a.Short, config: c, logger: logger, instance: a.Name + "-" + rand.Text()[:8], metrics: newMetrics(views),
		authorize: a.Authorize, trace: a.Trace, secured: a.Authenticate != nil || a.Authorize != nil,
		operations: map[string]operations{}, confirms: map[string]func(context.Context, int32) error{}, batches: map[string]batched{},
		views: viewAdmin{views},
	}
	h.http = rest.NewServer(rest.Options{Logger: logger, Checks: []rest.Check{{Name: "roles", Ready: h.ready}}, Document: "/openapi.json", Authenticate: a.Authenticate})
	h.document()
	token := peerToken(c.PeerToken)
	h.peers = forward.NewPool(forward.PoolOptions{Instance: h.instance, MaxBody: forwardBody, Sign: token.sign, Logger: logger, OnForward: h.metrics.forwarded})
	o := forward.ServerOptions{Logger: logger}
	if token != "" {
		o.Authorize = token.check // without a secret, only instances on the same machine are let in
	}
	h.forwarded = forward.NewServer(h.http, o)
	h.http.Mount(forward.Path, h.forwarded)
	h.http.Handle(http.MethodPost, succeedPath, h.succeeded)
	h.streams = &http.Transport{
		DialContext:         (&net.Dialer{Timeout: 3 * time.Second}).DialContext,
		MaxIdleConnsPerHost: 4, IdleConnTimeout: time.Minute, DisableCompression: true, ResponseHeaderTimeout: c.CommandTimeout + time.Second,
	}
	h.closers = append(h.closers, func() error {
		h.peers.Close()
		h.streams.CloseIdleConnections()
		return nil
	})
	h.check("stopping", func(context.Context) error {
		if h.stopping.Load() {
			return errStopping
		}
		return nil
	})
	return h
}

// forwardBody is the longest answer that an instance takes from another one: a page of rows, with their places.
const forwardBody = 32 << 20

var errStopping = fault.New(fault.Unavailable, "stopping", "this instance is stopping")

// handOver adds something to do before anything is stopped, while everything is still answered.
func (h *host) handOver(f func(context.Context)) { h.handOvers = append(h.handOvers, f) }

// leave has other instances take what this one owns, and gives those who send requests the time to notice.
func (h *host) leave(ctx context.Context) {
	h.stopping.Store(true)
	delay := time.NewTimer(h.config.ShutdownDelay)
	defer func() { <-delay.C }()
	ctx, cancel := context.WithTimeout(ctx, h.config.HandOverTimeout)
	defer cancel()
	var all sync.WaitGroup
	for _, f := range h.handOvers {
		all.Go(func() { f(ctx) })
	}
	all.Wait()
}

// run adds a part that works until its context ends; an error of it ends the process.
func (h *host) run(name string, f func(context.Context) error) {
	h.tasks = append(h.tasks, task{name, f})
}

// drain adds something to wait for between the last request and the end of the tasks.
func (h *host) drain(wait func()) { h.drains = append(h.drains, wait) }

// check adds a condition of readiness.
func (h *host) check(name string, ready func(context.Context) error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.checks = append(h.checks, rest.Check{Name: name, Ready: ready})
}

// ready asks every role.
func (h *host) ready(ctx context.Context) error {
	h.mu.Lock()
	checks := h.checks
	h.mu.Unlock()
	var missing []error
	for _, c := range checks {
		if err := c.Ready(ctx); err != nil {
			missing = append(missing, err)
		}
	}
	return errors.Join(missing...)
}

// memTable is the size of the stores' memtables: large ones are flushed seldom, and take memory only as far as they are filled.
const memTable = 64 << 20

// openStore opens a store below the data directory, to be closed when everything has ended.
func (h *host) openStore(name string, o store.Options) (*store.DB, error) {
	dir := filepath.Join(h.config.DataDir, name)
	if err := os.MkdirAll(filepath.Dir(dir), 0o750); err != nil {
		return nil, ErrConfig.Because("data.dir %s", h.config.DataDir).Wrap(err).WithFix("choose a directory that can be written with --data-dir")
	}
	o.Logger = h.logger
	db, err := store.Open(dir, o)
	if err != nil {
		return nil, err
	}
	h.closers = append(h.closers, db.Close)
	return db, nil
}

// unregistered adds to an error of a missing contract how to register it here.
func (h *host) unregistered(err error) error {
	if errors.Is(err, contract.ErrUnregistered) {
		if e := fault.From(err); e != nil {
			return e.WithFix("register the contracts: %s contracts register --registry-url %s", h.app, h.config.RegistryURL[0])
		}
	}
	return err
}

func (h *host) close() error {
	var errs []error
	for i := len(h.closers) - 1; i >= 0; i-- {
		errs = append(errs, h.closers[i]())
	}
	return errors.Join(errs...)
}
