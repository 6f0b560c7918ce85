package rest

import (
	"context"
	"net/http"
	"time"

	"github.com/millrace/millrace/platform/fault"
)

// checkTime is how long one readiness check may take.
const checkTime = time.Second

// A CheckResult is the outcome of one check in a Health.
type CheckResult struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail,omitempty"`
}

// A Health is the body of /livez?verbose and /readyz?verbose.
type Health struct {
	Status string        `json:"status"`
	Checks []CheckResult `json:"checks"`
}

// health adds /livez, which answers as long as the process can answer at all, and /readyz, which asks the checks.
func (s *Server) health() {
	s.Handle(http.MethodGet, "/livez", func(_ context.Context, r *Request) (*Response, error) {
		q, err := r.Only("verbose")
		if err != nil {
			return nil, err
		}
		if q.Has("verbose") {
			return JSON(http.StatusOK, Health{Status: "live", Checks: []CheckResult{}}), nil
		}
		return &Response{Body: []byte("live\n"), ContentType: typeText[0]}, nil
	})
	s.Handle(http.MethodGet, "/readyz", func(ctx context.Context, r *Request) (*Response, error) {
		q, err := r.Only("verbose")
		if err != nil {
			return nil, err
		}
		report, problem := s.ready(ctx)
		if q.Has("verbose") {
			if problem != nil {
				return JSON(Status(problem), report).Set("Retry-After", "1"), nil
			}
			return JSON(http.StatusOK, report), nil
		}
		if problem != nil {
			return nil, problem
		}
		return &Response{Body: []byte("ready\n"), ContentType: typeText[0]}, nil
	})
}

// ready asks every check, so that a report names all that is missing and not only the first.
func (s *Server) ready(ctx context.Context) (Health, error) {
	report := Health{Status: "ready", Checks: make([]CheckResult, 0, len(s.o.Checks)+1)}
	failed := ""
	add := func(name string, err error) {
		c := CheckResult{Name: name, OK: err == nil}
		if err != nil {
			c.Detail = "failed"
			if e := fault.From(err); e != nil && e.Kind != fault.Internal {
				c.Detail = e.Error()
			} else {
				s.o.Logger.Error("a readiness check failed", "check", name, "error", err.Error())
			}
			if failed != "" {
				failed += "; "
			}
			failed += name + ": " + c.Detail
		}
		report.Checks = append(report.Checks, c)
	}
	if s.drained.Load() {
		add("serving", errDraining)
	}
	for _, c := range s.o.Checks {
		limit, cancel := context.WithTimeout(ctx, checkTime)
		err := c.Ready(limit)
		cancel()
		add(c.Name, err)
	}
	if failed == "" {
		return report, nil
	}
	report.Status = "not ready"
	return report, ErrNotReady.Because("%s", failed)
}

var errDraining = fault.New(fault.Unavailable, "draining", "the server is shutting down")
