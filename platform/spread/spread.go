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
// members if they are fewer. No member has more than its even share and as many ranges more as there are copies. The order of members means
// nothing, and none may be there twice. When one comes or goes, most ranges stay where they are (rendezvous hashing with bounded loads).
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
				if slices.Contains(out[n], m) || best != "" && !prefer(m, best, n, room) {
					continue
				}
				best = m
			}
			out[n] = append(out[n], best)
			room[best]--
		}
	}
	return out
}

// prefer reports whether a should rather have a range than b: who has room does, then who has the higher weight for it.
func prefer(a, b string, n int, room map[string]int) bool {
	if full := cmp.Compare(max(0, room[a]), 0) - cmp.Compare(max(0, room[b]), 0); full != 0 {
		return full > 0
	}
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
