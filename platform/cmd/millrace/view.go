package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/millrace/millrace/platform/projection"
	"github.com/millrace/millrace/platform/service"
)

func viewCommand() *cobra.Command {
	c := &cobra.Command{Use: "view", Short: "Operate views and query them", Args: cobra.NoArgs, RunE: group,
		Example: "  millrace view ls\n  millrace view rebuild orders --wait\n  millrace view verify orders && millrace view switch orders\n  millrace view get orders o-1 --explain"}
	adminFlag(c)
	c.AddCommand(viewListCommand(), viewDescribeCommand(), viewRangesCommand(), viewRebuildCommand(), viewVerifyCommand(), viewSwitchCommand(), viewRollbackCommand(),
		viewPauseCommand(), viewResumeCommand(), viewResetCommand(), viewDropCommand(), viewWaitCommand(), viewGetCommand(), viewScanCommand(), viewWatchCommand(), viewBackupCommand(), viewStoreCommand())
	return c
}

// group is what a command that only holds others does: it says which.
func group(c *cobra.Command, _ []string) error {
	var names []string
	for _, sub := range c.Commands() {
		if sub.IsAvailableCommand() {
			names = append(names, sub.Name())
		}
	}
	return service.ErrUsage.Because("%s needs a command", c.CommandPath()).WithFix("one of %s; %s --help", strings.Join(names, ", "), c.CommandPath())
}

// A viewState is a view as one instance has it.
type viewState struct {
	Instance string `json:"instance"`
	projection.ViewStatus
}

// statuses asks all instances for their views.
func statuses(c *cobra.Command) ([]viewState, error) {
	all, err := admins(c)
	if err != nil {
		return nil, err
	}
	var out []viewState
	err = everywhere(c, all, func(i *instance) error {
		var got struct {
			Views []projection.ViewStatus `json:"views"`
		}
		if err := i.call(c.Context(), http.MethodGet, "/v1/views", nil, nil, &got); err != nil {
			return err
		}
		for _, v := range got.Views {
			out = append(out, viewState{i.base.String(), v})
		}
		return nil
	})
	return out, err
}

func status(ctx context.Context, i *instance, view string) (v projection.ViewStatus, err error) {
	err = i.call(ctx, http.MethodGet, viewPath(view), nil, nil, &v)
	return v, err
}

// viewPath returns the path of a view, or of what is below it.
func viewPath(view string, below ...string) string {
	path := "/v1/views/" + url.PathEscape(view)
	for _, step := range below {
		path += "/" + url.PathEscape(step)
	}
	return path
}

// hostOf names the instance of a line of a table.
func hostOf(base string) string {
	_, host, _ := strings.Cut(base, "://")
	return host
}

// role says what a build is for.
func role(v *projection.ViewStatus, b *projection.BuildStatus) string {
	switch {
	case b.ID == v.Live:
		return "live"
	case b.ID == v.Previous:
		return "previous"
	}
	return "beside"
}

func viewListCommand() *cobra.Command {
	var o output
	c := &cobra.Command{
		Use: "ls [VIEW]", Aliases: []string{"list"}, Short: "List the views with their builds: which one answers queries, and how far each is", Args: cobra.MaximumNArgs(1),
		Example: "  millrace view ls\n  millrace view ls orders --admin-url http://10.0.0.1:9090,http://10.0.0.2:9090 -o json",
		RunE: func(c *cobra.Command, args []string) error {
			if err := o.check(); err != nil {
				return err
			}
			if len(args) > 0 {
				return showView(c, o, args[0], writeViews, writeRangeTable)
			}
			all, err := statuses(c)
			if len(all) > 0 || err == nil {
				if e := writeViews(c, o, all); e != nil {
					return e
				}
			}
			return err
		},
	}
	o.flag(c)
	return c
}

// showView shows how a view is, as a whole or divided.
func showView(c *cobra.Command, o output, view string, whole func(*cobra.Command, output, []viewState) error, divided func(*cobra.Command, *spot, []viewState)) error {
	s, err := spotOf(c, view)
	if err != nil {
		return err
	}
	all, err := s.states(c)
	if len(all) > 0 {
		e := error(nil)
		if s.ranges == 0 {
			e = whole(c, o, all)
		} else if done, failed := o.json(c.OutOrStdout(), viewsAnswer{all}); done {
			e = failed
		} else {
			divided(c, s, all)
		}
		if e != nil {
			return e
		}
	}
	return s.whole(err)
}

// A viewsAnswer is what ls and describe write as JSON.
type viewsAnswer struct {
	Views []viewState `json:"views"`
}

func writeViews(c *cobra.Command, o output, all []viewState) error {
	if done, err := o.json(c.OutOrStdout(), viewsAnswer{append([]viewState{}, all...)}); done {
		return err
	}
	t := table{head: []string{"VIEW", "BUILD", "ROLE", "STATE", ">PROGRESS", ">LAG-RECORDS", ">LAG", ">RATE/S", ">PARTITIONS", ">DLQ", ">SIZE"}}
	several := slices.ContainsFunc(all, func(v viewState) bool { return v.Instance != all[0].Instance })
	if several {
		t.head = append([]string{"INSTANCE"}, t.head...)
	}
	for _, v := range all {
		for _, b := range v.Builds {
			done, total := partitionsDone(&b)
			cells := []string{v.Name, b.ID, role(&v.ViewStatus, &b), b.State, percent(b.Progress), count(b.Records), seconds(b.LagSeconds), count(int64(b.Rate)),
				fmt.Sprintf("%d/%d", done, total), count(int64(b.Letters)), size(b.Bytes)}
			if several {
				cells = append([]string{hostOf(v.Instance)}, cells...)
			}
			t.add(cells...)
		}
	}
	t.write(c.OutOrStdout())
	for _, v := range all {
		for _, b := range v.Builds {
			if b.Why != "" {
				fmt.Fprintf(c.ErrOrStderr(), "%s %s is %s: %s\n", v.Name, b.ID, b.State, b.Why)
			}
		}
	}
	return nil
}

// rangesTable returns a table of the builds of the ranges of a divided view.
func rangesTable() table {
	return table{head: []string{"RANGE", "INSTANCE", "BUILD", "ROLE", "STATE", "", ">PROGRESS", ">LAG-RECORDS", ">RATE/S", ">ETA", ">DLQ", ">SIZE"}}
}

// rangeCells returns a row of it.
func rangeCells(name, base, role string, b *projection.BuildStatus) []string {
	eta := ""
	if b.ETASeconds > 0 {
		eta = seconds(b.ETASeconds)
	}
	return []string{name, hostOf(base), b.ID, role, b.State, bar(b.Progress, rangeBar), percent(b.Progress), count(b.Records), count(int64(b.Rate)), eta, count(int64(b.Letters)), size(b.Bytes)}
}

// writeRangeTable writes the builds of all ranges at all instances.
func writeRangeTable(c *cobra.Command, s *spot, all []viewState) {
	t := rangesTable()
	for _, v := range all {
		for _, b := range v.Builds {
			t.add(rangeCells(v.Name, v.Instance, role(&v.ViewStatus, &b), &b)...)
		}
	}
	t.write(c.OutOrStdout())
	for _, v := range all {
		for _, b := range v.Builds {
			if b.Why != "" {
				fmt.Fprintf(c.ErrOrStderr(), "%s at %s, build %s is %s: %s\n", v.Name, hostOf(v.Instance), b.ID, b.State, b.Why)
			}
		}
	}
	for _, a := range s.seen {
		a.failures(c)
	}
}

// describeRanges says what is known of a divided view as a whole, and of its ranges.
func describeRanges(c *cobra.Command, s *spot, all []viewState) {
	w := c.OutOrStdout()
	answers := "not all of it can be read"
	for _, a := range s.seen {
		if len(a.Ranges) > 0 && a.Ranges[0].Version != nil {
			answers = fmt.Sprintf("answers are of version %d", *a.Ranges[0].Version)
		}
	}
	paused := 0
	for _, v := range all {
		if v.Paused {
			paused++
		}
	}
	fmt.Fprintf(w, "%s is divided into %s ranges, at %s instances: %s", s.view, count(int64(s.ranges)), count(int64(len(s.seen))), answers)
	if paused > 0 {
		fmt.Fprintf(w, "; %s of %s copies are paused", count(int64(paused)), count(int64(len(all))))
	}
	fmt.Fprint(w, "\n\n")
	writeRangeTable(c, s, all)
}

func viewDescribeCommand() *cobra.Command {
	var o output
	c := &cobra.Command{
		Use: "describe VIEW", Short: "Say all that is known of a view: its builds, and how far each is in each partition", Args: cobra.ExactArgs(1),
		Long: "Say all that is known of a view: its builds, and how far each is in each partition. Of a view that is divided, all its ranges at all instances that are named, in one table; of a\n" +
			"range, such as orders.0, all that is known.",
		Example: "  millrace view describe orders\n  millrace view describe orders.0",
		RunE: func(c *cobra.Command, args []string) error {
			if err := o.check(); err != nil {
				return err
			}
			return showView(c, o, args[0], describeViews, describeRanges)
		},
	}
	o.flag(c)
	return c
}

func describeViews(c *cobra.Command, o output, all []viewState) error {
	if done, err := o.json(c.OutOrStdout(), viewsAnswer{all}); done {
		return err
	}
	w := c.OutOrStdout()
	for n, v := range all {
		if n > 0 {
			fmt.Fprintln(w)
		}
		paused := ""
		if v.Paused {
			paused = ", paused"
		}
		fmt.Fprintf(w, "%s at %s: %s answers queries%s\n", v.Name, hostOf(v.Instance), v.Live, paused)
		for _, b := range v.Builds {
			describeBuild(c, &v.ViewStatus, &b)
		}
	}
	return nil
}

func describeBuild(c *cobra.Command, v *projection.ViewStatus, b *projection.BuildStatus) {
	w := c.OutOrStdout()
	fmt.Fprintf(w, "\nbuild %s: %s, %s, begun %s, %s\n", b.ID, role(v, b), b.State, b.Created.UTC().Format("2006-01-02T15:04:05Z"), size(b.Bytes))
	field := func(name, text string) {
		if text != "" {
			fmt.Fprintf(w, "  %-13s %s\n", name, text)
		}
	}
	field("why", b.Why)
	field("topics", strings.Join(b.Topics, ", "))
	field("indexes", strings.Join(b.Indexes, ", "))
	field("progress", fmt.Sprintf("%s, %s records behind, %s/s", percent(b.Progress), count(b.Records), count(int64(b.Rate))))
	if b.ETASeconds > 0 {
		field("caught up in", seconds(b.ETASeconds))
	}
	field("lag", seconds(b.LagSeconds))
	field("dead letters", count(int64(b.Letters)))
	t := table{head: []string{"  PARTITION", ">NEXT", ">END", ">LAG-RECORDS", ">LAG", "STATE"}}
	for _, at := range b.Partitions {
		t.add("  "+partitionName(&at), count(at.Next), count(at.End), count(max(at.End-at.Next, 0)), seconds(at.Seconds), at.State)
	}
	t.write(w)
	for _, at := range b.Partitions {
		if at.HaltedAt != nil {
			fmt.Fprintf(w, "  %s halted at %s: %s\n", partitionName(&at), at.HaltedAt, at.Reason)
		}
	}
}
