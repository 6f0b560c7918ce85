package audit

import (
	"fmt"

	"github.com/millrace/millrace/platform/es"
)

// A Code says which promise the log breaks.
type Code string

// The codes of findings.
const (
	Lost      Code = "log_lost"        // the log does not go on where it ended, or does not begin at 0: records are gone
	Rogue     Code = "rogue_record"    // records that are not of the latest claim before them: somebody wrote past the owner, and readers drop it
	Claim     Code = "claim_order"     // a record that readers take, though it is not of the latest claim before it, or a claim that does not rise
	Malformed Code = "malformed_event" // a record that is neither an event nor a mark
	Partition Code = "wrong_partition" // an event that is not in the partition of its stream
	Version   Code = "version_order"   // a version that does not follow the stream's one before it
	Note      Code = "note_version"    // a note of a command that names another version than its stream has
	Torn      Code = "command_torn"    // events of a command that do not follow one another, or not all of them
	Twice     Code = "command_twice"   // a command that took effect on a stream before
	EventID   Code = "event_id"        // an event id that is not the one of its stream, command and index, and so may be there twice
)

// A Finding is one difference between the log and the promises: where it is, what it should have been and what it is.
type Finding struct {
	Code     Code        `json:"code"`
	Position es.Position `json:"position"` // of the first record concerned
	Stream   es.StreamID `json:"stream,omitempty"`
	Want     string      `json:"want,omitempty"`
	Got      string      `json:"got,omitempty"`
	Text     string      `json:"text"` // all of it, for people
}

// String returns "position code: text".
func (f Finding) String() string { return fmt.Sprintf("%s %s: %s", f.Position, f.Code, f.Text) }
