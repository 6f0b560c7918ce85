package service

import (
	"context"
	"net/http"

	"github.com/millrace/millrace/platform/rest"
)

// A ContractsAnswer is what GET /v1/contracts answers on the address for metrics: the schemas that the roles of this process write and read
// events with. `millrace contract breaking --against-readers` asks for it before a change.
type ContractsAnswer struct {
	App   string          `json:"app"`
	Roles []RoleContracts `json:"roles"`
}

// RoleContracts are the contracts of one role.
type RoleContracts struct {
	Role      string         `json:"role"`
	Writes    bool           `json:"writes"` // whether it appends such events, beside reading them
	Contracts []RoleContract `json:"contracts"`
}

// A RoleContract is one event type with the text that the role was built with.
type RoleContract struct {
	Subject string `json:"subject"`
	Schema  string `json:"schema"`
}

// contractsHandler answers GET /v1/contracts.
func contractsHandler(app string, roles []Role) rest.Handler {
	answer := ContractsAnswer{App: app, Roles: []RoleContracts{}}
	for _, r := range roles {
		_, reads := r.(Projector)
		of := RoleContracts{Role: r.role(), Writes: !reads && len(r.contracts()) > 0, Contracts: []RoleContract{}}
		seen := map[string]bool{}
		for _, s := range r.contracts() {
			if !seen[s.Name] {
				of.Contracts = append(of.Contracts, RoleContract{s.Name, s.Schema})
			}
			seen[s.Name] = true
		}
		answer.Roles = append(answer.Roles, of)
	}
	return func(_ context.Context, r *rest.Request) (*rest.Response, error) {
		if _, err := r.Only(); err != nil {
			return nil, err
		}
		return rest.JSON(http.StatusOK, answer), nil
	}
}
