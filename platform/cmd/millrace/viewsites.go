package main

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/fault"
	"github.com/millrace/millrace/platform/projection"
	"github.com/millrace/millrace/platform/rest"
)

// errPart is returned for what is asked of a divided view, if not all of it is at the instances that are named.
var errPart = fault.New(fault.Rejected, "view_in_part", "a part of the view is elsewhere")

// A site is where something is done: a view at an instance, or a range of it that the instance has, each with builds of its own.
type site struct {
	*instance
	view  string       // as it is called there, orders.0 for a range
	part  *rangeAnswer // nil = all of the view
	alone bool         // no other site is at another instance
}

// name tells it from others.
func (p *site) name() string {
	switch {
	case p.part == nil:
		return p.instance.name()
	case p.alone:
		return p.view
	}
	return p.instance.name() + ": " + p.view
}

// title begins a line about a site.
func (p *site) title() string {
	if p.alone {
		return p.view
	}
	return p.instance.name() + ": " + p.view
}

// before puts what names a site before a text that has the view's name in it.
func (p *site) before(text string) string {
	if p.alone {
		return text
	}
	return p.instance.name() + ": " + text
}

// whole is what queries call the view.
func (p *site) whole() string {
	if p.part == nil {
		return p.view
	}
	return strings.TrimSuffix(p.view, fmt.Sprintf(".%d", p.part.Range))
}

// bounds returns the first and the last partition of a range.
func (r *rangeAnswer) bounds() (first, last int32) {
	if n, err := fmt.Sscanf(r.Partitions, "%d-%d", &first, &last); n != 2 || err != nil {
		return 0, -1
	}
	return first, last
}

// has reports whether a range has a partition.
func (r *rangeAnswer) has(partition int32) bool {
	first, last := r.bounds()
	return partition >= first && partition <= last
}

// A spot is all that a command on a view is done at: one site at each instance, or, if the view is divided, one for each range that an instance has.
type spot struct {
	view   string
	ranges int // 0 = it is not divided
	sites  []*site
	seen   []rangesAnswer // of instances at which it is divided
	silent bool           // an instance does not answer, which may have what the others lack
	part   error          // why the sites are not all of the view; nil = they are
}

// spotOf asks the instances what they have of a view. One that does not answer has a site, too: what is done there says so.
func spotOf(c *cobra.Command, view string) (*spot, error) {
	all, err := admins(c)
	if err != nil {
		return nil, err
	}
	s := &spot{view: view}
	for _, i := range all {
		a := rangesAnswer{Instance: i.base.String()}
		err := i.call(c.Context(), http.MethodGet, viewPath(view, "ranges"), nil, nil, &a)
		switch {
		case c.Context().Err() != nil:
			return nil, err
		case err != nil:
			// Most often it has all of the view; a program from before there were ranges does not know the question.
			s.silent = s.silent || !errors.Is(err, projection.ErrViewNotFound) && !errors.Is(err, rest.ErrRouteNotFound)
			s.sites = append(s.sites, &site{instance: i, view: view})
			continue
		}
		s.seen, s.ranges = append(s.seen, a), max(s.ranges, len(a.Ranges))
		for n := range a.Ranges {
			if r := &a.Ranges[n]; r.Here == rangeReady || r.Here == rangeBuilding {
				s.sites = append(s.sites, &site{instance: i, view: fmt.Sprintf("%s.%d", view, r.Range), part: r})
			}
		}
	}
	slices.SortStableFunc(s.sites, func(a, b *site) int { return cmp.Compare(a.number(), b.number()) })
	for _, p := range s.sites {
		p.alone = !slices.ContainsFunc(s.sites, func(other *site) bool { return other.instance != p.instance })
	}
	if s.ranges > 0 && !s.silent {
		s.part = s.missing(func(*rangeAnswer) bool { return true })
	}
	return s, nil
}

// What an instance has of a range.
const (
	rangeReady    = "ready"
	rangeBuilding = "building"
)

// number is that of the range, -1 if it is none.
func (p *site) number() int {
	if p.part == nil {
		return -1
	}
	return p.part.Range
}

// missing returns errPart if some of these ranges are at instances that were not asked, or nowhere.
func (s *spot) missing(wanted func(*rangeAnswer) bool) error {
	named := map[string]bool{}
	for _, a := range s.seen {
		named[a.Here] = true
	}
	others := map[int][]string{}
	for _, a := range s.seen {
		for n := range a.Ranges {
			r := &a.Ranges[n]
			if !wanted(r) {
				continue
			}
			others[r.Range] = slices.DeleteFunc(append(others[r.Range], r.Ready...), func(at string) bool { return named[at] })
		}
	}
	var where []string
	for _, n := range slices.Sorted(maps.Keys(others)) {
		at := slices.Compact(slices.Sorted(slices.Values(others[n])))
		switch here := slices.ContainsFunc(s.sites, func(p *site) bool { return p.number() == n }); {
		case len(at) > 0:
			where = append(where, fmt.Sprintf("%s.%d is at %s", s.view, n, strings.Join(at, " and at ")))
		case !here:
			where = append(where, fmt.Sprintf("%s.%d is nowhere", s.view, n))
		}
	}
	if where == nil {
		return nil
	}
	return errPart.Because("%s", strings.Join(where, "; ")).
		WithFix("name the admin addresses of all instances that have it (--admin-url or MILLRACE_ADMIN_URL), or act on the ranges that are there one by one, such as %s.0", s.view)
}

// several reports whether sites are at different instances.
func (s *spot) several() bool { return len(s.sites) > 0 && !s.sites[0].alone }

// whole returns err, or why what was done was not done to all of the view.
func (s *spot) whole(err error) error {
	if err == nil {
		return s.part
	}
	return err
}

// planned does something that cannot be undone at all sites, once somebody has agreed to what tell says of each of them.
func (s *spot) planned(c *cobra.Command, plan *plan, tell func(p *site) (string, error), do func(p *site) error) error {
	if s.part != nil {
		return s.part
	}
	var told []*site
	var texts []string
	failed := everywhere(c, s.sites, func(p *site) error {
		text, err := tell(p)
		if err == nil {
			told, texts = append(told, p), append(texts, p.before(text))
		}
		return err
	})
	if len(told) == 0 || c.Context().Err() != nil {
		return failed
	}
	if agreed, err := plan.agreed(c, strings.Join(texts, "\n")); err != nil || !agreed {
		return cmp.Or(err, failed)
	}
	return cmp.Or(failed, everywhere(c, told, do))
}

// narrow leaves the sites that have one of these positions; it returns projection.ErrForeignTopic for a position that no range has.
func (s *spot) narrow(positions es.Positions) error {
	if s.ranges == 0 {
		return nil
	}
	wanted := func(r *rangeAnswer) bool {
		return r == nil || slices.ContainsFunc(positions, func(pos es.Position) bool { return r.has(pos.Partition) })
	}
	for _, pos := range positions {
		if !slices.ContainsFunc(s.seen[0].Ranges, func(r rangeAnswer) bool { return r.has(pos.Partition) }) {
			return projection.ErrForeignTopic.Because("%s; no range of %s has that partition", pos, s.view)
		}
	}
	s.sites = slices.DeleteFunc(s.sites, func(p *site) bool { return !wanted(p.part) })
	if s.part != nil {
		s.part = s.missing(wanted)
	}
	return nil
}

// of returns those of positions that a site has.
func (p *site) of(positions es.Positions) (own es.Positions) {
	for _, pos := range positions {
		if p.part == nil || p.part.has(pos.Partition) {
			own = append(own, pos)
		}
	}
	return own
}

// states asks all sites for how the view is.
func (s *spot) states(c *cobra.Command) (all []viewState, err error) {
	err = everywhere(c, s.sites, func(p *site) error {
		v, err := status(c.Context(), p.instance, p.view)
		if err == nil {
			all = append(all, viewState{p.base.String(), v})
		}
		return err
	})
	return all, err
}
