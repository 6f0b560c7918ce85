package audit

import (
	"fmt"
	"strconv"

	"github.com/millrace/millrace/platform/eventlog"
)

// An event is what the headers of an event, or of the note of a command, say, read by this package's own reading: a mistake of the
// platform's readers must not hide here. Its bytes are those of the fetch. A note has no count, and the version that its stream had.
type event struct {
	id, stream, command, hash []byte
	version                   uint64
	index, count              uint64
}

// readEvent reads the headers of a record, or says what is wrong with them.
func readEvent(r *eventlog.Record) (event, error) {
	var e event
	var typ, version, index, count []byte
	for i := range r.Headers {
		h := &r.Headers[i]
		var to *[]byte
		switch h.Key {
		case "ce_id":
			to = &e.id
		case "ce_type":
			to = &typ
		case "ce_subject":
			to = &e.stream
		case "ce_commandid":
			to = &e.command
		case "ce_commandhash":
			to = &e.hash
		case "ce_streamversion":
			to = &version
		case "ce_commandindex":
			to = &index
		case "ce_commandcount":
			to = &count
		default:
			continue
		}
		if *to != nil {
			return e, fmt.Errorf("the header %s is there twice", h.Key)
		}
		*to = h.Value
	}
	for _, h := range []struct {
		name  string
		value []byte
	}{{"ce_id", e.id}, {"ce_type", typ}, {"ce_subject", e.stream}, {"ce_commandid", e.command}} {
		if len(h.value) == 0 {
			return e, fmt.Errorf("the header %s is missing", h.name)
		}
	}
	if string(e.stream) != string(r.Key) {
		return e, fmt.Errorf("the key is %.60q and ce_subject %.60q", r.Key, e.stream)
	}
	for _, h := range []struct {
		name  string
		value []byte
		to    *uint64
		bits  int
	}{{"ce_streamversion", version, &e.version, 63}, {"ce_commandindex", index, &e.index, 31}, {"ce_commandcount", count, &e.count, 31}} {
		n, err := strconv.ParseUint(string(h.value), 10, h.bits)
		if err != nil {
			return e, fmt.Errorf("the header %s is %.40q, no number", h.name, h.value)
		}
		*h.to = n
	}
	if note := r.Mark == eventlog.MarkNote; note && (e.index != 0 || e.count != 0) || !note && (e.index >= e.count || e.version <= e.index) {
		return e, fmt.Errorf("ce_commandindex %d of %d at version %d", e.index, e.count, e.version)
	}
	return e, nil
}
