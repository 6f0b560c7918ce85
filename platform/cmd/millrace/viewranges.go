package main

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
)

// A rangesAnswer says who has which range of a divided view, as one instance sees it.
type rangesAnswer struct {
	Instance string        `json:"instance"`
	View     string        `json:"view"`
	Here     string        `json:"here"` // the address that the instance has for the others
	Ranges   []rangeAnswer `json:"ranges"`
}

type rangeAnswer struct {
	Range      int      `json:"range"`
	Partitions string   `json:"partitions"`
	Wanted     []string `json:"wanted"`
	Ready      []string `json:"ready"`
	Here       string   `json:"here,omitempty"`
	Why        string   `json:"why,omitempty"`
	Version    *int     `json:"version,omitempty"`
}

func viewRangesCommand() *cobra.Command {
	var o output
	c := &cobra.Command{
		Use: "ranges VIEW", Short: "Say which instances have which ranges of a view that is divided among them", Args: cobra.ExactArgs(1),
		Long: "Say which instances have which ranges of a view that is divided among them (view.ranges). READY are those that answer queries from it, COMING\n" +
			"those that build it, and LEAVING those that give it up when all others are ready. Other commands act on all ranges at all instances that are named; with VIEW.RANGE,\n" +
			"such as orders.0, on that range only.",
		Example: "  millrace view ranges orders\n  millrace view describe orders.0",
		RunE: func(c *cobra.Command, args []string) error {
			if err := o.check(); err != nil {
				return err
			}
			all, err := admins(c)
			if err != nil {
				return err
			}
			var got []rangesAnswer
			err = everywhere(c, all, func(i *instance) error {
				a := rangesAnswer{Instance: i.base.String()}
				err := i.call(c.Context(), http.MethodGet, viewPath(args[0], "ranges"), nil, nil, &a)
				if err == nil {
					got = append(got, a)
				}
				return err
			})
			if len(got) > 0 {
				if e := writeRanges(c, o, got); e != nil {
					return e
				}
			}
			return err
		},
	}
	o.flag(c)
	return c
}

func writeRanges(c *cobra.Command, o output, all []rangesAnswer) error {
	if done, err := o.json(c.OutOrStdout(), all); done {
		return err
	}
	list := func(from []string, but ...[]string) string {
		var left []string
		for _, at := range from {
			if !slices.ContainsFunc(but, func(others []string) bool { return slices.Contains(others, at) }) {
				left = append(left, at)
			}
		}
		return strings.Join(left, " ")
	}
	w := c.OutOrStdout()
	for n, a := range all {
		if n > 0 {
			fmt.Fprintln(w)
		}
		if len(all) > 1 {
			fmt.Fprintf(w, "as %s sees it, which is %s for the others:\n", hostOf(a.Instance), a.Here)
		}
		t := table{head: []string{">RANGE", "PARTITIONS", ">VERSION", "READY", "COMING", "LEAVING"}}
		for _, r := range a.Ranges {
			version := "-"
			if r.Version != nil {
				version = strconv.Itoa(*r.Version)
			}
			staying := slices.DeleteFunc(slices.Clone(r.Ready), func(at string) bool { return !slices.Contains(r.Wanted, at) })
			t.add(strconv.Itoa(r.Range), r.Partitions, version, list(staying), list(r.Wanted, r.Ready), list(r.Ready, r.Wanted))
		}
		t.write(w)
		a.failures(c)
	}
	return nil
}

// failures says which ranges the instance should have and cannot.
func (a *rangesAnswer) failures(c *cobra.Command) {
	for _, r := range a.Ranges {
		if r.Why != "" {
			fmt.Fprintf(c.ErrOrStderr(), "%s cannot take range %d: %s\n", a.Here, r.Range, r.Why)
		}
	}
}
