package folds

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/platform/es"
)

// patience is how long anything may take on a machine that is busy with other things.
const patience = 3 * time.Minute

// A process is a projector.
type process struct {
	t       *testing.T
	cmd     *exec.Cmd
	in      io.WriteCloser
	errs    bytes.Buffer // what it logs
	opened  chan struct{}
	ready   chan struct{}
	exited  chan struct{} // nothing more comes from it
	begun   time.Time
	mu      sync.Mutex
	first   said // "opened" or "restored"
	ended   said // why, if it said so
	views   map[string]viewSaid
	shown   map[string]es.Positions // by view, build and its time of birth: what was served
	n       int
	waiting map[int]command
	told    map[string][]command // by view
	done    map[int]said
	answers map[int]chan said
}

func start(t *testing.T, s setup) *process {
	t.Helper()
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, cmd: exec.Command(self), opened: make(chan struct{}), ready: make(chan struct{}), exited: make(chan struct{}), begun: time.Now(),
		views: map[string]viewSaid{}, shown: map[string]es.Positions{}, waiting: map[int]command{}, told: map[string][]command{}, done: map[int]said{}, answers: map[int]chan said{}}
	p.cmd.Env = append(os.Environ(), childEnv+"="+string(text))
	p.cmd.Stderr = &p.errs
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go p.listen(out)
	return p
}

// listen takes in what the process says, to the last line.
func (p *process) listen(out io.Reader) {
	defer close(p.exited)
	lines := json.NewDecoder(out)
	for {
		var s said
		if lines.Decode(&s) != nil {
			_, _ = io.Copy(io.Discard, out)
			return // it was killed in the middle of a line, at the latest
		}
		p.hear(&s)
	}
}

func (p *process) hear(s *said) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, v := range s.Views {
		p.views[v.Name] = v
		for _, b := range v.Builds {
			ps, err := es.ParsePositions(b.Applied)
			if err != nil && b.Applied != "" {
				p.t.Errorf("positions %q: %v", b.Applied, err)
			}
			p.shown[buildKey(v.Name, b.ID, b.Created)] = ps
		}
	}
	switch s.What {
	case "opened", "restored":
		p.first = *s
		close(p.opened)
	case "ready":
		close(p.ready)
	case "done":
		delete(p.waiting, s.N)
		p.done[s.N] = *s
		p.answers[s.N] <- *s
	case "ended":
		p.ended = *s
	}
}

func buildKey(view, id, created string) string {
	at, err := time.Parse(time.RFC3339Nano, created)
	if err != nil {
		return view + " " + id + " " + created
	}
	return fmt.Sprint(view, " ", id, " ", at.UnixNano())
}

// await waits for something, and returns false if the process has ended before.
func (p *process) await(what <-chan struct{}) bool {
	p.t.Helper()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-what:
		return true
	case <-p.exited:
		select {
		case <-what:
			return true
		default:
			return false
		}
	case <-timer.C:
		p.kill()
		p.t.Fatalf("a projector does nothing for %v: %+v\n%s", patience, p.views, p.log())
	}
	return false
}

// tell gives an order; the answer comes on the channel, or never.
func (p *process) tell(c command) <-chan said {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.n++
	c.N = p.n
	answer := make(chan said, 1)
	p.answers[c.N], p.waiting[c.N] = answer, c
	p.told[c.View] = append(p.told[c.View], c)
	text, err := json.Marshal(c)
	if err == nil {
		_, _ = p.in.Write(append(text, '\n')) // it may have ended
	}
	return answer
}

// ask gives an order and waits for the answer; ok is false if the process ends before.
func (p *process) ask(c command) (s said, ok bool) {
	p.t.Helper()
	answer := p.tell(c)
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case s = <-answer:
		return s, true
	case <-p.exited:
		select {
		case s = <-answer:
			return s, true
		default:
			return s, false
		}
	case <-timer.C:
		p.kill()
		p.t.Fatalf("a projector does not do %+v: %+v\n%s", c, p.views, p.log())
	}
	return s, false
}

// kill ends the process with SIGKILL and returns the orders that it had not carried out.
func (p *process) kill() (open []command) {
	_ = p.cmd.Process.Kill() // it may have ended
	p.end()
	for _, c := range p.waiting {
		open = append(open, c)
	}
	return open
}

// stop has the process end by itself.
func (p *process) stop() error {
	_, _ = fmt.Fprintln(p.in, `{"verb":"stop"}`)
	if !p.await(p.exited) {
		return nil
	}
	return p.end()
}

func (p *process) end() error {
	<-p.exited
	_ = p.in.Close()
	return p.cmd.Wait()
}

// log returns the end of what the process logged; it must have ended.
func (p *process) log() string {
	lines := strings.Split(strings.TrimSpace(p.errs.String()), "\n")
	return strings.Join(lines[max(0, len(lines)-25):], "\n")
}
