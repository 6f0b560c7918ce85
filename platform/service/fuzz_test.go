package service

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/millrace/millrace/platform/rest"
)

// FuzzBatch: whatever is sent, the answer is a problem, or a result for each command; and nothing is decided unless all is understood.
func FuzzBatch(f *testing.F) {
	f.Add(`{"commands":[{"aggregate":"accounts","id":"a","command":"pay-in","data":{"amount":1}}]}`, "k")
	f.Add(`{"commands":[{"aggregate":"accounts","id":"a","command":"take-out","command_id":"x","expected_version":3}]}`, `"k"`)
	f.Add(`{"commands":[{"aggregate":"ships","id":"a/b"},{}]}`, "")
	f.Add(`{"commands":[{"data":[[[[[[[`, "k")
	f.Fuzz(func(t *testing.T, body, key string) {
		h := newHost(App{Name: "bank"}, Config{}, slog.New(slog.DiscardHandler))
		decided := make(chan struct{}, MaxBatch)
		b := accounts("accounts").batched(nil)
		b.do = func(_ context.Context, e *entry) (*rest.Response, error) {
			if _, ok := e.payload.(accountCommand); !ok || e.id == "" || e.stream == "" {
				t.Errorf("decided: %+v", e)
			}
			decided <- struct{}{}
			return &rest.Response{Status: http.StatusOK, Body: []byte("{}\n")}, nil
		}
		h.batch("accounts", b)
		r := httptest.NewRequest(http.MethodPost, "/v1/batch", strings.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		r.Header["Idempotency-Key"] = []string{key}
		w := httptest.NewRecorder()
		h.http.ServeHTTP(w, r)
		switch w.Code {
		case http.StatusOK:
			var got batchReply
			if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || len(got.Results) == 0 || len(got.Results) != len(decided) {
				t.Errorf("%v, %d decided: %s", err, len(decided), w.Body)
			}
		case http.StatusBadRequest, http.StatusRequestEntityTooLarge:
			if w.Header().Get("Content-Type") != "application/problem+json" || len(decided) > 0 {
				t.Errorf("%d decided, %s", len(decided), w.Body)
			}
		default:
			t.Errorf("status %d: %s", w.Code, w.Body)
		}
	})
}
