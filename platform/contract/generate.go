package contract

import (
	"bytes"
	"errors"
	"fmt"
	"go/format"
	"go/token"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"unicode"

	"gopkg.in/yaml.v3"

	"github.com/millrace/millrace/platform/fault"
)

// The names of the files beside the schemas of one folder.
const (
	settingsFile  = "contracts.yaml"  // written by hand: the topic
	generatedFile = "contract_gen.go" // written by Generate
	upcastersFile = "upcasters.go"    // written by hand: the variable upcasters, if there are retired types
)

// ErrGenerate is returned for a folder that no Go code can be made from; its detail names the file.
var ErrGenerate = fault.New(fault.Invalid, "contract_not_generated", "no Go code can be made from the schemas")

// Settings is the content of contracts.yaml, which stands beside the schemas of a folder.
type Settings struct {
	Topic  string   `yaml:"topic"`  // carries the events of the folder
	Levels []Level  `yaml:"levels"` // what a change must keep, by subject; the first that fits counts, without one WIRE_FULL_TRANSITIVE
	Allow  []Exempt `yaml:"allow"`  // findings of the gate that are meant

	References []Reference `yaml:"references"` // types of other subjects that the schemas use, each before those that use it
	Key        string      `yaml:"key"`        // text of the schema of the records' keys, "" = a plain string: the stream's id
}

// A Level says what changes of the subjects must keep: see package gate.
type Level struct {
	Subjects string `yaml:"subjects"` // a pattern as of path.Match
	Level    string `yaml:"level"`
}

// An Exempt lets findings of one rule pass.
type Exempt struct {
	Rule     string `yaml:"rule"`
	Subjects string `yaml:"subjects"` // a pattern as of path.Match
	Pointer  string `yaml:"pointer"`  // of the place; without one all
	Reason   string `yaml:"reason"`   // for those who read it later; must be there
}

var (
	topicName     = regexp.MustCompile(`^[a-zA-Z0-9._-]{1,249}$`)
	namespaceName = regexp.MustCompile(`^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*\.v[1-9][0-9]*$`)
)

// ReadSettings reads the contracts.yaml of a folder; an unknown key is refused.
func ReadSettings(dir string) (Settings, error) {
	var s Settings
	path := filepath.Join(dir, settingsFile)
	text, err := os.ReadFile(path)
	if err != nil {
		return s, ErrGenerate.Wrap(err).WithFix("write %s with a line like: topic: orders.events", path)
	}
	return ParseSettings(path, text)
}

// ParseSettings is ReadSettings for a text that was read already, from the path.
func ParseSettings(path string, text []byte) (Settings, error) {
	var s Settings
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	if err := d.Decode(&s); err != nil && !errors.Is(err, io.EOF) {
		return s, ErrGenerate.Because("%s", path).Wrap(err)
	}
	if !topicName.MatchString(s.Topic) {
		return s, ErrGenerate.Because("%s: %q is not the name of a topic", path, s.Topic).WithFix("write %s with a line like: topic: orders.events", path)
	}
	if s.Key != "" {
		if _, err := Parse(s.Key); err != nil {
			return s, ErrGenerate.Because("%s: key", path).Wrap(err)
		}
	}
	return s, nil
}

// KeySubject returns the subject of the schema of a topic's keys.
func KeySubject(topic string) string { return topic + "-key" }

// Generate reads the contracts.yaml and the .avsc files of one folder, each an event named as its file, and returns the Go code to be
// committed beside them: file name → content. The same folder gives the same bytes. The code has a struct for each record, the
// sealed interface Event, the topic, and the contract for Bind. The folder retired holds the schemas of types that are not written any
// more: their structs are no Events, and the variable upcasters of a file upcasters.go, a []contract.Upcaster[Event], says what they are today.
func Generate(dir string) (map[string][]byte, error) {
	settings, err := ReadSettings(dir)
	if err != nil {
		return nil, err
	}
	files, err := filepath.Glob(filepath.Join(escapeGlob(dir), "*.avsc")) // sorted
	if err != nil || len(files) == 0 {
		return nil, ErrGenerate.Because("%s has no .avsc files", dir).Wrap(err)
	}
	references, err := ReadReferences(os.DirFS(dir), settings)
	if err == nil {
		err = references.Err()
	}
	if err != nil {
		return nil, err
	}
	g := &generator{topic: settings.Topic, references: references, whole: map[string]string{}, types: map[string]*node{}, idents: map[string]string{}, names: map[*node]string{}}
	for _, reserved := range []string{"Topic", "Event", "Contract", "upcasters"} {
		g.idents[reserved] = "the generated code itself"
	}
	for _, path := range files {
		if err := g.add(path); err != nil {
			return nil, err
		}
	}
	retired, err := filepath.Glob(filepath.Join(escapeGlob(dir), retiredDir, "*.avsc"))
	if err != nil {
		return nil, ErrGenerate.Wrap(err)
	}
	for _, path := range retired {
		if err := g.addRetired(path); err != nil {
			return nil, err
		}
	}
	if _, err := os.Stat(filepath.Join(dir, upcastersFile)); err == nil {
		g.upcasts = true
	} else if len(retired) > 0 {
		return nil, ErrGenerate.Because("%s has no %s", dir, upcastersFile).
			WithFix("write it with: var upcasters = []contract.Upcaster[Event]{…}, an Upcast or Split for each retired type")
	}
	code, err := format.Source(g.code())
	if err != nil {
		return nil, fmt.Errorf("contract: format the code of %s: %w", dir, err)
	}
	return map[string][]byte{generatedFile: code}, nil
}

var globEscape = strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`)

func escapeGlob(dir string) string { return globEscape.Replace(dir) }

// A generator makes the code of one folder.
type generator struct {
	topic     string
	namespace string
	events    []*node
	files     []string
	path      string           // of the file that is read
	types     map[string]*node // by full name
	order     []*node          // types in the order of their first use
	retired   []*node          // not written any more
	prefix    string           // of the Go names of the types inside a retired one
	names     map[*node]string // Go names, where they are not the short name
	upcasts   bool             // there is a variable upcasters

	references References
	whole      map[string]string // the texts of files that refer to types of other subjects, with those in them, by the file below the folder

	idents map[string]string // package-level identifier → what has it
	needs  struct{ time, big bool }
}

func (g *generator) fail(n *node, format string, args ...any) error {
	return ErrGenerate.Because("%s#%s: %s", g.path, n.pointer, fmt.Sprintf(format, args...))
}

// parse reads one file; name is how it is embedded.
func (g *generator) parse(path, name string) (*node, error) {
	g.path = path
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, ErrGenerate.Wrap(err)
	}
	schema, used, err := g.references.Parse(string(text))
	if err != nil {
		return nil, ErrGenerate.Because("%s", path).Wrap(err)
	}
	if len(used) > 0 {
		g.whole[name] = schema.Text()
	}
	return schema.root, nil
}

// addRetired reads a type that is not written any more. The types inside it may be others than those of the same name today, so their Go
// names begin with its own.
func (g *generator) addRetired(path string) error {
	n, err := g.parse(path, retiredDir+"/"+filepath.Base(path))
	if err != nil {
		return err
	}
	switch name := strings.TrimSuffix(filepath.Base(path), ".avsc"); {
	case n.kind != kindRecord || n.name != name:
		return ErrGenerate.Because("%s does not hold the record %s", path, name)
	case !strings.HasPrefix(n.name, g.namespace+"."):
		return g.fail(n, "the namespace is not %s, that of the types beside it", g.namespace)
	case g.types[n.name] != nil:
		return g.fail(n, "%s is retired and still written", n.name)
	}
	g.retired = append(g.retired, n)
	if err := g.claim(lowerFirst(shortName(n.name))+"Schema", path); err != nil {
		return err
	}
	today := g.types
	g.types = map[string]*node{}
	g.names[n] = shortName(n.name)
	g.prefix = shortName(n.name)
	err = g.collect(n)
	g.types, g.prefix = today, ""
	return err
}

// ident returns the Go name of a named type.
func (g *generator) ident(n *node) string {
	if name, ok := g.names[n]; ok {
		return name
	}
	return shortName(n.name)
}

func (g *generator) add(path string) error {
	n, err := g.parse(path, filepath.Base(path))
	if err != nil {
		return err
	}
	name := strings.TrimSuffix(filepath.Base(path), ".avsc")
	namespace := strings.TrimSuffix(n.name, "."+shortName(n.name))
	switch {
	case n.kind != kindRecord:
		return g.fail(n, "a %s is not an event; an event is a record", n.kind)
	case n.name != name:
		return ErrGenerate.Because("%s holds %s", path, n.name).WithFix("rename the file to %s.avsc", n.name)
	case g.namespace == "" && !namespaceName.MatchString(namespace):
		return g.fail(n, "the namespace %q does not have the form org.context.v1", namespace)
	case g.namespace != "" && g.namespace != namespace:
		return g.fail(n, "the namespace is %s, that of the files before %s", namespace, g.namespace)
	}
	g.namespace = namespace
	g.events, g.files = append(g.events, n), append(g.files, filepath.Base(path))
	if err := g.claim(lowerFirst(shortName(n.name))+"Schema", path); err != nil {
		return err
	}
	return g.collect(n)
}

// claim takes a package-level identifier.
func (g *generator) claim(ident, by string) error {
	if !token.IsIdentifier(ident) {
		return ErrGenerate.Because("%s: %q is no Go identifier", by, ident)
	}
	if other, taken := g.idents[ident]; taken {
		return ErrGenerate.Because("%s: the identifier %s is taken by %s", by, ident, other)
	}
	g.idents[ident] = by
	return nil
}

// collect registers the named types below n, and refuses what has no Go type.
func (g *generator) collect(n *node) error {
	switch n.kind {
	case kindRecord, kindEnum:
		if other := g.types[n.name]; other != nil {
			if other != n && !g.references.Defines(n.name) { // which is one text, whoever uses it
				return g.fail(n, "%s is defined in another file too", n.name)
			}
			return nil
		}
		g.types[n.name] = n
		g.order = append(g.order, n)
		if _, named := g.names[n]; !named && g.prefix != "" {
			g.names[n] = g.prefix + shortName(n.name)
		}
		if err := g.claim(g.ident(n), g.path+"#"+n.pointer); err != nil {
			return err
		}
		for _, symbol := range n.symbols {
			if err := g.claim(g.ident(n)+camel(symbol), g.path+"#"+n.pointer); err != nil {
				return err
			}
		}
		seen := map[string]bool{}
		for _, f := range n.fields {
			ident := camel(f.name)
			if !token.IsIdentifier(ident) || !token.IsExported(ident) || seen[ident] {
				return g.fail(n, "the field %q gives no Go name of its own", f.name)
			}
			seen[ident] = true
			if _, err := g.goType(f.node); err != nil {
				return err
			}
			if err := g.collect(f.node); err != nil {
				return err
			}
		}
	case kindArray, kindMap:
		return g.collect(n.items)
	case kindUnion:
		for _, b := range n.branches {
			if err := g.collect(b); err != nil {
				return err
			}
		}
	}
	return nil
}

// goType returns the Go type for values of n, as shapeOf demands it.
func (g *generator) goType(n *node) (string, error) {
	switch n.kind {
	case kindBoolean:
		return "bool", nil
	case kindInt, kindLong:
		switch n.logical {
		case "local-timestamp-millis", "local-timestamp-micros":
			return "", g.fail(n, "%s has no Go type: what it means depends on where the process runs", n.logical)
		case "date", "timestamp-millis", "timestamp-micros":
			g.needs.time = true
			return "time.Time", nil
		case "time-millis", "time-micros":
			g.needs.time = true
			return "time.Duration", nil
		}
		if n.kind == kindInt {
			return "int32", nil
		}
		return "int64", nil
	case kindFloat:
		return "float32", nil
	case kindDouble:
		return "float64", nil
	case kindString:
		if n.logical == "uuid" {
			return "contract.UUID", nil
		}
		return "string", nil
	case kindBytes, kindFixed:
		switch {
		case n.logical == "uuid":
			return "contract.UUID", nil
		case n.logical == "decimal":
			g.needs.big = true
			return "*big.Rat", nil
		case n.logical == "duration":
			return "", g.fail(n, "the logical type duration has no Go type: months and days have no fixed length")
		case n.kind == kindFixed:
			return fmt.Sprintf("[%d]byte", n.size), nil
		}
		return "[]byte", nil
	case kindArray, kindMap:
		items, err := g.goType(n.items)
		if n.kind == kindMap {
			return "map[string]" + items, err
		}
		return "[]" + items, err
	case kindUnion:
		var other []*node
		for _, b := range n.branches {
			if b.kind != kindNull {
				other = append(other, b)
			}
		}
		if len(other) != 1 || len(n.branches) != 2 {
			return "", g.fail(n, "only a union of null and one other type has a Go type")
		}
		if other[0].logical == "decimal" {
			return "", g.fail(n, "a nullable decimal has no Go type")
		}
		t, err := g.goType(other[0])
		return "*" + t, err
	case kindNull:
		return "", g.fail(n, "null alone has no Go type")
	}
	return g.ident(n), nil
}

func (g *generator) code() []byte {
	var b bytes.Buffer
	parts := strings.Split(g.namespace, ".")
	pkg := strings.ReplaceAll(strings.Join(parts[max(len(parts)-2, 0):], ""), "_", "")
	fmt.Fprintf(&b, "// Code generated by millrace contract generate; DO NOT EDIT.\n\n")
	fmt.Fprintf(&b, "// Package %s holds the events of the topic %s, namespace %s.\npackage %s\n\nimport (\n", pkg, g.topic, g.namespace, pkg)
	if len(g.whole) < len(g.events)+len(g.retired) {
		b.WriteString("\t_ \"embed\" // the schemas\n")
	}
	if g.needs.big {
		b.WriteString("\t\"math/big\"\n")
	}
	if g.needs.time {
		b.WriteString("\t\"time\"\n")
	}
	b.WriteString("\n\t\"github.com/millrace/millrace/platform/contract\"\n)\n\n")
	fmt.Fprintf(&b, "// Topic carries the events of this package.\nconst Topic = %q\n\n", g.topic)
	names := make([]string, len(g.events))
	for i, n := range g.events {
		names[i] = shortName(n.name)
	}
	fmt.Fprintf(&b, "// Event is one of the events of this package, as a value: %s.\n//\n//sumtype:decl\ntype Event interface{ isEvent() }\n\n", strings.Join(names, ", "))
	b.WriteString("// Contract is the closed set of the topic's events with their schemas.\nvar Contract = contract.Set[Event]{\n\tTopic: Topic,\n\tTypes: []contract.Type[Event]{\n")
	for _, name := range names {
		fmt.Fprintf(&b, "\t\tcontract.For[%s, Event](%sSchema),\n", name, lowerFirst(name))
	}
	b.WriteString("\t},\n")
	if g.upcasts {
		b.WriteString("\tUpcasters: upcasters,\n")
	}
	b.WriteString("}\n\n")
	for i := range g.events {
		g.text(&b, g.files[i], names[i])
	}
	for _, n := range g.retired {
		g.text(&b, retiredDir+"/"+n.name+".avsc", shortName(n.name))
	}
	isEvent := map[*node]bool{}
	for _, n := range g.events {
		isEvent[n] = true
	}
	for _, n := range g.order {
		if n.kind == kindEnum {
			g.enum(&b, n)
			continue
		}
		g.record(&b, n)
		if isEvent[n] {
			fmt.Fprintf(&b, "func (%s) isEvent() {}\n\n", shortName(n.name))
		}
	}
	return b.Bytes()
}

// text writes the variable with the text of an event's schema: the file, or, if it refers to others, all of them in one.
func (g *generator) text(b *bytes.Buffer, file, name string) {
	if whole, ok := g.whole[file]; ok {
		fmt.Fprintf(b, "// %sSchema is %s with the types that it refers to.\nconst %sSchema = %s\n\n", lowerFirst(name), file, lowerFirst(name), quoteRaw(whole))
		return
	}
	fmt.Fprintf(b, "//go:embed %s\nvar %sSchema string\n\n", file, lowerFirst(name))
}

func quoteRaw(s string) string {
	if strconv.CanBackquote(s) {
		return "`" + s + "`"
	}
	return strconv.Quote(s)
}

func (g *generator) record(b *bytes.Buffer, n *node) {
	name := g.ident(n)
	comment(b, "", name+": "+docOr(n.doc, "record "+n.name+"."))
	fmt.Fprintf(b, "type %s struct {\n", name)
	for _, f := range n.fields {
		if f.doc != "" {
			comment(b, "\t", f.doc)
		}
		t, _ := g.goType(f.node) // collect has checked it
		fmt.Fprintf(b, "\t%s %s `avro:%q json:%q`\n", camel(f.name), t, f.name, f.name)
	}
	b.WriteString("}\n\n")
}

func (g *generator) enum(b *bytes.Buffer, n *node) {
	name := g.ident(n)
	comment(b, "", name+": "+docOr(n.doc, "enum "+n.name+"."))
	fmt.Fprintf(b, "type %s string\n\n// The values of %s.\nconst (\n", name, name)
	for _, symbol := range n.symbols {
		fmt.Fprintf(b, "\t%s%s %s = %q\n", name, camel(symbol), name, symbol)
	}
	b.WriteString(")\n\n")
}

func docOr(doc, otherwise string) string {
	if strings.TrimSpace(doc) == "" {
		return otherwise
	}
	return doc
}

// comment writes text as line comments of at most about 120 characters; line breaks in it are kept.
func comment(b *bytes.Buffer, indent, text string) {
	for paragraph := range strings.Lines(text) {
		line := indent + "//"
		for _, word := range strings.Fields(paragraph) {
			if len(line)+1+len(word) > 120 && len(line) > len(indent)+2 {
				b.WriteString(line + "\n")
				line = indent + "//"
			}
			line += " " + word
		}
		b.WriteString(line + "\n")
	}
}

// initialisms are written in one case in Go names.
var initialisms = map[string]bool{"api": true, "cpu": true, "css": true, "csv": true, "dns": true, "ean": true, "gtin": true, "guid": true, "html": true, "http": true,
	"https": true, "iban": true, "id": true, "ip": true, "isbn": true, "json": true, "sku": true, "sql": true, "ssn": true, "tls": true, "ttl": true,
	"ui": true, "uid": true, "uri": true, "url": true, "utc": true, "uuid": true, "vat": true, "xml": true}

// camel turns order_id into OrderID, and UNKNOWN into Unknown.
func camel(name string) string {
	var b strings.Builder
	for word := range strings.SplitSeq(name, "_") {
		switch {
		case word == "":
		case initialisms[strings.ToLower(word)]:
			b.WriteString(strings.ToUpper(word))
		case strings.ToUpper(word) == word:
			b.WriteString(word[:1] + strings.ToLower(word[1:]))
		default:
			b.WriteString(strings.ToUpper(word[:1]) + word[1:])
		}
	}
	return b.String()
}

func lowerFirst(s string) string {
	if s == "" {
		return s
	}
	return string(unicode.ToLower(rune(s[0]))) + s[1:]
}
