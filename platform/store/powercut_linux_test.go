package store

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// TestPowerCuts stops a process that writes, at random moments, copies its store, and takes from the copy what a power cut may take: any
// pages of the newest log that were not synced. The copy must open, hold the rows that its position says, and have lost no batch whose
// commit had returned. The process then goes on with such a copy, so that cuts follow cuts.
func TestPowerCuts(t *testing.T) {
	t.Parallel()
	seed := testSeed(t)
	const chains = 5
	for chain := range uint64(chains) {
		t.Run(fmt.Sprint(chain), func(t *testing.T) {
			t.Parallel()
			powerCuts(t, seed, rand.New(rand.NewPCG(seed, 100+chain)), *cutN/chains)
		})
	}
}

func powerCuts(t *testing.T, seed uint64, rnd *rand.Rand, images int) {
	tmp := t.TempDir()
	dir := filepath.Join(tmp, "0")
	m := &model{workload: workload(seed)}
	several, more := 0, 0
	p := startWriter(t, dir, seed)
	for image := 1; image <= images; image++ {
		acked := p.stopAfter(t, 1+rnd.IntN(5))
		copied, next := filepath.Join(tmp, strconv.Itoa(image)), filepath.Join(tmp, strconv.Itoa(image)+"-next")
		if err := copyStore(dir, copied); err != nil {
			t.Fatal(err)
		}
		what, logs := cutPower(t, rnd, copied, acked)
		if logs > 1 {
			several++
		}
		if image%5 == 0 { // go on with this one
			p.kill(t)
			if err := copyStore(copied, next); err != nil {
				t.Fatal(err)
			}
			dir = next
			p = startWriter(t, dir, seed)
		}
		position, err := openCut(copied, m)
		if err != nil || position < acked {
			t.Errorf("image %d, %s: position %d, want at least %d: %v", image, what, position, acked, err)
		}
		if position > acked {
			more++
		}
		if err := os.RemoveAll(copied); err != nil {
			t.Fatal(err)
		}
	}
	p.kill(t)
	t.Logf("%d images had several logs, %d held more than was known to be committed", several, more)
}

func openCut(dir string, m *model) (position int, err error) {
	db, err := openWith(dir, small())
	if err != nil {
		return 0, err
	}
	position, err = m.check(db)
	return position, errors.Join(err, db.Close())
}

// cutPower takes some of what may not have been synced from a copy, and returns what it did and how many logs there are.
func cutPower(t *testing.T, rnd *rand.Rand, dir string, acked int) (what string, logs int) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*.mem"))
	if err != nil {
		t.Fatal(err)
	}
	if len(names) == 0 {
		return "no log", 0
	}
	newest := slices.Max(names)
	data, err := os.ReadFile(newest)
	if err != nil {
		t.Fatal(err)
	}
	synced := syncedEnd(data, acked)
	what = fmt.Sprintf("%s: %d of %d bytes synced", filepath.Base(newest), synced, len(data))
	const page = 4096
	switch rnd.IntN(4) {
	case 0:
		what += ", all kept"
	case 1:
		end := min(len(data), synced+rnd.IntN(4)*page)
		what += fmt.Sprintf(", cut to %d", end)
		data = data[:end]
	case 2:
		what += ", some pages lost"
		for at := synced / page * page; at < len(data); at += page {
			if rnd.IntN(2) == 0 {
				clear(data[max(at, synced):min(at+page, len(data))])
			}
		}
	case 3:
		what += ", all pages lost"
		clear(data[synced:])
	}
	if err := os.WriteFile(newest, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return what, len(names)
}

// syncedEnd returns where what is synced of a log ends for sure: with the last batch that was committed, or the last transaction that
// anything follows, for the next one is not begun before.
func syncedEnd(log []byte, acked int) int {
	position := append([]byte{dataSpace}, "position"...)
	synced, end, known := 0, min(len(log), logHeader), false
	for {
		e, ok := parseLogEntry(log[end:])
		if !ok {
			return synced
		}
		if bytes.HasPrefix(e.key, position) {
			n, err := strconv.Atoi(string(e.value[valueHeader:]))
			known = err == nil && n <= acked
		}
		end += e.size
		if e.meta&endOfTxn != 0 && (known || len(bytes.TrimLeft(log[end:], "\x00")) > 0) {
			synced = end
		}
	}
}

// A writer is a process that runs writeForever.
type writer struct {
	process *os.Process
	acks    chan int
	out     *tail
	wait    func() error
}

// tail keeps the last line that a process wrote.
type tail struct{ line string }

func startWriter(t *testing.T, dir string, seed uint64) *writer {
	t.Helper()
	cmd := child(t, "write", dir, fmt.Sprint(seed))
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &writer{process: cmd.Process, acks: make(chan int, 1<<16), out: &tail{}, wait: cmd.Wait}
	go func() {
		defer close(p.acks)
		lines := bufio.NewScanner(pipe)
		for lines.Scan() {
			n, err := strconv.Atoi(lines.Text())
			if err != nil {
				p.out.line = lines.Text()
				break
			}
			p.acks <- n
		}
		_, _ = io.Copy(io.Discard, pipe)
	}()
	return p
}

// stopAfter lets the process commit n more batches, stops it, and returns the number of the last one that it told of.
func (p *writer) stopAfter(t *testing.T, n int) (acked int) {
	t.Helper()
	p.signal(t, syscall.SIGCONT)
	for ; n > 0 || len(p.acks) > 0; n-- {
		var ok bool
		if acked, ok = <-p.acks; !ok {
			t.Fatalf("the writer ended: %s", p.out.line)
		}
	}
	p.signal(t, syscall.SIGSTOP)
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !p.stopped(t) {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("the writer does not stop")
		}
	}
	return acked
}

// stopped reports whether all threads of the process have stopped.
func (p *writer) stopped(t *testing.T) bool {
	t.Helper()
	stats, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", p.process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range stats {
		text, err := os.ReadFile(name)
		if err != nil {
			return false
		}
		if _, state, _ := bytes.Cut(text, []byte(") ")); len(state) == 0 || state[0] != 'T' {
			return false
		}
	}
	return len(stats) > 0
}

func (p *writer) signal(t *testing.T, s syscall.Signal) {
	t.Helper()
	if err := p.process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

func (p *writer) kill(t *testing.T) {
	t.Helper()
	p.signal(t, syscall.SIGKILL)
	for range p.acks {
	}
	if err := p.wait(); err == nil {
		t.Error("the writer was not killed")
	}
}
