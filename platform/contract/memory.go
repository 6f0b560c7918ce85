package contract

import (
	"context"
	"sync"
)

// Memory is a Resolver for tests and tools that keeps schemas in the process and registers what it is asked for.
// The zero Memory is empty and ready; it is safe for concurrent use.
type Memory struct {
	mu    sync.Mutex
	texts []string         // by id-1
	ids   map[string]int32 // by text
}

// NewMemory returns an empty registry.
func NewMemory() *Memory { return &Memory{} }

// SchemaID registers the text under the subject if it is not there, and returns its id: 1, 2, 3 … by first sight of the text.
// A text that is no schema is an ErrSchema.
func (m *Memory) SchemaID(_ context.Context, subject, schema string) (int32, error) {
	if _, err := Parse(schema); err != nil {
		return 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ids == nil {
		m.ids = map[string]int32{}
	}
	if id, ok := m.ids[schema]; ok {
		return id, nil
	}
	m.texts = append(m.texts, schema)
	m.ids[schema] = int32(len(m.texts))
	return int32(len(m.texts)), nil
}

// SchemaByID returns the text with the id, or ErrUnknownSchema.
func (m *Memory) SchemaByID(_ context.Context, id int32) (string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if id < 1 || int(id) > len(m.texts) {
		return "", ErrUnknownSchema.Because("id %d", id)
	}
	return m.texts[id-1], nil
}
