package gate

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/millrace/millrace/platform/contract"
)

// A Level says what a change of a schema must keep.
type Level int

// The levels, each with all that those below it keep.
const (
	None         Level = iota // nothing
	WireBackward              // all that was ever written can be read with the new schema
	WireFull                  // and programs with any older schema can read what the new one writes
	Source                    // and programs that use the generated Go types compile
)

// ParseLevel reads SOURCE, WIRE_FULL_TRANSITIVE, WIRE_BACKWARD_TRANSITIVE or NONE; WIRE_ may be left out, and nothing is
// WIRE_FULL_TRANSITIVE.
func ParseLevel(text string) (Level, error) {
	switch strings.TrimPrefix(text, "WIRE_") {
	case "SOURCE":
		return Source, nil
	case "FULL_TRANSITIVE", "":
		return WireFull, nil
	case "BACKWARD_TRANSITIVE":
		return WireBackward, nil
	case "NONE":
		return None, nil
	}
	return None, ErrInput.Because("%q is no level", text).WithFix("the levels are SOURCE, WIRE_FULL_TRANSITIVE, WIRE_BACKWARD_TRANSITIVE and NONE")
}

// A Version is a stored version of a schema.
type Version struct {
	Label  string // e.g. v3
	Schema *contract.Schema
}

// Old is what a folder's schemas were before.
type Old struct {
	Topic    string               // "" = not known
	Versions map[string][]Version // by full record name, oldest first
	Where    string               // for messages, e.g. git#branch=main
	Pins     []Pin                // what the schemas referred to
	ByTopic  bool                 // events are also registered under the topic's name alone
	Key      *string              // text of the schema of the records' keys, "" = a plain string; nil = not known
}

// A Pin is a version of a type of another subject, as it is elsewhere.
type Pin struct {
	contract.Reference
	Text string // "" = there is no such version
}

// OldOf returns what a folder read from elsewhere holds: of each type the released versions, then its text if that is another.
func OldOf(d Folder, where string) (Old, error) {
	old := Old{Topic: d.Settings.Topic, Versions: map[string][]Version{}, Where: where, Key: &d.Settings.Key}
	for i, r := range d.Pinned.Pins {
		old.Pins = append(old.Pins, Pin{r, d.Pinned.Texts[i]})
	}
	texts := map[string]string{}
	for _, r := range d.History {
		s, err := contract.Parse(r.Text)
		if err != nil {
			return old, fmt.Errorf("gate: %s: %w", r.Path, err)
		}
		old.Versions[r.Name] = append(old.Versions[r.Name], Version{fmt.Sprint("v", r.Number), s})
		texts[r.Name] = r.Text
	}
	for _, f := range d.Files {
		if texts[f.Schema.Name()] != f.Schema.Text() {
			old.Versions[f.Schema.Name()] = append(old.Versions[f.Schema.Name()], Version{where, f.Schema})
		}
	}
	return old, nil
}

// simulations is how many random values are tried for each version and direction.
const simulations = 50

// Breaking returns what the folder's schemas break of what they were, in the order of their places. level "" is that of the folder's
// settings. seed makes the random data.
func Breaking(d Folder, old Old, level string, seed uint64) ([]Finding, error) {
	if _, err := ParseLevel(level); err != nil {
		return nil, err
	}
	found := slices.Clone(d.broken)
	byName := map[string]File{}
	for _, f := range d.Files {
		for _, name := range append(slices.Clone(f.Schema.Shape().Aliases), f.Schema.Name()) {
			byName[name] = f
		}
	}
	settings := File{Path: d.settings.Path, Subject: d.Settings.Topic}
	found = append(found, d.pins(old)...)
	found = append(found, d.key(old)...)
	if old.Topic != "" && old.Topic != d.Settings.Topic {
		f := settings.at("SUBJECT_STRATEGY_CHANGED", Error, "", fmt.Sprintf("the topic was %s and is %s: its subjects, its events and all readers are elsewhere", old.Topic, d.Settings.Topic))
		f.Against, f.Fix = old.Where, "keep the topic; another one is a new context"
		found = append(found, f)
	}
	if old.ByTopic {
		f := settings.at("SUBJECT_STRATEGY_CHANGED", Error, "", fmt.Sprintf("there is a subject %s-value: events of the topic are registered by the topic's name alone, these by that and their own", d.Settings.Topic))
		f.Against, f.Fix = old.Where, "let all who write to the topic use the strategy TopicRecordName, and delete the other subject"
		found = append(found, f)
	}
	for _, name := range sortedNames(old.Versions) {
		versions := old.Versions[name]
		f, ok := byName[name]
		if !ok {
			retired := slices.IndexFunc(d.Retired, func(f File) bool { return f.Schema.Name() == name })
			if retired < 0 {
				gone := settings.at("DELETED_EVENT_TYPE", Error, "", "the event type is gone, and its events are in the log for ever")
				gone.Name, gone.Subject, gone.Against = name, contract.SubjectName(d.Settings.Topic, name), labels(versions)
				gone.Fix = "move its .avsc to retired/ and add an upcaster"
				found = append(found, gone)
				continue
			}
			f = d.Retired[retired]
		}
		l := d.level(f.Subject)
		if level != "" {
			l, _ = ParseLevel(level)
		}
		c := &change{file: f, level: l, versions: versions, merged: map[string]int{}}
		c.check(seed)
		found = append(found, c.found...)
	}
	return sorted(d.exempt(found)), nil
}

func (d Folder) level(subject string) Level {
	for _, l := range d.Settings.Levels {
		if matches(l.Subjects, subject) {
			level, _ := ParseLevel(l.Level) // Read has checked it
			return level
		}
	}
	return WireFull
}

// labels joins those of versions: v1–v4.
func labels(versions []Version) string {
	var names []string
	for _, v := range versions {
		names = append(names, v.Label)
	}
	return span(names)
}

func span(names []string) string {
	number := func(s string) (n int) {
		if _, err := fmt.Sscanf(s, "v%d", &n); err != nil || fmt.Sprint("v", n) != s {
			return -1
		}
		return n
	}
	var out []string
	for i := 0; i < len(names); {
		j := i
		for j+1 < len(names) && number(names[j]) > 0 && number(names[j+1]) == number(names[j])+1 {
			j++
		}
		switch {
		case j > i+1:
			out = append(out, names[i]+"–"+names[j])
		case j > i:
			out = append(out, names[i], names[j])
		default:
			out = append(out, names[i])
		}
		i = j + 1
	}
	return strings.Join(out, ", ")
}

// A change is one schema compared with its older versions.
type change struct {
	file     File
	level    Level
	versions []Version
	found    []Finding
	merged   map[string]int // a finding's key → its place in found
	against  map[int][]string
}

func (c *change) check(seed uint64) {
	if c.level == None {
		return
	}
	for i, v := range c.versions {
		if v.Schema.Text() == c.file.Schema.Text() {
			continue
		}
		w := &walk{change: c, label: v.Label, last: i == len(c.versions)-1, pairs: map[string]pairing{}, byOld: map[string]string{}, moved: map[string]string{}}
		w.pair(c.file.Schema.Shape(), v.Schema.Shape(), map[[2]*contract.Shape]bool{})
		broken := w.verdict(Backward, contract.Compatible(c.file.Schema, v.Schema))
		c.simulate(Backward, v, broken, seed)
		if c.level >= WireFull {
			broken = w.verdict(Forward, contract.Compatible(v.Schema, c.file.Schema))
			c.simulate(Forward, v, broken, seed)
		}
	}
	for i := range c.found {
		f := &c.found[i]
		f.Against = span(c.against[i])
		switch f.Direction {
		case Backward:
			f.Reader, f.Writer = "new", f.Against
			f.Message += "; " + f.Against + " data cannot be read (BACKWARD)"
		case Forward:
			f.Reader, f.Writer = f.Against, "new"
			f.Message += "; readers of " + f.Against + " cannot read new data (FORWARD)"
		default:
			f.Message += " since " + f.Against
		}
	}
}

// add notes a finding against one version; the same against several versions is one finding.
func (c *change) add(label, direction string, f Finding) {
	f.Direction = direction
	key := strings.Join([]string{f.Rule, f.Pointer, f.Name, f.Direction, f.Message}, "\x00")
	i, ok := c.merged[key]
	if !ok {
		i = len(c.found)
		c.merged[key] = i
		c.found = append(c.found, f)
		if c.against == nil {
			c.against = map[int][]string{}
		}
	}
	if !slices.Contains(c.against[i], label) {
		c.against[i] = append(c.against[i], label)
	}
}

// simulate reads random data across the change through the real codec: a verdict that it contradicts is a finding of its own.
func (c *change) simulate(direction string, v Version, broken bool, seed uint64) {
	writer, reader := v.Schema, c.file.Schema
	if direction == Forward {
		writer, reader = reader, writer
	}
	if broken {
		return // and found already
	}
	r := rand.New(rand.NewPCG(seed, uint64(len(c.found)))) //nolint:gosec // data for a test
	for range simulations {
		payload, err := writer.Sample(r)
		var read []byte
		if err == nil {
			read, err = reader.Read(writer, payload)
		}
		if err == nil {
			_, err = reader.JSON(read) // which walks it as a payload of the reader
		}
		if err != nil {
			f := c.file.at("SIMULATION_FAILED", Error, "", fmt.Sprintf("the rules find nothing, but the codec cannot read the payload %x: %v", payload, err))
			f.Fix = "change the schema another way, and report this: the rules miss something"
			c.add(v.Label, direction, f)
			return
		}
	}
}

// A pairing is a type of the new text and what it was.
type pairing struct{ is, was *contract.Shape }

// A walk compares the new schema with one older version.
type walk struct {
	*change
	label string
	last  bool               // the version before the new one
	pairs map[string]pairing // by the new pointer
	byOld map[string]string  // old pointer → new pointer
	moved map[string]string  // pointer of a field, in either text, that has another name on the other side → that name
	gone  []contract.FieldShape
	added []contract.FieldShape
}

func (w *walk) note(rule, severity, pointer, name, message, fix string) {
	f := w.file.at(rule, severity, pointer, message)
	f.Name, f.Fix = name, fix
	w.add(w.label, "", f)
}

// pair finds out what became of each type, and checks what no verdict is about.
func (w *walk) pair(is, was *contract.Shape, seen map[[2]*contract.Shape]bool) {
	if seen[[2]*contract.Shape{is, was}] {
		return
	}
	seen[[2]*contract.Shape{is, was}] = true
	if _, ok := w.pairs[is.Pointer]; !ok {
		w.pairs[is.Pointer] = pairing{is, was}
	}
	if _, ok := w.byOld[was.Pointer]; !ok {
		w.byOld[was.Pointer] = is.Pointer
	}
	switch {
	case is.Kind == "union" && was.Kind == "union":
		w.unions(is, was, seen)
		return
	case is.Kind == "union":
		if b := branchLike(is, was); b != nil {
			w.pair(b, was, seen)
		}
		return
	case was.Kind == "union":
		if b := branchLike(was, is); b != nil {
			w.pair(is, b, seen)
		}
		return
	case is.Kind != was.Kind:
		return
	}
	if is.Name != was.Name && shortOf(is.Name) == shortOf(was.Name) {
		w.note("NAMESPACE_CHANGED", Error, is.Pointer, is.Name, "the namespace was "+strings.TrimSuffix(was.Name, "."+shortOf(was.Name))+": legal on the wire, but another subject and another Go package", "keep the namespace")
	}
	switch is.Kind {
	case "enum":
		if is.Default != was.Default && was.Default != "" && is.Default != "" {
			w.note("ENUM_DEFAULT_CHANGED", Warning, is.Pointer, is.Name, "unknown symbols were read as "+was.Default+" and are read as "+is.Default, "keep the default")
		}
	case "array", "map":
		w.pair(is.Items, was.Items, seen)
	case "record":
		w.records(is, was, seen)
	}
}

func (w *walk) unions(is, was *contract.Shape, seen map[[2]*contract.Shape]bool) {
	var order []int
	for i, b := range is.Branches {
		for j, old := range was.Branches {
			if b.Kind == old.Kind && shortOf(b.Name) == shortOf(old.Name) {
				order = append(order, j)
				w.pair(is.Branches[i], old, seen)
			}
		}
	}
	if !slices.IsSorted(order) {
		w.note("UNION_ORDER_CHANGED", Warning, is.Pointer, "", "the union's types are in another order: a default belongs to the first", "keep the order")
	}
}

func (w *walk) records(is, was *contract.Shape, seen map[[2]*contract.Shape]bool) {
	claimed := map[string]bool{}
	for _, f := range is.Fields {
		i := slices.IndexFunc(was.Fields, func(o contract.FieldShape) bool { return o.Name == f.Name })
		for _, alias := range f.Aliases {
			if i < 0 {
				i = slices.IndexFunc(was.Fields, func(o contract.FieldShape) bool { return o.Name == alias })
			}
		}
		if i < 0 { // an old reader may know it by an alias of its own
			i = slices.IndexFunc(was.Fields, func(o contract.FieldShape) bool { return slices.Contains(o.Aliases, f.Name) })
		}
		if i < 0 {
			w.added = append(w.added, f)
			continue
		}
		o := was.Fields[i]
		claimed[o.Name] = true
		w.byOld[o.Pointer] = f.Pointer
		if f.Name != o.Name {
			w.moved["new "+f.Pointer], w.moved["old "+o.Pointer] = o.Name, f.Name
		}
		w.pair(f.Type, o.Type, seen)
		if f.HasDefault && o.HasDefault && f.Default != o.Default {
			w.note("DEFAULT_VALUE_CHANGED", Warning, f.Pointer+"/default", f.Name, fmt.Sprintf("the default was %s and is %s: old events without the field are read otherwise", o.Default, f.Default), "keep the default")
		}
		if o.Props["pii"] == true && f.Props["pii"] != true {
			w.note("TAG_PII_REMOVED", Error, f.Pointer, f.Name, "the field was marked as personal data, and its stored values are", `keep "pii": true`)
		}
		if w.level >= Source && f.Name != o.Name {
			w.note("SOURCE_FIELD_RENAMED", Error, f.Pointer, f.Name, "the Go field for "+o.Name+" has another name", "keep the name")
		}
		if w.level >= Source && (f.Type.Kind != o.Type.Kind || f.Type.Logical != o.Type.Logical) {
			w.note("SOURCE_TYPE_CHANGED", Error, f.Pointer, f.Name, "the Go type of the field is another one", "keep the type, or add another field")
		}
	}
	for _, o := range was.Fields {
		if !claimed[o.Name] {
			w.gone = append(w.gone, o)
			w.byOld[o.Pointer] = is.Pointer
			if w.level >= Source {
				w.note("SOURCE_FIELD_GONE", Error, is.Pointer, o.Name, "the Go field for "+o.Name+" is gone", "keep the field")
			}
		}
	}
}

// branchLike returns the branch of a union that is the type, else one that is not null.
func branchLike(union, n *contract.Shape) *contract.Shape {
	var other *contract.Shape
	for _, b := range union.Branches {
		if b.Kind == n.Kind && shortOf(b.Name) == shortOf(n.Name) {
			return b
		}
		if b.Kind != "null" && other == nil {
			other = b
		}
	}
	return other
}

func shortOf(full string) string { return full[strings.LastIndexByte(full, '.')+1:] }

// verdict turns what Compatible says about one direction into findings, and returns whether it says anything.
func (w *walk) verdict(direction string, all []contract.Incompatibility) bool {
	for _, in := range all {
		pointer := in.Pointer
		if direction == Forward {
			pointer = w.newPointer(in.Pointer)
		}
		rule, name, message, fix := w.name(direction, in, pointer)
		f := w.file.at(rule, Error, pointer, message)
		f.Name, f.Fix = name, fix
		w.add(w.label, direction, f)
	}
	return len(all) > 0
}

// newPointer returns where a place of the old text is in the new one, or the nearest place around it.
func (w *walk) newPointer(old string) string {
	for {
		if p, ok := w.byOld[old]; ok {
			return p
		}
		cut := strings.LastIndexByte(old, '/')
		if cut < 0 {
			return ""
		}
		old = old[:cut]
	}
}

// name gives an incompatibility the rule that it breaks.
func (w *walk) name(direction string, in contract.Incompatibility, pointer string) (rule, name, message, fix string) {
	name = w.nameAt(pointer)
	p := w.pairs[pointer]
	// Where the other text has it differs between versions, and would keep them apart.
	in.Message, _, _ = strings.Cut(in.Message, "; the writer has ")
	switch in.Rule {
	case contract.RuleDefault:
		return w.missing(direction, in.Pointer)
	case contract.RuleAlias:
		return "FIELD_ALIAS_COLLISION", name, in.Message, "remove one of the aliases"
	case contract.RuleName:
		return "RECORD_RENAMED_NO_ALIAS", name, in.Message, `add the old full name to "aliases" and keep readers in step, or keep the name`
	case contract.RuleFixedSize:
		return "FIXED_SIZE", name, in.Message, "add another field with the new size"
	case contract.RuleLogical:
		return "LOGICAL_TYPE_CHANGED", name, in.Message, "add another field with the new type"
	case contract.RuleDecimal:
		return "DECIMAL_PRECISION_SCALE", name, in.Message, "add another field with the new precision or scale"
	case contract.RuleSymbol:
		if direction == Backward {
			return "ENUM_SYMBOL_REMOVED", name, in.Message, "keep the symbol"
		}
		return "ENUM_SYMBOL_ADDED_NO_DEFAULT", name, "a symbol is added that older readers do not know, and they have no default", "add another field with a new enum that has a default"
	}
	nullable := func(n *contract.Shape) bool {
		return n != nil && n.Kind == "union" && slices.ContainsFunc(n.Branches, func(b *contract.Shape) bool { return b.Kind == "null" })
	}
	// The place may be the type inside a nullable one.
	field := w.around(pointer)
	if p.is != nil && nullable(p.is) != nullable(p.was) || field.is != nil && nullable(field.is) != nullable(field.was) {
		if direction == Backward {
			return "FIELD_NULLABILITY", name, "it was nullable and is not", "keep it nullable"
		}
		return "FIELD_NULLABILITY", name, "it was not nullable and is", "keep it as it is, and add another nullable field"
	}
	union := p.is != nil && p.is.Kind == "union" || field.is != nil && field.is.Kind == "union"
	switch {
	case (union || in.Rule == contract.RuleBranch) && direction == Backward:
		return "UNION_BRANCH_REMOVED", name, in.Message, "keep the union's types"
	case union || in.Rule == contract.RuleBranch:
		return "UNION_BRANCH_ADDED", name, in.Message, "add another nullable field instead"
	case direction == Backward:
		return "FIELD_TYPE_NARROWED", name, in.Message, "keep the type, or add another field"
	}
	return "FIELD_TYPE_PROMOTED_FORWARD_BREAK", name, in.Message, "keep the type, or add another field"
}

// around returns the union that a pointer leads into, if it does.
func (w *walk) around(pointer string) pairing {
	if cut := strings.LastIndexByte(pointer, '/'); cut >= 0 && pointer[cut+1:] != "type" {
		return w.pairs[pointer[:cut]]
	}
	return pairing{}
}

// missing names a field that one side lacks and the other has no default for: one that was renamed is named once for each direction.
func (w *walk) missing(direction, pointer string) (rule, name, message, fix string) {
	mine, others := w.added, w.gone
	if was, ok := w.moved["new "+pointer]; ok && direction == Backward {
		return "FIELD_RENAMED_NO_ALIAS", w.nameAt(pointer), "the field was " + was + ", and has no alias for that", fmt.Sprintf("add %q to its aliases", was)
	}
	if is, ok := w.moved["old "+pointer]; ok && direction == Forward {
		return "FIELD_RENAMED_NO_ALIAS", is, "the field was renamed: its alias helps new readers only, older ones still look for the old name", "keep the name"
	}
	if direction == Forward {
		mine, others = w.gone, w.added
	}
	for _, f := range mine {
		if f.Pointer != pointer {
			continue
		}
		for _, o := range others {
			if sameType(f.Type, o.Type) && len(mine) == 1 && len(others) == 1 {
				if direction == Backward {
					return "FIELD_RENAMED_NO_ALIAS", f.Name, "the field " + o.Name + " seems to have been renamed, which is removing one and adding another", `keep the name, or keep the old field and add the new one with a default`
				}
				return "FIELD_RENAMED_NO_ALIAS", o.Name, "the field " + f.Name + " seems to have been renamed, which is removing one and adding another", `keep the name, or keep the old field and add the new one with a default`
			}
		}
		if direction == Backward {
			return "FIELD_ADDED_NO_DEFAULT", f.Name, "new field without default", `add "default"`
		}
		return "FIELD_REMOVED_NO_DEFAULT", f.Name, "the field is gone, and it had no default", "keep the field"
	}
	return "FIELD_ADDED_NO_DEFAULT", "", "a field without default is missing on the other side", `add "default"`
}

func sameType(a, b *contract.Shape) bool {
	return a.Kind == b.Kind && a.Logical == b.Logical && shortOf(a.Name) == shortOf(b.Name)
}

// nameAt returns the name of the field or type at or around a place of the new text.
func (w *walk) nameAt(pointer string) string {
	best, name := -1, ""
	var look func(n *contract.Shape, seen map[*contract.Shape]bool)
	look = func(n *contract.Shape, seen map[*contract.Shape]bool) {
		if n == nil || seen[n] {
			return
		}
		seen[n] = true
		for _, f := range n.Fields {
			if (pointer == f.Pointer || strings.HasPrefix(pointer, f.Pointer+"/")) && len(f.Pointer) > best {
				best, name = len(f.Pointer), f.Name
			}
			look(f.Type, seen)
		}
		look(n.Items, seen)
		for _, b := range n.Branches {
			look(b, seen)
		}
	}
	root := w.file.Schema.Shape()
	look(root, map[*contract.Shape]bool{})
	if best < 0 {
		return root.Name
	}
	return name
}
