// Package filter compiles and evaluates filters over the rows of a view: expressions in CEL, the Common Expression Language
// (https://cel.dev), such as
//
//	total > 100.0 && status in ["open", "paid"] && items.exists(i, i.sku.startsWith("A-"))
//
// An expression is typed from the Go type of the row before the first row is looked at, and bounded in what it may cost, so that it
// can be taken from anybody who may query. The package reads rows as the JSON that a query would answer, and changes nothing.
//
// To CEL, a field has the name that it has in JSON. Structs are objects, slices and arrays lists, maps maps; integers of all sizes are
// int, floating-point numbers double, time.Time is timestamp, []byte bytes; what writes itself as text is string, what writes its own
// JSON, and interfaces, are dyn. A time.Duration is the int that JSON has for it. The fields of the row are variables, and row is the
// whole of it; a field whose name is no identifier is written row.`its-name`.
//
// A field that is absent or null has the zero value of its Go type, a pointer that of what it points to: whether omitempty leaves a field
// out changes no answer. has(row.field) tells whether it is there and not null. A key that a map does not have, an index beyond a list, a
// division by zero are errors, as CEL has it, and fail the query: no row is left out silently. "k" in m asks first.
package filter

import (
	"errors"
	"fmt"
	"reflect"
	"sync"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/cost"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/interpreter"

	"github.com/millrace/millrace/platform/fault"
)

// What a filter may be. Costs are in CEL's unit: about one step of evaluation, or ten bytes of a text looked at.
const (
	MaxText = 4 << 10 // bytes of an expression
	MaxCost = 300_000 // of one row

	// For the estimate, before a row was seen.
	assumedText = 200 // bytes of a text
	assumedList = 100 // elements of a list or map
)

// The failures of this package.
var (
	// ErrInvalid is returned for a filter that is no expression over the rows of the view, and for one that fails on a row.
	ErrInvalid = fault.New(fault.Invalid, "invalid_filter", "the filter cannot be used")
	// ErrTooCostly is returned for a filter that could cost, or on a row does cost, more than a query may.
	ErrTooCostly = fault.New(fault.Invalid, "filter_too_costly", "the filter costs too much")
	// ErrRow is returned for a row that is not JSON, or not of the type that the filter was compiled for.
	ErrRow = fault.New(fault.Internal, "row_unreadable", "the row is not what its view writes")
)

// A Language is CEL over the rows of one type. Compile makes filters of it. It is safe for concurrent use.
type Language struct {
	env     *cel.Env
	row     *shape
	objects map[string]*shape
	adapter types.Adapter
	names   []string // of the variables
}

// NewLanguage returns the language of filters over rows of a Go type, for which it takes some milliseconds. It fails only for a type that
// CEL cannot be told of.
func NewLanguage(rowType reflect.Type) (*Language, error) {
	registry, err := types.NewRegistry()
	if err != nil {
		return nil, ErrInvalid.Wrap(err)
	}
	b := builder{registry: registry, shapes: map[reflect.Type]*shape{}, objects: map[string]*shape{}}
	l := &Language{row: b.shapeOf(rowType, "row"), objects: b.objects, adapter: registry}
	opts := []cel.EnvOption{
		cel.CustomTypeAdapter(registry), cel.CustomTypeProvider(&provider{Registry: registry, objects: b.objects}),
		cel.StdLib(), cel.CrossTypeNumericComparisons(true), cel.DefaultUTCTimeZone(true), cel.EnableIdentifierEscapeSyntax(),
		cel.ParserExpressionSizeLimit(MaxText), cel.ParserRecursionLimit(50), cel.ParserErrorRecoveryLimit(4), cel.RegexProgramSizeLimit(1000),
		cel.ASTValidators(cel.ValidateRegexLiterals(), cel.ValidateTimestampLiterals(), cel.ValidateDurationLiterals(), cel.ValidateComprehensionNestingLimit(3)),
	}
	for _, f := range l.row.fields {
		if isIdentifier(f.name) && f.name != whole {
			opts = append(opts, cel.Variable(f.name, f.shape.cel))
			l.names = append(l.names, f.name)
		}
	}
	opts = append(opts, cel.Variable(whole, l.row.cel))
	l.names = append(l.names, whole)
	if l.env, err = cel.NewCustomEnv(opts...); err != nil {
		return nil, ErrInvalid.Because("rows of the type %s", rowType).Wrap(err)
	}
	return l, nil
}

// whole is the variable that is the row itself.
const whole = "row"

// A Filter is a compiled expression. It is safe for concurrent use.
type Filter struct {
	lang    *Language
	ast     *cel.Ast
	program cel.Program
	source  string
	pool    sync.Pool // of *activation
}

// Compile returns the filter that a text expresses over rows of a Go type. It returns ErrInvalid, with the place in the text and how to
// correct it, and ErrTooCostly. Who compiles more than once for a type keeps its Language.
func Compile(rowType reflect.Type, text string) (*Filter, error) {
	l, err := NewLanguage(rowType)
	if err != nil {
		return nil, err
	}
	return l.Compile(text)
}

// Compile returns the filter that a text expresses. Its errors are those of the function Compile.
func (l *Language) Compile(source string) (*Filter, error) {
	switch {
	case len(source) > MaxText:
		return nil, ErrTooCostly.Because("the filter has %d bytes, at most %d are allowed", len(source), MaxText).WithFix("ask for less at once")
	case source == "":
		return nil, ErrInvalid.Because("the filter is empty").WithFix(`leave it out, or give an expression such as %s`, l.example())
	}
	ast, issues := l.env.Compile(source)
	if issues.Err() != nil {
		return nil, l.explain(source, issues)
	}
	if ast.OutputType() != types.BoolType {
		return nil, ErrInvalid.Because("the filter says %s of a row, not bool: true or false", nameOf(ast.OutputType())).
			WithFix(`compare it with something: %s`, l.example())
	}
	expected, err := l.env.EstimateCost(ast, sizes{})
	if err != nil {
		return nil, ErrInvalid.Wrap(err)
	}
	if expected.Max > MaxCost {
		return nil, ErrTooCostly.Because("on a row with lists of %d elements and texts of %d bytes it may take %s steps, at most %d are allowed", assumedList, assumedText, steps(expected.Max), MaxCost).
			WithFix("do not go through lists inside lists, nor match long texts in each of their elements; or ask for several filters, one after the other")
	}
	opts := []cel.ProgramOption{cel.EvalOptions(cel.OptOptimize)}
	// Counting costs more than a comparison does, so it is left out where no row can make the expression cost too much.
	if atMost, err := l.env.EstimateCost(ast, anySize{}); err != nil || atMost.Max > MaxCost {
		opts = append(opts, cel.CostLimit(MaxCost))
	}
	program, err := l.env.Program(ast, opts...)
	if err != nil {
		return nil, ErrInvalid.Wrap(err)
	}
	f := &Filter{lang: l, ast: ast, program: program, source: source}
	f.pool.New = func() any {
		return &activation{row: record{shape: l.row, adapter: l.adapter, members: make([]member, len(l.row.fields))}}
	}
	return f, nil
}

// String returns the text of the filter.
func (f *Filter) String() string { return f.source }

// Matches reports whether the filter is true of a row, given as the JSON that a query answers. It returns ErrInvalid if the expression
// fails on this row, ErrTooCostly if it costs too much, ErrRow if this is no row of the type. json must not change meanwhile.
func (f *Filter) Matches(json []byte) (bool, error) {
	a := f.pool.Get().(*activation)
	defer f.release(a)
	if err := a.load(json); err != nil {
		return false, err
	}
	out, _, err := f.program.Eval(a)
	if err == nil {
		switch out {
		case types.True:
			return true, nil
		case types.False:
			return false, nil
		}
		err = fmt.Errorf("the result is %v", out)
	}
	return false, f.failure(err)
}

func (f *Filter) release(a *activation) {
	clear(a.row.members)
	a.row.raw, a.row.indexed, a.other = nil, false, nil
	f.pool.Put(a)
}

// failure explains why an evaluation failed.
func (f *Filter) failure(err error) error {
	if e := fault.From(err); e != nil {
		return e
	}
	var cancelled interpreter.EvalCancelledError
	if errors.As(err, &cancelled) {
		return ErrTooCostly.Because("on one of the rows it takes more than %d steps", MaxCost).WithFix("do not go through long lists and texts more than once")
	}
	var failed *types.Err
	where := ""
	if errors.As(err, &failed) && failed.NodeID() != 0 {
		where = place(f.source, f.ast.NativeRep().SourceInfo().GetStartLocation(failed.NodeID())) + ": "
	}
	return ErrInvalid.Because("on one of the rows, %s%s", where, err).
		WithFix(`ask first whether it can be: "key" in map && …, size(list) > 3 && …, number != 0 && …`)
}

// An activation gives an expression its variables.
type activation struct {
	row   record
	other any // a row that is no object
}

// load takes in a row.
func (a *activation) load(json []byte) error {
	from := skipSpace(json, 0)
	if from >= len(json) {
		return ErrRow.Because("it is empty")
	}
	var end int
	var ok bool
	switch {
	case a.row.shape.kind == object && json[from] == '{':
		next := 0
		end, ok = skipObject(json, from, 0, func(name, value []byte) { next = a.row.note(name, value, next) })
		a.row.raw, a.row.indexed = json[from:end], true
	default:
		if end, ok = skip(json, from, 0); ok {
			v := a.row.shape.decode(json[from:end], a.row.adapter)
			if types.IsError(v) {
				return ErrRow.Because("%v", v)
			}
			a.other, a.row.indexed = v, true
		}
	}
	if !ok || skipSpace(json, end) != len(json) {
		return ErrRow.Because("it is no JSON at byte %d", end)
	}
	return nil
}

// ResolveName returns a variable.
func (a *activation) ResolveName(name string) (any, bool) {
	if name == whole {
		if a.other != nil {
			return a.other, true
		}
		return &a.row, true
	}
	if i, ok := a.row.shape.places[name]; ok {
		return a.row.at(i), true
	}
	return nil, false
}

// Parent returns nil: there are no other variables.
func (a *activation) Parent() interpreter.Activation { return nil }

// sizes are what a filter has to reckon with, before a row was seen.
type sizes struct{}

func (sizes) EstimateSize(n cost.AstNode) *cost.SizeEstimate {
	bounds := cost.RangedSizeEstimate(0, 1)
	switch n.Type().Kind() {
	case types.StringKind, types.BytesKind:
		bounds.Max = assumedText
	case types.ListKind, types.MapKind, types.DynKind, types.StructKind:
		bounds.Max = assumedList
	}
	return &bounds
}

func (sizes) EstimateCallCost(string, string, *cost.AstNode, []cost.AstNode) *cost.CallEstimate {
	return nil
}

// anySize knows nothing of any row.
type anySize struct{}

func (anySize) EstimateSize(cost.AstNode) *cost.SizeEstimate { return nil }

func (anySize) EstimateCallCost(string, string, *cost.AstNode, []cost.AstNode) *cost.CallEstimate {
	return nil
}
