package main

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/fault"
	"github.com/millrace/millrace/platform/projection"
	"github.com/millrace/millrace/platform/service"
)

// errRetried is returned when some dead letters failed again.
var errRetried = fault.New(fault.Rejected, "letters_failed", "dead letters failed again")

func dlqCommand() *cobra.Command {
	c := &cobra.Command{Use: "dlq", Short: "Deal with dead letters: events that a view could not handle", Args: cobra.NoArgs, RunE: group,
		Example: "  millrace dlq ls\n  millrace dlq show orders orders.events/3@17\n  millrace dlq retry orders --all"}
	adminFlag(c)
	c.AddCommand(dlqListCommand(), dlqShowCommand(), dlqRetryCommand(), dlqDiscardCommand())
	return c
}

// A listed is a dead letter of a view at an instance.
type listed struct {
	Instance string `json:"instance"`
	View     string `json:"view"`
	projection.Letter
}

// letterPage is how many letters are asked for at once.
const letterPage = 1000

// eachLetter calls do for the dead letters of a view, or of one of its streams if it is not "", until that says that it is enough.
func eachLetter(c *cobra.Command, p *site, stream string, discarded bool, do func(projection.Letter) (on bool)) error {
	q := url.Values{"limit": {strconv.Itoa(letterPage)}}
	if stream != "" {
		q.Set("stream", stream)
	}
	if discarded {
		q.Set("discarded", "")
	}
	for {
		var page struct {
			Letters []projection.Letter `json:"letters"`
			More    bool                `json:"more"`
		}
		if err := p.call(c.Context(), http.MethodGet, viewPath(p.view, "letters"), q, nil, &page); err != nil {
			return err
		}
		for _, l := range page.Letters {
			if !do(l) {
				return nil
			}
		}
		if !page.More || len(page.Letters) == 0 {
			return nil
		}
		last := page.Letters[len(page.Letters)-1]
		q.Set("after", last.Position.String())
		q.Set("after_stream", last.Stream)
	}
}

func dlqListCommand() *cobra.Command {
	var o output
	var stream string
	var discarded bool
	var limit int
	c := &cobra.Command{
		Use: "ls [VIEW]", Aliases: []string{"list"}, Short: "List dead letters, of one view or of all", Args: cobra.MaximumNArgs(1),
		Long:    "List the dead letters of the builds that answer queries. The first one of a stream is what failed; the later ones wait behind it.",
		Example: "  millrace dlq ls\n  millrace dlq ls orders --stream o-17",
		RunE: func(c *cobra.Command, args []string) error {
			if err := o.check(); err != nil {
				return err
			}
			if limit < 1 {
				return service.ErrUsage.Because("--limit is 1 or more")
			}
			s, err := lettersAt(c, args)
			if err != nil {
				return err
			}
			found := []listed{}
			more := false
			err = everywhere(c, s.sites, func(p *site) error {
				return eachLetter(c, p, stream, discarded, func(l projection.Letter) bool {
					if len(found) == limit {
						more = true
						return false
					}
					found = append(found, listed{p.base.String(), p.view, l})
					return true
				})
			})
			err = s.whole(err)
			if err != nil && len(found) == 0 {
				return err
			}
			if e := writeLetters(c, o, found, more, discarded, s.several()); e != nil {
				return e
			}
			return err
		},
	}
	o.flag(c)
	f := c.Flags()
	f.StringVar(&stream, "stream", "", "only those of this stream")
	f.BoolVar(&discarded, "discarded", false, "those that were discarded, with the reason")
	f.IntVar(&limit, "limit", 1000, "at most so many")
	return c
}

// lettersAt returns where dead letters may be: at the sites of a view, or of all views of all instances.
func lettersAt(c *cobra.Command, args []string) (*spot, error) {
	if len(args) > 0 {
		return spotOf(c, args[0])
	}
	all, err := admins(c)
	if err != nil {
		return nil, err
	}
	s := &spot{}
	s.part = everywhere(c, all, func(i *instance) error {
		var got struct {
			Views []projection.ViewStatus `json:"views"`
		}
		err := i.call(c.Context(), http.MethodGet, "/v1/views", nil, nil, &got)
		for _, v := range got.Views {
			s.sites = append(s.sites, &site{instance: i, view: v.Name, alone: len(all) == 1})
		}
		return err
	})
	if len(s.sites) == 0 {
		return nil, s.part
	}
	return s, nil
}

func writeLetters(c *cobra.Command, o output, found []listed, more, discarded, several bool) error {
	if done, err := o.json(c.OutOrStdout(), map[string]any{"letters": found, "more": more}); done {
		return err
	}
	if len(found) == 0 {
		fmt.Fprintln(c.ErrOrStderr(), "there are no dead letters")
		return nil
	}
	t := table{head: []string{"VIEW", "STREAM", ">VERSION", "POSITION", "TYPE", ">ATTEMPTS", "CODE", "REASON"}}
	if several {
		t.head = append([]string{"INSTANCE"}, t.head...)
	}
	for _, l := range found {
		why := l.Reason
		if discarded {
			why = l.Why
		}
		cells := []string{l.View, l.Stream, count(int64(l.Version)), l.Position.String(), l.Type, count(int64(l.Attempts)), l.Code, short(why)}
		if several {
			cells = append([]string{hostOf(l.Instance)}, cells...)
		}
		t.add(cells...)
	}
	t.write(c.OutOrStdout())
	if more {
		fmt.Fprintf(c.ErrOrStderr(), "there are more than these %s: --limit, --stream\n", count(int64(len(found))))
	}
	return nil
}

// short makes a reason fit into a line.
func short(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	if utf8.RuneCountInString(text) > 100 {
		text = string([]rune(text)[:99]) + "…"
	}
	return text
}

func dlqShowCommand() *cobra.Command {
	var o output
	c := &cobra.Command{
		Use: "show VIEW POSITION", Short: "Show a dead letter with the event that it is", Args: cobra.ExactArgs(2), Example: "  millrace dlq show orders orders.events/3@17",
		RunE: func(c *cobra.Command, args []string) error {
			if err := o.check(); err != nil {
				return err
			}
			at, err := es.ParsePosition(args[1])
			if err != nil {
				return service.ErrUsage.Wrap(err)
			}
			s, err := spotOf(c, args[0])
			if err == nil {
				err = s.narrow(es.Positions{at})
			}
			if err != nil {
				return err
			}
			// Each replica has its own; the first one that has it is as good as any.
			var l projection.Opened
			for _, p := range s.sites {
				if l, err = openLetter(c, p, at); err == nil {
					break
				}
			}
			if err != nil {
				return err
			}
			if done, err := o.json(c.OutOrStdout(), l); done {
				return err
			}
			writeLetter(c, &l)
			return nil
		},
	}
	o.flag(c)
	return c
}

func openLetter(c *cobra.Command, p *site, at es.Position) (l projection.Opened, err error) {
	err = p.call(c.Context(), http.MethodGet, viewPath(p.view, "letters"), url.Values{"at": {at.String()}}, nil, &l)
	return l, err
}

func writeLetter(c *cobra.Command, l *projection.Opened) {
	w := c.OutOrStdout()
	field := func(name, text string) {
		if text != "" {
			fmt.Fprintf(w, "%-10s %s\n", name, text)
		}
	}
	field("position", l.Position.String())
	field("stream", fmt.Sprintf("%s, version %d", l.Stream, l.Version))
	field("type", l.Type)
	field("event", l.EventID)
	field("appended", l.Appended.UTC().Format("2006-01-02T15:04:05.000Z"))
	field("code", l.Code)
	field("reason", l.Reason)
	tried := ""
	if l.Tried != nil {
		tried = ", last " + l.Tried.UTC().Format("2006-01-02T15:04:05Z")
	}
	field("attempts", count(int64(l.Attempts))+tried)
	if l.Discarded != nil {
		field("discarded", l.Discarded.UTC().Format("2006-01-02T15:04:05Z")+": "+l.Why)
	}
	fmt.Fprintln(w, "headers")
	for _, name := range slices.Sorted(maps.Keys(l.Headers)) {
		fmt.Fprintf(w, "  %-20s %s\n", name, printable(l.Headers[name]))
	}
	for _, event := range l.Events {
		fmt.Fprintln(w, "data")
		text, err := json.MarshalIndent(event, "  ", "  ")
		if err != nil {
			text = event
		}
		fmt.Fprintf(w, "  %s\n", text)
	}
	if l.Undecodable != "" {
		field("undecodable", l.Undecodable)
		fmt.Fprintf(w, "value, %s bytes in base64\n  %s\n", count(int64(len(l.Value))), base64.StdEncoding.EncodeToString(l.Value))
	}
}

// printable quotes what a terminal should not be sent.
func printable(text string) string {
	for _, r := range text {
		if !strconv.IsPrint(r) {
			return strconv.Quote(text)
		}
	}
	return text
}

func dlqRetryCommand() *cobra.Command {
	var stream string
	var everything bool
	c := verb(&cobra.Command{
		Use: "retry VIEW", Short: "Apply dead letters, in the order of their stream", Args: cobra.ExactArgs(1),
		Long:    "Apply the dead letters of a stream, or of all streams, in their order: up to the first of each stream that fails again. The exit status is 1 if any did.",
		Example: "  millrace dlq retry orders --stream o-17\n  millrace dlq retry orders --all",
	}, func(c *cobra.Command, _ []string, r *results, p *site) error {
		if everything == (stream != "") {
			return service.ErrUsage.Because("retry needs --stream or --all")
		}
		got := struct {
			Instance string `json:"instance"`
			View     string `json:"view"`
			projection.Retried
		}{Instance: p.base.String(), View: p.view}
		body := map[string]any{}
		if stream != "" {
			body["stream"] = stream
		}
		err := p.call(c.Context(), http.MethodPost, viewPath(p.view, "letters", "retry"), nil, body, &got)
		if errors.Is(err, projection.ErrLetterNotFound) && p.part != nil {
			r.aside = err // the stream is in another range
			return nil
		}
		if err != nil {
			return err
		}
		r.add(p, got, ": %s applied, %s left", count(int64(got.Applied)), count(int64(got.Left)))
		if len(got.Failed) == 0 {
			return nil
		}
		if r.o == "text" {
			for _, l := range got.Failed {
				fmt.Fprintf(c.ErrOrStderr(), "%s of %s failed again, the %s time: %s\n", l.Position, l.Stream, ordinal(l.Attempts), short(l.Reason))
			}
		}
		return errRetried.Because("%s: %d streams still wait", p.view, len(got.Failed)).WithFix("correct the view's code, or give the first one up: millrace dlq discard %s %s --reason …", p.view, got.Failed[0].Position)
	})
	c.Flags().StringVar(&stream, "stream", "", "those of this stream")
	c.Flags().BoolVar(&everything, "all", false, "those of all streams")
	return c
}

func ordinal(n int) string {
	switch {
	case n%10 == 1 && n%100 != 11:
		return fmt.Sprint(n, "st")
	case n%10 == 2 && n%100 != 12:
		return fmt.Sprint(n, "nd")
	case n%10 == 3 && n%100 != 13:
		return fmt.Sprint(n, "rd")
	}
	return fmt.Sprint(n, "th")
}

func dlqDiscardCommand() *cobra.Command {
	var plan plan
	var reason string
	c := verbAt(&cobra.Command{
		Use: "discard VIEW POSITION --reason R", Short: "Give a dead letter up: its event is not applied to this build of the view", Args: cobra.ExactArgs(2),
		Long: "Give up the first dead letter of a stream, for a reason that is kept (millrace dlq ls --discarded). The later ones of the stream stay, to be retried. The event stays in the log: another\n" +
			"build of the view meets it again.",
		Example: "  millrace dlq discard orders orders.events/3@17 --reason 'a test order, ticket 4711' --yes",
	}, func(c *cobra.Command, args []string, r *results, s *spot) error {
		if strings.TrimSpace(reason) == "" {
			return service.ErrUsage.Because("discard needs --reason")
		}
		at, err := es.ParsePosition(args[1])
		if err != nil {
			return service.ErrUsage.Wrap(err)
		}
		if err := s.narrow(es.Positions{at}); err != nil {
			return err
		}
		return s.planned(c, &plan, func(p *site) (string, error) {
			l, err := openLetter(c, p, at)
			if err != nil {
				return "", err
			}
			behind := 0
			if err := eachLetter(c, p, l.Stream, false, func(projection.Letter) bool { behind++; return true }); err != nil {
				return "", err
			}
			text := fmt.Sprintf("%s: %s at %s, version %d of %s, is never applied to the build that answers queries", p.view, l.Type, at, l.Version, l.Stream)
			if behind > 1 {
				text += fmt.Sprintf("; %s later ones of the stream stay dead letters until they are retried", count(int64(behind-1)))
			}
			return text, nil
		}, func(p *site) error {
			err := p.call(c.Context(), http.MethodPost, viewPath(p.view, "letters", "discard"), nil, map[string]any{"position": at.String(), "reason": reason}, nil)
			if err == nil {
				r.add(p, result{Instance: p.base.String(), View: p.view, State: "discarded"}, ": %s is discarded", at)
			}
			return err
		})
	})
	c.Flags().StringVar(&reason, "reason", "", "why")
	plan.flags(c)
	return c
}
