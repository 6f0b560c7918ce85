package command

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"

	"github.com/millrace/millrace/platform/es"
)

// A foldID names what states are folded with: a state that was kept under another one may be different today.
type foldID [12]byte

func (f foldID) String() string { return hex.EncodeToString(f[:]) }

// foldOf returns the id of a decider's fold: the shape of its state, the schemas of its events, and the author's number; without a number
// the program itself, for nobody says what changed in it.
func foldOf[S, C, E any](d *es.Decider[S, C, E], schemas [32]byte) foldID {
	h := sha256.New()
	fmt.Fprintf(h, "%d\n%s\n%x\n", snapshotFormat, shape(reflect.TypeFor[S](), map[reflect.Type]bool{}), schemas)
	if d.Fold != 0 {
		fmt.Fprintf(h, "author %d\n", d.Fold)
	} else if err := hashProgram(h); err != nil {
		h.Write([]byte(rand.Text())) // what is kept is of use to this process alone
	}
	return foldID(h.Sum(nil))
}

func hashProgram(w io.Writer) error {
	path, err := os.Executable()
	if err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(w, f)
	return err
}

// shape writes down a type with everything it is made of, so that a changed field changes the text.
func shape(t reflect.Type, seen map[reflect.Type]bool) string {
	name := t.String()
	if t.Name() != "" {
		name = t.PkgPath() + "." + t.Name()
		if seen[t] {
			return name
		}
		seen[t] = true
	}
	switch t.Kind() {
	case reflect.Struct:
		text := name + "{"
		for i := range t.NumField() {
			f := t.Field(i)
			text += fmt.Sprintf("%s %s %q;", f.Name, shape(f.Type, seen), f.Tag)
		}
		return text + "}"
	case reflect.Map:
		return name + "[" + shape(t.Key(), seen) + "]" + shape(t.Elem(), seen)
	case reflect.Pointer, reflect.Slice, reflect.Array, reflect.Chan:
		return name + "(" + shape(t.Elem(), seen) + ")"
	default:
		return name + ":" + t.Kind().String()
	}
}

var errNotSame = errors.New("what is read back is not the same")

// saveState returns a state as bytes that are known to be read back as the same state.
func saveState[S, C, E any](d *es.Decider[S, C, E], s S) ([]byte, error) {
	if d.Save == nil {
		data, err := json.Marshal(s)
		if err != nil {
			return nil, err
		}
		back, err := restoreState(d, data)
		if err == nil && !reflect.DeepEqual(s, back) {
			err = fmt.Errorf("%T as JSON: %w", s, errNotSame)
		}
		return data, err
	}
	data, err := d.Save(s)
	if err != nil {
		return nil, err
	}
	back, err := restoreState(d, data)
	if err != nil {
		return nil, err
	}
	again, err := d.Save(back)
	if err == nil && !bytes.Equal(data, again) {
		err = fmt.Errorf("%T by its Save and Restore: %w", s, errNotSame)
	}
	return data, err
}

func restoreState[S, C, E any](d *es.Decider[S, C, E], data []byte) (s S, err error) {
	if d.Restore != nil {
		return d.Restore(data)
	}
	err = json.Unmarshal(data, &s)
	return s, err
}

// sameState compares a state that was read back with the one of a full fold.
func sameState[S, C, E any](d *es.Decider[S, C, E], kept, folded S) (bool, error) {
	if d.Save == nil {
		return reflect.DeepEqual(kept, folded), nil
	}
	a, err1 := d.Save(kept)
	b, err2 := d.Save(folded)
	return bytes.Equal(a, b), errors.Join(err1, err2)
}
