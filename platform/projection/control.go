package projection

import (
	"cmp"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/store"
)

// A control is what is remembered of a view beside its generations: the file view.json in its directory, replaced as a whole.
type control struct {
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

const controlFile = "view.json"

// readControl returns the zero control for a view that is new.
func readControl(dir string) (control, error) {
	var c control
	text, err := os.ReadFile(filepath.Join(dir, controlFile))
	if errors.Is(err, os.ErrNotExist) {
		return c, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &c)
	}
	if err != nil {
		return control{}, ErrControl.Because("%s", filepath.Join(dir, controlFile)).Wrap(err)
	}
	return c, nil
}

func (c control) write(dir string) error {
	text, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return err
	}
	if err := store.ReplaceFile(filepath.Join(dir, controlFile), append(text, '\n')); err != nil {
		return ErrControl.Because("%s", filepath.Join(dir, controlFile)).Wrap(err)
	}
	return nil
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
