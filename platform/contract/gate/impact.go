package gate

import (
	"fmt"

	"github.com/millrace/millrace/platform/contract"
)

// An Impact collects what a folder's schemas do to data and readers that are really there.
type Impact struct {
	folder Folder
	byName map[string]File
	found  []Finding
	counts map[string]int // by type, writer and reason: how often
	places map[string]int // the same → its place in found
}

// NewImpact returns an Impact of the folder's schemas, those of retired types included.
func NewImpact(d Folder) *Impact {
	i := &Impact{folder: d, byName: map[string]File{}, counts: map[string]int{}, places: map[string]int{}}
	for _, files := range [][]File{d.Retired, d.Files} {
		for _, f := range files {
			for _, name := range append([]string{f.Schema.Name()}, f.Schema.Shape().Aliases...) {
				i.byName[name] = f
			}
		}
	}
	return i
}

// Data reads one stored payload, that a writer's schema with the id wrote at a position, with the new schema of its type.
func (i *Impact) Data(position string, id int32, writer *contract.Schema, payload []byte) {
	f, ok := i.byName[writer.Name()]
	reason := "no schema of the folder reads it"
	if ok {
		_, err := f.Schema.Read(writer, payload)
		if err == nil {
			return
		}
		reason = err.Error()
	} else {
		f = File{Path: i.folder.Shown + "/contracts.yaml", Subject: contract.SubjectName(i.folder.Settings.Topic, writer.Name())}
	}
	key := fmt.Sprint(f.Path, id)
	if i.counts[key]++; i.counts[key] > 1 {
		return // the first one is told, with how many there are
	}
	finding := f.at("DATA_UNREADABLE", Error, "", fmt.Sprintf("%s, written with schema id %d, cannot be read: %s", position, id, reason))
	finding.Name, finding.Direction, finding.Reader, finding.Writer = writer.Name(), Backward, "new", fmt.Sprint("id ", id)
	finding.Fix = "change the schema so that it reads what is there, or retire its type and add an upcaster"
	i.places[key] = len(i.found)
	i.found = append(i.found, finding)
}

// Reader tries whether a reader's schema, as somebody uses it now, can read what the new schema of its type writes. It reports false if the
// folder has no such type.
func (i *Impact) Reader(who string, reader *contract.Schema) bool {
	f, ok := i.byName[reader.Name()]
	if !ok {
		return false
	}
	for _, in := range contract.Compatible(reader, f.Schema) {
		finding := f.at("READER_BREAKS", Error, "", fmt.Sprintf("%s cannot read new data: %s", who, in.Message))
		finding.Name, finding.Direction, finding.Reader, finding.Writer = f.Schema.Name(), Forward, who, "new"
		finding.Fix = "deploy that reader with the new schema first, or make the change one that it can read"
		i.found = append(i.found, finding)
	}
	return true
}

// Findings returns what was found, in the order of the places.
func (i *Impact) Findings() []Finding {
	for key, place := range i.places {
		if n := i.counts[key]; n > 1 {
			i.found[place].Message += fmt.Sprintf("; and %d more like it", n-1)
		}
	}
	i.places = map[string]int{}
	return sorted(i.folder.exempt(i.found))
}
