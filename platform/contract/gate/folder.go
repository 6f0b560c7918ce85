package gate

import (
	"encoding/json"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/millrace/millrace/platform/contract"
	"github.com/millrace/millrace/platform/fault"
)

// A Folder is the schemas of one context and major version: the .avsc files beside a contracts.yaml.
type Folder struct {
	Path     string // below the root that was read, "." = itself
	Shown    string // as the user named it
	Settings contract.Settings
	Files    []File
	Retired  []File
	History  []contract.Release
	Pinned   contract.References // types of other subjects that the schemas use
	settings File                // contracts.yaml
	broken   []Finding           // files that hold no schema, and pins that lead nowhere
}

// A File is one schema.
type File struct {
	Path    string // as the user would name it
	Text    string
	Schema  *contract.Schema // with all that it refers to
	Uses    []contract.Reference
	Subject string
}

// Read returns the folders at and below a root that have a contracts.yaml, in the order of their paths. shown is how the user named the root.
// A file that holds no schema is a finding of Lint; a folder without settings is ErrInput.
func Read(root fs.FS, shown string) ([]Folder, error) {
	var all []Folder
	err := fs.WalkDir(root, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && p != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "history" || d.Name() == "retired" || d.Name() == "references") {
			return fs.SkipDir
		}
		if d.IsDir() || d.Name() != "contracts.yaml" {
			return nil
		}
		folder, err := readFolder(root, path.Dir(p), shown)
		all = append(all, folder)
		return err
	})
	switch {
	case fault.From(err) != nil:
		return nil, err
	case err != nil:
		return nil, ErrInput.Because("%s", shown).Wrap(err)
	case len(all) == 0:
		return nil, ErrInput.Because("there is no contracts.yaml in or below %s", shown).WithFix("name a folder of schemas, or write its contracts.yaml")
	}
	return all, nil
}

func readFolder(root fs.FS, p, shown string) (Folder, error) {
	d := Folder{Path: p, Shown: path.Join(shown, p)}
	below, err := fs.Sub(root, p)
	if err != nil {
		return d, err
	}
	text, err := fs.ReadFile(below, "contracts.yaml")
	if err != nil {
		return d, err
	}
	settings := path.Join(d.Shown, "contracts.yaml")
	d.settings = File{Path: settings, Text: string(text)}
	if d.Settings, err = contract.ParseSettings(settings, text); err != nil {
		return d, err
	}
	for _, l := range d.Settings.Levels {
		if _, err := ParseLevel(l.Level); err != nil {
			return d, ErrInput.Because("%s", settings).Wrap(err)
		}
	}
	for _, e := range d.Settings.Allow {
		if Explain(e.Rule) == "" || strings.TrimSpace(e.Reason) == "" {
			return d, ErrInput.Because("%s: allow: %q needs the name of a rule and a reason", settings, e.Rule)
		}
	}
	d.settings.Subject = d.Settings.Topic
	if d.Pinned, err = contract.ReadReferences(below, d.Settings); err != nil {
		return d, err
	}
	for _, fault := range d.Pinned.Faults {
		rule, fix := "REFERENCE_UNRESOLVED", "copy the text of the pinned version there, and put references before those that use them"
		if fault.Unpinned {
			rule, fix = "REFERENCE_UNPINNED", "add it to references of contracts.yaml: {name, subject, version}"
		}
		f := d.inSettings(rule, fault.Name, fault.Reason)
		f.Name, f.Fix = fault.Name, fix
		d.broken = append(d.broken, f)
	}
	if d.Files, err = d.read(below, "*.avsc"); err != nil {
		return d, err
	}
	if d.Retired, err = d.read(below, "retired/*.avsc"); err != nil {
		return d, err
	}
	d.History, err = contract.ReadHistory(below)
	return d, err
}

func (d *Folder) read(below fs.FS, pattern string) ([]File, error) {
	names, err := fs.Glob(below, pattern)
	if err != nil {
		return nil, err
	}
	var files []File
	for _, name := range names {
		text, err := fs.ReadFile(below, name)
		if err != nil {
			return nil, err
		}
		f := File{Path: path.Join(d.Shown, name), Text: string(text)}
		if f.Schema, f.Uses, err = d.Pinned.Parse(f.Text); err != nil {
			f.Subject = contract.SubjectName(d.Settings.Topic, strings.TrimSuffix(path.Base(name), ".avsc"))
			pointer, e := "", fault.From(err)
			if e != nil && len(e.Fields) > 0 {
				pointer = e.Fields[0].Pointer
			}
			finding := f.at("SCHEMA_INVALID", Error, pointer, err.Error())
			finding.Fix = "correct the schema there"
			if e != nil && e.Fix != "" {
				finding.Fix = e.Fix
			}
			d.broken = append(d.broken, finding)
			continue
		}
		f.Subject = contract.SubjectName(d.Settings.Topic, f.Schema.Name())
		files = append(files, f)
	}
	return files, nil
}

// inSettings returns an error in contracts.yaml, at the place where a text stands.
func (d *Folder) inSettings(rule, text, message string) Finding {
	f := Finding{Rule: rule, Severity: Error, File: d.settings.Path, Line: 1, Col: 1, Subject: d.settings.Subject, Message: message}
	if at := strings.Index(d.settings.Text, text); at >= 0 {
		f.Line, f.Col = place(d.settings.Text, at)
	}
	return f
}

// place returns line and column of an offset.
func place(text string, at int) (line, col int) {
	before := text[:at]
	return strings.Count(before, "\n") + 1, utf8.RuneCountInString(before[strings.LastIndexByte(before, '\n')+1:]) + 1
}

// locate returns line and column of the value at a JSON pointer, of the nearest value around it if there is none.
func locate(text, pointer string) (line, col int) {
	best, depth := 0, 0
	want := strings.Split(pointer, "/")[1:]
	if pointer == "" {
		want = nil
	}
	d := json.NewDecoder(strings.NewReader(text))
	start := func() int {
		rest := text[d.InputOffset():]
		return len(text) - len(strings.TrimLeft(rest, " \t\r\n:,"))
	}
	var walk func(matched int) bool
	walk = func(matched int) bool { // matched: how much of the pointer leads to this value, -1 = it is elsewhere
		at := start()
		if matched > depth || matched == 0 {
			best, depth = at, max(matched, 0)
		}
		token, err := d.Token()
		if err != nil {
			return false
		}
		delim, ok := token.(json.Delim)
		if !ok {
			return true
		}
		for i := 0; d.More(); i++ {
			key := strconv.Itoa(i)
			if delim == '{' {
				token, err := d.Token()
				if err != nil {
					return false
				}
				name, _ := token.(string)
				key = strings.NewReplacer("~", "~0", "/", "~1").Replace(name)
			}
			next := -1
			if matched >= 0 && matched < len(want) && want[matched] == key {
				next = matched + 1
			}
			if !walk(next) {
				return false
			}
		}
		_, err = d.Token()
		return err == nil
	}
	walk(0)
	return place(text, min(best, len(text)))
}

// sortedNames returns the names of types in their order.
func sortedNames[V any](m map[string]V) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
