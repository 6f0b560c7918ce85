package service

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace/millrace/platform/contract"
	"github.com/millrace/millrace/platform/rest"
)

// writer is a role that is no projector.
type writer struct{ subjects []contract.Subject }

func (writer) role() string                       { return "things" }
func (w writer) contracts() []contract.Subject    { return w.subjects }
func (writer) check() error                       { return nil }
func (writer) start(context.Context, *host) error { return nil }

// TestContracts: a process tells which schemas it writes and reads with, each once for a role.
func TestContracts(t *testing.T) {
	a, b := contract.Subject{Name: "t-A", Schema: "{a}"}, contract.Subject{Name: "t-B", Schema: "{b}"}
	roles := []Role{writer{[]contract.Subject{a, b}}, Projector{Name: "views", Views: []View{{subjects: []contract.Subject{a}}, {subjects: []contract.Subject{a}}}}, registryRole{}}
	s := rest.NewServer(rest.Options{})
	s.Handle(http.MethodGet, "/v1/contracts", contractsHandler("shop", roles))
	w := httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/v1/contracts", nil))
	var got ContractsAnswer
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || w.Code != http.StatusOK {
		t.Fatalf("status %d, %v: %s", w.Code, err, w.Body)
	}
	want := ContractsAnswer{App: "shop", Roles: []RoleContracts{
		{Role: "things", Writes: true, Contracts: []RoleContract{{"t-A", "{a}"}, {"t-B", "{b}"}}},
		{Role: "views", Contracts: []RoleContract{{"t-A", "{a}"}}},
		{Role: "registry", Contracts: []RoleContract{}},
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	w = httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/v1/contracts?x=1", nil))
	if w.Code != http.StatusBadRequest {
		t.Errorf("an unknown parameter: status %d", w.Code)
	}
}
