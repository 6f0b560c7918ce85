package contract

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// A Reference pins a type that the schemas of a folder use and that another subject of the registry defines. Its text, a copy of that version, is
// references/<name>.avsc of the folder, so that what an event means changes with the folder only.
type Reference struct {
	Name    string `yaml:"name"`    // full name of the type
	Subject string `yaml:"subject"` // that defines it
	Version int    `yaml:"version"` // of the subject, 1, 2, 3 …
}

func (r Reference) String() string {
	return fmt.Sprintf("version %d of subject %s", r.Version, r.Subject)
}

// referencesDir holds the copies of what contracts.yaml pins.
const referencesDir = "references"

// References are the pinned types of a folder with their texts, each before those that use it. The zero References are none.
type References struct {
	Pins   []Reference
	Texts  []string // by pin
	Faults []ReferenceFault

	defines map[string]int // every type that a text defines → its pin
}

// A ReferenceFault says why a pin, or a file of references, cannot be used.
type ReferenceFault struct {
	Name     string // of the type
	Unpinned bool   // no pin says which version it is, else what is pinned is not there
	Reason   string
}

// ReadReferences reads what the settings of a folder pin. What cannot be used is among the Faults and missing in the rest; the error is that of
// reading files.
func ReadReferences(folder fs.FS, s Settings) (References, error) {
	r := References{defines: map[string]int{}}
	fault := func(name string, unpinned bool, format string, args ...any) {
		r.Faults = append(r.Faults, ReferenceFault{name, unpinned, fmt.Sprintf(format, args...)})
	}
	pinned := map[string]bool{}
	for _, pin := range s.References {
		switch {
		case badName(pin.Name) != "":
			fault(pin.Name, true, "%s", badName(pin.Name))
			continue
		case pinned[pin.Name]:
			fault(pin.Name, true, "%s is pinned twice", pin.Name)
			continue
		}
		pinned[pin.Name] = true
		if pin.Subject == "" || pin.Version < 1 {
			fault(pin.Name, true, "%s needs a subject and a version of it, 1, 2, 3 …", pin.Name)
			continue
		}
		text, err := fs.ReadFile(folder, path.Join(referencesDir, pin.Name+".avsc"))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			fault(pin.Name, false, "%s/%s.avsc, the text of %s, is not there", referencesDir, pin.Name, pin)
			continue
		case err != nil:
			return r, ErrGenerate.Wrap(err)
		}
		schema, err := ParseWith(string(text), r.Texts...)
		switch {
		case err != nil:
			fault(pin.Name, false, "%s/%s.avsc: %s", referencesDir, pin.Name, err)
			continue
		case schema.Name() != pin.Name:
			fault(pin.Name, false, "%s/%s.avsc defines %s", referencesDir, pin.Name, schema.Name())
			continue
		}
		w := &textWriter{foreign: map[string]definition{}}
		if v, err := parseJSON(string(text)); err == nil {
			err = w.collect(v, "")
			if err != nil {
				return r, err
			}
		}
		for name := range w.foreign {
			r.defines[name] = len(r.Pins)
		}
		r.Pins, r.Texts = append(r.Pins, pin), append(r.Texts, string(text))
	}
	files, err := fs.Glob(folder, path.Join(referencesDir, "*.avsc"))
	if err != nil {
		return r, ErrGenerate.Wrap(err)
	}
	for _, file := range files {
		if name := strings.TrimSuffix(path.Base(file), ".avsc"); !pinned[name] {
			fault(name, true, "%s is there, but contracts.yaml does not say which version of which subject it is", file)
		}
	}
	return r, nil
}

// Err returns the faults as one ErrGenerate, nil without.
func (r References) Err() error {
	if len(r.Faults) == 0 {
		return nil
	}
	var all []string
	for _, f := range r.Faults {
		all = append(all, f.Reason)
	}
	return ErrGenerate.Because("references: %s", strings.Join(all, "; ")).
		WithFix("pin each in contracts.yaml, with a copy of its text: references: [{name: org.money.v1.Money, subject: money-org.money.v1.Money, version: 1}]")
}

// Defines reports whether a text of the references defines the type.
func (r References) Defines(name string) bool {
	_, ok := r.defines[name]
	return ok
}

// Parse reads a schema text of the folder. The schema is whole: its Text has every type that it refers to written into it, and it is this text that is
// registered, released and built into programs. A text that refers to nothing is its own. It returns what the text refers to, too.
func (r References) Parse(text string) (*Schema, []Reference, error) {
	if len(r.Texts) == 0 {
		s, err := Parse(text)
		return s, nil, err
	}
	whole, used, err := inline(text, r.Texts)
	if err != nil {
		return nil, nil, err
	}
	if len(used) == 0 {
		whole = text
	}
	var pins []int
	for _, name := range used {
		if i := r.defines[name]; !slices.Contains(pins, i) {
			pins = append(pins, i)
		}
	}
	slices.Sort(pins)
	var references []Reference
	for _, i := range pins {
		references = append(references, r.Pins[i])
	}
	s, err := Parse(whole)
	return s, references, err
}
