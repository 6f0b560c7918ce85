package projection

import (
	"bytes"
	"fmt"
	"iter"
	"slices"

	"github.com/millrace/millrace/platform/es"
)

// A Range is a part of the partitions of each topic, if they are divided into Of parts of about the same number: those of the part Number,
// from 0 on. The zero Range is all of them.
type Range struct {
	Number int `json:"number"`
	Of     int `json:"of"`
}

// Has reports whether a partition, of so many, is in the range.
func (r Range) Has(partition, of int32) bool {
	return r.Of <= 1 || RangeOf(partition, of, r.Of) == r.Number
}

// RangeOf returns the number of the range that has a partition, of so many, if there are so many ranges.
func RangeOf(partition, of int32, ranges int) int {
	return int(int64(partition) * int64(ranges) / int64(of))
}

// part reports whether the range is not all there is.
func (r Range) part() bool { return r.Of > 1 }

func (r Range) check() error {
	if r.Of < 0 || r.Number < 0 || r.Number >= max(1, r.Of) {
		return ErrConfig.Because("there is no range %d of %d", r.Number, r.Of)
	}
	return nil
}

// String returns a range as "0/3".
func (r Range) String() string { return fmt.Sprintf("%d/%d", r.Number, r.Of) }

// undividable says why a view cannot be kept up to date for a range of the partitions, "" if it can.
func undividable[R, E any](v es.View[R, E], inputs []Input[E], r Range) string {
	if why := Undividable(v); why != "" {
		return why
	}
	for _, in := range inputs {
		switch {
		case in.Topic.Partitions != inputs[0].Topic.Partitions:
			return fmt.Sprintf("%s has %d partitions, %s has %d: what is of one stream would be in different ranges", inputs[0].Topic.Name, inputs[0].Topic.Partitions, in.Topic.Name, in.Topic.Partitions)
		case int(in.Topic.Partitions) < r.Of:
			return fmt.Sprintf("%s has %d partitions for %d ranges", in.Topic.Name, in.Topic.Partitions, r.Of)
		}
	}
	return ""
}

// Undividable says why a view cannot be divided into ranges of partitions by the nature of its rows, "" if it can.
func Undividable[R, E any](v es.View[R, E]) string {
	if v.Stream == nil {
		return "it has no Stream: its rows gather the events of any streams"
	}
	for name, x := range v.Indexes {
		if x.Unique {
			return fmt.Sprintf("its index %s is unique, which cannot be known of a part of the rows", name)
		}
	}
	return ""
}

// own returns those of positions that are of the projector's range: what comes from other partitions is the affair of others.
func (p *Projector) own(ps es.Positions) es.Positions {
	if !p.cfg.Range.part() {
		return ps
	}
	var own es.Positions
	for _, pos := range ps {
		if count := p.topics[pos.Topic].Partitions; pos.Partition < 0 || pos.Partition >= count || p.cfg.Range.Has(pos.Partition, count) {
			own = append(own, pos) // one that there is not, too: it is told so
		}
	}
	return own
}

// Merge puts pages of a query, one of each range, together to one page, without a cursor: its Last is the Place after which the next one
// begins, nil if there is none. The rows of each page must be in the order of the query, and its Last set if there are more of them.
func Merge(q *Query, pages []Page) Page {
	var out Page
	// Beyond what has been looked at in every range, nothing is known of the order.
	var end []byte
	for i := range pages {
		for _, pos := range pages[i].Applied {
			out.Applied = out.Applied.With(pos)
		}
		out.Lag = max(out.Lag, pages[i].Lag)
		out.Missing ^= pages[i].Missing
		if last := pages[i].Last; last != nil && (end == nil || q.before(last, end)) {
			end = last
		}
	}
	limit := q.Limit
	if limit == 0 {
		limit = DefaultLimit
	}
	next := make([]int, len(pages))
	size := 0
	for {
		first := -1
		for i := range pages {
			if next[i] < len(pages[i].Rows) && (first < 0 || q.before(pages[i].Rows[next[i]].Place, pages[first].Rows[next[first]].Place)) {
				first = i
			}
		}
		if first < 0 {
			break
		}
		row := pages[first].Rows[next[first]]
		if end != nil && q.before(end, row.Place) {
			break
		}
		if len(out.Rows) == limit || size > maxPageBytes {
			out.Last = out.Rows[len(out.Rows)-1].Place
			return out
		}
		out.Rows = append(out.Rows, row)
		size += len(row.JSON)
		next[first]++
	}
	out.Last = end
	return out
}

// MergeRows yields the rows of a query on several ranges, each in the order of the query, in that order. An error is the last thing it yields.
func MergeRows(q *Query, ranges []iter.Seq2[Row, error]) iter.Seq2[Row, error] {
	return func(yield func(Row, error) bool) {
		type source struct {
			row  Row
			next func() (Row, error, bool)
		}
		var left []*source
		// take reads the next row of a source; ok is false if there is none, or the caller is to stop.
		take := func(s *source) (ok, stop bool) {
			row, err, more := s.next()
			if err != nil {
				yield(Row{}, err)
				return false, true
			}
			s.row = row
			return more, false
		}
		for _, rows := range ranges {
			next, stop := iter.Pull2(rows)
			defer stop()
			s := &source{next: next}
			more, end := take(s)
			if end {
				return
			}
			if more {
				left = append(left, s)
			}
		}
		for len(left) > 0 {
			first := 0
			for i, s := range left {
				if q.before(s.row.Place, left[first].row.Place) {
					first = i
				}
			}
			s := left[first]
			if !yield(s.row, nil) {
				return
			}
			more, end := take(s)
			if end {
				return
			}
			if !more {
				left = slices.Delete(left, first, first+1)
			}
		}
	}
}

// before reports whether one place comes before another one.
func (q *Query) before(a, b []byte) bool {
	if q.Reverse {
		a, b = b, a
	}
	return bytes.Compare(a, b) < 0
}
