package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// A process is a running server of this bench: the shop in some role, or the bare Echo.
type process struct {
	cmd   *exec.Cmd
	began time.Time     // just before it was started
	took  time.Duration // until it said ready
	ended chan struct{}
	err   error // once ended

	mu     sync.Mutex
	at     map[string]string // what it said of its addresses: http, registry, metrics; without the scheme
	said   chan struct{}     // closed when it has said the last of them
	stderr bytes.Buffer
}

// readyTime is how long a process may take until it is ready.
const readyTime = 15 * time.Minute

// anyPorts lets a process choose its ports.
var anyPorts = []string{"--http-addr", "127.0.0.1:0", "--registry-addr", "127.0.0.1:0", "--admin-addr", "127.0.0.1:0"}

// dev starts shop dev on a data directory and waits until it is ready.
func (p *plan) dev(ctx context.Context, dir string) (*process, error) {
	args := append([]string{"dev", "--data-dir", dir, "--kafka-addr", "127.0.0.1:0"}, anyPorts...)
	return ready(ctx, exec.CommandContext(ctx, p.shop, args...)) //nolint:gosec // the binary under test
}

// serve returns the command of shop serve with roles on a real Kafka.
func (p *plan) serve(ctx context.Context, dir, kafka string, registry *process, roles ...string) *exec.Cmd {
	args := append([]string{"serve"}, roles...)
	args = append(append(args, "--data-dir", dir, "--kafka-brokers", kafka), anyPorts...)
	if registry != nil {
		args = append(args, "--registry-url", "http://"+registry.addr("registry"))
	}
	return exec.CommandContext(ctx, p.shop, args...) //nolint:gosec // as above
}

// registry starts shop serve registry on a real Kafka, and registers the contracts.
func (p *plan) registry(ctx context.Context, kafka string) (*process, error) {
	r, err := ready(ctx, p.serve(ctx, filepath.Join(p.dir, "registry"), kafka, nil, "registry"))
	if err != nil {
		return nil, err
	}
	register := exec.CommandContext(ctx, p.shop, "contracts", "register", "--registry-url", "http://"+r.addr("registry")) //nolint:gosec // as above
	register.Env = plainEnv()
	if text, err := register.CombinedOutput(); err != nil {
		return nil, errors.Join(fmt.Errorf("contracts register: %w\n%s", err, text), r.stop())
	}
	return r, nil
}

// plainEnv is this process's environment without any setting of the platform.
func plainEnv() []string {
	var env []string
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "MILLRACE_") {
			env = append(env, e)
		}
	}
	return env
}

// launch starts a command and follows what it says.
func launch(cmd *exec.Cmd) (*process, error) {
	p := &process{cmd: cmd, ended: make(chan struct{}), said: make(chan struct{}), at: map[string]string{}}
	cmd.Env = plainEnv()
	cmd.Stderr = &p.stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 30 * time.Second
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.began = time.Now()
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		p.follow(out)
		p.err = cmd.Wait()
		close(p.ended)
	}()
	return p, nil
}

// follow reads the banner, "name address" on each line, and then "ready …".
func (p *process) follow(out io.Reader) {
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		if len(words) < 2 {
			continue
		}
		if words[0] == "ready" {
			p.took = time.Since(p.began)
			close(p.said)
			break
		}
		addr := strings.TrimPrefix(strings.TrimSuffix(words[1], "/metrics"), "http://")
		p.mu.Lock()
		p.at[words[0]] = addr
		p.mu.Unlock()
	}
	_, _ = io.Copy(io.Discard, out) // what it says later is of no interest, but must not block it
}

// ready starts a command and waits until it is ready.
func ready(ctx context.Context, cmd *exec.Cmd) (*process, error) {
	p, err := launch(cmd)
	if err != nil {
		return nil, err
	}
	return p, p.await(ctx)
}

func (p *process) await(ctx context.Context) error {
	select {
	case <-p.said:
		return nil
	case <-p.ended:
		return fmt.Errorf("%s ended before it was ready: %w\n%s", p.cmd, p.err, p.stderr.String())
	case <-ctx.Done():
		return errors.Join(ctx.Err(), p.stop())
	case <-time.After(readyTime):
		return errors.Join(fmt.Errorf("%s is not ready after %v", p.cmd, readyTime), p.stop())
	}
}

// addr returns one of the addresses that the process named, "" until it has.
func (p *process) addr(name string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.at[name]
}

// stop asks the process to end and waits until it has; a process that does not end well is an error. It may be called again.
func (p *process) stop() error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.ended:
	case <-time.After(30 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.ended
		return fmt.Errorf("%s did not end after SIGTERM", p.cmd)
	}
	if p.err != nil {
		return fmt.Errorf("%s ended with %w\n%s", p.cmd, p.err, p.stderr.String())
	}
	return nil
}

// resident returns VmRSS, or another memory line of the process, in MB.
func (p *process) resident(line string) (float64, error) {
	kb, err := kilobytes("/proc/"+strconv.Itoa(p.pid())+"/status", line)
	return kb / 1024, err
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// cpu returns the CPU time that each of the processes has taken, in steps of 10 ms.
func cpu(pids ...int) ([]time.Duration, error) {
	all := make([]time.Duration, len(pids))
	for i, pid := range pids {
		text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
		if err != nil {
			return nil, err
		}
		// The second field, the name, is in brackets and may hold anything.
		f := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
		user, err1 := strconv.ParseInt(f[11], 10, 64)
		system, err2 := strconv.ParseInt(f[12], 10, 64)
		if err := errors.Join(err1, err2); err != nil {
			return nil, err
		}
		all[i] = time.Duration(user+system) * 10 * time.Millisecond
	}
	return all, nil
}

// pause returns nil after d, or why ctx has ended.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// settle waits until the processes rest: what one figure left to do must not be counted in the next.
func settle(ctx context.Context, processes ...*process) error {
	const step, enough = 250 * time.Millisecond, 20 * time.Millisecond
	pids := make([]int, len(processes))
	for i, p := range processes {
		pids[i] = p.pid()
	}
	last := -time.Hour
	deadline := time.Now().Add(time.Minute)
	for time.Now().Before(deadline) {
		all, err := cpu(pids...)
		if err != nil {
			return err
		}
		sum := time.Duration(0)
		for _, t := range all {
			sum += t
		}
		if sum-last <= enough {
			return nil
		}
		last = sum
		if err := pause(ctx, step); err != nil {
			return err
		}
	}
	return errors.New("the processes do not come to rest")
}

// profiled takes a CPU profile of the process into a file, for so many seconds, while the returned function has not been called.
func (p *plan) profiled(ctx context.Context, of *process, name string, length time.Duration) (wait func() error) {
	if p.profile == "" {
		return func() error { return nil }
	}
	done := make(chan error, 1)
	go func() { done <- fetchProfile(ctx, of, filepath.Join(p.profile, name+".pprof"), length) }()
	return func() error { return <-done }
}

func fetchProfile(ctx context.Context, of *process, path string, length time.Duration) error {
	for of.addr("metrics") == "" {
		select {
		case <-time.After(time.Millisecond):
		case <-of.ended:
			return errors.New("the process ended before it could be profiled")
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	url := fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", of.addr("metrics"), max(1, int(length.Seconds())))
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", url, resp.Status)
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, resp.Body)
	return errors.Join(err, f.Close())
}
