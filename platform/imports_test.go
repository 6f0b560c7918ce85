// Package platform_test checks what no compiler checks: which package may import which.
package platform_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/millrace/millrace/"

// allowed says which packages of the platform a package may import, and why it may import no others.
// "*" allows all. A package without a line fails.
var allowed = map[string]struct {
	imports []string
	reason  string
}{
	"platform/fault":              {nil, "the error vocabulary is pure: everything may depend on it, it on nothing"},
	"platform/jsontype":           {nil, "what encoding/json makes of a Go type is known without anything of ours"},
	"platform/es":                 {[]string{"fault"}, "the words of event sourcing are pure: no I/O, no clock"},
	"platform/contract":           {[]string{"es", "fault"}, "the codec knows schemas, not where they or the events are kept"},
	"platform/contract/gate":      {[]string{"contract", "fault"}, "the gate judges schemas; where they come from is the caller's affair"},
	"platform/contract/avrofile":  {[]string{"fault", "jsontype"}, "it writes rows from their JSON and their type: whose they are, and who wants them, is the caller's affair"},
	"platform/contract/catalogue": {[]string{"contract", "contract/gate"}, "the catalogue describes schemas; where they come from is the caller's affair"},
	"platform/eventlog":           {[]string{"es", "fault", "contract"}, "the log knows records and contracts, not who decides or projects"},
	"platform/store":              {[]string{"fault"}, "the store keeps bytes and knows nothing of events"},
	"platform/command":            {[]string{"es", "fault", "contract", "eventlog", "store"}, "deciding must not depend on HTTP or on read models"},
	"platform/projection":         {[]string{"es", "fault", "contract", "eventlog", "store"}, "projecting must not depend on HTTP or on the write side"},
	"platform/audit":              {[]string{"es", "fault", "eventlog"}, "the audit judges what the platform wrote: it must not share the code that wrote it"},
	"platform/spread":             {nil, "who should hold what is pure: who is there is found out elsewhere"},
	"platform/filter":             {[]string{"fault", "jsontype"}, "a filter reads rows as JSON: it must not know who keeps or asks for them"},
	"platform/registry":           {[]string{"fault", "contract", "eventlog", "store", "rest"}, "the registry is a service of its own: it knows no deciders and no views"},
	"platform/forward":            {[]string{"fault"}, "forwarding carries requests and answers: it must not know what they ask for or how routes are found"},
	"platform/rest":               {[]string{"es", "fault", "jsontype"}, "HTTP is a face: it must not know what stands behind it"},
	"platform/service":            {[]string{"*"}, ""},
	"platform/embedded":           {[]string{"*"}, ""},
	"platform/estest":             {[]string{"*"}, ""},
	"platform/estest/check":       {[]string{"eventlog", "store"}, "checkers judge a platform whose code they must not share a mistake with: cursors and keys are all they may know"},
	"platform/estest/rawlog":      {[]string{"estest/check"}, "what the platform's own readers say of the log is what is to be checked"},
	"platform/estest/sim":         {[]string{"*"}, ""},
	"platform/estest/folds":       {nil, "it holds projectors against the log: all that it has are tests"},
	"platform/estest/mutant":      {nil, "it breaks any of the platform's code, and uses none of it"},
	"platform/estest/openapi":     {nil, "it holds any service to its document, whatever the service is made of"},
	"platform/cmd/millrace":       {[]string{"*"}, ""},
}

// only says which of our packages alone may import a third party, so that replacing it is a one-package change.
var only = map[string][]string{
	"github.com/twmb/franz-go/pkg/kgo":   {"platform/eventlog", "platform/estest/rawlog", "platform/estest/sim", "services/shop/chaos"}, // checkers read past the platform, faults are made behind it
	"github.com/twmb/franz-go/pkg/kadm":  {"platform/eventlog", "platform/estest/rawlog", "services/shop/chaos"},
	"github.com/twmb/franz-go/pkg/kmsg":  {"platform/eventlog", "platform/embedded", "platform/estest/sim"},
	"github.com/twmb/franz-go/pkg/kfake": {"platform/embedded", "platform/estest/sim"},
	"github.com/dgraph-io/badger":        {"platform/store"},
	"github.com/hamba/avro":              {"platform/contract"},
	"github.com/riferrei/srclient":       {"platform/registry"},
	"cel.dev/cel-go":                     {"platform/filter"},
	"github.com/labstack/echo":           {"platform/rest", "services/shop/bench"}, // the bench compares with a bare Echo
	"github.com/jackc/pgx":               {"services/shop/bench"},                  // and with an event store on PostgreSQL
	"github.com/getkin/kin-openapi":      {"platform/estest/openapi"},
	"github.com/pb33f/libopenapi":        {"platform/estest/openapi"},
	"github.com/santhosh-tekuri":         {"platform/estest/openapi"},
	"github.com/twmb/avro":               {}, // an oracle for tests
	"github.com/twmb/franz-go/pkg/sr":    {}, // a client for tests
}

// TestImports fails on an import that the tables above do not allow. It reads the files itself, for the test cache does not see them.
func TestImports(t *testing.T) {
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, top := range []string{"platform", "schemas", "services"} {
		err := filepath.WalkDir(filepath.Join(root, top), func(file string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if d.IsDir() && d.Name() == "testdata" {
				return fs.SkipDir
			}
			if d.IsDir() || !strings.HasSuffix(file, ".go") {
				return nil
			}
			rel, err := filepath.Rel(root, file)
			if err != nil {
				return err
			}
			dir := path.Dir(filepath.ToSlash(rel))
			if dir == "platform" {
				return nil
			}
			f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly|parser.ParseComments)
			if err != nil {
				return err
			}
			seen[dir] = true
			checkFile(t, rel, dir, f)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(allowed)) {
		if !seen[name] {
			t.Errorf("%s is in the table but has no Go files", name)
		}
	}
}

func checkFile(t *testing.T, file, dir string, f *ast.File) {
	test := strings.HasSuffix(file, "_test.go")
	for _, spec := range f.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			t.Fatal(err)
		}
		for third, packages := range only {
			if (imported == third || strings.HasPrefix(imported, third+"/")) && !test && !slices.ContainsFunc(packages, func(p string) bool { return within(dir, p) }) {
				t.Errorf("%s imports %s; only %v may, so that it can be replaced in one place", file, third, packages)
			}
		}
		ours, ok := strings.CutPrefix(imported, module)
		if !ok || test {
			continue
		}
		switch top, _, _ := strings.Cut(dir, "/"); {
		case top == "schemas":
			if ours != "platform/contract" {
				t.Errorf("%s imports %s; contracts depend on nothing but package contract", file, ours)
			}
		case top == "services":
			other, isService := strings.CutPrefix(ours, "services/")
			mine := strings.Split(dir, "/")[1]
			if isService && mine != "shop" && strings.Split(other, "/")[0] != mine {
				t.Errorf("%s imports %s; services know each other's contracts only, in schemas", file, ours)
			}
			if strings.Contains(dir, "/internal/") && strings.HasPrefix(ours, "platform/") && ours != "platform/es" && ours != "platform/fault" {
				t.Errorf("%s imports %s; domain code is pure: es, fault and the schemas", file, ours)
			}
		default:
			owner := packageOf(dir)
			rule, ok := allowed[owner]
			if !ok {
				t.Errorf("%s: %s has no line in the import table", file, dir)
				return
			}
			target, isPlatform := strings.CutPrefix(packageOf(ours), "platform/")
			switch {
			case !isPlatform:
				t.Errorf("%s imports %s; the platform knows no service and no contract of one", file, ours)
			case packageOf(ours) == owner, slices.Contains(rule.imports, "*"), slices.Contains(rule.imports, target):
			default:
				t.Errorf("%s imports %s: %s", file, ours, rule.reason)
			}
		}
	}
}

// packageOf returns the line of the table that a folder belongs to: itself, or the package whose internal folder it is.
func packageOf(dir string) string {
	owner, _, _ := strings.Cut(dir, "/internal")
	return owner
}

func within(dir, p string) bool { return dir == p || strings.HasPrefix(dir, p+"/") }

// TestPackageComments fails on a package that does not say what it is for.
func TestPackageComments(t *testing.T) {
	root := ".."
	described := map[string]bool{}
	err := filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == ".git" || d.Name() == "node_modules" || d.Name() == "testdata") {
			return fs.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.PackageClauseOnly|parser.ParseComments)
		if err != nil {
			return err
		}
		dir := filepath.Dir(file)
		described[dir] = described[dir] || f.Doc != nil
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range slices.Sorted(maps.Keys(described)) {
		if !described[dir] {
			t.Errorf("%s has no package comment", dir)
		}
	}
	if _, err := os.Stat(filepath.Join(root, "go.work")); err != nil {
		t.Fatal("the workspace is not where this test looks for it:", err)
	}
}
