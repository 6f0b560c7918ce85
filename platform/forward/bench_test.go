package forward

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// BenchmarkDo forwards a command's request to a handler that echoes its body, over loopback, with so many callers at once; both sides are in
// this process, and cpu-ns/op is the processor time of both. net/http does the same with its own client, pool and server.
func BenchmarkDo(b *testing.B) {
	for _, callers := range []int{1, 64, 512} {
		b.Run(fmt.Sprintf("forward/callers=%d", callers), func(b *testing.B) {
			_, addr := serving(b, echo, ServerOptions{})
			p := pool(b, PoolOptions{})
			ctx, cancel := context.WithTimeout(b.Context(), time.Hour)
			defer cancel()
			callersDo(b, callers, func() error {
				resp, err := p.Do(ctx, addr, place())
				if err == nil && resp.Status != http.StatusOK {
					err = fmt.Errorf("status %d", resp.Status)
				}
				return err
			})
		})
		b.Run(fmt.Sprintf("nethttp/callers=%d", callers), func(b *testing.B) {
			_, addr := serving(b, echo, ServerOptions{})
			transport := &http.Transport{MaxIdleConnsPerHost: callers, MaxConnsPerHost: callers}
			defer transport.CloseIdleConnections()
			client := &http.Client{Transport: transport}
			ctx, cancel := context.WithTimeout(b.Context(), time.Hour)
			defer cancel()
			callersDo(b, callers, func() error {
				r := place()
				req, err := http.NewRequestWithContext(ctx, r.Method, "http://"+addr+r.Target, bytes.NewReader(r.Body))
				if err != nil {
					return err
				}
				for _, f := range r.Header {
					req.Header[f.Name] = []string{f.Value}
				}
				resp, err := client.Do(req)
				if err != nil {
					return err
				}
				defer resp.Body.Close()
				if _, err := io.ReadAll(resp.Body); err != nil {
					return err
				}
				if resp.StatusCode != http.StatusOK {
					return fmt.Errorf("status %d", resp.StatusCode)
				}
				return nil
			})
		})
	}
}

// callersDo lets n callers share b.N calls.
func callersDo(b *testing.B, n int, do func() error) {
	if err := do(); err != nil {
		b.Fatal(err)
	}
	var left atomic.Int64
	left.Store(int64(b.N))
	var callers sync.WaitGroup
	b.ReportAllocs()
	b.ResetTimer()
	before := cpu(b)
	for range n {
		callers.Go(func() {
			for left.Add(-1) >= 0 {
				if err := do(); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	callers.Wait()
	b.StopTimer()
	b.ReportMetric(float64(cpu(b)-before)/float64(b.N), "cpu-ns/op")
}

// cpu returns the processor time that this process has used.
func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
