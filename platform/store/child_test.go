package store

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

var (
	flipN    = flag.Int("store.flips", 500, "how many bits are flipped")
	cutN     = flag.Int("store.cuts", 100, "how many power cuts are simulated")
	seedFlag = flag.Uint64("store.seed", 0, "the seed of the flips and cuts; 0 = another one each time")
)

func testSeed(t *testing.T) uint64 {
	t.Helper()
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("-store.seed=%d", seed)
	return seed
}

// roleEnv makes the test binary do something else than test: see child.
const roleEnv = "MILLRACE_STORE_TEST_ROLE"

// TestMain lets the test binary be a process that may crash, or that is stopped.
func TestMain(m *testing.M) {
	role := os.Getenv(roleEnv)
	if role == "" {
		os.Exit(m.Run())
	}
	args := strings.Fields(role)
	seed, err := strconv.ParseUint(args[2], 10, 64)
	if err == nil {
		switch args[0] {
		case "flip":
			err = flip(os.Stdout, args[1], seed, args[3], args[4])
		case "restore":
			_, err = Restore(context.Background(), args[3], args[1], Options{MinFree: -1})
		case "write":
			err = writeForever(os.Stdout, args[1], seed, args[3] == "behind")
		}
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

func child(t *testing.T, role ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), roleEnv+"="+strings.Join(role, " "))
	return cmd
}

// writeForever goes on with a workload where a store is, and prints the number of each batch that is on the disk; behind, not each is
// waited for.
func writeForever(out io.Writer, dir string, seed uint64, behind bool) error {
	o := small()
	o.Behind = behind
	db, err := openWith(dir, o)
	if err != nil {
		return err
	}
	n, err := positionOf(db)
	if err != nil {
		return err
	}
	for ; ; n++ {
		b := db.NewBatch()
		write := db.CommitTogether
		if behind && n%4 > 0 {
			write = db.WriteTogether
		}
		if err := errors.Join(workload(seed).write(b, n+1), write(b)); err != nil {
			return err
		}
		if behind && n%4 > 0 {
			continue
		}
		if _, err := fmt.Fprintln(out, n+1); err != nil {
			return err
		}
	}
}

func positionOf(db *DB) (int, error) {
	var n int
	err := db.Read(func(r *Reader) error {
		text, err := r.Get([]byte("position"))
		if errors.Is(err, ErrNotFound) {
			return nil
		}
		if err == nil {
			n, err = strconv.Atoi(string(text))
		}
		return err
	})
	return n, err
}
