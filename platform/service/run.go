package service

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/millrace/millrace/platform/contract"
	"github.com/millrace/millrace/platform/embedded"
	"github.com/millrace/millrace/platform/eventlog"
	"github.com/millrace/millrace/platform/fault"
	"github.com/millrace/millrace/platform/registry"
	"github.com/millrace/millrace/platform/rest"
)

// registryRole is the schema registry; it listens on an address of its own.
type registryRole struct{}

func (registryRole) role() string                       { return "registry" }
func (registryRole) check() error                       { return nil }
func (registryRole) contracts() []contract.Subject      { return nil }
func (registryRole) start(context.Context, *host) error { return nil }

var errRegistry = fault.New(fault.Unavailable, "registry_starting", "the schema registry is reading its log")

// startTime bounds how long a process may take until it is ready to catch up; catching up itself may take longer.
const startTime = 60 * time.Second

// A stage is a group of running parts that are stopped together, the last stage first.
type stage struct {
	stop context.CancelFunc
	wg   sync.WaitGroup
}

// A process runs stages and learns of the first part that fails.
type process struct {
	stages []*stage
	failed chan error
	ctx    context.Context
}

func newProcess(ctx context.Context) *process {
	return &process{ctx: context.WithoutCancel(ctx), failed: make(chan error, 64)}
}

// begin starts a stage; the function it returns adds a part to it.
func (p *process) begin() func(name string, f func(context.Context) error) {
	ctx, stop := context.WithCancel(p.ctx)
	s := &stage{stop: stop}
	p.stages = append(p.stages, s)
	return func(name string, f func(context.Context) error) {
		s.wg.Go(func() {
			if err := f(ctx); err != nil {
				if fault.From(err) == nil {
					err = fmt.Errorf("%s: %w", name, err)
				}
				p.failed <- err
			}
		})
	}
}

// stop ends the stages in reverse order and returns the first error of a part, if any.
func (p *process) stop() error {
	for _, s := range slices.Backward(p.stages) {
		s.stop()
		s.wg.Wait()
	}
	select {
	case err := <-p.failed:
		return err
	default:
		return nil
	}
}

// addresses is what a process tells about itself once it is ready.
type addresses struct {
	PID      int    `json:"pid"`
	HTTP     string `json:"http"`
	Kafka    string `json:"kafka,omitempty"`
	Registry string `json:"registry,omitempty"`
	Admin    string `json:"admin"`
}

// run runs roles until ctx ends, on an embedded broker in dev mode. All ports are bound before anything is opened.
func (a App) run(ctx context.Context, c Config, roles []Role, dev bool, stdout, stderr io.Writer) (err error) {
	began := time.Now()
	logger := newLogger(c, stderr)
	if err := checkRoles(roles); err != nil {
		return err
	}
	if dev {
		c.DataDir = filepath.Join(c.DataDir, "dev") // what serve keeps belongs to another log
	}
	if c.Ephemeral {
		dir, err := os.MkdirTemp("", a.Name+"-")
		if err != nil {
			return ErrConfig.Because("ephemeral").Wrap(err)
		}
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
		c.DataDir = dir
	}
	step := func(what string) { logger.Debug("started", "what", what, "after", time.Since(began)) }
	h := newHost(a, c, logger)
	h.dev = dev
	at := addresses{PID: os.Getpid()}
	bound, err := listen(h.http, c.HTTPAddr, "--http-addr")
	if err != nil {
		return err
	}
	at.HTTP = "http://" + bound.String()
	h.advertise = c.Advertise
	if h.advertise == "" {
		h.advertise = reachable(bound)
	}
	admin := newAdmin(logger, h.metrics)
	admin.Handle(http.MethodGet, "/v1/contracts", contractsHandler(a.Name, roles))
	h.views.mount(admin)
	if bound, err = listen(admin, c.AdminAddr, "--admin-addr"); err != nil {
		return err
	}
	at.Admin = "http://" + bound.String()
	withRegistry := dev || slices.Contains(roles, Role(registryRole{}))
	registryAddress := ""
	secure, err := c.registryTLS(logger)
	if err != nil {
		return err
	}
	registryHTTP := rest.NewServer(rest.Options{Logger: logger, TLS: secure, MaxBody: registryBody, Checks: []rest.Check{{Name: "registry", Ready: h.ready}}})
	if withRegistry {
		if bound, err = listen(registryHTTP, c.RegistryAddr, "--registry-addr"); err != nil {
			return err
		}
		at.Registry = "http://" + bound.String()
		registryAddress = reachable(bound)
		if secure != nil {
			at.Registry, registryAddress = "https://"+bound.String(), "https://"+registryAddress
		}
		c.RegistryURL = []string{at.Registry}
		h.config.RegistryURL = c.RegistryURL
	}
	if err := os.MkdirAll(c.DataDir, 0o750); err != nil {
		return ErrConfig.Because("data.dir").Wrap(err).WithFix("choose a directory that can be written with --data-dir")
	}

	p := newProcess(ctx)
	ready := false
	defer func() {
		if !ready && ctx.Err() != nil {
			err = context.Canceled // asked to stop while it started: whatever failed then failed for that
		}
	}()
	defer func() {
		stopped := p.stop()
		logger.Debug("parts stopped")
		if e := h.close(); stopped == nil {
			stopped = e
		}
		if err == nil {
			err = stopped
		}
	}()
	starting, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	if dev {
		broker, err := embedded.Start(embedded.Options{Dir: filepath.Join(c.DataDir, "kafka"), Addr: c.KafkaAddr})
		if err != nil {
			return err
		}
		h.closers = append(h.closers, func() error { broker.Close(); return nil })
		at.Kafka = broker.Addr()
		step("kafka")
		c.KafkaBrokers = []string{broker.Addr()}
	}
	h.registryAddress = registryAddress
	if h.log, err = eventlog.Open(starting, h.metrics.watch(eventlog.Config{Brokers: c.KafkaBrokers, Env: c.Environment, ClientID: h.instance, Production: c.Production, Logger: logger})); err != nil {
		return err
	}
	h.closers = append(h.closers, func() error { h.log.Close(); return nil })
	step("log")
	if err := a.start(starting, p, h, c, roles, registryHTTP, withRegistry, dev); err != nil {
		return err
	}
	step("roles")
	p.begin()("admin", admin.Serve)
	p.begin()("http", func(ctx context.Context) error {
		err := h.http.Serve(ctx)
		cutting, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if e := h.forwarded.Shutdown(cutting); e != nil {
			logger.Warn("forwarded requests were cut off", "error", e)
		}
		for _, wait := range h.drains {
			wait()
		}
		return err
	})
	fmt.Fprint(stdout, banner(a.Name, c, at, dev, roles))
	if err := until(ctx, p, func() bool { return h.ready(ctx) == nil }); err != nil {
		return err
	}
	ready = true
	text, err := json.Marshal(at)
	if err != nil {
		return err
	}
	if c.ReadyFile != "" {
		if err := os.WriteFile(c.ReadyFile, append(text, '\n'), 0o600); err != nil {
			return ErrConfig.Because("ready.file").Wrap(err)
		}
	}
	fmt.Fprintf(stdout, "ready in %.2fs\n", time.Since(began).Seconds())
	select {
	case err := <-p.failed:
		return err
	case <-ctx.Done():
		h.leave(context.WithoutCancel(ctx))
		return nil
	}
}

// checkRoles finds what the authors of the roles got wrong, and two that would share a directory.
func checkRoles(roles []Role) error {
	seen := map[string]bool{}
	for _, r := range roles {
		if err := r.check(); err != nil {
			return err
		}
		if seen[r.role()] {
			return ErrRole.Because("two roles are called %q", r.role())
		}
		seen[r.role()] = true
	}
	return nil
}

// registryBody is the longest request a registry takes: a schema of 256 KiB, escaped as JSON, with room around it.
const registryBody = 2 << 20

// start starts the registry, registers the contracts where this process may, and starts the roles.
func (a App) start(ctx context.Context, p *process, h *host, c Config, roles []Role, registryHTTP *rest.Server, withRegistry, dev bool) error {
	if withRegistry {
		auth, err := c.registryAuth()
		if err != nil {
			return err
		}
		client, err := c.registryClient(false)
		if err != nil {
			return err
		}
		server, err := registry.NewServer(ctx, registry.ServerConfig{Log: h.log, Logger: h.logger, Instance: h.instance, Address: h.registryAddress, TLS: client.TLS, Auth: auth, Version: Version})
		if err != nil {
			return err
		}
		registryHTTP.Mount("/", server.Handler())
		run := p.begin()
		run("registry", server.Run)
		run("registry http", registryHTTP.Serve)
		if err := until(ctx, p, server.Ready); err != nil {
			return errRegistry.Because("it was not ready in time").Wrap(err)
		}
		h.check("registry", func(context.Context) error {
			if !server.Ready() {
				return errRegistry
			}
			return nil
		})
	}
	dial, err := c.registryClient(!withRegistry && !c.Ephemeral)
	if err != nil {
		return err
	}
	if h.registry, err = registry.Dial(dial); err != nil {
		return err
	}
	if err := h.awaitRegistry(ctx, p); err != nil {
		return err
	}
	h.logger.Debug("registry answers")
	if dev || c.Register {
		if err := registerAll(ctx, h.registry, roles, nil); err != nil {
			return err
		}
	}
	for _, r := range roles {
		if err := r.start(ctx, h); err != nil {
			return err
		}
		h.logger.Debug("role started", "role", r.role())
	}
	run := p.begin()
	for _, t := range h.tasks {
		run(t.name, t.run)
	}
	return nil
}

// awaitRegistry waits until the registry answers: ours may be starting in this process or beside it. A process that has used it before
// does not need it.
func (h *host) awaitRegistry(ctx context.Context, p *process) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := h.registry.Ping(ctx)
		if err == nil {
			return nil
		}
		if errors.Is(err, registry.ErrUnreachable) && h.registry.Cached() {
			h.logger.Warn("the schema registry does not answer, this process goes on with what it knows of it", "error", fault.Line(err))
			return nil
		}
		select {
		case failed := <-p.failed:
			return failed
		case <-ctx.Done():
			return err
		case <-tick.C:
		}
	}
}

// until waits until a condition holds, a part fails or ctx ends; the last is its error.
func until(ctx context.Context, p *process, holds func() bool) error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case err := <-p.failed:
			return err
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
	return nil
}

// reachable returns an address under which others reach a listener: one that listens everywhere is reached by the host's name.
func reachable(bound net.Addr) string {
	tcp, ok := bound.(*net.TCPAddr)
	if !ok || !tcp.IP.IsUnspecified() {
		return bound.String()
	}
	name, err := os.Hostname()
	if err != nil {
		return bound.String()
	}
	return net.JoinHostPort(name, strconv.Itoa(tcp.Port))
}

func listen(s *rest.Server, addr, flag string) (net.Addr, error) {
	bound, err := s.Listen(addr)
	if e := fault.From(err); e != nil {
		return nil, e.WithFix("stop what listens there, or choose another address with %s (port 0: any free one)", flag)
	}
	return bound, err
}

// banner tells where everything is.
func banner(name string, c Config, at addresses, dev bool, roles []Role) string {
	text := name + " " + Version
	if dev {
		kept := "data " + c.DataDir
		if c.Ephemeral {
			kept = "nothing is kept"
		}
		text += "  dev mode, not for production  (" + kept + ")\n"
	} else {
		text += "  serving"
		for _, r := range roles {
			text += " " + r.role()
		}
		text += "\n"
	}
	line := func(what, where string) {
		if where != "" {
			text += fmt.Sprintf("  %-10s %s\n", what, where)
		}
	}
	line("http", at.HTTP)
	line("api", at.HTTP+"/openapi.json")
	line("kafka", at.Kafka)
	line("registry", at.Registry)
	line("metrics", at.Admin+"/metrics")
	return text
}
