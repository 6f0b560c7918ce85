package service

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"gopkg.in/yaml.v3"

	"github.com/millrace/millrace/platform/estest/openapi"
	"github.com/millrace/millrace/platform/forward"
)

// TestOpenAPI: the document is valid OpenAPI 3.1 and has exactly the routes that there are; the same process described again gives the
// same bytes, and the YAML says what the JSON says.
func TestOpenAPI(t *testing.T) {
	r := launch(t, App{Short: "A bank", Roles: []Role{accounts("accounts"), accounts("other-accounts"), balances("balances")}, Authenticate: keys})
	text := r.send("GET", "/openapi.json", "").want(t, http.StatusOK, nil).body
	d, err := openapi.Parse(t.Context(), []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	var routes []string
	for _, route := range r.host.http.Routes() {
		if strings.HasPrefix(route.Pattern, forward.Path) {
			continue // for instances of the service only
		}
		if route.Method != http.MethodHead && route.Pattern != "/v1/accounts/:id/:command" && route.Pattern != "/v1/other-accounts/:id/:command" {
			routes = append(routes, route.Method+" "+template(route.Pattern))
		}
	}
	slices.Sort(routes)
	if diff := cmp.Diff(routes, d.Operations()); diff != "" {
		t.Errorf("(-routes +document):\n%s", diff)
	}
	again, err := r.host.openAPI()
	if err != nil || string(again) != text {
		t.Errorf("another text the second time (%v)", err)
	}
	var fromYAML, fromJSON any
	if err := yaml.Unmarshal([]byte(r.send("GET", "/openapi.yaml", "").want(t, http.StatusOK, nil).body), &fromYAML); err != nil {
		t.Fatal(err)
	}
	plain, err := json.Marshal(fromYAML)
	if err != nil {
		t.Fatal(err)
	}
	var back any
	if err := errors.Join(json.Unmarshal(plain, &back), json.Unmarshal([]byte(text), &fromJSON)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(fromJSON, back); diff != "" {
		t.Errorf("(-JSON +YAML):\n%s", diff)
	}
}
