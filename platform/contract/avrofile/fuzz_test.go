package avrofile

import (
	"bytes"
	"encoding/json"
	"errors"
	"testing"

	twmb "github.com/twmb/avro"
)

// FuzzRow gives rows to the encoder: whatever the JSON, what it writes is what other readers read, to the last byte; and what a Go value is
// written as by encoding/json is never refused, but for times that Avro cannot hold.
func FuzzRow(f *testing.F) {
	f.Add(asJSON(f, full()))
	f.Add(asJSON(f, all{}))
	for _, text := range []string{``, `{}`, ` { "list" : [ 1 , 2 ] , "map" : { "a" : 1 } , "raw" : [ "\"" , null ] } `, `{"text":"\ud800","hash":[1,2,3,4]}`, `{"hash":[1]}`, `{"tree":{"kids":[{"kids":[]}]}}`,
		`{"at":"2026-01-01T00:00:00.0000001Z"}`, `{"bytes":"AA=="}`, `{"q_pointer":"null","quoted":" 1"}`, "{\"raw\":\"\xff\"}", `{"nest":[[],null,[[]]]}`, `[1]`, `{"number":1e99}`, `{"F64":1e400}`} {
		f.Add([]byte(text))
	}
	form := form(f, all{}, Options{Explain: true})
	oracle, err := twmb.Parse(form.Schema())
	if err != nil {
		f.Fatal(err)
	}
	read := func(t *testing.T, text []byte) error {
		row := Row{Key: "k", Position: "p", EventID: "e", JSON: text}
		b, err := form.Append(nil, &row)
		if err != nil {
			return err
		}
		var theirs any
		if rest, err := oracle.Decode(b, &theirs); err != nil || len(rest) > 0 {
			t.Fatalf("%s: written as %x, of which %d bytes are left: %v", text, b, len(rest), err)
		}
		if _, ours, _ := file(t, form, row); len(ours) != 1 {
			t.Fatalf("%s: %d rows", text, len(ours))
		}
		return nil
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if err := read(t, text); err != nil && !errors.Is(err, ErrRow) {
			t.Fatal(err)
		}
		var v all
		if json.Unmarshal(text, &v) != nil {
			return
		}
		written, err := json.Marshal(v)
		if err != nil {
			return
		}
		if err := read(t, written); err != nil && !bytes.Contains([]byte(err.Error()), []byte(errFine.Error())) {
			t.Fatalf("%s: %v", written, err)
		}
	})
}
