package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/millrace/millrace/platform/fault"
	"github.com/millrace/millrace/platform/projection"
)

// errSwitch is returned when the ranges of a view cannot be switched to builds of one version.
var errSwitch = fault.New(fault.Rejected, "ranges_not_ready", "the view was not switched: it could not be read, or not from the version that is wanted")

// A choice is what a site switches to.
type choice struct {
	build string // "" = none
	why   string // it cannot, if there is none
	done  bool   // it answers queries already
}

// A chooser chooses for all sites together what they switch to, from how the view is at each of them.
type chooser func(all map[*site]*projection.ViewStatus) map[*site]choice

// switchTo has all sites of a divided view switch as choose says. Answers are of the newest version that every range has somewhere, so nothing is
// done unless each range has a site that can, and all of these come to one version. Where a site cannot, the others of its range answer.
func (s *spot) switchTo(c *cobra.Command, r *results, verb string, choose chooser, body func(build string) any, done string) error {
	if s.part != nil {
		return s.part
	}
	failed := failures{c: c}
	all := map[*site]*projection.ViewStatus{}
	for _, p := range s.sites {
		v, err := status(c.Context(), p.instance, p.view)
		if err != nil {
			if c.Context().Err() != nil {
				return err
			}
			failed.add(p.name(), err)
			continue
		}
		all[p] = &v
	}
	chosen := choose(all)
	versions := map[int]string{}
	able := make([]bool, s.ranges)
	for _, p := range s.sites {
		if all[p] == nil {
			continue
		}
		ch := chosen[p]
		if ch.why != "" {
			failed.add(p.name(), projection.ErrBuild.Because("view %s, %s", p.view, ch.why))
			continue
		}
		if version, _, ok := numbers(ch.build); ok {
			versions[version] = p.view + " " + ch.build
		}
		if p.part != nil && p.part.Range < s.ranges {
			able[p.part.Range] = true
		}
	}
	var unable []string
	for n, ok := range able {
		if !ok {
			unable = append(unable, s.view+"."+strconv.Itoa(n))
		}
	}
	switch {
	case unable != nil:
		return errSwitch.Because("%s cannot at any instance", strings.Join(unable, ", ")).WithFix("millrace view describe %s says more; wait for them, or act on the other ranges one by one: millrace view %s %s.0", s.view, verb, s.view)
	case len(versions) > 1:
		var of []string
		for _, version := range slices.Sorted(maps.Keys(versions)) {
			of = append(of, versions[version])
		}
		return errSwitch.Because("the builds are of different versions, such as %s", strings.Join(of, " and ")).WithFix("act on the ranges one by one: millrace view %s %s.0", verb, s.view)
	}
	for _, p := range s.sites {
		ch, ok := chosen[p]
		switch {
		case !ok || ch.why != "":
		case ch.done:
			r.add(p, result{p.base.String(), p.view, ch.build, "live"}, ": build %s %s already", ch.build, strings.TrimSuffix(done, " again"))
		default:
			if err := r.do(p, verb, body(ch.build), "live", ": build %s "+done); err != nil {
				if c.Context().Err() != nil {
					return err
				}
				failed.add(p.name(), err)
			}
		}
	}
	return failed.err()
}

// numbers returns the version of a build and which one of it it is.
func numbers(build string) (version, number int, ok bool) {
	n, err := fmt.Sscanf(build, "v%d-%d", &version, &number)
	return version, number, n == 2 && err == nil
}

// older reports whether a build was begun from an older version than another one, or earlier.
func older(a, b string) bool {
	va, na, _ := numbers(a)
	vb, nb, _ := numbers(b)
	return cmp.Or(cmp.Compare(va, vb), cmp.Compare(na, nb)) < 0
}

// newest chooses the newest build of the newest version that there is in any range, or the build of a name.
func (s *spot) newest(name string, force bool) chooser {
	return func(all map[*site]*projection.ViewStatus) map[*site]choice {
		want := 0
		for _, v := range all {
			for _, b := range v.Builds {
				if b.State != projection.Complete { // it has an end, and falls behind
					want = max(want, b.Version)
				}
			}
		}
		chosen := map[*site]choice{}
		for p, v := range all {
			chosen[p] = choiceOf(v, name, want, force)
		}
		return chosen
	}
}

// choiceOf chooses the build of a name, or else the newest one of a version.
func choiceOf(v *projection.ViewStatus, name string, version int, force bool) choice {
	var best *projection.BuildStatus
	for n := range v.Builds {
		b := &v.Builds[n]
		fits := b.Version == version && b.State != projection.Complete
		if name != "" {
			fits = b.ID == name
		}
		if fits && (best == nil || older(best.ID, b.ID)) {
			best = b
		}
	}
	switch {
	case best == nil && name != "":
		return choice{why: "there is no build " + name}
	case best == nil:
		return choice{why: fmt.Sprintf("there is no build of version %d", version)}
	case best.ID == v.Live:
		return choice{build: best.ID, done: true}
	case force:
	case !best.CaughtUp:
		return choice{why: fmt.Sprintf("build %s: it has not caught up", best.ID)}
	case best.State == projection.Halted || best.State == projection.Complete:
		return choice{why: fmt.Sprintf("build %s: it is %s", best.ID, best.State)}
	}
	return choice{build: best.ID}
}

// before chooses the builds that answered queries before. Where a newer one did, it has been gone back from already: a rollback that is repeated,
// for it could not be done everywhere, does not go to and fro.
func (s *spot) before() chooser {
	return func(all map[*site]*projection.ViewStatus) map[*site]choice {
		chosen := map[*site]choice{}
		for p, v := range all {
			switch {
			case v.Previous == "":
				chosen[p] = choice{why: "there is no build that answered before"}
			case older(v.Live, v.Previous):
				chosen[p] = choice{build: v.Live, done: true}
			default:
				chosen[p] = choice{build: v.Previous}
			}
		}
		return chosen
	}
}
