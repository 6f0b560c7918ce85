package filter

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/types"
)

// functions are the words of CEL, for those who nearly know them.
var functions = []string{"all", "bool", "bytes", "contains", "double", "duration", "dyn", "endsWith", "exists", "exists_one", "filter", "getDate", "getDayOfMonth",
	"getDayOfWeek", "getDayOfYear", "getFullYear", "getHours", "getMilliseconds", "getMinutes", "getMonth", "getSeconds", "has", "int", "map", "matches", "size",
	"startsWith", "string", "timestamp", "type", "uint"}

var (
	identifier  = regexp.MustCompile(`^[_a-zA-Z][_a-zA-Z0-9]*$`)
	undeclared  = regexp.MustCompile(`^undeclared reference to '([^']*)'`)
	noField     = regexp.MustCompile(`^undefined field '([^']*)'`)
	noOverload  = regexp.MustCompile(`^found no matching overload for '([^']*)' applied to '(.*)'$`)
	reserved    = []string{"as", "break", "const", "continue", "else", "false", "for", "function", "if", "import", "in", "let", "loop", "namespace", "null", "package", "return", "true", "var", "void", "while"}
	comparisons = map[string]string{"_==_": "==", "_!=_": "!=", "_<_": "<", "_<=_": "<=", "_>_": ">", "_>=_": ">=", "_&&_": "&&", "_||_": "||", "!_": "!", "@in": "in", "_+_": "+", "_-_": "-",
		"-_": "-", "_*_": "*", "_/_": "/", "_%_": "%", "_[_]": "[]", "_?_:_": "?:"}
)

// isIdentifier reports whether CEL takes a name for a variable.
func isIdentifier(name string) bool {
	return identifier.MatchString(name) && !slices.Contains(reserved, name)
}

// place says where in a text something is.
func place(source string, at common.Location) string {
	if strings.Contains(source, "\n") {
		return fmt.Sprintf("line %d, column %d", at.Line(), at.Column()+1)
	}
	return fmt.Sprintf("column %d", at.Column()+1)
}

// explain returns the first of CEL's issues as an error.
func (l *Language) explain(source string, issues *cel.Issues) error {
	all := issues.Errors()
	if len(all) == 0 {
		return ErrInvalid.Wrap(issues.Err())
	}
	first := slices.MinFunc(all, func(a, b *cel.Error) int {
		if a.Location.Line() != b.Location.Line() {
			return a.Location.Line() - b.Location.Line()
		}
		return a.Location.Column() - b.Location.Column()
	})
	what, fix := l.reword(source, first)
	if first.Location.Line() <= 0 { // of the whole
		return ErrInvalid.Because("%s", what).WithFix("%s", fix)
	}
	return ErrInvalid.Because("%s: %s", place(source, first.Location), what).WithFix("%s", fix)
}

// reword says what is wrong and what to do about it.
func (l *Language) reword(source string, issue *cel.Error) (what, fix string) {
	m := issue.Message
	if found := undeclared.FindStringSubmatch(m); found != nil {
		if l.isCall(source, issue.ExprID) {
			return "there is no function " + found[1], l.suggest(found[1], functions, "the functions are")
		}
		return "there is no field " + found[1], l.suggest(found[1], l.names, "the fields are")
	}
	if found := noField.FindStringSubmatch(m); found != nil {
		return "there is no field " + found[1], l.suggest(found[1], l.fieldsAt(source, issue.ExprID), "the fields are")
	}
	if found := noOverload.FindStringSubmatch(m); found != nil {
		return l.mismatch(found[1], strings.Trim(found[2], "()"), found[2])
	}
	switch {
	case strings.Contains(m, "token recognition error at: '=") || strings.Contains(m, "extraneous input '='"):
		return "= compares nothing", "write == for “is”, >= and <= for bounds"
	case strings.Contains(m, "has() macro"):
		return "has() takes a field of an object", "write has(row.name), and has(row.customer.name) for a field inside another"
	case strings.HasPrefix(m, "Syntax error: mismatched input") || strings.HasPrefix(m, "Syntax error: extraneous input"):
		for word, sign := range map[string]string{"and": "&&", "AND": "&&", "or": "||", "OR": "||", "not": "!", "NOT": "!", "is": "==", "IS": "==", "like": ".matches(…)", "LIKE": ".matches(…)", "'>'": "!="} {
			if strings.Contains(m, "input '"+strings.Trim(word, "'")+"'") {
				return strings.TrimPrefix(m, "Syntax error: "), "write " + sign + " instead of " + strings.Trim(word, "'")
			}
		}
	}
	return m, "write a CEL expression that is true or false of a row, such as " + l.example()
}

// mismatch explains that an operator or function does not take what it was given.
func (l *Language) mismatch(function, args, applied string) (what, fix string) {
	name := function
	if sign, ok := comparisons[function]; ok {
		name = sign
	}
	what = fmt.Sprintf("%s does not go with (%s)", name, strings.ReplaceAll(args, "google.protobuf.", ""))
	given := strings.Split(args, ", ")
	is := func(t string) bool {
		return slices.ContainsFunc(given, func(g string) bool { return strings.HasSuffix(g, t) })
	}
	switch {
	case is("null") || is("null_type"):
		return what, "ask has(row.field): a field that is null or absent has the zero value of its type"
	case is("double") && is("int"):
		return what, "write the number with a decimal point: 5.0"
	case is("google.protobuf.Timestamp") && is("string"), is("timestamp") && is("string"):
		return what, `write a time as timestamp("2026-01-31T12:00:00Z")`
	case is("google.protobuf.Duration") && is("string"), is("duration") && is("string"):
		return what, `write a length of time as duration("90m")`
	case (is("int") || is("double")) && is("string"):
		return what, `write texts with quotes and numbers without, or convert: int(text), string(number)`
	case is("bool") && is("string"):
		return what, `write true and false without quotes`
	case strings.Contains(applied, "."):
		return what, "look at the type of what stands before the dot: " + l.typesOf()
	}
	return what, "the fields have these types: " + l.typesOf()
}

// isCall reports whether a part of the text calls a function.
func (l *Language) isCall(source string, id int64) bool {
	e := l.find(source, id)
	return e != nil && e.Kind() == ast.CallKind
}

// fieldsAt returns the fields that a selection could have meant: those of the object before the dot, all names if that is not known.
func (l *Language) fieldsAt(source string, id int64) []string {
	if e := l.find(source, id); e != nil && e.Kind() == ast.SelectKind {
		if s := l.shapeAt(e.AsSelect().Operand()); s != nil && s.kind == object {
			return s.names()
		}
	}
	names := map[string]bool{}
	for _, s := range l.objects {
		for _, f := range s.fields {
			names[f.name] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// shapeAt returns the shape of an expression that is a path of fields, else nil.
func (l *Language) shapeAt(e ast.Expr) *shape {
	field := func(s *shape, name string) *shape {
		if s == nil {
			return nil
		}
		if i, ok := s.places[name]; ok {
			return s.fields[i].shape
		}
		return nil
	}
	switch e.Kind() {
	case ast.IdentKind:
		if e.AsIdent() == whole {
			return l.row
		}
		return field(l.row, e.AsIdent())
	case ast.SelectKind:
		return field(l.shapeAt(e.AsSelect().Operand()), e.AsSelect().FieldName())
	case ast.CallKind:
		if c := e.AsCall(); c.FunctionName() == "_[_]" && len(c.Args()) == 2 {
			if s := l.shapeAt(c.Args()[0]); s != nil {
				return s.elem
			}
		}
	}
	return nil
}

// find returns a part of the text by its id.
func (l *Language) find(source string, id int64) ast.Expr {
	parsed, issues := l.env.Parse(source)
	if issues.Err() != nil {
		return nil
	}
	var found ast.Expr
	ast.PostOrderVisit(parsed.NativeRep().Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		if e.ID() == id {
			found = e
		}
	}))
	return found
}

// suggest names the nearest of some names, or some of them.
func (l *Language) suggest(name string, names []string, all string) string {
	if n := nearest(name, names); n != "" {
		return "did you mean " + n + "?"
	}
	if len(names) > 20 {
		names = append(slices.Clone(names[:20]), "…")
	}
	return all + " " + strings.Join(names, ", ")
}

// typesOf lists the fields of the row with their types.
func (l *Language) typesOf() string {
	var all []string
	for _, f := range l.row.fields {
		if len(all) == 20 {
			all = append(all, "…")
			break
		}
		all = append(all, f.name+" "+nameOf(f.shape.cel))
	}
	return strings.Join(all, ", ")
}

// nameOf returns the name of a type as an expression would use it.
func nameOf(t *types.Type) string {
	return strings.NewReplacer("google.protobuf.Timestamp", "timestamp", "google.protobuf.Duration", "duration").Replace(t.String())
}

// example returns an expression over the row.
func (l *Language) example() string {
	for _, f := range l.row.fields {
		if !isIdentifier(f.name) {
			continue
		}
		switch f.shape.kind {
		case text:
			return f.name + ` == "abc"`
		case integer:
			return f.name + " > 100"
		case number:
			return f.name + " > 99.5"
		case moment:
			return f.name + ` > timestamp("2026-01-31T12:00:00Z")`
		case boolean:
			return f.name
		case list, mapping:
			return "size(" + f.name + ") > 1"
		}
	}
	return "has(row.field)"
}

// steps writes a cost.
func steps(n uint64) string {
	if n > 1e12 {
		return "any number of"
	}
	return fmt.Sprint(n)
}

// nearest returns the name that differs least from a misspelt one, "" if none is near.
func nearest(name string, names []string) string {
	best, distance := "", max(2, len(name)/3)+1
	for _, n := range names {
		if d := edits(strings.ToLower(name), strings.ToLower(n)); d < distance && d < len(n) {
			best, distance = n, d
		}
	}
	return best
}

// edits returns how many letters have to be changed, added, dropped or swapped with their neighbours to make b of a.
func edits(a, b string) int {
	s, t := []rune(a), []rune(b)
	before, row := make([]int, len(t)+1), make([]int, len(t)+1)
	for j := range row {
		row[j] = j
	}
	for i := range s {
		var last []int
		last, before, row = before, row, make([]int, len(t)+1)
		row[0] = i + 1
		for j := range t {
			c := 1
			if s[i] == t[j] {
				c = 0
			}
			row[j+1] = min(before[j]+c, before[j+1]+1, row[j]+1)
			if i > 0 && j > 0 && s[i] == t[j-1] && s[i-1] == t[j] {
				row[j+1] = min(row[j+1], last[j-1]+1)
			}
		}
	}
	return row[len(t)]
}
