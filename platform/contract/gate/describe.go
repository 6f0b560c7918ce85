package gate

import (
	"fmt"
	"slices"
	"strings"

	"github.com/millrace/millrace/platform/contract"
)

// TypeName returns a type in a few characters: long timestamp-micros, decimal(9, 2), [OrderLine], string?.
func TypeName(n *contract.Shape) string {
	switch {
	case n.Logical == "decimal":
		return fmt.Sprintf("decimal(%d, %d)", n.Precision, n.Scale)
	case n.Name != "":
		return shortOf(n.Name)
	case n.Logical != "":
		return n.Logical
	case n.Kind == "array":
		return "[" + TypeName(n.Items) + "]"
	case n.Kind == "map":
		return "{" + TypeName(n.Items) + "}"
	case n.Kind == "union":
		var names []string
		null := ""
		for _, b := range n.Branches {
			if b.Kind == "null" {
				null = "?"
				continue
			}
			names = append(names, TypeName(b))
		}
		return strings.Join(names, "|") + null
	}
	return n.Kind
}

// Describe returns the fields of a record, one in a line, those of records inside it after them with their path.
func Describe(n *contract.Shape) []string {
	var lines []string
	for _, f := range fieldsOf(n, "", nil) {
		lines = append(lines, f.path+" "+f.text)
	}
	return lines
}

type line struct{ path, text string }

func fieldsOf(n *contract.Shape, prefix string, inside []*contract.Shape) []line {
	var all []line
	if slices.Contains(inside, n) {
		return nil
	}
	inside = append(slices.Clone(inside), n)
	for _, f := range n.Fields {
		text := TypeName(f.Type)
		t := f.Type
		for t.Kind == "array" || t.Kind == "map" || t.Kind == "union" {
			next := t.Items
			for _, b := range t.Branches {
				if b.Kind != "null" {
					next = b
				}
			}
			if next == nil {
				break
			}
			t = next
		}
		if t.Kind == "enum" {
			text += " of " + strings.Join(t.Symbols, ", ")
		}
		if f.HasDefault {
			text += " = " + f.Default
		}
		if f.Props["pii"] == true {
			text += " (personal)"
		}
		all = append(all, line{prefix + f.Name, text})
		if t.Kind == "record" {
			all = append(all, fieldsOf(t, prefix+f.Name+".", inside)...)
		}
	}
	return all
}

// Diff returns which fields of the folder's events changed since their latest older version: "+" new, "-" gone, "~" another type or default.
func Diff(d Folder, old Old) []string {
	var out []string
	today := map[string]bool{}
	for _, f := range d.Files {
		name := f.Schema.Name()
		today[name] = true
		versions := old.Versions[name]
		if len(versions) == 0 {
			out = append(out, "+ "+name)
			continue
		}
		was, is := map[string]string{}, map[string]string{}
		before, now := fieldsOf(versions[len(versions)-1].Schema.Shape(), "", nil), fieldsOf(f.Schema.Shape(), "", nil)
		for _, l := range before {
			was[l.path] = l.text
		}
		for _, l := range now {
			is[l.path] = l.text
			switch text, ok := was[l.path]; {
			case !ok:
				out = append(out, fmt.Sprintf("+ %s %s %s", name, l.path, l.text))
			case text != l.text:
				out = append(out, fmt.Sprintf("~ %s %s %s (was %s)", name, l.path, l.text, text))
			}
		}
		for _, l := range before {
			if _, ok := is[l.path]; !ok {
				out = append(out, fmt.Sprintf("- %s %s %s", name, l.path, l.text))
			}
		}
	}
	for _, name := range sortedNames(old.Versions) {
		if !today[name] {
			out = append(out, "- "+name)
		}
	}
	return out
}
