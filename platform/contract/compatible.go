package contract

import (
	"fmt"
	"slices"

	"github.com/hamba/avro/v2"
)

// The rules of Compatible. The first six are Avro's, the others are ours: Avro's type rules and the registries built on them miss them.
const (
	RuleType      = "TYPE_MISMATCH"        // the writer's type is not read as the reader's
	RuleName      = "NAME_MISMATCH"        // a record, enum or fixed with another name and no alias for the old one
	RuleDefault   = "FIELD_NO_DEFAULT"     // a field that the writer does not have and the reader has no default for
	RuleSymbol    = "ENUM_SYMBOL_MISSING"  // a symbol that the reader does not have, nor a default
	RuleBranch    = "UNION_BRANCH_MISSING" // a type that is in no branch of the reader's union
	RuleFixedSize = "FIXED_SIZE"           // another number of bytes

	RuleLogical = "LOGICAL_TYPE_CHANGED"    // the same bytes mean something else, e.g. milliseconds are read as microseconds
	RuleDecimal = "DECIMAL_PRECISION_SCALE" // the same digits mean another number, e.g. 10.00 is read as 0.10
	RuleAlias   = "FIELD_ALIAS_COLLISION"   // two fields of the reader claim one field of the writer
)

// An Incompatibility is one reason why a reader cannot read all that a writer may have written.
type Incompatibility struct {
	Rule    string // one of the Rule constants
	Pointer string // JSON pointer to the place in the reader's text, "" = the whole
	Message string // one sentence with the place in the writer's text
}

// Compatible returns every reason why reader cannot read all that writer may have written, in the order of the reader's text; none = it can.
// Besides Avro's rules for types it knows those that types do not show: logical types, decimals and aliases. It keeps nothing between calls, because
// a verdict depends on defaults, aliases and enum defaults, which the library's own cache does not tell apart.
func Compatible(reader, writer *Schema) []Incompatibility {
	c := &comparison{seen: map[pair][]Incompatibility{}}
	found := unique(c.compare(reader.root, writer.root))
	if slices.ContainsFunc(found, func(i Incompatibility) bool {
		return i.Rule != RuleLogical && i.Rule != RuleDecimal && i.Rule != RuleAlias
	}) {
		return found
	}
	// A second opinion on the type rules, from the implementation that agrees with Java's on all that was tried.
	r, err1 := reader.library()
	w, err2 := writer.library()
	if err1 != nil || err2 != nil {
		return found // the library cannot read all of Avro 1.12; the rules above can
	}
	if err := avro.NewSchemaCompatibility().Compatible(r, w); err != nil {
		found = append(found, Incompatibility{Rule: RuleType, Message: err.Error()})
	}
	return found
}

// A comparison is one call of Compatible.
type comparison struct {
	seen map[pair][]Incompatibility // a pair that is being compared has no entry of its own yet, but is known
}

func (c *comparison) compare(r, w *node) []Incompatibility {
	p := pair{r, w}
	if found, ok := c.seen[p]; ok {
		return found
	}
	c.seen[p] = nil // inside itself a pair is taken to be compatible: what is wrong with it is found outside
	found := c.rules(r, w)
	c.seen[p] = found
	return found
}

func one(rule string, r *node, format string, args ...any) []Incompatibility {
	return []Incompatibility{{Rule: rule, Pointer: r.pointer, Message: fmt.Sprintf(format, args...)}}
}

func (c *comparison) rules(r, w *node) []Incompatibility {
	switch {
	case w.kind == kindUnion:
		var found []Incompatibility
		for _, branch := range w.branches {
			found = append(found, c.compare(r, branch)...)
		}
		return found
	case r.kind == kindUnion:
		i := chooseBranch(r, w, func(b *node) bool { return len(c.compare(b, w)) == 0 })
		if i < 0 {
			return one(RuleBranch, r, "the union has no branch for %s, which the writer has at %s", title(w), place(w))
		}
		return c.compare(r.branches[i], w)
	case r.kind != w.kind && !promotes(w.kind, r.kind):
		return one(RuleType, r, "%s cannot be read as %s; the writer has it at %s", title(w), title(r), place(w))
	case r.kind == w.kind && r.kind.named() && !namesMatch(r, w):
		return one(RuleName, r, "%s cannot be read as %s: it has another name and no alias for it", title(w), title(r))
	}
	var found []Incompatibility
	switch {
	case r.logical != w.logical:
		found = one(RuleLogical, r, "%s is read as %s: the same bytes mean something else; the writer has it at %s", title(w), title(r), place(w))
	case r.prec != w.prec || r.scale != w.scale:
		found = one(RuleDecimal, r, "%s is read as %s: the same digits mean another number; the writer has it at %s", title(w), title(r), place(w))
	}
	if r.kind != w.kind {
		return found
	}
	switch r.kind {
	case kindArray, kindMap:
		return append(found, c.compare(r.items, w.items)...)
	case kindFixed:
		if r.size != w.size {
			found = append(found, one(RuleFixedSize, r, "%d bytes cannot be read as %d bytes; the writer has them at %s", w.size, r.size, place(w))...)
		}
	case kindEnum:
		for _, symbol := range w.symbols {
			if r.fallback < 0 && !slices.Contains(r.symbols, symbol) {
				found = append(found, one(RuleSymbol, r, "%s has neither the writer's symbol %q nor a default", clip(r.name), clip(symbol))...)
			}
		}
	case kindRecord:
		match, _ := matchFields(r, w)
		claimed := map[int]*field{}
		for i, f := range r.fields {
			j := match[i]
			switch {
			case j < 0 && !f.hasDef:
				found = append(found, Incompatibility{RuleDefault, f.pointer,
					fmt.Sprintf("the field %q has no default, and the writer's %s does not have it", f.name, clip(w.name))})
			case j >= 0 && claimed[j] != nil:
				found = append(found, Incompatibility{RuleAlias, f.pointer,
					fmt.Sprintf("the fields %q and %q both claim the writer's field %q", claimed[j].name, f.name, w.fields[j].name)})
			case j >= 0:
				claimed[j] = f
				found = append(found, c.compare(f.node, w.fields[j].node)...)
			}
		}
	}
	return found
}

// unique keeps the first of equal findings.
func unique(found []Incompatibility) []Incompatibility {
	seen := map[Incompatibility]bool{}
	return slices.DeleteFunc(found, func(i Incompatibility) bool {
		again := seen[i]
		seen[i] = true
		return again
	})
}

// title names a type for a message.
func title(n *node) string {
	switch {
	case n.logical == "decimal":
		return fmt.Sprintf("%s decimal(%d, %d)", n.kind, n.prec, n.scale)
	case n.kind.named():
		return n.kind.String() + " " + clip(n.name)
	case n.logical != "":
		return n.kind.String() + " " + n.logical
	}
	return n.kind.String()
}

// place is a node's JSON pointer for a message, as a URI fragment, so that the whole text has one too.
func place(n *node) string { return "#" + clip(n.pointer) }
