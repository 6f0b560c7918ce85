package store

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// flipSources makes the stores whose bits are flipped: "closed" has tables, "killed" has tables and several logs.
func flipSources(t *testing.T, dir string, w workload) {
	t.Helper()
	store := filepath.Join(dir, "live")
	for round := range 4 {
		db, err := openWith(store, small())
		if err != nil {
			t.Fatal(err)
		}
		if err := w.run(db, round*8, round*8+8); err != nil {
			t.Fatal(err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
	keep := func(name string, position int) {
		to := filepath.Join(dir, name)
		if err := errors.Join(copyStore(store, to), os.WriteFile(to+".position", []byte(strconv.Itoa(position)), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	keep("closed", 32)
	db, err := openWith(store, small())
	if err != nil {
		t.Fatal(err)
	}
	blockFlush(t, store)
	// Several transactions shall be in the newest log, so that there are some that are not the last one.
	n := 32
	for ; len(files(t, store, ".mem")) < 3; n++ {
		if err := w.run(db, n, n+1); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.run(db, n, n+4); err != nil {
		t.Fatal(err)
	}
	keep("killed", n+4)
	unblockFlush(t, store)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestFlippedBits flips bits of all files of a store. What is opened afterwards holds exactly what it held, or, if the bit was in the last
// transaction of the newest log, what it held before that one; everything else is refused as damaged. The flips are made by processes
// of their own, for a crash of Badger's could not be caught.
func TestFlippedBits(t *testing.T) {
	t.Parallel()
	seed := testSeed(t)
	dir := t.TempDir()
	flipSources(t, dir, workload(seed))
	const processes = 4
	outcomes := map[string]int{}
	type result struct {
		out []byte
		err error
	}
	results := make(chan result, processes)
	for i := range processes {
		cmd := child(t, "flip", dir, fmt.Sprint(seed), fmt.Sprint(i), fmt.Sprint(*flipN/processes))
		go func() {
			out, err := cmd.CombinedOutput()
			results <- result{out, err}
		}()
	}
	for range processes {
		r := <-results
		lines := strings.Split(strings.TrimSpace(string(r.out)), "\n")
		if r.err != nil {
			t.Errorf("%v:\n%s", r.err, strings.Join(lines[max(0, len(lines)-60):], "\n"))
		}
		for _, line := range lines {
			if _, outcome, ok := strings.Cut(line, " => "); ok {
				outcomes[outcome]++
			}
		}
	}
	t.Log(outcomes)
	if outcomes["same"] == 0 || outcomes["refused"] == 0 {
		t.Errorf("outcomes: %v, want some that are the same and some that are refused", outcomes)
	}
}

// flip flips n bits, one at a time, and returns an error for the first one that has an effect which it must not have.
func flip(out io.Writer, dir string, seed uint64, process, count string) error {
	n, err := strconv.Atoi(count)
	if err != nil {
		return err
	}
	part, err := strconv.Atoi(process)
	if err != nil {
		return err
	}
	rnd := rand.New(rand.NewPCG(seed, uint64(part)))
	models := map[string]*model{}
	for i := range n {
		source := []string{"closed", "killed"}[rnd.IntN(2)]
		from := filepath.Join(dir, source)
		if models[source] == nil {
			models[source] = &model{workload: workload(seed)}
		}
		to := filepath.Join(dir, fmt.Sprintf("flipped-%s-%d", process, i))
		if err := copyStore(from, to); err != nil {
			return err
		}
		name, err := victim(rnd, to, source == "killed")
		if err != nil {
			return err
		}
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		length := len(data)
		if strings.HasSuffix(name, ".mem") && rnd.IntN(10) > 0 {
			length = readLog(data, 1<<62, false).end // mostly not in the zeroes that follow
		}
		bit := rnd.IntN(length * 8)
		if strings.HasSuffix(name, ".mem") && rnd.IntN(5) == 0 && length > 40 {
			bit = length*8 - 1 - rnd.IntN(40*8) // around the end of the last transaction
		}
		data[bit/8] ^= 1 << (bit % 8)
		if err := os.WriteFile(name, data, 0o600); err != nil {
			return err
		}
		fmt.Fprintf(out, "%s: bit %d of byte %d of %d in %s", source, bit%8, bit/8, len(data), filepath.Base(name))
		text, err := os.ReadFile(from + ".position")
		if err != nil {
			return err
		}
		last, err := strconv.Atoi(string(text))
		if err != nil {
			return err
		}
		logs, err := filepath.Glob(filepath.Join(to, "*.mem"))
		if err != nil {
			return err
		}
		outcome, err := openFlipped(to, len(logs) > 0 && name == slices.Max(logs), last, models[source])
		if err != nil {
			return err
		}
		fmt.Fprintf(out, " => %s\n", outcome)
		if err := errors.Join(os.RemoveAll(to), forget(to)); err != nil {
			return err
		}
	}
	return nil
}

// victim returns a file of a store, each kind as often as the others; of a store with logs only those that hold data.
func victim(rnd *rand.Rand, dir string, logs bool) (string, error) {
	kinds := map[string][]string{}
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		return "", err
	}
	for _, name := range append(names, dir+".sentinel") {
		kind := filepath.Ext(name)
		if kind == "" {
			kind = filepath.Base(name)
		}
		if !logs || kind == ".mem" || kind == ".sst" || kind == "MANIFEST" {
			kinds[kind] = append(kinds[kind], name)
		}
	}
	of := make([]string, 0, len(kinds))
	for kind := range kinds {
		of = append(of, kind)
	}
	slices.Sort(of)
	kind := kinds[of[rnd.IntN(len(of))]]
	return kind[rnd.IntN(len(kind))], nil
}

// openFlipped opens a store of which a bit was flipped, in the newest log or elsewhere, that was at position last.
func openFlipped(dir string, newest bool, last int, m *model) (outcome string, err error) {
	db, err := openWith(dir, small())
	if err != nil {
		if errors.Is(err, ErrDamaged) || errors.Is(err, ErrDirectory) {
			return "refused", nil
		}
		return "", fmt.Errorf("Open: %w", err)
	}
	position, err := m.check(db)
	switch {
	case errors.Is(err, ErrDamaged):
		outcome, err = "refused when it was read", nil
	case err != nil:
	case position == last:
		outcome = "same"
	case position == last-1 && newest:
		outcome = "the last transaction is gone"
	default:
		err = fmt.Errorf("it is at position %d, want %d", position, last)
	}
	return outcome, errors.Join(err, db.Close())
}
