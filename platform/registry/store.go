package registry

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"sync"
)

// A store is a file of what a client has learnt, one JSON object a line, for times when the registry is down. It is only ever a second
// choice: a line that is damaged or of another registry is as if it were not there, and a failed write is no failure. A nil store
// knows nothing.
type store struct {
	path     string
	registry string // the addresses, which tell registries apart

	mu    sync.Mutex
	texts map[int32]string
	ids   map[subjectText]int32
}

type subjectText struct{ subject, text string }

// An entry is one line: what an id stands for, or with a subject, which id the text has there.
type entry struct {
	Registry string `json:"registry"`
	ID       int32  `json:"id"`
	Subject  string `json:"subject,omitempty"`
	Schema   string `json:"schema"`
	Sum      string `json:"sum"` // of the others
}

// maxStore bounds the file; what does not fit is not kept.
const maxStore = 64 << 20

func (e entry) sum() string {
	h := sha256.New()
	for _, part := range []string{e.Registry, strconv.Itoa(int(e.ID)), e.Subject, e.Schema} {
		h.Write([]byte(strconv.Itoa(len(part)) + ":" + part))
	}
	return base64.RawStdEncoding.EncodeToString(h.Sum(nil)[:12])
}

func openStore(path, registry string) (*store, error) {
	s := &store{path: path, registry: registry, texts: map[int32]string{}, ids: map[subjectText]int32{}}
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return nil, ErrURL.Because("the cache's folder cannot be made").Wrap(err)
	}
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, ErrURL.Because("the cache cannot be read").Wrap(err).WithFix("delete %s", path)
	}
	for line := range bytes.Lines(data) {
		var e entry
		if json.Unmarshal(line, &e) == nil && e.Registry == registry && e.Sum == e.sum() && e.ID > 0 {
			s.add(e)
		}
	}
	return s, nil
}

// add takes an entry over; false if it was there.
func (s *store) add(e entry) bool {
	if e.Subject == "" {
		known, ok := s.texts[e.ID]
		s.texts[e.ID] = e.Schema
		return !ok || known != e.Schema
	}
	at := subjectText{e.Subject, e.Schema}
	known, ok := s.ids[at]
	s.ids[at] = e.ID
	return !ok || known != e.ID
}

// keep adds an entry and writes it to the end of the file: later lines count more.
func (s *store) keep(e entry) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.add(e) {
		return
	}
	e.Registry = s.registry
	e.Sum = e.sum()
	f, err := os.OpenFile(s.path, os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		return
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil || info.Size() > maxStore {
		return
	}
	line := append(encode(e), '\n')
	if n := info.Size(); n > 0 { // after a torn line
		var last [1]byte
		if _, err := f.ReadAt(last[:], n-1); err == nil && last[0] != '\n' {
			line = append([]byte{'\n'}, line...)
		}
	}
	_, _ = f.Write(line)
}

func (s *store) text(id int32) (string, bool) {
	if s == nil {
		return "", false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	text, ok := s.texts[id]
	return text, ok
}

func (s *store) id(subject, text string) (int32, bool) {
	if s == nil {
		return 0, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	id, ok := s.ids[subjectText{subject, text}]
	return id, ok
}

func (s *store) any() bool {
	if s == nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.ids) > 0
}
