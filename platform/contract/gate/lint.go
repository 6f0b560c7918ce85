package gate

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/millrace/millrace/platform/contract"
)

// The limits of lint.
const (
	maxLintDepth = 8
	maxLintBytes = 64 << 10
)

var (
	namespaceForm = regexp.MustCompile(`^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+\.v[1-9][0-9]*$`)
	pascalCase    = regexp.MustCompile(`^([A-Z][a-z0-9]*)+$`)
	snakeCase     = regexp.MustCompile(`^[a-z][a-z0-9]*(_[a-z0-9]+)*$`)
	moneyName     = regexp.MustCompile(`(^|_)(amount|price|total|cost|fee|balance|tax|money|discount|refund|payment)$`)
	timeName      = regexp.MustCompile(`(_at|_time|_timestamp)$|^(time|timestamp)$`)
	idName        = regexp.MustCompile(`(^|_)id$`)
	words         = regexp.MustCompile(`[A-Z][a-z0-9]*`)
)

// pastTense are participles without -ed.
var pastTense = strings.Fields("Begun Bought Bound Broken Brought Built Caught Chosen Cut Done Drawn Driven Fallen Found Frozen Given Gone Grown Held Hidden Kept Known Left Lent Lost Made Met Paid " +
	"Put Read Risen Run Seen Sent Set Shown Shut Sold Spent Split Stolen Sunk Taken Thrown Told Torn Understood Withdrawn Won Written")

// Lint returns what is wrong with the schemas of the folders, each looked at for itself, in the order of their places.
func Lint(folders []Folder) []Finding {
	var all []Finding
	defined := map[string]string{} // by full name: where
	for _, d := range folders {
		found := slices.Clone(d.broken)
		for _, f := range d.Files {
			l := linter{file: f, pinned: d.Pinned, root: f.Schema.Shape(), seen: map[*contract.Shape]bool{}}
			l.top()
			l.shape(l.root)
			for _, name := range sortedNames(l.defined) {
				if where, ok := defined[name]; ok {
					l.add("TYPE_DEFINED_TWICE", Error, l.defined[name], name, "it is defined in "+where+" too", "give it another name: two definitions drift apart")
				} else {
					defined[name] = f.Path
				}
			}
			found = append(found, l.found...)
		}
		all = append(all, d.exempt(found)...)
	}
	return sorted(all)
}

type linter struct {
	file    File
	pinned  contract.References
	root    *contract.Shape
	seen    map[*contract.Shape]bool
	defined map[string]string // name → pointer
	found   []Finding
}

func (l *linter) add(rule, severity, pointer, name, message, fix string) {
	f := l.file.at(rule, severity, pointer, message)
	f.Name, f.Fix = name, fix
	l.found = append(l.found, f)
}

// top checks what concerns the event as a whole.
func (l *linter) top() {
	n := l.root
	short := n.Name[strings.LastIndexByte(n.Name, '.')+1:]
	if n.Kind != "record" {
		l.add("EVENT_RECORD", Error, "", n.Name, "an event is a record, not "+n.Kind, "put it into a field of a record")
		return
	}
	if namespace := strings.TrimSuffix(n.Name, "."+short); !namespaceForm.MatchString(namespace) {
		l.add("NAMESPACE_FORM", Error, "/namespace", namespace, "the namespace does not have the form org.context.v1", "name organisation, context and version in lower case")
	}
	if !pascalCase.MatchString(short) {
		l.add("RECORD_NAME", Error, "/name", short, "a record's name is in PascalCase", "write each word with a capital, without _")
	} else if parts := words.FindAllString(short, -1); !slices.ContainsFunc(parts[min(1, len(parts)-1):], func(w string) bool { return strings.HasSuffix(w, "ed") || slices.Contains(pastTense, w) }) {
		l.add("RECORD_TENSE", Warning, "/name", short, "an event is something that happened: its name is in the past tense", "e.g. OrderPlaced instead of PlaceOrder")
	}
	if base := strings.TrimSuffix(path.Base(l.file.Path), ".avsc"); base != n.Name {
		l.add("FILE_NAME", Error, "/name", n.Name, "the file is named "+base, "rename it to "+n.Name+".avsc")
	}
	for _, prop := range []string{"owner", "retention"} {
		if text, _ := n.Props[prop].(string); text == "" {
			l.add("PROPERTY_MISSING", Error, "", short, "the event does not say its "+prop, fmt.Sprintf("add %q", prop))
		}
	}
	if l.file.Schema.Recursive() {
		l.add("RECURSIVE_TYPE", Error, "", short, "a type contains itself: many clients overflow their stack on it", "hold the parts in an array with an index of the parent")
	}
	if depth := l.file.Schema.Depth(); depth > maxLintDepth {
		l.add("MAX_DEPTH", Error, "", short, fmt.Sprintf("types are %d levels inside each other, at most %d are allowed", depth, maxLintDepth), "take levels out, or make several event types of it")
	}
	if len(l.file.Text) > maxLintBytes {
		l.add("MAX_BYTES", Error, "", short, fmt.Sprintf("the text has %d bytes, at most %d are allowed", len(l.file.Text), maxLintBytes), "make several event types of it")
	}
}

// shape checks one type and those inside it.
func (l *linter) shape(n *contract.Shape) {
	if l.seen[n] {
		return
	}
	l.seen[n] = true
	if l.pinned.Defines(n.Name) {
		return // it is looked at where it is defined
	}
	if n.Name != "" {
		if l.defined == nil {
			l.defined = map[string]string{}
		}
		l.defined[n.Name] = n.Pointer
		if strings.TrimSpace(n.Doc) == "" {
			l.add("DOC_MISSING", Error, n.Pointer, n.Name, "the "+n.Kind+" has no doc", `add "doc"`)
		}
	}
	switch n.Kind {
	case "enum":
		switch {
		case n.Default == "":
			l.add("ENUM_NO_DEFAULT", Error, n.Pointer, n.Name, "without a default no symbol can ever be added: older readers fail on it", `add the symbol "UNKNOWN", first, and "default": "UNKNOWN"`)
		case n.Symbols[0] != "UNKNOWN":
			l.add("ENUM_UNKNOWN_FIRST", Warning, n.Pointer, n.Name, "the first symbol is not UNKNOWN", `put "UNKNOWN" first`)
		}
	case "map":
		if n.Items.Kind == "record" {
			l.add("MAP_OF_RECORDS", Error, n.Pointer, "", "a map with records as values has no order and no place for its key", "use an array of records with the key as a field")
		}
	case "union":
		l.union(n)
	case "record":
		for _, f := range n.Fields {
			l.field(n, f)
		}
	}
	if n.Items != nil {
		l.shape(n.Items)
	}
	for _, b := range n.Branches {
		l.shape(b)
	}
}

func (l *linter) union(n *contract.Shape) {
	other := 0
	for _, b := range n.Branches {
		if b.Kind != "null" {
			other++
		}
	}
	switch {
	case other > 1:
		l.add("UNION_BRANCHES", Error, n.Pointer, "", fmt.Sprintf("the union has %d types beside null: readers differ in which one they take", other), "use several event types, or several nullable fields")
	case n.Branches[0].Kind != "null":
		l.add("NULLABLE_FORM", Error, n.Pointer, "", "a nullable type is written null first", `write ["null", …] with "default": null`)
	}
}

func (l *linter) field(in *contract.Shape, f contract.FieldShape) {
	if !snakeCase.MatchString(f.Name) {
		l.add("FIELD_NAME", Error, f.Pointer, f.Name, "a field's name is in snake_case", "write it in lower case with _ between words")
	}
	if strings.TrimSpace(f.Doc) == "" {
		l.add("DOC_MISSING", Error, f.Pointer, f.Name, "the field has no doc", `add "doc"`)
	}
	if _, ok := f.Props["pii"].(bool); !ok {
		l.add("PROPERTY_MISSING", Error, f.Pointer, f.Name, "the field does not say whether it holds personal data", `add "pii": true or false`)
	}
	t := f.Type
	if t.Kind == "union" {
		if t.Branches[0].Kind == "null" && (!f.HasDefault || f.Default != "null") {
			l.add("NULLABLE_FORM", Error, f.Pointer, f.Name, "a nullable field has the default null", `add "default": null`)
		} else if f.HasDefault && !firstBranch(t.Branches[0], f.Default) {
			l.add("DEFAULT_FIRST_BRANCH", Error, f.Pointer+"/default", f.Name, "the default is not of the union's first type: many clients refuse the schema", "put the default's type first")
		}
		for _, b := range t.Branches {
			if b.Kind != "null" {
				t = b
			}
		}
	}
	switch {
	case moneyName.MatchString(f.Name) && (t.Kind == "float" || t.Kind == "double"):
		l.add("MONEY_FLOAT", Error, f.Pointer, f.Name, "money is a "+t.Kind+": cents get lost", "use a long in minor units and a currency, or a decimal")
	case moneyName.MatchString(f.Name) && t.Kind == "long" && t.Logical == "" && !hasCurrency(l.root) && !hasCurrency(in):
		l.add("MONEY_CURRENCY", Error, f.Pointer, f.Name, "it looks like money in minor units, but no field says the currency", `add a field "currency"`)
	case strings.HasPrefix(t.Logical, "local-"):
		l.add("TIME_LOGICAL", Error, f.Pointer, f.Name, "what "+t.Logical+" means depends on where it is read", "use timestamp-micros in UTC")
	case t.Logical == "timestamp-millis" || t.Logical == "timestamp-nanos":
		l.add("TIME_LOGICAL", Error, f.Pointer, f.Name, "times are timestamp-micros", `use {"type": "long", "logicalType": "timestamp-micros"} in UTC`)
	case timeName.MatchString(f.Name) && t.Logical == "" && (t.Kind == "long" || t.Kind == "int" || t.Kind == "string" || t.Kind == "double"):
		l.add("TIME_LOGICAL", Error, f.Pointer, f.Name, "a time is a plain "+t.Kind, `use {"type": "long", "logicalType": "timestamp-micros"} in UTC`)
	case idName.MatchString(f.Name) && t.Kind != "string" && t.Logical != "uuid":
		l.add("ID_TYPE", Error, f.Pointer, f.Name, "an id is a "+t.Kind, "use a string, or a uuid")
	}
	l.shape(f.Type)
}

func hasCurrency(n *contract.Shape) bool {
	return slices.ContainsFunc(n.Fields, func(f contract.FieldShape) bool { return strings.Contains(f.Name, "currency") })
}

// firstBranch reports whether a default in JSON can be of the type.
func firstBranch(n *contract.Shape, def string) bool {
	switch n.Kind {
	case "null":
		return def == "null"
	case "boolean":
		return def == "true" || def == "false"
	case "string", "bytes", "fixed", "enum":
		return strings.HasPrefix(def, `"`)
	case "array":
		return strings.HasPrefix(def, "[")
	case "map", "record":
		return strings.HasPrefix(def, "{")
	}
	return def != "" && strings.ContainsRune("-0123456789", rune(def[0]))
}
