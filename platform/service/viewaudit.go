package service

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/millrace/millrace/platform/fault"
	"github.com/millrace/millrace/platform/projection"
)

// auditShare is the part of a view's rows that one audit folds anew: other ones each time.
const auditShare = 0.01

// A viewAudit folds samples of the rows of views anew from the log, all the time at a low rate, and tells which differ from what is served.
type viewAudit struct {
	engine   *projection.Projector
	views    []string
	share    float64       // of the rows
	interval time.Duration // between two rounds over all views
	rate     int           // events read per second
	logger   *slog.Logger
	metrics  *metrics
}

// run audits until ctx ends. What cannot be audited now, such as a view with dead letters, is left for the next round.
func (a *viewAudit) run(ctx context.Context) error {
	round := time.NewTimer(a.interval)
	defer round.Stop()
	for {
		select {
		case <-round.C:
		case <-ctx.Done():
			return nil
		}
		for _, view := range a.views {
			a.audit(ctx, view)
			if ctx.Err() != nil {
				return nil
			}
		}
		round.Reset(a.interval)
	}
}

func (a *viewAudit) audit(ctx context.Context, view string) {
	report, err := a.engine.VerifySample(ctx, view, a.share, rand.Uint64(), a.rate)
	switch {
	case ctx.Err() != nil:
	case errors.Is(err, projection.ErrBuild):
		a.logger.Debug("a view is not audited", "view", view, "reason", fault.Line(err))
	case err != nil:
		a.logger.Warn("a view could not be audited", "view", view, "error", fault.Line(err))
	default:
		a.metrics.audited.WithLabelValues(view).Add(float64(report.Rows))
		differ := report.Different + report.OnlyA + report.OnlyB
		a.metrics.differing.WithLabelValues(view).Add(float64(differ))
		if differ > 0 {
			first := report.Samples[0]
			a.logger.Error("rows of a view are not the fold of their events", "view", view, "build", report.A, "rows", differ, "of", report.Rows, "first", first.Key,
				"stored", string(rowOrNull(first.A)), "folded", string(rowOrNull(first.B)), "positions", report.Applied.String(),
				"fix", "millrace view rebuild "+view+"; if the difference comes back, the view's code depends on more than its events")
		}
	}
}

func newAudited() *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "millrace_view_audited_rows_total", Help: "Rows that were folded anew from the log and compared."}, []string{"view"})
}

func newDiffering() *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "millrace_view_differing_rows_total", Help: "Rows that an audit found not to be the fold of their events."}, []string{"view"})
}
