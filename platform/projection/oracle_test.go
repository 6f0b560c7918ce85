package projection

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

var (
	kills  = flag.Int("projection.kills", 6, "how often TestKill kills")
	images = flag.Int("projection.images", 3, "how many power cuts TestPowerCut tries")
	flips  = flag.Int("projection.flips", 8, "how many bits TestFlippedBits flips")
)

// oracleEnv makes the test binary the child of the tests of this file: "dir seed events".
const oracleEnv = "MILLRACE_PROJECTION_ORACLE"

// A child is a process that opens what is stored and compares it with the fold of the log up to where it is; it says "equal" or "refused".
// A store that is damaged may end it, which is to refuse, too; to say anything else is not.
func child(t *testing.T, dir string, logSeed uint64, events int) (said string) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestOracleChild$", "-test.v")
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %d %d", oracleEnv, dir, logSeed, events))
	out, err := cmd.CombinedOutput()
	for line := range strings.Lines(string(out)) {
		if rest, ok := strings.CutPrefix(line, "verdict: "); ok {
			return strings.TrimSpace(rest)
		}
	}
	if err == nil {
		t.Fatalf("the child said nothing:\n%s", out)
	}
	return "ended: " + err.Error()
}

// TestOracleChild is the child.
func TestOracleChild(t *testing.T) {
	arg := os.Getenv(oracleEnv)
	if arg == "" {
		return
	}
	f := strings.Fields(arg)
	logSeed, err1 := strconv.ParseUint(f[1], 10, 64)
	events, err2 := strconv.Atoi(f[2])
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	fmt.Println("verdict:", judge(t.Context(), f[0], killLog(logSeed, events)))
}

func judge(ctx context.Context, dir string, log *memLog) string {
	p, err := newProjector(Config{Dir: dir}, log)
	if err != nil {
		return "refused: " + err.Error()
	}
	for _, add := range testViews(log) {
		if err := add(p); err != nil {
			return "refused: " + err.Error()
		}
	}
	if err := p.Open(); err != nil {
		return "refused: " + err.Error()
	}
	err = errors.Join(checkAll(ctx, p, log), p.Close())
	if err != nil {
		if isRefusal(err) {
			return "refused: " + err.Error()
		}
		return "WRONG: " + err.Error()
	}
	n := int64(0)
	for _, at := range p.Status() {
		for _, b := range at.Builds {
			for _, part := range b.Partitions {
				n += part.Next
			}
		}
	}
	return fmt.Sprint("equal at ", n)
}

// isRefusal reports whether an error says that something is damaged, rather than that rows differ.
func isRefusal(err error) bool { return strings.Contains(err.Error(), "damaged") }

// victim starts a process that projects the log into dir, and returns it once it has opened the stores.
func victim(t *testing.T, dir string, logSeed uint64, events int) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestKill$", "-test.v")
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %d %d", killEnv, dir, logSeed, events))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	// It says when it has opened the stores; from then on any moment will do.
	buf := make([]byte, 1)
	var said strings.Builder
	for !strings.Contains(said.String(), "opened\n") {
		if _, err := out.Read(buf); err != nil {
			t.Fatalf("the child ended: %s", said.String())
		}
		said.Write(buf)
	}
	return cmd
}

// files returns the files of the stores below dir, in order.
func files(t *testing.T, dir string) (names []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && filepath.Base(path) != "LOCK" {
			names = append(names, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	return names
}

// TestPowerCut takes images of the directory while a process writes to it, cuts the ends of the newest logs off where a power cut could
// have, and compares what is left with the fold of the log up to the positions in it: whole transactions may be missing from the end, with
// their positions, and nothing else.
//
// G14: A row is the fold of exactly the events before the view's position, each once and in the order of its partition.
func TestPowerCut(t *testing.T) {
	rnd := seed(t)
	const events = 60_000
	logSeed := rnd.Uint64()
	counts := map[string]int{}
	for n := 0; n < *images; {
		dir := filepath.Join(t.TempDir(), "views")
		w := victim(t, dir, logSeed, events)
		for k := 0; k < 5 && n < *images; k++ {
			timer := time.NewTimer(time.Duration(rnd.IntN(60_000)) * time.Microsecond)
			<-timer.C
			if err := w.Process.Signal(syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			image := filepath.Join(t.TempDir(), fmt.Sprint("image-", n))
			err := os.CopyFS(image, os.DirFS(dir))
			if err := errors.Join(err, w.Process.Signal(syscall.SIGCONT)); err != nil {
				t.Fatal(err)
			}
			for _, log := range newestLogs(t, image) {
				cut(t, rnd, log)
			}
			said := child(t, image, logSeed, events)
			if !strings.HasPrefix(said, "equal") {
				t.Fatalf("image %d: %s", n, said)
			}
			counts[strings.Fields(said)[0]]++
			if err := os.RemoveAll(image); err != nil {
				t.Fatal(err)
			}
			n++
		}
		if err := w.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = w.Wait() // killed
	}
	t.Logf("%d images: %v", *images, counts)
}

// newestLogs returns the log of each store that is written to.
func newestLogs(t *testing.T, dir string) (logs []string) {
	t.Helper()
	newest := map[string]string{}
	for _, name := range files(t, dir) {
		if filepath.Ext(name) == ".mem" {
			newest[filepath.Dir(name)] = name // in order: the last one is the newest
		}
	}
	for _, name := range newest {
		logs = append(logs, name)
	}
	slices.Sort(logs)
	return logs
}

// cut zeroes the last pages of what was written to a log, some of which may not have reached the disk.
func cut(t *testing.T, rnd *rand.Rand, name string) {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	end := len(text)
	for end > 0 && text[end-1] == 0 {
		end--
	}
	const page = 4096
	from := max(0, (end/page-rnd.IntN(20))*page)
	if from < page {
		return // its head was synced when it was made
	}
	clear(text[from:])
	if err := os.WriteFile(name, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestFlippedBits flips one bit somewhere in what is stored, and opens it: the rows are the fold of the log, or it is refused, or built
// anew; never is anything else served.
//
// G17: A damaged row is never served.
func TestFlippedBits(t *testing.T) {
	rnd := seed(t)
	const events = 20_000
	logSeed := rnd.Uint64()
	dir := filepath.Join(t.TempDir(), "views")
	var stores []string // one that was closed, and one that was killed
	for i, how := range []string{"closed", "killed"} {
		at := filepath.Join(dir, how)
		if i == 0 {
			log := killLog(logSeed, events)
			p := opened(t, Config{Dir: at, WaitMax: time.Minute}, log, testViews(log)...)
			ctx, stop := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- p.Run(ctx) }()
			for _, v := range []string{"orders", "customers", "sales"} {
				if _, err := p.List(ctx, v, Query{Limit: 1}, log.last()); err != nil {
					t.Fatal(err)
				}
			}
			stop()
			if err := errors.Join(<-done, p.Close()); err != nil {
				t.Fatal(err)
			}
		} else {
			w := victim(t, at, logSeed, events)
			timer := time.NewTimer(150 * time.Millisecond)
			<-timer.C
			if err := w.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			_ = w.Wait() // killed
		}
		stores = append(stores, at)
	}
	counts := map[string]int{}
	for n := range *flips {
		image := filepath.Join(t.TempDir(), fmt.Sprint("image-", n))
		if err := os.CopyFS(image, os.DirFS(stores[n%2])); err != nil {
			t.Fatal(err)
		}
		names := files(t, image)
		name, bit := flip(t, rnd, names)
		said := child(t, image, logSeed, events)
		if strings.HasPrefix(said, "WRONG") {
			t.Fatalf("bit %d of %s: %s", bit, strings.TrimPrefix(name, image), said)
		}
		counts[strings.Trim(strings.Fields(said)[0], ":")]++
		if err := os.RemoveAll(image); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d bits: %v", *flips, counts)
}

// flip flips a bit of one of the files, of that what is not zero.
func flip(t *testing.T, rnd *rand.Rand, names []string) (name string, bit int) {
	t.Helper()
	for {
		name = names[rnd.IntN(len(names))]
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		end := len(text)
		for end > 0 && text[end-1] == 0 {
			end--
		}
		if end == 0 {
			continue
		}
		bit = rnd.IntN(end * 8)
		text[bit/8] ^= 1 << (bit % 8)
		if err := os.WriteFile(name, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return name, bit
	}
}
