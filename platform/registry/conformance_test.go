package registry

import (
	"context"
	"os"
	"os/exec"
	"slices"
	"testing"

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

// The official Python client, its Avro serializer and deserializer included. MILLRACE_TEST_PYTHON names an interpreter that has
// confluent-kafka[avro,schemaregistry].
func TestPythonClient(t *testing.T) {
	python := os.Getenv("MILLRACE_TEST_PYTHON")
	if python == "" {
		t.Skip("MILLRACE_TEST_PYTHON is not set")
	}
	url := start(t, broker(t, "").Addr(), "one").url
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out, err := exec.CommandContext(ctx, python, "testdata/conformance.py", url).CombinedOutput()
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
			url := start(t, broker(t, "").Addr(), "one").url
			cmd := exec.CommandContext(t.Context(), "node", "testdata/js/"+suite, url)
			cmd.Env = append(os.Environ(), "NODE_PATH="+folder)
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			t.Logf("%s", out)
		})
	}
}
