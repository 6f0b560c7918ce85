package rest

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/labstack/echo/v4"
)

type sink struct{ h http.Header }

func (s *sink) Header() http.Header         { return s.h }
func (s *sink) Write(p []byte) (int, error) { return len(p), nil }
func (s *sink) WriteHeader(int)             { clear(s.h) }

// The same body decoded and the same answer given, by a Server and by a bare Echo handler; connections left out.
func BenchmarkHandler(b *testing.B) {
	type answer struct {
		ID      string `json:"id"`
		Version int64  `json:"version"`
	}
	s := NewServer(Options{})
	s.Handle("POST", "/v1/orders/:id/place", func(_ context.Context, r *Request) (*Response, error) {
		var p place
		if err := r.JSON(&p); err != nil {
			return nil, err
		}
		return JSON(200, answer{r.Param("id"), int64(len(p.Lines))}), nil
	})
	bare := echo.New()
	bare.POST("/v1/orders/:id/place", func(c echo.Context) error {
		var p place
		if err := json.NewDecoder(c.Request().Body).Decode(&p); err != nil {
			return err
		}
		return c.JSON(200, answer{c.Param("id"), int64(len(p.Lines))})
	})
	for name, h := range map[string]http.Handler{"rest": s, "echo": bare} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			w := &sink{h: http.Header{}}
			body := strings.NewReader(goodPlace)
			req := httptest.NewRequest(http.MethodPost, "/v1/orders/o-1/place", body)
			req.Header.Set("Content-Type", "application/json")
			for b.Loop() {
				body.Reset(goodPlace)
				h.ServeHTTP(w, req)
			}
		})
	}
}
