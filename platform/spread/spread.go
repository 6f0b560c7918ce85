// Package spread says which instances of a service should hold which ranges of the partitions, so that all who know the same members say the
// same. It is pure: who is there, and who holds what by now, is found out by its callers.
package spread

import (
	"cmp"
	"hash/fnv"
	"slices"
	"strconv"
)

// Place returns the members that should hold each range, by its number, the preferred one first: as many copies as are wanted, or all
// members if they are fewer. No member has more than its even share, rounded up. The order of members means nothing, and none may be there
// twice. When one comes or goes, most ranges stay where they are (rendezvous hashing with bounded loads).
func Place(members []string, ranges, copies int) [][]string {
	out := make([][]string, ranges)
	copies = min(copies, len(members))
	if copies == 0 {
		return out
	}
	room := make(map[string]int, len(members))
	for _, m := range members {
		room[m] = (ranges*copies + len(members) - 1) / len(members)
	}
	// The copies of all ranges in turn: each range has its first before any has its second.
	for range copies {
		for n := range out {
			best := ""
			for _, m := range members {
				if room[m] > 0 && !slices.Contains(out[n], m) && (best == "" || prefer(m, best, n)) {
					best = m
				}
			}
			if best != "" {
				room[best]--
			} else {
				best = trade(members, out, n, room)
			}
			out[n] = append(out[n], best)
		}
	}
	return out
}

// trade finds a member for a range that all members with room have already: one without room, which gives one of its ranges to one with room.
// There is always one. A member with room does not have all ranges, for its share is less than that. A range that it does not have is at as many
// members as this one is at least, so at one where this one is not.
func trade(members []string, out [][]string, n int, room map[string]int) string {
	to, from, slot := "", -1, 0
	for _, m := range members {
		if room[m] == 0 {
			continue
		}
		for r, who := range out {
			if slices.Contains(who, m) || from >= 0 && cmp.Or(cmp.Compare(weight(m, r), weight(to, from)), cmp.Compare(m, to)) <= 0 {
				continue
			}
			// Of a range's members the one that it likes least, which is the last of those.
			for i, x := range who {
				if !slices.Contains(out[n], x) {
					to, from, slot = m, r, i
				}
			}
		}
	}
	gives := out[from][slot]
	out[from][slot] = to
	room[to]--
	return gives
}

// prefer reports whether a should rather have a range than b.
func prefer(a, b string, n int) bool {
	return cmp.Or(cmp.Compare(weight(a, n), weight(b, n)), cmp.Compare(a, b)) > 0
}

// weight is a member's for a range.
func weight(member string, n int) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(strconv.Itoa(n) + " " + member))
	x := h.Sum64() // its high bits are not as good as its low ones
	x = (x ^ x>>32) * 0x9e3779b97f4a7c15
	return x ^ x>>29
}
