package projection

import (
	"context"
	"maps"
	"slices"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/eventlog"
)

// A code is one version of a view as the program has it, with its types hidden.
type code struct {
	version int
	shape   shape
	inputs  []input // in the order of shape.Topics
	begin   func(g *generation) fold
	// sample returns a sampler of the rows whose keys are to be kept.
	sample func(keep func(key string) bool) sampler
	// keys returns the keys of the rows that a decoded record changes.
	keys func(run any) ([]string, error)
}

// An input is a topic and the number of the decoder, among the topic's, that a view needs.
type input struct {
	topic   eventlog.Topic
	decoder int
}

func newCode[R, E any](v es.View[R, E]) *code {
	c := &code{version: v.Version}
	for _, name := range slices.Sorted(maps.Keys(v.Indexes)) {
		x := v.Indexes[name]
		s := indexShape{Name: name, Unique: x.Unique, kinds: x.Shape()}
		for _, kind := range s.kinds {
			s.Parts = append(s.Parts, kind.String())
		}
		c.shape.Indexes = append(c.shape.Indexes, s)
	}
	c.begin = func(g *generation) fold { return newFolding(g, v) }
	c.sample = func(keep func(key string) bool) sampler {
		return &sampling[R, E]{def: v, keep: keep, held: map[string]R{}}
	}
	c.keys = func(decoded any) (keys []string, err error) {
		r := decoded.(*run[E])
		if r.errs[0] != nil {
			return nil, r.errs[0]
		}
		defer func() {
			if p := recover(); p != nil {
				err = errHalt.Because("panic: %.300v", p)
			}
		}()
		for k := 0; ; k++ {
			env := r.part(0, k)
			if env == nil {
				break
			}
			keys = append(keys, v.KeysOf(*env)...)
		}
		slices.Sort(keys)
		return slices.Compact(keys), nil
	}
	return c
}

// form returns the Form of the code of a view that reads topics.
func (c *code) form(view string, topics []string) Form {
	s := c.shape
	s.Topics = slices.Sorted(slices.Values(topics))
	text, err := s.binary()
	if err != nil {
		panic("projection: a shape without JSON: " + err.Error())
	}
	return Form{view, c.version, string(text)}
}

// keysOf returns the keys of the rows that a record changes, sorted.
func (c *code) keysOf(ctx context.Context, d decoder, rec eventlog.Record) ([]string, error) {
	run := d.decode(ctx, []eventlog.Record{rec}, 1)
	if err := d.failure(run); err != nil {
		return nil, err
	}
	return c.keys(run)
}
