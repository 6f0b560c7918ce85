package spread

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

func members(n int) (all []string) {
	for i := range n {
		all = append(all, fmt.Sprintf("10.0.0.%d:8088", i+1))
	}
	return all
}

// TestPlace: each range has its copies, on different members, nobody has more than an even share, and the order of the members means nothing.
func TestPlace(t *testing.T) {
	for seed := range 200 {
		n := seed % 9
		for _, ranges := range []int{1, 3, 12, 64} {
			for copies := 1; copies <= 4; copies++ {
				all := members(n)
				for i := range all {
					all[i] = fmt.Sprintf("127.0.0.1:%d", 40000+seed*9+i)
				}
				got := Place(all, ranges, copies)
				load := map[string]int{}
				for r, who := range got {
					if len(who) != min(copies, n) {
						t.Fatalf("%d members, %d ranges, %d copies: range %d has %v", n, ranges, copies, r, who)
					}
					for i, m := range who {
						load[m]++
						if slices.Contains(who[:i], m) {
							t.Fatalf("range %d has %v", r, who)
						}
					}
				}
				share := 0
				if n > 0 {
					share = (ranges*min(copies, n) + n - 1) / n
				}
				for m, k := range load {
					if k > share {
						t.Errorf("%d members, %d ranges, %d copies: %s has %d, its share is %d", n, ranges, copies, m, k, share)
					}
				}
				rand.Shuffle(n, func(i, j int) { all[i], all[j] = all[j], all[i] })
				if again := Place(all, ranges, copies); fmt.Sprint(again) != fmt.Sprint(got) {
					t.Fatalf("another order of the members: %v, %v", got, again)
				}
			}
		}
	}
}

// TestPlaceMovesLittle: when a member comes or goes, few ranges move beside those that have to.
func TestPlaceMovesLittle(t *testing.T) {
	const ranges, copies = 64, 2
	for n := 3; n < 9; n++ {
		before, after := Place(members(n), ranges, copies), Place(members(n+1), ranges, copies)
		moved := 0
		for r := range before {
			for _, m := range after[r] {
				if !slices.Contains(before[r], m) {
					moved++
				}
			}
		}
		// At least what the new one gets.
		if least := ranges * copies / (n + 1); moved > 2*least {
			t.Errorf("from %d to %d members %d copies move, of which %d must", n, n+1, moved, least)
		}
	}
}
