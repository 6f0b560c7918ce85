package store

import (
	"bufio"
	"bytes"
	"encoding/binary"
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

	"github.com/dgraph-io/badger/v4/y"
)

// TestPowerCuts has every second chain written with Options.Behind, where several transactions may be on their way to the disk. It stops a process that writes, at random moments, copies its store, and takes from the copy what a power cut may take: any
// pages of the newest log that were not synced. The copy must open, hold the rows that its position says, and have lost no batch whose
// commit had returned. The process then goes on with such a copy, so that cuts follow cuts.
func TestPowerCuts(t *testing.T) {
	t.Parallel()
	seed := testSeed(t)
	const chains = 6
	for chain := range uint64(chains) {
		t.Run(fmt.Sprint(chain), func(t *testing.T) {
			t.Parallel()
			powerCuts(t, seed, rand.New(rand.NewPCG(seed, 100+chain)), *cutN/chains, chain%2 == 1)
		})
	}
}

func powerCuts(t *testing.T, seed uint64, rnd *rand.Rand, images int, behind bool) {
	tmp := t.TempDir()
	dir := filepath.Join(tmp, "0")
	m := &model{workload: workload(seed)}
	several, more := 0, 0
	p := startWriter(t, dir, seed, behind)
	for image := 1; image <= images; image++ {
		acked := p.stopAfter(t, 1+rnd.IntN(5))
		copied, next := filepath.Join(tmp, strconv.Itoa(image)), filepath.Join(tmp, strconv.Itoa(image)+"-next")
		if err := copyStore(dir, copied); err != nil {
			t.Fatal(err)
		}
		what, logs := cutPower(t, rnd, copied, acked, behind)
		if logs > 1 {
			several++
		}
		if image%5 == 0 { // go on with this one
			p.kill(t)
			if err := copyStore(copied, next); err != nil {
				t.Fatal(err)
			}
			dir = next
			p = startWriter(t, dir, seed, behind)
		}
		position, err := openCut(copied, m, behind)
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

func openCut(dir string, m *model, behind bool) (position int, err error) {
	o := small()
	o.Behind = behind
	db, err := openWith(dir, o)
	if err != nil {
		return 0, err
	}
	position, err = m.check(db)
	return position, errors.Join(err, db.Close())
}

// cutPower takes some of what may not have been synced from a copy, and returns what it did and how many logs there are.
func cutPower(t *testing.T, rnd *rand.Rand, dir string, acked int, behind bool) (what string, logs int) {
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
	synced := syncedEnd(data, acked, behind)
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
// anything follows, for the next one is not begun before. Behind, it is the last one that a later one says is synced.
func syncedEnd(log []byte, acked int, behind bool) int {
	position := append([]byte{dataSpace}, "position"...)
	synced, end, known := 0, min(len(log), logHeader), false
	claimed, ends, last := uint64(0), map[uint64]int{}, 0 // by version; the end of the transaction before
	for {
		e, ok := parseLogEntry(log[end:])
		if !ok {
			break
		}
		if bytes.HasPrefix(e.key, position) {
			n, err := strconv.Atoi(string(e.value[valueHeader:]))
			known = err == nil && n <= acked
		}
		if bytes.Equal(y.ParseKey(e.key), bumpKey) {
			if told := e.value[valueHeader:]; len(told) == 8 {
				claimed = max(claimed, binary.BigEndian.Uint64(told))
			} else {
				synced = max(synced, last)
			}
		}
		end += e.size
		if e.meta&endOfTxn != 0 {
			last, ends[y.ParseTs(e.key)] = end, end
			if known || !behind && len(bytes.TrimLeft(log[end:], "\x00")) > 0 {
				synced = end
			}
		}
	}
	for version, at := range ends {
		if version <= claimed {
			synced = max(synced, at)
		}
	}
	return synced
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

func startWriter(t *testing.T, dir string, seed uint64, behind bool) *writer {
	t.Helper()
	how := "synced"
	if behind {
		how = "behind"
	}
	cmd := child(t, "write", dir, fmt.Sprint(seed), how)
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
