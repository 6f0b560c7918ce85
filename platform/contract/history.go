package contract

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/millrace/millrace/platform/fault"
)

// ErrHistory is returned for a folder of released versions that was changed, or that today's code reads otherwise.
var ErrHistory = fault.New(fault.Rejected, "history_broken", "a released version is not what it was")

// The names below the folder of a context's schemas.
const (
	historyDir = "history" // <record full name>/<number>.avsc, .payload, .json
	retiredDir = "retired" // the last .avsc of types that are not written any more
	sumsFile   = "released.sum"
)

// A Release is one released version of an event type: its text and a payload never change, what the payload is read as may.
type Release struct {
	Name    string // full name of the record
	Number  int    // 1, 2, 3 …
	Text    string
	Payload []byte // Avro, without a frame
	Want    []byte // JSON: an array of {"type", "data"}, the events of today that the payload is
	Path    string // of Want, in the folder
}

// ReadHistory returns the released versions of a folder of schemas, ordered by name and number; none if it has no history. It is ErrHistory
// if a released text or payload was changed, removed, or added by hand.
func ReadHistory(folder fs.FS) ([]Release, error) {
	sums, err := readSums(folder)
	if err != nil {
		return nil, err
	}
	files, err := fs.Glob(folder, path.Join(historyDir, "*", "*.*"))
	if err != nil {
		return nil, ErrHistory.Wrap(err)
	}
	var all []Release
	for _, file := range files {
		if path.Ext(file) == ".json" {
			continue
		}
		text, err := fs.ReadFile(folder, file)
		if err != nil {
			return nil, ErrHistory.Wrap(err)
		}
		switch want, ok := sums[file]; {
		case !ok:
			return nil, ErrHistory.Because("%s is not in %s/%s", file, historyDir, sumsFile).WithFix("add releases with: millrace contract release DIR")
		case want != sum(text):
			return nil, ErrHistory.Because("%s was changed after its release", file).WithFix("restore it from version control; a change of the event is a new release")
		}
		delete(sums, file)
		if path.Ext(file) != ".avsc" {
			continue
		}
		r := Release{Name: path.Base(path.Dir(file)), Text: string(text)}
		base := strings.TrimSuffix(file, ".avsc")
		if r.Number, err = strconv.Atoi(path.Base(base)); err != nil || r.Number < 1 {
			return nil, ErrHistory.Because("%s is not named as a number", file)
		}
		digits, err := fs.ReadFile(folder, base+".payload")
		if err == nil {
			r.Payload, err = hex.DecodeString(strings.Join(strings.Fields(string(digits)), ""))
		}
		if err == nil {
			r.Path = base + ".json"
			r.Want, err = fs.ReadFile(folder, r.Path)
		}
		if err != nil {
			return nil, ErrHistory.Because("%s", base).Wrap(err)
		}
		all = append(all, r)
	}
	for file := range sums {
		return nil, ErrHistory.Because("%s was released and is gone", file).WithFix("restore it from version control: what was written with it is still in the log")
	}
	slices.SortFunc(all, func(a, b Release) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), cmp.Compare(a.Number, b.Number))
	})
	return all, nil
}

func readSums(folder fs.FS) (map[string]string, error) {
	sums := map[string]string{}
	text, err := fs.ReadFile(folder, path.Join(historyDir, sumsFile))
	if errors.Is(err, fs.ErrNotExist) {
		return sums, nil
	}
	if err != nil {
		return nil, ErrHistory.Wrap(err)
	}
	for line := range strings.Lines(string(text)) {
		digest, file, ok := strings.Cut(strings.TrimSpace(line), "  ")
		if !ok || sums[path.Join(historyDir, file)] != "" {
			return nil, ErrHistory.Because("%s/%s: %q is no line of it", historyDir, sumsFile, clip(line))
		}
		sums[path.Join(historyDir, file)] = digest
	}
	return sums, nil
}

func sum(text []byte) string {
	digest := sha256.Sum256(text)
	return hex.EncodeToString(digest[:])
}

// Replay returns what the release's payload is read as today, in the form of Release.Want.
func Replay[E any](ctx context.Context, s Set[E], r Release) ([]byte, error) {
	memory := NewMemory()
	codec, err := Bind(ctx, s, memory)
	if err != nil {
		return nil, err
	}
	id, err := memory.SchemaID(ctx, "", r.Text)
	if err != nil {
		return nil, err
	}
	frame := append(binary.BigEndian.AppendUint32([]byte{0}, uint32(id)), r.Payload...)
	events, err := codec.DecodeAll(ctx, nil, frame)
	if err != nil {
		return nil, fmt.Errorf("contract: %s %d: %w", r.Name, r.Number, err)
	}
	var all []released
	for _, e := range events {
		data, err := json.Marshal(e)
		if err != nil {
			return nil, fmt.Errorf("contract: %s %d: %w", r.Name, r.Number, err)
		}
		all = append(all, released{codec.TypeName(e), data})
	}
	return marshalReleased(all)
}

type released struct {
	Type string          `json:"type"`
	Data json.RawMessage `json:"data"`
}

func marshalReleased(all []released) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	err := e.Encode(all)
	return b.Bytes(), err
}

// PlanRelease returns the files that release the .avsc files of a folder which differ from their last released version: path below dir →
// content; none if all are released. The payload is a sample, what it is read as is that of the text itself.
func PlanRelease(dir string) (map[string][]byte, error) {
	settings, err := ReadSettings(dir)
	if err != nil {
		return nil, err
	}
	folder := os.DirFS(dir)
	references, err := ReadReferences(folder, settings)
	if err == nil {
		err = references.Err()
	}
	if err != nil {
		return nil, err
	}
	history, err := ReadHistory(folder)
	if err != nil {
		return nil, err
	}
	last := map[string]Release{}
	for _, r := range history {
		last[r.Name] = r
	}
	files, err := filepath.Glob(filepath.Join(escapeGlob(dir), "*.avsc"))
	if err != nil || len(files) == 0 {
		return nil, ErrGenerate.Because("%s has no .avsc files", dir).Wrap(err)
	}
	plan := map[string][]byte{}
	lines, err := fs.ReadFile(folder, path.Join(historyDir, sumsFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, ErrHistory.Wrap(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, ErrGenerate.Wrap(err)
		}
		schema, _, err := references.Parse(string(text))
		if err != nil {
			return nil, ErrGenerate.Because("%s", file).Wrap(err)
		}
		name := schema.Name()
		if name != strings.TrimSuffix(filepath.Base(file), ".avsc") {
			return nil, ErrGenerate.Because("%s holds %s", file, name).WithFix("rename the file to %s.avsc", name)
		}
		if last[name].Text == schema.Text() {
			continue
		}
		seed := sha256.Sum256([]byte(SubjectName(settings.Topic, name)))
		payload, err := schema.Sample(rand.New(rand.NewPCG(binary.BigEndian.Uint64(seed[:]), uint64(last[name].Number)))) //nolint:gosec // a sample has no secret
		if err != nil {
			return nil, ErrGenerate.Because("%s", file).Wrap(err)
		}
		data, err := schema.JSON(payload)
		if err != nil {
			return nil, err
		}
		want, err := marshalReleased([]released{{name, data}})
		if err != nil {
			return nil, err
		}
		base := path.Join(name, strconv.Itoa(last[name].Number+1))
		digits := []byte(hex.EncodeToString(payload) + "\n")
		plan[path.Join(historyDir, base+".avsc")], plan[path.Join(historyDir, base+".payload")], plan[path.Join(historyDir, base+".json")] = []byte(schema.Text()), digits, want
		lines = fmt.Appendf(lines, "%s  %s\n%s  %s\n", sum([]byte(schema.Text())), base+".avsc", sum(digits), base+".payload")
	}
	if len(plan) > 0 {
		plan[path.Join(historyDir, sumsFile)] = lines
	}
	return plan, nil
}
