package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/millrace/millrace/platform/audit"
	"github.com/millrace/millrace/platform/eventlog"
	"github.com/millrace/millrace/platform/fault"
	"github.com/millrace/millrace/platform/service"
)

// An auditRun is what the flags of an audit say.
type auditRun struct {
	topics         []string
	state, format  string
	rate, remember int
	follow         bool
}

func auditCommand() *cobra.Command {
	var r auditRun
	c := &cobra.Command{
		Use: "audit", Short: "Recompute from the log that what Millrace promises of it is true", Args: cobra.NoArgs,
		Long: "Go through the log record by record and check that every record is of the latest claim before it, that no offset is missing, that the versions of each stream are\n" +
			"1, 2, 3 … in the order of the log, that the events of a command are together, and that no command is there twice. Findings go to stdout with their positions, progress\n" +
			"to stderr; the exit status is 0 if nothing was found and 3 if something was. With --state, the next run goes on where this one ended.",
		Example: "  millrace audit --brokers 127.0.0.1:9092 --topic orders.events\n  millrace audit --state /var/lib/millrace/audit --rate 5000 --follow",
		RunE:    func(c *cobra.Command, _ []string) error { return r.run(c) },
	}
	f := c.Flags()
	f.String("kafka-brokers", "127.0.0.1:9092", "Kafka bootstrap servers, comma separated; --brokers for short (MILLRACE_KAFKA_BROKERS)")
	f.String("config", "", "YAML file with settings; default: ./millrace.yaml if there is one (MILLRACE_CONFIG)")
	f.SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		if name == "brokers" {
			name = "kafka-brokers"
		}
		return pflag.NormalizedName(name)
	})
	f.StringSliceVar(&r.topics, "topic", nil, "topic of events; may be given several times. Default: all whose names end in .events")
	f.StringVar(&r.state, "state", "", "file that keeps where the audit is and what it has to know, to go on there; default: begin at the start of the log")
	f.IntVar(&r.rate, "rate", 0, "records a second at most; 0 = as fast as possible")
	f.IntVar(&r.remember, "remember", 0, "of how many commands of a topic the ids are known, to find one that took effect twice; 0 = 1,000,000, for some 50 MB")
	f.BoolVar(&r.follow, "follow", false, "go on with what comes, until interrupted")
	f.StringVarP(&r.format, "output", "o", "text", "text; json: one object at the end; ndjson: one finding a line. Progress is then JSON, too")
	return c
}

func (r *auditRun) run(c *cobra.Command) error {
	if !slices.Contains([]string{"text", "json", "ndjson"}, r.format) {
		return service.ErrUsage.Because("-o %q is not text, json or ndjson", r.format)
	}
	if r.rate < 0 || r.remember < 0 {
		return service.ErrUsage.Because("--rate and --remember are not negative")
	}
	settings, err := service.LoadConfig(c.Flags(), os.Environ())
	if err != nil {
		return err
	}
	ctx := c.Context()
	// What readers drop is a finding; it need not be a line of the log, too.
	log, err := eventlog.Open(ctx, eventlog.Config{Brokers: settings.KafkaBrokers, ClientID: "millrace-audit"})
	if err != nil {
		return err
	}
	defer log.Close()
	if len(r.topics) == 0 {
		all, err := log.Topics(ctx)
		if err != nil {
			return err
		}
		r.topics = slices.DeleteFunc(all, func(name string) bool { return !strings.HasSuffix(name, ".events") })
		if len(r.topics) == 0 {
			return service.ErrUsage.Because("no topic ends in .events").WithFix("name the topics with --topic")
		}
	}
	talk := &sharedWriter{to: c.ErrOrStderr()}
	w := &auditWriter{format: r.format, out: c.OutOrStdout(), talk: talk, began: time.Now(), findings: []audit.Finding{}}
	a, err := audit.New(audit.Config{Log: log, Topics: r.topics, State: r.state, Rate: r.rate, Remember: r.remember, Report: w.finding,
		Logger: slog.New(slog.NewTextHandler(talk, &slog.HandlerOptions{Level: slog.LevelWarn}))})
	if err != nil {
		return err
	}
	w.earlier(a.Progress())
	err = w.watch(ctx, a, func() error {
		if r.follow {
			return a.Run(ctx)
		}
		return a.Once(ctx)
	})
	p := a.Progress()
	if err := errors.Join(w.failed, w.end(p, r.topics)); err != nil {
		return err
	}
	switch {
	case errors.Is(err, audit.ErrState): // whatever else there is
		return fault.From(err)
	case err != nil && !errors.Is(err, context.Canceled):
		return err
	case p.Findings > 0:
		return service.ErrFindings.Because("%d findings, the first at %s", p.Findings, p.First.Position).WithFix("docs/operations.md says what each code means and what to do")
	}
	return err
}

// A sharedWriter takes what several goroutines write, one after the other.
type sharedWriter struct {
	mu sync.Mutex
	to io.Writer
}

func (w *sharedWriter) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.to.Write(b)
}

// An auditWriter tells what an audit does.
type auditWriter struct {
	format   string
	out      io.Writer // findings
	talk     io.Writer // progress
	began    time.Time
	findings []audit.Finding // told, at most mostFindings
	found    int
	failed   error // of writing a finding
}

// mostFindings is how many findings are told one by one; a log can have as many as records.
const mostFindings = 1000

// finding tells one finding.
func (w *auditWriter) finding(f audit.Finding) {
	if w.found++; w.found > mostFindings {
		return
	}
	w.findings = append(w.findings, f)
	var err error
	switch w.format {
	case "text":
		_, err = fmt.Fprintln(w.out, f)
	case "ndjson":
		err = json.NewEncoder(w.out).Encode(f)
	}
	w.failed = errors.Join(w.failed, err)
}

// earlier tells what audits with the same state have found.
func (w *auditWriter) earlier(p audit.Progress) {
	if p.Earlier > 0 && w.format == "text" {
		fmt.Fprintf(w.talk, "earlier runs found %d, the first: %s\n", p.Earlier, p.Before)
	}
}

// watch tells the progress of work every 2 s.
func (w *auditWriter) watch(ctx context.Context, a *audit.Audit, work func() error) error {
	var telling sync.WaitGroup
	defer telling.Wait()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	telling.Go(func() {
		tick := time.NewTicker(2 * time.Second)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				w.progress(a.Progress())
			}
		}
	})
	return work()
}

// progress tells how far the audit is.
func (w *auditWriter) progress(p audit.Progress) {
	rate := float64(p.Records) / time.Since(w.began).Seconds()
	if w.format != "text" {
		_ = json.NewEncoder(w.talk).Encode(p) // talk only
		return
	}
	all := p.Records + p.Behind
	left := ""
	if p.Behind > 0 && rate > 0 {
		left = ", " + time.Duration(float64(p.Behind)/rate*float64(time.Second)).Round(time.Second).String() + " left"
	}
	fmt.Fprintf(w.talk, "record %d of %d (%.1f %%), %.0f records/s%s, %d findings\n", p.Records, all, 100*float64(p.Records)/float64(max(1, all)), rate, left, p.Findings)
}

// end tells the outcome.
func (w *auditWriter) end(p audit.Progress, topics []string) error {
	if w.format == "json" {
		e := json.NewEncoder(w.out)
		e.SetIndent("", "  ")
		return e.Encode(struct {
			Clean    bool            `json:"clean"`
			Topics   []string        `json:"topics"`
			Progress audit.Progress  `json:"progress"`
			Findings []audit.Finding `json:"findings"` // the first of them
		}{p.Findings == 0, topics, p, w.findings})
	}
	if w.format == "ndjson" {
		return json.NewEncoder(w.talk).Encode(p)
	}
	if n := w.found - len(w.findings); n > 0 {
		fmt.Fprintf(w.talk, "… and %d findings more\n", n)
	}
	behind := ""
	if p.Behind > 0 {
		behind = fmt.Sprintf(", %d are left", p.Behind)
	}
	_, err := fmt.Fprintf(w.talk, "%d records of %s were judged in %s%s; %d streams are known; %d findings\n", p.Records, strings.Join(topics, ", "), time.Since(w.began).Round(time.Millisecond), behind, p.Streams, p.Findings)
	return err
}
