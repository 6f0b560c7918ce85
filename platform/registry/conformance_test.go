package registry

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/riferrei/srclient"
	"github.com/twmb/franz-go/pkg/sr"
)

// franz-go's client, which calls nearly every route, gets the answers that it expects.
func TestFranzClient(t *testing.T) {
	url := start(t, broker(t, "").Addr(), "one").url
	cl, err := sr.NewClient(sr.URLs(url))
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	types, err := cl.SupportedTypes(ctx)
	must(err)
	contexts, err := cl.Contexts(ctx)
	must(err)
	if len(types) != 1 || types[0] != sr.TypeAvro || !slices.Equal(contexts, []string{"."}) {
		t.Errorf("types %v, contexts %v", types, contexts)
	}
	a, b := sr.Schema{Schema: recordSchema("R", "a")}, sr.Schema{Schema: recordSchema("R", "a", "b=0"), SchemaMetadata: &sr.SchemaMetadata{Properties: map[string]string{"owner": "shop"}}}
	one, err := cl.CreateSchema(ctx, "s/1", a)
	must(err)
	two, err := cl.CreateSchema(ctx, "s/1", b)
	must(err)
	if one.ID != 1 || one.Version != 1 || two.ID != 2 || two.Version != 2 || two.SchemaMetadata == nil || two.SchemaMetadata.Properties["owner"] != "shop" {
		t.Errorf("created %+v and %+v", one, two)
	}
	id, err := cl.RegisterSchema(ctx, "s/1", a, -1, -1)
	must(err)
	found, err := cl.LookupSchema(ctx, "s/1", b)
	must(err)
	byID, err := cl.SchemaByID(ctx, 1)
	must(err)
	text, err := cl.SchemaTextByID(ctx, 1)
	must(err)
	if id != 1 || found.Version != 2 || byID.Schema != a.Schema || text != a.Schema {
		t.Errorf("got id %d, %+v, %+v, %s", id, found, byID, text)
	}
	byGUID, err := cl.SchemaByGUID(ctx, one.GUID)
	must(err)
	ids, err := cl.SchemaIDsByGUID(ctx, one.GUID)
	must(err)
	if byGUID.Schema.Schema != a.Schema || len(ids) != 1 || ids[0].ID != 1 {
		t.Errorf("by GUID: %+v, %+v", byGUID, ids)
	}
	subjects, err := cl.SubjectsByID(ctx, 2)
	must(err)
	usages, err := cl.SchemaVersionsByID(ctx, 2)
	must(err)
	versions, err := cl.SubjectVersions(ctx, "s/1")
	must(err)
	latest, err := cl.SchemaByVersion(ctx, "s/1", -1)
	must(err)
	textByVersion, err := cl.SchemaTextByVersion(ctx, "s/1", 1)
	must(err)
	all, err := cl.AllSchemas(ctx)
	must(err)
	if !slices.Equal(subjects, []string{"s/1"}) || len(usages) != 1 || usages[0].Version != 2 || !slices.Equal(versions, []int{1, 2}) || latest.ID != 2 || textByVersion != a.Schema || len(all) != 2 {
		t.Errorf("got %v %v %v %+v %s %v", subjects, usages, versions, latest, textByVersion, all)
	}
	check, err := cl.CheckCompatibility(sr.WithParams(ctx, sr.Verbose), "s/1", -1, sr.Schema{Schema: recordSchema("R", "z")})
	must(err)
	if check.Is || len(check.Messages) == 0 {
		t.Errorf("compatibility: %+v", check)
	}
	if _, err := cl.CreateSchema(ctx, "s/1", sr.Schema{Schema: recordSchema("R", "z")}); err == nil {
		t.Error("an incompatible schema was created")
	}
	for _, r := range cl.SetCompatibility(ctx, sr.SetCompatibility{Level: sr.CompatNone}, "s/1") {
		must(r.Err)
	}
	for _, r := range cl.Compatibility(ctx, "s/1") {
		if must(r.Err); r.Level != sr.CompatNone {
			t.Errorf("level %v", r.Level)
		}
	}
	if global := cl.Compatibility(ctx); len(global) != 1 || global[0].Level != sr.CompatFullTransitive {
		t.Errorf("global level %+v", global)
	}
	for _, r := range cl.ResetCompatibility(ctx, "s/1") {
		must(r.Err)
	}
	for _, r := range cl.SetMode(ctx, sr.ModeReadOnly, "s/1") {
		must(r.Err)
	}
	for _, r := range cl.Mode(ctx, "s/1") {
		if must(r.Err); r.Mode != sr.ModeReadOnly {
			t.Errorf("mode %v", r.Mode)
		}
	}
	for _, r := range cl.ResetMode(ctx, "s/1") {
		must(r.Err)
	}
	must(cl.DeleteSchema(ctx, "s/1", 2, sr.SoftDelete))
	must(cl.DeleteSchema(ctx, "s/1", 2, sr.HardDelete))
	deleted, err := cl.DeleteSubject(ctx, "s/1", sr.SoftDelete)
	must(err)
	if !slices.Equal(deleted, []int{1}) {
		t.Errorf("deleted %v", deleted)
	}
	withDeleted, err := cl.Subjects(sr.WithParams(ctx, sr.ShowDeleted))
	must(err)
	if _, err = cl.DeleteSubject(ctx, "s/1", sr.HardDelete); err != nil {
		t.Error(err)
	}
	left, err := cl.Subjects(sr.WithParams(ctx, sr.ShowDeleted))
	must(err)
	if !slices.Equal(withDeleted, []string{"s/1"}) || len(left) != 0 {
		t.Errorf("subjects %v, then %v", withDeleted, left)
	}
}

// targets starts what the foreign suites are run against, and returns their arguments: the URL of an open registry, that of one which
// asks for credentials, and a key for it.
func targets(t *testing.T) []string {
	t.Helper()
	key, entry := NewKey(ScopeWrite, time.Time{})
	path := filepath.Join(t.TempDir(), "auth.yaml")
	writeAuth(t, path, "keys:\n"+indent(entry), time.Now())
	auth, err := LoadAuth(path, true)
	if err != nil {
		t.Fatal(err)
	}
	open := start(t, broker(t, "").Addr(), "open")
	closed := startWith(t, broker(t, "").Addr(), "closed", ServerConfig{Auth: auth})
	return []string{open.url, closed.url, key}
}

// The official Python client, its Avro serializer and deserializer included. MILLRACE_TEST_PYTHON names an interpreter that has
// confluent-kafka[avro,schemaregistry].
func TestPythonClient(t *testing.T) {
	python := os.Getenv("MILLRACE_TEST_PYTHON")
	if python == "" {
		t.Skip("MILLRACE_TEST_PYTHON is not set")
	}
	out, err := exec.CommandContext(t.Context(), python, append([]string{"testdata/conformance.py"}, targets(t)...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
}

// The two clients for JavaScript in use: Confluent's own and the one of KafkaJS, serializers and deserializers included.
// MILLRACE_TEST_NODE names a folder with a node_modules that has both.
func TestJavaScriptClients(t *testing.T) {
	folder := os.Getenv("MILLRACE_TEST_NODE")
	if folder == "" {
		t.Skip("MILLRACE_TEST_NODE is not set")
	}
	for _, suite := range []string{"confluent.mjs", "kafkajs.mjs"} {
		t.Run(suite, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), "node", append([]string{"testdata/js/" + suite}, targets(t)...)...)
			cmd.Env = append(os.Environ(), "NODE_PATH="+folder)
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			t.Logf("%s", out)
		})
	}
}

// What TestFranzClient leaves out: contexts, references, metadata, imports, deletion of contexts.
func TestFranzClientRest(t *testing.T) {
	url := start(t, broker(t, "").Addr(), "one").url
	cl, err := sr.NewClient(sr.URLs(url))
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	money, err := cl.CreateSchema(ctx, "money", sr.Schema{Schema: moneySchema})
	must(err)
	order, err := cl.CreateSchema(ctx, "order", sr.Schema{Schema: orderSchema, References: []sr.SchemaReference{{Name: "shop.v1.Money", Subject: "money", Version: 1}},
		SchemaRuleSet: &sr.SchemaRuleSet{DomainRules: []sr.SchemaRule{{Name: "r", Kind: sr.SchemaRuleKindCondition, Mode: sr.SchemaRuleModeWrite, Type: "CEL", Expr: "true"}}}})
	must(err)
	users, err := cl.SchemaReferences(ctx, "money", 1)
	must(err)
	usages, err := cl.SchemaUsagesByID(ctx, order.ID)
	must(err)
	if len(users) != 1 || users[0].ID != order.ID || len(usages) != 1 || usages[0].Subject != "order" || order.SchemaRuleSet == nil || order.SchemaRuleSet.DomainRules[0].Expr != "true" {
		t.Errorf("got %+v, %+v, %+v", users, usages, order)
	}
	if err := cl.DeleteSchema(ctx, "money", 1, sr.SoftDelete); !isCode(err, codeReferenced) {
		t.Errorf("delete of what is referred to: %v", err)
	}
	resolved, err := cl.SchemaByID(sr.WithParams(ctx, sr.Format("resolved")), order.ID)
	must(err)
	if len(resolved.References) != 0 || resolved.Schema == orderSchema {
		t.Errorf("resolved: %+v", resolved)
	}

	there := sr.InContext(ctx, ".staging")
	inContext, err := cl.CreateSchema(there, "s", sr.Schema{Schema: `"int"`})
	must(err)
	byID, err := cl.SchemaByID(there, inContext.ID)
	must(err)
	contexts, err := cl.Contexts(ctx)
	must(err)
	subjects, err := cl.Subjects(there)
	must(err)
	if inContext.ID != 1 || byID.Schema != `"int"` || !slices.Equal(contexts, []string{".", ".staging"}) || !slices.Equal(subjects, []string{":.staging:s"}) || money.ID != 1 {
		t.Errorf("got %+v, %+v, %v, %v", inContext, byID, contexts, subjects)
	}
	for _, r := range cl.SetMode(there, sr.ModeImport, "i") {
		must(r.Err)
	}
	imported, err := cl.CreateSchemaWithIDAndVersion(there, "i", sr.Schema{Schema: `"long"`}, 77, 5)
	must(err)
	if imported.ID != 77 || imported.Version != 5 {
		t.Errorf("imported %+v", imported)
	}
	if err := cl.DeleteContext(ctx, ".staging"); !isCode(err, codeContextNotEmpty) {
		t.Errorf("delete of a context with subjects: %v", err)
	}
	for _, subject := range []string{"s", "i"} {
		for _, how := range []sr.DeleteHow{sr.SoftDelete, sr.HardDelete} {
			_, err := cl.DeleteSubject(there, subject, how)
			must(err)
		}
	}
	must(cl.DeleteContext(ctx, ".staging"))
}

func isCode(err error, code int) bool {
	var e *sr.ResponseError
	return errors.As(err, &e) && e.ErrorCode == code
}

// srclient by itself, as others use it.
func TestSrclient(t *testing.T) {
	url := start(t, broker(t, "").Addr(), "one").url
	cl := srclient.NewSchemaRegistryClient(url)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	money, err := cl.CreateSchema("a/money", moneySchema, srclient.Avro)
	must(err)
	order, err := cl.CreateSchema("order", orderSchema, srclient.Avro, srclient.Reference{Name: "shop.v1.Money", Subject: "a/money", Version: 1})
	must(err)
	cl = srclient.NewSchemaRegistryClient(url)
	byID, err := cl.GetSchema(order.ID())
	must(err)
	byVersion, err := cl.GetSchemaByVersion("a/money", 1)
	must(err)
	latest, err := cl.GetLatestSchema("order")
	must(err)
	found, err := cl.LookupSchema("order", orderSchema, srclient.Avro, srclient.Reference{Name: "shop.v1.Money", Subject: "a/money", Version: 1})
	must(err)
	subjects, err := cl.GetSubjects()
	must(err)
	versions, err := cl.GetSchemaVersions("order")
	must(err)
	if byID.Schema() != orderSchema || len(byID.References()) != 1 || byVersion.ID() != money.ID() || latest.Version() != 1 || found.ID() != order.ID() || !slices.Equal(subjects, []string{"a/money", "order"}) || !slices.Equal(versions, []int{1}) {
		t.Errorf("got %+v, %+v, %+v, %+v, %v, %v", byID, byVersion, latest, found, subjects, versions)
	}
	usages, err := cl.GetSubjectVersionsById(order.ID())
	must(err)
	if len(usages) != 1 {
		t.Errorf("usages %v", usages)
	}
	fits, err := cl.IsSchemaCompatible("a/money", `"int"`, "latest", srclient.Avro)
	must(err)
	if fits {
		t.Error("another type is compatible")
	}
	level, err := cl.GetGlobalCompatibilityLevel()
	must(err)
	set, err := cl.ChangeSubjectCompatibilityLevel("order", srclient.None)
	must(err)
	own, err := cl.GetCompatibilityLevel("order", true)
	must(err)
	if *level != "FULL_TRANSITIVE" || *set != srclient.None || *own != srclient.None {
		t.Errorf("levels %v, %v, %v", *level, *set, *own)
	}
	must(cl.DeleteSubject("order", false))
	deleted, err := cl.GetSubjectsIncludingDeleted()
	must(err)
	if !slices.Equal(deleted, []string{"a/money", "order"}) {
		t.Errorf("subjects with the deleted ones: %v", deleted)
	}
	if _, err := cl.GetLatestSchema("nobody"); err == nil {
		t.Error("a subject that is not there has a newest schema")
	}
	register(t, url, "order2", `"int"`)
	must(cl.DeleteSubject("order2", true)) // softly first, then for good
	if status, got, _ := do(t, "DELETE", url+"/subjects/order?permanent=true", ""); status != 200 {
		t.Error(got)
	}
	must(cl.DeleteSubjectByVersion("a/money", 1, true))
}
