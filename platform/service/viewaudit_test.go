package service

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/millrace/millrace/platform/es"
)

// TestViewAudit finds rows that depend on more than their events, and none else.
func TestViewAudit(t *testing.T) {
	var calls atomic.Int64
	impure := es.View[balance, accountEvent]{
		Name: "impure", Version: 1,
		Key:   func(e es.Envelope[accountEvent]) (string, bool) { return string(e.Stream), true },
		Apply: func(balance, es.Envelope[accountEvent]) balance { return balance{Balance: calls.Add(1)} },
	}
	views := balances("accounts")
	views.Views = append(views.Views, ViewOf(accounts("accounts").Contract, impure))
	r := launch(t, App{Roles: []Role{accounts("accounts"), views}})
	for n := range 5 {
		at := r.send("POST", fmt.Sprintf("/v1/accounts/a-%d/pay-in", n), `{"amount":1}`).want(t, 200, nil).header.Get("Millrace-Position")
		for _, view := range []string{"accounts", "impure"} {
			r.send("GET", fmt.Sprintf("/v1/views/%s/a-%d", view, n), "", "Millrace-At-Least: "+at).want(t, 200, nil)
		}
	}
	var log bytes.Buffer
	a := viewAudit{engine: r.host.engine(t, "accounts"), share: 1, logger: slog.New(slog.NewTextHandler(&log, nil)), metrics: r.host.metrics}
	for view, differing := range map[string]float64{"accounts": 0, "impure": 5} {
		a.audit(t.Context(), view)
		if got := testutil.ToFloat64(r.host.metrics.audited.WithLabelValues(view)); got != 5 {
			t.Errorf("%s: %g rows were audited, want 5", view, got)
		}
		if got := testutil.ToFloat64(r.host.metrics.differing.WithLabelValues(view)); got != differing {
			t.Errorf("%s: %g rows differ, want %g", view, got, differing)
		}
	}
	if got := log.String(); strings.Count(got, "level=ERROR") != 1 || !strings.Contains(got, "view=impure") || !strings.Contains(got, "first=a-0") {
		t.Errorf("the log says %q", got)
	}
}
