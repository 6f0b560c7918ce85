package service

import (
	"errors"
	"log/slog"
	"net/http"
	"net/http/pprof"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/millrace/millrace/platform/command"
	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/eventlog"
	"github.com/millrace/millrace/platform/fault"
	"github.com/millrace/millrace/platform/forward"
	"github.com/millrace/millrace/platform/projection"
	"github.com/millrace/millrace/platform/rest"
)

// metrics are the figures of one process. Labels never hold ids or keys.
type metrics struct {
	registry  *prometheus.Registry
	commands  *prometheus.HistogramVec // by aggregate, command and outcome
	counted   *prometheus.CounterVec   // by the same
	appended  *prometheus.CounterVec   // by topic and event type
	views     viewMetrics
	audited   *prometheus.CounterVec
	differing *prometheus.CounterVec
	fences    *prometheus.CounterVec   // by topic and reason
	rogue     *prometheus.CounterVec   // by topic
	resends   *prometheus.CounterVec   // by topic
	passed    *prometheus.HistogramVec // by outcome
	setbacks  *prometheus.CounterVec   // by projector and range
}

func newMetrics(views *viewSet) *metrics {
	m := &metrics{
		views:    viewMetrics{views},
		registry: prometheus.NewRegistry(),
		commands: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "millrace_command_duration_seconds", Help: "From a command's arrival to its answer.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5},
		}, []string{"aggregate", "command", "outcome"}),
		appended: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "millrace_events_appended_total", Help: "Events of commands that were acknowledged.",
		}, []string{"topic", "event_type"}),
	}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	m.counted = counter("millrace_commands_total", "Commands that were answered.", "aggregate", "command", "outcome")
	m.fences = counter("millrace_fences_total", "Partitions that this process lost.", "topic", "reason")
	m.rogue = counter("millrace_rogue_records_total", "Records that no owner wrote, dropped: somebody else writes the topic.", "topic")
	m.resends = counter("millrace_append_resends_total", "Batches sent again because an answer was lost or meant to wait.", "topic")
	m.setbacks = counter("millrace_range_failures_total", "Times that a range of divided views could not be taken, or not be removed when it was given up.", "projector", "range")
	m.passed = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "millrace_forward_duration_seconds", Help: "Of requests that another instance answered, from sending to the answer.",
		Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5},
	}, []string{"outcome"})
	build := prometheus.NewGauge(prometheus.GaugeOpts{Name: "millrace_build_info", Help: "1, with the version as a label.", ConstLabels: prometheus.Labels{"version": Version}})
	build.Set(1)
	m.audited, m.differing = newAudited(), newDiffering()
	m.registry.MustRegister(m.commands, m.audited, m.differing, m.counted, m.appended, &m.views, m.fences, m.rogue, m.resends, m.passed, m.setbacks, build, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// watch lets the log count what should not happen.
func (m *metrics) watch(c eventlog.Config) eventlog.Config {
	c.OnLost = func(at es.TopicPartition, reason error) {
		code := "unknown"
		if e := fault.From(reason); e != nil {
			code = e.Code
		}
		m.fences.WithLabelValues(at.Topic, code).Inc()
	}
	c.OnResend = func(at es.TopicPartition, _ error) { m.resends.WithLabelValues(at.Topic).Inc() }
	c.OnRogue = func(at es.Position, _ int64, _ int16) { m.rogue.WithLabelValues(at.Topic).Inc() }
	return c
}

// forwarded counts a request that another instance was to answer.
func (m *metrics) forwarded(_ string, _ int, err error, took time.Duration) {
	outcome := "answered"
	switch {
	case err != nil && forward.Unsent(err):
		outcome = "unsent"
	case err != nil:
		outcome = "unknown"
	}
	m.passed.WithLabelValues(outcome).Observe(took.Seconds())
}

// decided counts one command, unless it was not for this instance to decide.
func (m *metrics) decided(aggregate, name string, began time.Time, r command.Receipt, err error) {
	if errors.Is(err, command.ErrElsewhere) || errors.Is(err, command.ErrMoved) {
		return
	}
	o := outcome(r, err)
	m.commands.WithLabelValues(aggregate, name, o).Observe(time.Since(began).Seconds())
	m.counted.WithLabelValues(aggregate, name, o).Inc()
	if err == nil && !r.Replayed {
		for _, e := range r.Events {
			m.appended.WithLabelValues(r.Position.Topic, e.Type).Inc()
		}
	}
}

func outcome(r command.Receipt, err error) string {
	switch {
	case err == nil && r.Replayed:
		return "duplicate"
	case err == nil:
		return "accepted"
	case errors.Is(err, command.ErrVersion):
		return "conflict"
	case fault.KindOf(err).Retryable(), fault.KindOf(err) == fault.Internal:
		return "error"
	}
	return "rejected"
}

// viewMetrics reports the state of the projectors' views when it is asked.
type viewMetrics struct{ *viewSet }

var (
	viewLabels  = []string{"view", "topic", "partition"}
	lagRecords  = prometheus.NewDesc("millrace_view_lag_records", "Records of the log that the view has not applied.", viewLabels, nil)
	lagSeconds  = prometheus.NewDesc("millrace_view_lag_seconds", "Age of the oldest record that the view has not applied.", viewLabels, nil)
	viewLetters = prometheus.NewDesc("millrace_dead_letters", "Events that the view keeps as dead letters.", []string{"view"}, nil)
	// Of every build, that which answers queries and those beside it.
	buildProgress = prometheus.NewDesc("millrace_view_rebuild_progress_ratio", "How much of the log a build of the view has applied, 0 to 1.", []string{"view", "build"}, nil)
	buildBytes    = prometheus.NewDesc("millrace_store_size_bytes", "What a build of the view takes on the disk.", []string{"view", "build"}, nil)
	viewRunning   = prometheus.NewDesc("millrace_view_state", "1 for the state that the view is in.", []string{"view", "state"}, nil)
)

func (v *viewMetrics) Describe(d chan<- *prometheus.Desc) {
	d <- lagRecords
	d <- lagSeconds
	d <- viewRunning
	d <- viewLetters
	d <- buildProgress
	d <- buildBytes
}

func (v *viewMetrics) Collect(m chan<- prometheus.Metric) {
	_ = v.each(func(name string, o operated) error {
		if st, err := o.status(name); err == nil {
			collectView(&st, m)
		}
		return nil
	})
}

// states are those that millrace_view_state tells apart.
var states = []string{projection.Building, projection.Running, projection.Halted, projection.Stalled, projection.Paused, projection.Frozen}

func collectView(s *projection.ViewStatus, m chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		m <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	for i, b := range s.Builds {
		gauge(buildProgress, b.Progress, s.Name, b.ID)
		gauge(buildBytes, float64(b.Bytes), s.Name, b.ID)
		if i > 0 {
			continue // the others are for those who ask for them
		}
		for _, state := range states {
			on := 0.0
			if b.State == state {
				on = 1
			}
			gauge(viewRunning, on, s.Name, state)
		}
		gauge(viewLetters, float64(b.Letters), s.Name)
		for _, p := range b.Partitions {
			partition := strconv.Itoa(int(p.Partition))
			gauge(lagRecords, float64(max(0, p.End-p.Next)), s.Name, p.Topic, partition)
			gauge(lagSeconds, p.Lag.Seconds(), s.Name, p.Topic, partition)
		}
	}
}

// newAdmin returns the server of metrics and profiles, which are not for the public.
func newAdmin(logger *slog.Logger, m *metrics) *rest.Server {
	s := rest.NewServer(rest.Options{Logger: logger, WriteTimeout: 5 * time.Minute}) // a profile takes its time
	s.Mount("/metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{}))
	profiles := http.NewServeMux()
	profiles.HandleFunc("/debug/pprof/", pprof.Index)
	profiles.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	profiles.HandleFunc("/debug/pprof/profile", pprof.Profile)
	profiles.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	profiles.HandleFunc("/debug/pprof/trace", pprof.Trace)
	s.Mount("/debug/pprof/", profiles)
	return s
}
