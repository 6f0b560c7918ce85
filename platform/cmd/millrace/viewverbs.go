package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace/millrace/platform/fault"
	"github.com/millrace/millrace/platform/projection"
	"github.com/millrace/millrace/platform/service"
)

// errDiffers is returned by verify for builds of which some rows differ.
var errDiffers = fault.New(fault.Rejected, "verify_differs", "the builds do not have the same rows")

// A result is what a verb did to a view at one instance.
type result struct {
	Instance string `json:"instance"`
	View     string `json:"view"`
	Build    string `json:"build,omitempty"`
	State    string `json:"state"` // of the build, or what was done with it
}

// results gathers what was done at several sites.
type results struct {
	o     output
	c     *cobra.Command
	all   []any
	aside error // why there was nothing to do at a site, which matters if there was nothing to do anywhere
}

// add notes what was done at a site, and says it: format goes on after the view's name.
func (r *results) add(p *site, v any, format string, args ...any) {
	r.all = append(r.all, v)
	if r.o == "text" {
		fmt.Fprintln(r.c.OutOrStdout(), p.title()+fmt.Sprintf(format, args...))
	}
}

// do has a site do something that answers with a build, and says so in the words of format, which takes the build.
func (r *results) do(p *site, what string, body any, state, format string) error {
	var a struct {
		Build string `json:"build"`
	}
	if err := p.call(r.c.Context(), http.MethodPost, viewPath(p.view, what), nil, body, &a); err != nil {
		return err
	}
	r.add(p, result{p.base.String(), p.view, a.Build, state}, format, a.Build)
	return nil
}

// state has a site do something that answers with the view's state.
func (r *results) state(p *site, what, done string) error {
	var v projection.ViewStatus
	if err := p.call(r.c.Context(), http.MethodPost, viewPath(p.view, what), nil, nil, &v); err != nil {
		return err
	}
	out := result{Instance: p.base.String(), View: p.view, Build: v.Live, State: done}
	if len(v.Builds) > 0 {
		out.State = v.Builds[0].State
	}
	r.add(p, out, " is %s", done)
	return nil
}

// end writes the results as JSON, if that is asked for, and returns err.
func (r *results) end(err error) error {
	if err == nil && len(r.all) == 0 {
		err = r.aside
	}
	if len(r.all) == 0 && err != nil {
		return err
	}
	if _, e := r.o.json(r.c.OutOrStdout(), map[string]any{"results": append([]any{}, r.all...)}); e != nil {
		return e
	}
	return err
}

// verb makes a command that changes something at each site. If the view is divided, all of it has to be there.
func verb(c *cobra.Command, do func(c *cobra.Command, args []string, r *results, p *site) error) *cobra.Command {
	return verbAt(c, func(c *cobra.Command, args []string, r *results, s *spot) error {
		if s.part != nil {
			return s.part
		}
		return everywhere(c, s.sites, func(p *site) error { return do(c, args, r, p) })
	})
}

// verbAt makes a command that does something at all sites together.
func verbAt(c *cobra.Command, do func(c *cobra.Command, args []string, r *results, s *spot) error) *cobra.Command {
	var o output
	c.RunE = func(c *cobra.Command, args []string) error {
		if err := o.check(); err != nil {
			return err
		}
		s, err := spotOf(c, args[0])
		if err != nil {
			return err
		}
		r := &results{o: o, c: c}
		return r.end(do(c, args, r, s))
	}
	o.flag(c)
	return c
}

// A rebuildAnswer is what the admin address says of a rebuild.
type rebuildAnswer struct {
	Instance string  `json:"instance"`
	View     string  `json:"view"`
	Build    string  `json:"build,omitempty"`
	Version  int     `json:"version"`
	Events   int64   `json:"events"`
	Bytes    int64   `json:"bytes"`
	Free     int64   `json:"free_bytes"`
	Rate     float64 `json:"rate,omitempty"`
	Seconds  float64 `json:"seconds,omitempty"`
	State    string  `json:"state,omitempty"` // once it was waited for
}

// plan says what the rebuild takes.
func (a *rebuildAnswer) plan() string {
	text := fmt.Sprintf("%s records are read with version %d of %s into a new build", count(a.Events), a.Version, a.View)
	if a.Seconds > 0 {
		text += ", in about " + seconds(a.Seconds)
	}
	return text + fmt.Sprintf("; it takes about %s, %s are free", size(a.Bytes), size(a.Free))
}

func viewRebuildCommand() *cobra.Command {
	var o output
	var version, rate int
	var until, at string
	var change, force, dry, wait bool
	c := &cobra.Command{
		Use: "rebuild VIEW", Short: "Build a view anew from the log, beside the build that answers queries", Args: cobra.ExactArgs(1),
		Long: "Begin another build of a view from the beginning of the log, with the newest version of its code unless --version names another one. The build that answers queries\n" +
			"goes on doing so; --switch has the new one take over by itself when it has caught up. With --until or --at the build ends there: the view as it was then.",
		Example: "  millrace view rebuild orders --dry-run\n  millrace view rebuild orders --rate 20000 --wait\n  millrace view rebuild sales --at 2026-01-31T00:00:00Z --wait",
	}
	c.RunE = func(c *cobra.Command, args []string) error {
		body := map[string]any{"version": version, "rate": rate, "switch": change, "force": force, "dry_run": dry}
		switch {
		case until != "" && at != "":
			return service.ErrUsage.Because("--until and --at are two ends")
		case version < 0 || rate < 0:
			return service.ErrUsage.Because("--version and --rate are not negative")
		case until != "":
			body["until"] = until
		case at != "":
			t, err := time.Parse(time.RFC3339Nano, at)
			if err != nil {
				return service.ErrUsage.Because("--at %q is no time as in 2026-01-31T12:00:00Z", at)
			}
			body["at"] = t
		}
		if err := o.check(); err != nil {
			return err
		}
		s, err := spotOf(c, args[0])
		switch {
		case err != nil:
			return err
		case s.part != nil:
			return s.part
		}
		r := &results{o: o, c: c}
		begun := map[*site]*rebuildAnswer{}
		err = everywhere(c, s.sites, func(p *site) error {
			a := &rebuildAnswer{Instance: p.base.String(), View: p.view}
			if err := p.call(c.Context(), http.MethodPost, viewPath(p.view, "rebuild"), nil, body, a); err != nil {
				return err
			}
			if dry {
				r.all = append(r.all, a)
				if o == "text" {
					fmt.Fprintln(c.OutOrStdout(), p.before(a.plan()))
				}
				return nil
			}
			begun[p] = a
			r.add(p, a, ": build %s is begun", a.Build)
			if o == "text" {
				fmt.Fprintln(c.ErrOrStderr(), p.before(a.plan()))
			}
			return nil
		})
		if err == nil && wait && !dry {
			all := make([]*waiter, len(s.sites))
			for n, p := range s.sites {
				all[n] = &waiter{site: p, build: begun[p].Build, live: change}
			}
			err = waitAll(c, s, all, o, func(w *waiter, b *projection.BuildStatus) {
				begun[w.site].State = b.State
				if o == "text" {
					fmt.Fprintf(c.OutOrStdout(), "%s: build %s is %s\n", w.title(), b.ID, reachedAs(b, change))
				}
			})
		}
		return r.end(err)
	}
	o.flag(c)
	f := c.Flags()
	f.IntVar(&version, "version", 0, "version of the view's code; 0 = the newest that the process has")
	f.IntVar(&rate, "rate", 0, "events a second at most while it is behind; 0 = what the processors have room for, a third of one at most")
	f.StringVar(&until, "until", "", "positions to end at, comma separated; partitions that are not named are left empty")
	f.StringVar(&at, "at", "", "time to end at: events appended before, RFC 3339")
	f.BoolVar(&change, "switch", false, "have it answer queries as soon as it has caught up")
	f.BoolVar(&force, "force", false, "begin it though there seems to be too little room on the disk")
	f.BoolVar(&dry, "dry-run", false, "only say what it would take")
	f.BoolVar(&wait, "wait", false, "wait until it has caught up, and show how far it is")
	return c
}

// reachedAs says what a build that was waited for is.
func reachedAs(b *projection.BuildStatus, live bool) string {
	switch {
	case live:
		return "caught up, and answers queries"
	case b.State == projection.Complete:
		return "complete"
	}
	return "caught up"
}

// A verifyAnswer is what the admin address says of a comparison, with what differs in each row.
type verifyAnswer struct {
	Instance string `json:"instance"`
	projection.Report
	Applied string        `json:"applied"`
	Equal   bool          `json:"equal"`
	Rows    []verifiedRow `json:"rows_that_differ"`
}

type verifiedRow struct {
	Key     string          `json:"key"`
	A       json.RawMessage `json:"a"`
	B       json.RawMessage `json:"b"`
	Changes []fieldChange   `json:"changes,omitempty"` // of a row that both have
}

func (r *verifiedRow) has(text json.RawMessage) bool { return len(text) > 0 && string(text) != "null" }

func viewVerifyCommand() *cobra.Command {
	var build string
	var fresh bool
	var rate int
	c := verbAt(&cobra.Command{
		Use: "verify VIEW", Short: "Compare two builds of a view row by row, at the same positions", Args: cobra.ExactArgs(1),
		Long: "Compare the build that answers queries with another one (the newest, unless --build names one), or with a fresh fold of the log that is removed afterwards, row by row and both\n" +
			"at exactly the same positions. Queries and events go on meanwhile. The exit status is 0 if all rows are the same, and 3 if not: then each row (the first 50) is shown field by\n" +
			"field, what the build that answers has → what the other one has.",
		Example: "  millrace view verify orders\n  millrace view verify orders --fresh --rate 50000",
	}, func(c *cobra.Command, _ []string, r *results, s *spot) error {
		if build != "" && fresh {
			return service.ErrUsage.Because("--build and --fresh are two things to compare with")
		}
		body := map[string]any{"build": build, "fresh": fresh, "rate": rate}
		return s.whole(everywhere(c, s.sites, func(p *site) error { return verifyAt(c, r, p, body, fresh) }))
	})
	c.Flags().StringVar(&build, "build", "", "build to compare with; default: the newest one beside that which answers queries")
	c.Flags().BoolVar(&fresh, "fresh", false, "compare with a fresh fold of the log by the same code instead")
	c.Flags().IntVar(&rate, "rate", 0, "events a second at most for the fresh fold; 0 = what the processors have room for, a third of one at most")
	return c
}

// verifyAt compares the builds of one site.
func verifyAt(c *cobra.Command, r *results, p *site, body any, fresh bool) error {
	a := verifyAnswer{Instance: p.base.String()}
	err := p.call(c.Context(), http.MethodPost, viewPath(p.view, "verify"), nil, body, &a)
	if err != nil {
		return err
	}
	a.View = p.view // there it is called as a whole
	for n := range a.Rows {
		row := &a.Rows[n]
		if row.has(row.A) && row.has(row.B) {
			if row.Changes, err = changes(row.A, row.B); err != nil {
				return errAnswer.Because("the row %q is no JSON", row.Key).Wrap(err)
			}
		}
	}
	other := a.B
	if fresh {
		other = "a fresh fold"
	}
	r.add(p, a, ": %s, which answers queries, and %s", a.A, other)
	if r.o == "text" {
		fmt.Fprintf(c.ErrOrStderr(), "both at %s\n", a.Applied)
		writeVerified(c, &a, other)
	}
	if !a.Equal {
		return unmet{errDiffers.Because("%s: %s of %s rows differ", p.view, count(int64(a.Different+a.OnlyA+a.OnlyB)), count(int64(a.Report.Rows+a.OnlyB))).
			WithFix("if the code was changed to do that, switch: millrace view switch %s; if not, look at the rows with millrace view get %s KEY --explain", p.view, p.whole())}
	}
	return nil
}

func writeVerified(c *cobra.Command, a *verifyAnswer, other string) {
	w := c.OutOrStdout()
	fmt.Fprintf(w, "%s rows: %s the same, %s different, %s only in %s, %s only in %s\n", count(int64(a.Report.Rows+a.OnlyB)), count(int64(a.Same)), count(int64(a.Different)),
		count(int64(a.OnlyA)), a.A, count(int64(a.OnlyB)), other)
	for _, row := range a.Rows {
		switch {
		case !row.has(row.B):
			fmt.Fprintf(w, "%s  only in %s: %s\n", row.Key, a.A, clipped(row.A))
		case !row.has(row.A):
			fmt.Fprintf(w, "%s  only in %s: %s\n", row.Key, other, clipped(row.B))
		case len(row.Changes) == 0:
			fmt.Fprintf(w, "%s  the same values, written differently\n", row.Key)
		default:
			fmt.Fprintf(w, "%s\n", row.Key)
			writeChanges(w, row.Changes)
		}
	}
	if more := a.Different + a.OnlyA + a.OnlyB - len(a.Rows); more > 0 {
		fmt.Fprintf(w, "… and %s rows more\n", count(int64(more)))
	}
	if a.LettersA+a.LettersB > 0 {
		fmt.Fprintf(c.ErrOrStderr(), "events that are in no row, for they are dead letters: %s in %s, %s in %s\n", count(int64(a.LettersA)), a.A, count(int64(a.LettersB)), other)
	}
}

func viewSwitchCommand() *cobra.Command {
	var force bool
	c := verbAt(&cobra.Command{
		Use: "switch VIEW [BUILD]", Short: "Have another build answer queries, all from one moment on", Args: cobra.RangeArgs(1, 2),
		Long: "Have another build answer queries: the newest one beside the one that does, or the one that is named. It must have caught up, unless --force is set. The one that answered\n" +
			"before is kept up to date: millrace view rollback goes back to it. If the view is divided, this is done with the newest build of the newest version in each range, unless one\n" +
			"answers already, and with nothing if a range has none that is ready at any instance. Answers are of the version before until all ranges have another one.",
		Example: "  millrace view switch orders\n  millrace view switch orders v2-1",
	}, func(c *cobra.Command, args []string, r *results, s *spot) error {
		name := ""
		if len(args) > 1 {
			name = args[1]
		}
		if s.ranges > 0 {
			return s.switchTo(c, r, "switch", s.newest(name, force), func(build string) any { return map[string]any{"build": build, "force": force} }, "answers queries")
		}
		return everywhere(c, s.sites, func(p *site) error {
			body := map[string]any{"force": force}
			if name != "" {
				body["build"] = name
			}
			return r.do(p, "switch", body, "live", ": build %s answers queries")
		})
	})
	c.Flags().BoolVar(&force, "force", false, "though it has not caught up, has halted, or has an end")
	return c
}

func viewRollbackCommand() *cobra.Command {
	return verbAt(&cobra.Command{
		Use: "rollback VIEW", Short: "Have the build that answered queries before do so again", Args: cobra.ExactArgs(1), Example: "  millrace view rollback orders",
	}, func(c *cobra.Command, _ []string, r *results, s *spot) error {
		if s.ranges > 0 {
			return s.switchTo(c, r, "rollback", s.before(), func(string) any { return nil }, "answers queries again")
		}
		return everywhere(c, s.sites, func(p *site) error {
			return r.do(p, "rollback", nil, "live", ": build %s answers queries again")
		})
	})
}

func viewPauseCommand() *cobra.Command {
	return verb(&cobra.Command{
		Use: "pause VIEW", Short: "Stop keeping a view up to date, over restarts too; queries are answered from what it has", Args: cobra.ExactArgs(1), Example: "  millrace view pause orders",
	}, func(_ *cobra.Command, _ []string, r *results, p *site) error {
		return r.state(p, "pause", "paused")
	})
}

func viewResumeCommand() *cobra.Command {
	return verb(&cobra.Command{
		Use: "resume VIEW", Short: "Go on after a pause; what has halted is tried again", Args: cobra.ExactArgs(1), Example: "  millrace view resume orders",
	}, func(_ *cobra.Command, _ []string, r *results, p *site) error {
		return r.state(p, "resume", "kept up to date again")
	})
}

func viewResetCommand() *cobra.Command {
	var plan plan
	c := verbAt(&cobra.Command{
		Use: "reset VIEW", Short: "Remove all builds of a view and build it anew in place; queries see it grow", Args: cobra.ExactArgs(1),
		Long: "Remove all builds of a view and begin a new one that answers queries at once, however far it is. Use rebuild, verify and switch if queries are to go on meanwhile. Dead letters\n" +
			"go with their builds; events that still cannot be handled become dead letters again.",
		Example: "  millrace view reset orders --dry-run\n  millrace view reset orders --yes",
	}, func(c *cobra.Command, _ []string, r *results, s *spot) error {
		return s.planned(c, &plan, func(p *site) (string, error) {
			v, err := status(c.Context(), p.instance, p.view)
			if err != nil {
				return "", err
			}
			text, letters := "", 0
			for n, b := range v.Builds {
				if n > 0 {
					text += ", "
				}
				text += fmt.Sprintf("%s (%s, %s)", b.ID, role(&v, &b), size(b.Bytes))
				letters += b.Letters
			}
			text = fmt.Sprintf("%s: all builds are removed: %s; queries are answered from an empty one until the log is read again", p.view, text)
			if letters > 0 {
				text += fmt.Sprintf("; %s dead letters go with them", count(int64(letters)))
			}
			return text, nil
		}, func(p *site) error {
			return r.do(p, "reset", nil, "live", ": build %s is begun and answers queries")
		})
	})
	plan.flags(c)
	return c
}

func viewDropCommand() *cobra.Command {
	var plan plan
	c := verbAt(&cobra.Command{
		Use: "drop VIEW BUILD", Short: "Remove a build that does not answer queries, from the disk too", Args: cobra.ExactArgs(2), Example: "  millrace view drop orders v1-1 --yes",
	}, func(c *cobra.Command, args []string, r *results, s *spot) error {
		build := args[1]
		return s.planned(c, &plan, func(p *site) (string, error) {
			v, err := status(c.Context(), p.instance, p.view)
			if err != nil {
				return "", err
			}
			n := slices.IndexFunc(v.Builds, func(b projection.BuildStatus) bool { return b.ID == build })
			switch {
			case n < 0:
				return "", projection.ErrBuildNotFound.Because("view %s, build %s", p.view, build).WithFix("millrace view describe %s lists them", p.view)
			case build == v.Live:
				return "", projection.ErrBuild.Because("build %s of %s answers queries", build, p.view).WithFix("switch to another one first: millrace view switch %s", p.view)
			}
			text := fmt.Sprintf("%s: build %s is removed (%s, %s, %s)", p.view, build, role(&v, &v.Builds[n]), v.Builds[n].State, size(v.Builds[n].Bytes))
			if build == v.Previous {
				text += "; there is nothing to roll back to any more"
			}
			return text, nil
		}, func(p *site) error {
			if err := p.call(c.Context(), http.MethodDelete, viewPath(p.view, "builds", build), nil, nil, nil); err != nil {
				return err
			}
			r.add(p, result{p.base.String(), p.view, build, "removed"}, ": build %s is removed", build)
			return nil
		})
	})
	plan.flags(c)
	return c
}
