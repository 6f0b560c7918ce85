package service

import (
	"fmt"
	"io"
	"net/http"
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
