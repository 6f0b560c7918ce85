package projection

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"maps"
	"math"
	"slices"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/eventlog"
	"github.com/millrace/millrace/platform/store"
)

// A sampler folds the events of some rows in memory, with the view's types hidden.
type sampler interface {
	// apply folds record i of a run.
	apply(run any, i int) error
	// rows returns the JSON of the rows that are not deleted, by key.
	rows() (map[string][]byte, error)
}

// A sampling is a sampler.
type sampling[R, E any] struct {
	def  es.View[R, E]
	keep func(key string) bool
	held map[string]R
}

func (s *sampling[R, E]) apply(decoded any, i int) (err error) {
	r := decoded.(*run[E])
	if r.errs[i] != nil {
		return r.errs[i]
	}
	defer func() {
		if p := recover(); p != nil {
			err = errHalt.Because("panic: %.300v", p)
		}
	}()
	for k := 0; ; k++ {
		env := r.part(i, k)
		if env == nil {
			return nil
		}
		for _, key := range s.def.KeysOf(*env) {
			if !s.keep(key) {
				continue
			}
			row, gone := s.def.Next(key, s.held[key], *env)
			if s.held[key] = row; gone {
				delete(s.held, key)
			}
		}
	}
}

func (s *sampling[R, E]) rows() (map[string][]byte, error) {
	out := make(map[string][]byte, len(s.held))
	for key, row := range s.held {
		text, err := json.Marshal(row)
		if err != nil {
			return nil, err
		}
		out[key] = text
	}
	return out, nil
}

// VerifySample folds the rows of a sample of the keys anew, in memory, from the whole log, and compares them with what the build that
// answers queries has at the same positions. share is the part of the keys that are in it, more than 0 and at most 1; which they are
// changes with number. rate bounds the events read per second; 0 = as for Rebuild. Events that were discarded are left out, as they are of the
// rows. A view with dead letters or a halted partition has rows that are not the fold of all events: ErrBuild. Other errors: ErrViewNotFound,
// the log's, the stores', ctx's.
func (p *Projector) VerifySample(ctx context.Context, name string, share float64, number uint64, rate int) (Report, error) {
	g, err := p.live(name)
	if err != nil {
		return Report{}, err
	}
	switch {
	case g.code == nil:
		return Report{}, ErrBuild.Because("the build that answers queries is frozen: the program does not have its code any more")
	case g.letters.any():
		return Report{}, ErrBuild.Because("the view %s has dead letters: its rows are not the fold of all events", name).WithFix("retry or discard them, or compare two builds")
	case share <= 0 || share > 1:
		return Report{}, ErrBuild.Because("a sample of %g of the keys, it must be more than 0 and at most 1", share)
	}
	limit := uint64(share * math.MaxUint64)
	if share == 1 {
		limit = math.MaxUint64
	}
	keep := func(key string) bool {
		h := fnv.New64a()
		fmt.Fprintf(h, "%d %s", number, key)
		x := h.Sum64() // its high bits are not as good as its low ones
		x = (x ^ x>>32) * 0x9e3779b97f4a7c15
		return x^x>>29 <= limit
	}
	ctx, done := g.lasting(ctx) // whoever drops the build does not wait for the whole log to be read
	defer done()
	r := Report{View: name, A: g.born.id(), B: "sample"}
	err = g.read(func(reader *store.Reader, s *shown) error {
		for _, at := range s.slots {
			if at.halt != nil {
				return ErrBuild.Because("the view %s has halted: %s", name, at.halt)
			}
		}
		r.Applied = g.positions(s)
		without, err := discarded(reader)
		if err != nil {
			return err
		}
		fresh := g.code.sample(keep)
		if err := g.refold(ctx, s, fresh, without, rate); err != nil {
			return err
		}
		rows, err := fresh.rows()
		if err != nil {
			return err
		}
		return r.compareSample(ctx, g, reader, rows, keep)
	})
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return r, err
}

// discarded returns the positions of the dead letters that were discarded: what is stored is the fold without them.
func discarded(r *store.Reader) (map[es.Position]bool, error) {
	out := map[es.Position]bool{}
	for l, err := range scanLetters(r, []byte{discardSpace}) {
		if err != nil {
			return nil, err
		}
		out[l.Position] = true
	}
	return out, nil
}

// refold reads the log up to where s is, without some events.
func (g *generation) refold(ctx context.Context, s *shown, into sampler, without map[es.Position]bool, rate int) error {
	var from []eventlog.Cursor
	open := map[int]bool{} // slots that have not been read to their end
	for n, tp := range g.slots {
		if s.slots[n].next > 0 {
			from = append(from, g.code.inputs[g.topicOf(n)].topic.Start(tp.Partition))
			open[n] = true
		}
	}
	if len(open) == 0 {
		return nil
	}
	src, err := g.p.log.open(ctx, from, besideBytes)
	if err != nil {
		return err
	}
	defer src.Close()
	pace := pacer{rate: rate}
	for len(open) > 0 {
		fetched, err := src.Poll(ctx)
		if err != nil {
			return err
		}
		for i := range fetched {
			f := &fetched[i]
			n := g.slot(f.Cursor.TopicPartition)
			in := g.code.inputs[g.topicOf(n)]
			d := g.p.decoders[in.topic.Name][in.decoder]
			end := s.slots[n].next
			for len(f.Records) > 0 {
				part := f.Records[:min(len(f.Records), chunkEvents)]
				f.Records = f.Records[len(part):]
				run := d.decode(ctx, part, 1)
				if err := d.failure(run); err != nil {
					return err
				}
				for j := range part {
					if part[j].Mark != 0 || part[j].Position.Offset >= end || without[part[j].Position] {
						continue
					}
					if err := into.apply(run, j); err != nil {
						return fmt.Errorf("projection: view %s, %s: %w", g.view.name, part[j].Position, err)
					}
				}
				if err := pace.wait(ctx, len(part), true); err != nil {
					return err
				}
			}
			if f.Cursor.Next >= end {
				delete(open, n)
			}
		}
	}
	return nil
}

// compareSample compares the rows of the sample with those that are stored.
func (r *Report) compareSample(ctx context.Context, g *generation, reader *store.Reader, rows map[string][]byte, keep func(string) bool) error {
	differs := func(key string, a *Row, b []byte) {
		if len(r.Samples) == maxSamples {
			return
		}
		d := Difference{Key: key, A: a}
		if b != nil {
			d.B = &Row{Key: key, JSON: b}
		}
		r.Samples = append(r.Samples, d)
	}
	for pair, err := range reader.Scan(store.Prefix([]byte{rowSpace})) {
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		key := string(pair.Key[1:])
		if !keep(key) {
			continue
		}
		row, err := g.parseRow(key, pair.Value)
		if err != nil {
			return err
		}
		r.Rows++
		want, ok := rows[key]
		delete(rows, key)
		switch {
		case !ok:
			r.OnlyA++
			differs(key, &row, nil)
		case sameJSON(row.JSON, want):
			r.Same++
		default:
			r.Different++
			differs(key, &row, want)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(rows)) {
		r.OnlyB++
		differs(key, nil, rows[key])
	}
	return nil
}

// sameJSON compares two rows that were written with and without the escapes of HTML.
func sameJSON(a, b []byte) bool {
	if bytes.Equal(a, b) {
		return true
	}
	var x, y bytes.Buffer
	json.HTMLEscape(&x, a)
	json.HTMLEscape(&y, b)
	return bytes.Equal(x.Bytes(), y.Bytes())
}
