package projection

import (
	"bytes"
	"errors"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/fault"
)

// keep makes a directory of a view with these two files, nil = not there.
func keep(t testing.TB, first, second []byte) (dir string) {
	t.Helper()
	dir = t.TempDir()
	put(t, filepath.Join(dir, controlFile), first)
	put(t, filepath.Join(dir, controlCopy), second)
	return dir
}

func put(t testing.TB, path string, text []byte) {
	t.Helper()
	if text == nil {
		return
	}
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// someControls returns a control as two writes one after the other have it.
func someControls(t testing.TB) (before, after control, texts [2][]byte) {
	t.Helper()
	at := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	until, err := es.ParsePositions("orders.events/0@7,orders.events/3@0")
	if err != nil {
		t.Fatal(err)
	}
	before = control{Number: 41, Live: "v1-2", Previous: "v1-1", Generations: []birth{
		{Version: 1, Build: 1, Created: at}, {Version: 1, Build: 2, Created: at, Restored: true}, {Version: 2, Build: 1, Created: at, Auto: true, Rate: 5000, Until: until, Bounded: true}}}
	after = before
	after.Number, after.Live, after.Previous, after.Paused = 42, "v2-1", "v1-2", true
	for i, c := range []control{before, after} {
		if texts[i], err = c.text(); err != nil {
			t.Fatal(err)
		}
	}
	return before, after, texts
}

// TestControlDamage: whatever happens to one of the files, each of its bits flipped and it cut off anywhere, what was remembered is what
// the other one says, the damaged one is put aside, and both are whole again. So it is when the process was killed between the two writes.
//
// G43: What is known of a view's builds, which answers and whether it is paused, survives damage of either file that has it; a verb that was answered is not undone by it.
func TestControlDamage(t *testing.T) {
	before, after, texts := someControls(t)
	for name, tc := range map[string]struct {
		first, second []byte
		damaged       string  // which is damaged
		want          control // as the other one has it
		every         int     // how many of the bits are tried: it takes its time
	}{
		"the first":            {texts[1], texts[1], controlFile, after, 1},
		"the copy":             {texts[1], texts[1], controlCopy, after, 1},
		"the first, half done": {texts[1], texts[0], controlFile, before, 13}, // nobody was told that the second write was done
		"the copy, half done":  {texts[1], texts[0], controlCopy, after, 13},
		"the first is older":   {texts[0], texts[1], controlFile, after, 13},
	} {
		t.Run(name, func(t *testing.T) {
			dir := keep(t, tc.first, tc.second)
			path := filepath.Join(dir, tc.damaged)
			whole := tc.first
			if tc.damaged == controlCopy {
				whole = tc.second
			}
			try := func(text []byte, heal bool) {
				t.Helper()
				if err := os.WriteFile(path, text, 0o600); err != nil {
					t.Fatal(err)
				}
				got, counts, other, err := readControl(dir)
				if err != nil || other.path != path || other.wrong == nil || counts.wrong != nil || !cmp.Equal(got, tc.want) {
					t.Fatalf("%q: %v, %s\n%s", text, err, &other, cmp.Diff(tc.want, got))
				}
				if !heal {
					return
				}
				got, found, err := openControl(dir)
				aside := path + ".damaged-1"
				if err != nil || !cmp.Equal(got, tc.want) || !strings.Contains(found, aside) {
					t.Fatalf("%q: %v, %s\n%s", text, err, found, cmp.Diff(tc.want, got))
				}
				if now, err := os.ReadFile(aside); err != nil || !bytes.Equal(now, text) {
					t.Fatalf("%s is %q, %v", aside, now, err)
				}
				for range 2 { // and again, with nothing to do
					c, counts, other, err := readControl(dir)
					if err != nil || !counts.usable() || !bytes.Equal(counts.text, other.text) || !cmp.Equal(c, tc.want) {
						t.Fatalf("%q: afterwards %v, %s, %s", text, err, counts.text, other.text)
					}
					if _, found, err := openControl(dir); err != nil || found != "" {
						t.Fatalf("%q: opened again: %s, %v", text, found, err)
					}
				}
				if err := os.Remove(aside); err != nil {
					t.Fatal(err)
				}
				// As before the next damage.
				put(t, filepath.Join(dir, controlFile), tc.first)
				put(t, filepath.Join(dir, controlCopy), tc.second)
			}
			for bit := 0; bit < len(whole)*8; bit += tc.every {
				text := slices.Clone(whole)
				text[bit/8] ^= 1 << (bit % 8)
				try(text, bit%101 == 0) // to write takes longest
			}
			for n := range len(whole) {
				try(whole[:n], n%29 == 0)
			}
			for _, text := range [][]byte{append(slices.Clone(whole), ' '), make([]byte, len(whole)), []byte("{}"), []byte("null"), slices.Concat(whole, whole)} {
				try(text, true)
			}
		})
	}
}

// TestControlRefuses: without one whole file there is an error that names both, and nothing is touched. With neither it is a new view.
func TestControlRefuses(t *testing.T) {
	_, _, texts := someControls(t)
	cut := texts[0][:100]
	for name, tc := range map[string]struct{ first, second []byte }{
		"both damaged":                  {cut, cut},
		"both empty":                    {[]byte{}, []byte{}},
		"damaged and empty":             {cut, []byte{}},
		"damaged, there is no copy":     {cut, nil},
		"empty, there is no copy":       {[]byte{}, nil},
		"gone, the copy damaged":        {nil, cut},
		"damaged, a copy of plain text": {cut, []byte(plainControl)},
	} {
		dir := keep(t, tc.first, tc.second)
		_, _, err := openControl(dir)
		f := fault.From(err)
		if !errors.Is(err, ErrControl) || f == nil || !strings.Contains(f.Detail, controlFile) || !strings.Contains(f.Detail, controlCopy) || !strings.Contains(f.Fix, "remove "+dir) {
			t.Errorf("%s: %v", name, fault.Line(err))
		}
		for file, want := range map[string][]byte{controlFile: tc.first, controlCopy: tc.second} {
			if now, err := os.ReadFile(filepath.Join(dir, file)); !bytes.Equal(now, want) || (want == nil) != errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s: %s was touched: %q, %v", name, file, now, err)
			}
		}
	}
	dir := keep(t, nil, nil)
	if c, found, err := openControl(dir); err != nil || found != "" || !cmp.Equal(c, control{}) {
		t.Errorf("a new view: %+v, %s, %v", c, found, err)
	}
}

// plainControl is a file as it was before there was a copy.
const plainControl = `{"live":"v1-1","generations":[{"version":1,"build":1,"created":"2026-11-22T12:00:00Z"}]}`

// TestControlOpens: one file that is gone, or older, is written again; one without a checksum is read and gets one, and counts more than a
// copy, which was written before it.
func TestControlOpens(t *testing.T) {
	_, after, texts := someControls(t)
	plain := control{Live: "v1-1", Generations: []birth{{Version: 1, Build: 1, Created: after.Generations[0].Created}}}
	later := plain
	plain.Number, later.Number = 1, after.Number+1
	for name, tc := range map[string]struct {
		first, second []byte
		want          control
		found         string
	}{
		"killed between the first two writes": {texts[1], nil, after, ""},
		"killed between two writes":           {texts[1], texts[0], after, ""},
		"the first one is gone":               {nil, texts[1], after, "is not there"},
		"the first one is older":              {texts[0], texts[1], after, ""},
		"without a checksum":                  {[]byte(plainControl), nil, plain, ""},
		"without a checksum, and a copy":      {[]byte(plainControl), texts[1], later, ""},
	} {
		dir := keep(t, tc.first, tc.second)
		c, found, err := openControl(dir)
		if err != nil || !cmp.Equal(c, tc.want) || found == "" != (tc.found == "") || !strings.Contains(found, tc.found) {
			t.Errorf("%s: %v, %s\n%s", name, err, found, cmp.Diff(tc.want, c))
		}
		c, counts, other, err := readControl(dir)
		if err != nil || counts.plain || !bytes.Equal(counts.text, other.text) || !cmp.Equal(c, tc.want) {
			t.Errorf("%s: afterwards %v, %s, %s", name, err, counts.text, other.text)
		}
	}
	// A write that fails half way is overtaken by the next one.
	dir := keep(t, texts[1], texts[1])
	c, _, err := openControl(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Remove(filepath.Join(dir, controlCopy)), os.MkdirAll(filepath.Join(dir, controlCopy, "x"), 0o700)); err != nil {
		t.Fatal(err)
	}
	c.Live = "v1-1"
	if err := c.write(dir); !errors.Is(err, ErrControl) || !strings.Contains(err.Error(), controlCopy) {
		t.Errorf("a directory was overwritten: %v", err)
	}
	if _, _, err := openControl(dir); !errors.Is(err, ErrControl) {
		t.Errorf("a directory was read: %v", err)
	}
	if err := os.RemoveAll(filepath.Join(dir, controlCopy)); err != nil {
		t.Fatal(err)
	}
	c.Live = "v1-2"
	if err := c.write(dir); err != nil {
		t.Fatal(err)
	}
	if got, _, other, err := readControl(dir); err != nil || got.Live != "v1-2" || got.Number != after.Number+2 || !other.usable() {
		t.Errorf("%+v, %v, %s", got, err, &other)
	}
	// A disk that breaks a file again and again does not fill up.
	for range maxAside + 2 {
		put(t, filepath.Join(dir, controlFile), []byte("x"))
		if _, _, err := openControl(dir); err != nil {
			t.Fatal(err)
		}
	}
	if aside, err := filepath.Glob(filepath.Join(dir, "*.damaged-*")); err != nil || len(aside) != maxAside {
		t.Errorf("put aside: %v, %v", aside, err)
	}
}

// TestControlHeals: a projector with a damaged file goes on with the builds that it had, and says so.
func TestControlHeals(t *testing.T) {
	r := newRig(t, 2)
	rnd := rand.New(rand.NewPCG(rand.Uint64(), 1))
	history(rnd, r.log, 300, 50)
	var said bytes.Buffer
	r.cfg.Logger = slog.New(slog.NewTextHandler(&said, nil))
	r.start()
	r.wait("orders")
	if _, err := r.p.Rebuild(t.Context(), "orders", Rebuild{}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.p.Switch("orders", "v1-2", true); err != nil {
		t.Fatal(err)
	}
	for round := range 8 {
		r.close()
		said.Reset()
		path := filepath.Join(r.dir, "orders", []string{controlFile, controlCopy}[round%2])
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		switch round / 2 {
		case 0:
			text = nil
		case 1:
			text = text[:rnd.IntN(len(text))]
		default:
			text[rnd.IntN(len(text))] ^= 1 << rnd.IntN(8)
		}
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		r.start()
		r.wait("orders", "customers", "sales")
		if got := r.live("orders"); got != "v1-2" {
			t.Errorf("%s answers, want v1-2", got)
		}
		if err := checkAll(t.Context(), r.p, r.log); err != nil {
			t.Error(err)
		}
		if !strings.Contains(said.String(), path+".damaged-") {
			t.Errorf("it did not say that %s was damaged: %s", path, &said)
		}
	}
	if now, err := r.p.Rollback("orders"); err != nil || now != "v1-1" {
		t.Errorf("rolled back to %s, %v", now, err)
	}
	r.close()
	for _, name := range []string{controlFile, controlCopy} {
		if err := os.Truncate(filepath.Join(r.dir, "orders", name), 20); err != nil {
			t.Fatal(err)
		}
	}
	p, err := newProjector(r.cfg, r.log)
	if err == nil {
		err = r.views()[0](p)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Open(); !errors.Is(err, ErrControl) {
		t.Errorf("with both files damaged: %v", err)
	}
}

// TestPauseFails: a verb that could not be written has changed nothing, in memory neither.
func TestPauseFails(t *testing.T) {
	r := newRig(t, 1)
	r.start(r.views()[0])
	r.log.add(0, change{Kind: "placed", Order: "o-1"})
	r.wait("orders")
	path := filepath.Join(r.dir, "orders", controlFile)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Remove(path), os.Mkdir(path, 0o700)); err != nil {
		t.Fatal(err)
	}
	if err := r.p.Pause("orders"); !errors.Is(err, ErrControl) {
		t.Fatalf("paused: %v", err)
	}
	if err := r.p.Drop("orders", "v1-1"); !errors.Is(err, ErrBuild) {
		t.Errorf("the build that answers is dropped: %v", err)
	}
	if err := errors.Join(os.Remove(path), os.WriteFile(path, text, 0o600)); err != nil {
		t.Fatal(err)
	}
	if st, err := r.p.StatusOf("orders"); err != nil || st.Paused {
		t.Errorf("%+v, %v: it could not be paused, and says it is", st, err)
	}
	id, err := r.p.Rebuild(t.Context(), "orders", Rebuild{})
	if err != nil {
		t.Fatal(err)
	}
	r.build("orders", id)
}
