package service

import (
	"strings"
	"sync"

	"github.com/millrace/millrace/platform/projection"
)

// A viewSet is the views that a process keeps up to date, by the names under which they are operated: a divided view has one for each range
// that is here, such as orders.0.
type viewSet struct {
	mu      sync.RWMutex
	all     map[string]operated
	spreads map[string]*spreader // of divided views, by their own names
}

// An operated view is one of a projector's.
type operated struct {
	engine *projection.Projector
	view   string // its own name
}

func newViewSet() *viewSet {
	return &viewSet{all: map[string]operated{}, spreads: map[string]*spreader{}}
}

// add adds a view, unless there is one of that name.
func (s *viewSet) add(name string, o operated) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, there := s.all[name]; there || s.spreads[name] != nil {
		return false
	}
	s.all[name] = o
	return true
}

// spread adds a view that is divided, unless there is one of that name.
func (s *viewSet) spread(name string, by *spreader) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, there := s.all[name]; there || s.spreads[name] != nil {
		return false
	}
	s.spreads[name] = by
	return true
}

func (s *viewSet) remove(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, name)
}

// find returns a view, or ErrViewNotFound.
func (s *viewSet) find(name string) (operated, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if o, ok := s.all[name]; ok {
		return o, nil
	}
	err := projection.ErrViewNotFound.Because("%.100q", name).WithFix("use one of %s", strings.Join(sortedKeys(s.all), ", "))
	if s.spreads[name] != nil {
		err = projection.ErrViewNotFound.Because("%s is divided, and each range that is here is a view of its own", name).
			WithFix("use one of %s; GET /v1/views/%s/ranges (millrace view ranges %s) tells who has which", strings.Join(sortedKeys(s.all), ", "), name, name)
	}
	return operated{}, err
}

// each calls do for every view, by name.
func (s *viewSet) each(do func(name string, o operated) error) error {
	s.mu.RLock()
	names := sortedKeys(s.all)
	all := make([]operated, len(names))
	for i, name := range names {
		all[i] = s.all[name]
	}
	s.mu.RUnlock()
	for i, name := range names {
		if err := do(name, all[i]); err != nil {
			return err
		}
	}
	return nil
}

// status returns how a view is, under the name by which it is operated.
func (o operated) status(name string) (projection.ViewStatus, error) {
	st, err := o.engine.StatusOf(o.view)
	st.Name = name
	return st, err
}
