package projection

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/store"
)

// A control is what is remembered of a view beside its generations: the file view.json in its directory, and a copy of it.
type control struct {
	Number      uint64  `json:"number"`             // of the write: it rises
	Live        string  `json:"live"`               // the build that answers queries
	Previous    string  `json:"previous,omitempty"` // the one that did before
	Paused      bool    `json:"paused,omitempty"`
	Generations []birth `json:"generations"` // by version, then build
}

// A birth is what is known of a generation from its beginning on.
type birth struct {
	Version int       `json:"version"`
	Build   int       `json:"build"` // 1, 2, 3 … of a version
	Created time.Time `json:"created"`
	// Auto has it take over as soon as it has caught up: so do new versions, for whose code the program was started.
	Auto  bool         `json:"auto,omitempty"`
	Rate  int          `json:"rate,omitempty"`  // events per second while it is behind; 0 = see Rebuild
	Until es.Positions `json:"until,omitempty"` // the last positions to be applied; empty = there is no end
	// Empty partitions of Until have nothing applied.
	Bounded bool `json:"bounded,omitempty"`
	// Restored builds are of a backup whose positions have not been held against the log yet.
	Restored bool `json:"restored,omitempty"`
}

// id names the generation within its view; its directory has that name.
func (b birth) id() string { return "v" + strconv.Itoa(b.Version) + "-" + strconv.Itoa(b.Build) }

// stored reports whether there is anything of it in the view's directory.
func (b birth) stored(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, b.id()))
	return err == nil
}

// The two files that a control is kept in. Each is replaced as a whole, first the one and then the other: at any time at least one of them
// is what was written last, or what was before it.
const (
	controlFile = "view.json"
	controlCopy = "view.copy.json"
)

// A kept is what one of the two files holds.
type kept struct {
	path  string
	text  []byte
	c     control
	there bool
	plain bool  // it has no checksum: a program wrote it that kept no copy, or somebody by hand
	wrong error // why it cannot be used
}

func (k *kept) usable() bool { return k.there && k.wrong == nil }

// String says what is wrong with the file.
func (k *kept) String() string {
	if !k.there {
		return k.path + " is not there"
	}
	return fmt.Sprintf("%s is damaged: %v", k.path, k.wrong)
}

// readKept reads one of the files. What is wrong with the file is in it; an error is something else, which may pass.
func readKept(path string) (k kept, err error) {
	k.path = path
	k.text, err = os.ReadFile(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return k, nil
	case errors.Is(err, syscall.EIO): // the disk has lost it
		k.there, k.wrong = true, err
	case err != nil:
		return k, ErrControl.Because("%s", path).Wrap(err)
	default:
		k.there = true
		k.c, k.plain, k.wrong = parseControl(k.text)
	}
	return k, nil
}

// readControl returns what is remembered of the view in dir, the zero control if that is new, and how it is kept: counts is the file that
// has it, other the other one.
//
// A write that was broken off has left the first file newer than the second. Nobody was told that it was done, and nothing was done that
// rests on it: so if either file is damaged, the other one has all that counts.
func readControl(dir string) (c control, counts, other kept, err error) {
	first, err := readKept(filepath.Join(dir, controlFile))
	if err != nil {
		return control{}, first, other, err
	}
	second, err := readKept(filepath.Join(dir, controlCopy))
	if err != nil {
		return control{}, first, second, err
	}
	if second.plain {
		second.plain, second.wrong = false, errors.New("it has no checksum")
	}
	switch {
	case !first.there && !second.there:
	case first.plain && first.usable():
		// It was written after the copy, which nobody writes before it.
		first.c.Number = second.c.Number
	case first.usable() && (!second.usable() || first.c.Number >= second.c.Number):
	case second.usable():
		first, second = second, first
	default:
		return control{}, first, second, ErrControl.Because("%s; %s", &first, &second).
			WithFix("check the disk, and bring one of the two back as it was; to have the view built anew from the log, remove %s", dir)
	}
	return first.c, first, second, nil
}

// openControl is readControl for who goes on with it: it puts aside what is damaged and makes both files the same, before anything is done
// that rests on what they say. found is what was wrong, for the log.
func openControl(dir string) (c control, found string, err error) {
	c, counts, other, err := readControl(dir)
	if err != nil {
		return control{}, "", err
	}
	switch {
	case other.wrong != nil:
		aside, err := putAside(other.path)
		if err != nil {
			return control{}, "", ErrControl.Because("%s, and it cannot be moved aside", &other).Wrap(err)
		}
		found = fmt.Sprintf("%s, and was moved to %s; %s counts", &other, aside, counts.path)
	case !other.there && filepath.Base(other.path) == controlFile:
		found = fmt.Sprintf("%s; %s counts", &other, counts.path)
	}
	switch {
	case counts.plain:
		err = c.write(dir)
	case counts.there && !bytes.Equal(other.text, counts.text):
		err = replace(other.path, counts.text)
	}
	return c, found, err
}

// maxAside is how many damaged files are kept of each; a later one takes the place of the last.
const maxAside = 3

// putAside renames a damaged file so that somebody can look at it, as a damaged store is moved aside.
func putAside(path string) (aside string, err error) {
	for n := 1; n <= maxAside; n++ {
		aside = fmt.Sprintf("%s.damaged-%d", path, n)
		if _, err := os.Lstat(aside); errors.Is(err, os.ErrNotExist) {
			break
		}
	}
	return aside, os.Rename(path, aside)
}

// write replaces both files; if it fails, the one may be new and the other old.
func (c *control) write(dir string) error {
	c.Number++
	text, err := c.text()
	if err != nil {
		return err
	}
	if err := replace(filepath.Join(dir, controlFile), text); err != nil {
		return err
	}
	return replace(filepath.Join(dir, controlCopy), text)
}

func replace(path string, text []byte) error {
	if err := store.ReplaceFile(path, text); err != nil {
		return ErrControl.Because("%s", path).Wrap(err)
	}
	return nil
}

// The first line of a file after its bracket: the checksum of all lines that follow.
const (
	checksumBefore = "{\n  \"checksum\": \""
	checksumAfter  = "\",\n"
)

// text returns the content of a file.
func (c *control) text() ([]byte, error) {
	text, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return nil, err
	}
	_, rest, _ := bytes.Cut(append(text, '\n'), []byte("\n")) // the bracket is a line of its own
	return slices.Concat([]byte(checksumBefore+checksumOf(rest)+checksumAfter), rest), nil
}

func checksumOf(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// parseControl is the inverse of text. plain says that there is no checksum, nor anything that one could have become.
func parseControl(text []byte) (c control, plain bool, err error) {
	if len(text) == 0 {
		return c, false, errors.New("it is empty")
	}
	const begin = len(checksumBefore) + 2*sha256.Size + len(checksumAfter)
	if len(text) > begin && string(text[:len(checksumBefore)]) == checksumBefore {
		rest := text[begin:]
		if want := checksumBefore + checksumOf(rest) + checksumAfter; string(text[:begin]) != want {
			return c, false, errors.New("its checksum is wrong")
		}
		return c, false, json.Unmarshal(text, &c)
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(text, &fields); err != nil {
		return c, false, err
	}
	for name := range fields {
		if !slices.Contains([]string{"live", "previous", "paused", "generations"}, name) {
			return c, false, fmt.Errorf("it has no checksum, and a field %.40q", name)
		}
	}
	if fields["live"] == nil || fields["generations"] == nil {
		return c, false, errors.New("it is not of a view")
	}
	return c, true, json.Unmarshal(text, &c)
}

// add adds a generation.
func (c *control) add(b birth) {
	c.Generations = append(c.Generations, b)
	slices.SortFunc(c.Generations, func(a, b birth) int { return cmp.Or(cmp.Compare(a.Version, b.Version), cmp.Compare(a.Build, b.Build)) })
}

// find returns the birth of a generation.
func (c control) find(id string) (birth, bool) {
	for _, b := range c.Generations {
		if b.id() == id {
			return b, true
		}
	}
	return birth{}, false
}

// next returns the number that the next build of a version has.
func (c control) next(version int) int {
	n := 1
	for _, b := range c.Generations {
		if b.Version == version {
			n = max(n, b.Build+1)
		}
	}
	return n
}
