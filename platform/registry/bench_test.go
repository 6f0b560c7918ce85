package registry

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/millrace/millrace/platform/contract"
)

// Requests per second over HTTP on loopback, the embedded broker below it.
func BenchmarkRegistry(b *testing.B) {
	i := start(b, broker(b, "").Addr(), "one")
	url := i.url
	do(b, "PUT", url+"/config", `{"compatibility":"NONE"}`)
	register(b, url, "s", recordSchema("R", "a"))
	var n atomic.Int64
	b.Run("schema by id", func(b *testing.B) {
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if status, got, _ := do(b, "GET", url+"/schemas/ids/1", ""); status != 200 {
					b.Error(status, got)
				}
			}
		})
	})
	b.Run("schema by id, without HTTP", func(b *testing.B) {
		b.ReportAllocs()
		h, r := i.Handler(), request("GET", "/schemas/ids/1")
		for b.Loop() {
			var w capture
			h.ServeHTTP(&w, r)
		}
	})
	b.Run("register known", func(b *testing.B) {
		request := body(recordSchema("R", "a"))
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if status, got, _ := do(b, "POST", url+"/subjects/s/versions", request); status != 200 {
					b.Error(status, got)
				}
			}
		})
	})
	b.Run("register new", func(b *testing.B) {
		for b.Loop() {
			register(b, url, fmt.Sprintf("s%d", n.Load()%100), recordSchema("R", fmt.Sprintf("f%d", n.Add(1))))
		}
	})
	b.Run("register new, 16 at once", func(b *testing.B) {
		b.SetParallelism(8) // for each of GOMAXPROCS
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				i := n.Add(1)
				register(b, url, fmt.Sprintf("s%d", i%100), recordSchema("R", fmt.Sprintf("f%d", i)))
			}
		})
	})
	b.Run("client, cached id", func(b *testing.B) {
		c := dial(b, ClientConfig{URLs: []string{url}})
		var r contract.Resolver = c
		for b.Loop() {
			if _, err := r.SchemaByID(b.Context(), 1); err != nil {
				b.Fatal(err)
			}
		}
	})
}
