package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// An instance is a place where `shop serve` runs: addresses and a data directory. What runs there is started again whenever it ends.
type instance struct {
	name string
	args []string
	dir  string
	log  string // file that takes what it says
	http string // its address

	mu      sync.Mutex
	cmd     *exec.Cmd
	ended   chan struct{} // of cmd
	wanted  bool
	exits   []string // how it ended by itself
	keeping sync.WaitGroup
}

// freePorts returns ports that nobody listens on at the moment.
func freePorts(n int) ([]int, error) {
	var listeners []net.Listener
	defer func() {
		for _, l := range listeners {
			l.Close()
		}
	}()
	var ports []int
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		listeners = append(listeners, l)
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
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

// start starts the process and keeps it running until stop; after kill it begins again when start is called.
func (i *instance) start() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.cmd != nil {
		return nil
	}
	i.wanted = true
	return i.launch()
}

// launch runs the process once. Called with mu held.
func (i *instance) launch() error {
	out, err := os.OpenFile(i.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	cmd := exec.Command(i.args[0], i.args[1:]...) //nolint:gosec // the binary under test
	cmd.Env = plainEnv()
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for the nemesis
	if err := cmd.Start(); err != nil {
		return errors.Join(err, out.Close())
	}
	ended := make(chan struct{})
	i.cmd, i.ended = cmd, ended
	i.keeping.Go(func() {
		err := cmd.Wait()
		_ = out.Close()
		i.mu.Lock()
		i.cmd = nil
		close(ended)
		wanted := i.wanted
		if wanted {
			i.exits = append(i.exits, fmt.Sprintf("%s ended: %v\n%s", i.name, err, tail(i.log)))
		}
		i.mu.Unlock()
		if !wanted {
			return
		}
		time.Sleep(200 * time.Millisecond)
		i.mu.Lock()
		defer i.mu.Unlock()
		if i.wanted && i.cmd == nil {
			_ = i.launch()
		}
	})
	return nil
}

// tail returns the last lines of a file.
func tail(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-600):])
}

// signal sends a signal to what runs; false if nothing does.
func (i *instance) signal(s syscall.Signal) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.cmd != nil && i.cmd.Process.Signal(s) == nil
}

// kill ends the process as kill -9 does and waits until it is gone.
func (i *instance) kill() bool {
	i.mu.Lock()
	i.wanted = false
	cmd, ended := i.cmd, i.ended
	i.mu.Unlock()
	if cmd == nil {
		return false
	}
	_ = cmd.Process.Kill()
	<-ended
	return true
}

// interrupted is the exit status of a process that was asked to end before it was ready.
const interrupted = 130

// stop asks the process to end; an error if it does not end well within the time.
func (i *instance) stop(within time.Duration) error {
	i.mu.Lock()
	i.wanted = false
	cmd, ended := i.cmd, i.ended
	i.mu.Unlock()
	if cmd == nil {
		return nil
	}
	_ = cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-ended:
	case <-time.After(within):
		_ = cmd.Process.Signal(syscall.SIGQUIT) // it tells where it hangs
		time.Sleep(time.Second)
		_ = cmd.Process.Kill()
		<-ended
		return fmt.Errorf("%s did not end within %v of SIGTERM\n%s", i.name, within, tail(i.log))
	}
	// One that was still starting says that it was interrupted, or could not say anything yet.
	status, _ := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if !cmd.ProcessState.Success() && cmd.ProcessState.ExitCode() != interrupted && status.Signal() != syscall.SIGTERM {
		return fmt.Errorf("%s ended with %v after SIGTERM\n%s", i.name, cmd.ProcessState, tail(i.log))
	}
	return nil
}

// A disk is the file system of one instance, small enough to be filled; without one the instance has a plain directory.
type disk struct{ dir string }

// mountDisk mounts a file system in memory, and reports false where that is not allowed.
func mountDisk(ctx context.Context, dir string) (*disk, bool) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, false
	}
	if os.Geteuid() != 0 || exec.CommandContext(ctx, "mount", "-t", "tmpfs", "-o", "size=1500m", "tmpfs", dir).Run() != nil { //nolint:gosec // our directory
		return nil, false
	}
	return &disk{dir}, true
}

func (d *disk) unmount() error {
	text, err := exec.Command("umount", d.dir).CombinedOutput() //nolint:gosec // our directory
	if err != nil {
		return fmt.Errorf("umount %s: %w\n%s", d.dir, err, text)
	}
	return nil
}

// fill leaves so little room that no store takes a commit; the returned function makes room again.
func (d *disk) fill() (free func(), err error) {
	path := filepath.Join(d.dir, "ballast")
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	var st syscall.Statfs_t
	if err := syscall.Statfs(d.dir, &st); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	room := int64(st.Bavail)*st.Bsize - 200<<20
	_, err = io.CopyN(f, zeros{}, max(room, 0))
	err = errors.Join(err, f.Close())
	return func() { _ = os.Remove(path) }, err
}

// zeros is endless.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

// common returns the flags that say where Kafka and the registry are.
func (i *instance) common() []string {
	for k, a := range i.args {
		if a == "--kafka-brokers" {
			return i.args[k:]
		}
	}
	return nil
}
