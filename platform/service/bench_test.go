package service

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// BenchmarkBatch sends batches for as many streams as they have commands, over HTTP to an embedded broker; one at a time.
func BenchmarkBatch(b *testing.B) {
	r := launch(b, App{Roles: []Role{accounts("accounts")}})
	for _, n := range []int{1, 10, 100, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			run := 0
			for b.Loop() {
				run++
				var body strings.Builder
				body.WriteString(`{"commands":[`)
				for i := range n {
					if i > 0 {
						body.WriteByte(',')
					}
					fmt.Fprintf(&body, `{"aggregate":"accounts","id":"s-%d-%d","command":"pay-in","data":{"amount":1,"note":"%d"}}`, n, i, run)
				}
				body.WriteString("]}")
				resp, err := http.Post(r.at+"/v1/batch", "application/json", strings.NewReader(body.String()))
				if err != nil {
					b.Fatal(err)
				}
				text, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if err != nil || resp.StatusCode != http.StatusOK || strings.Count(string(text), `"status":200`) != n {
					b.Fatalf("%v %d: %.300s", err, resp.StatusCode, text)
				}
			}
			b.ReportMetric(float64(n*b.N)/b.Elapsed().Seconds(), "commands/s")
		})
	}
}

// BenchmarkQuery answers one row by key, without a network.
func BenchmarkQuery(b *testing.B) {
	r := launch(b, App{Roles: []Role{accounts("accounts"), balances("accounts")}})
	for i := range 200 {
		r.send("POST", fmt.Sprintf("/v1/accounts/a-%d/pay-in", i), `{"amount":1}`).want(b, 200, nil)
	}
	req := httptest.NewRequest(http.MethodGet, "/v1/views/accounts/a-7", nil)
	b.ReportAllocs()
	for b.Loop() {
		w := &nobody{header: http.Header{}}
		r.host.http.ServeHTTP(w, req)
		if w.status != http.StatusOK {
			b.Fatal(w.status)
		}
	}
}

// nobody takes an answer and does nothing with it.
type nobody struct {
	header http.Header
	status int
}

func (n *nobody) Header() http.Header         { return n.header }
func (n *nobody) WriteHeader(status int)      { n.status = status }
func (n *nobody) Write(p []byte) (int, error) { return len(p), nil }
