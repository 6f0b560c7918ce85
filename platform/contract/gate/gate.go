// Package gate finds what is wrong with event schemas before they are written to a log for ever: Lint looks at each text for itself, and
// Breaking at what a change breaks for data and readers that are there, which it also tries out with random data through the real codec.
// It is pure: the files come from an fs.FS, older versions from the caller.
package gate

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/millrace/millrace/platform/contract"
	"github.com/millrace/millrace/platform/fault"
)

// ErrInput is returned for a folder that cannot be checked at all.
var ErrInput = fault.New(fault.Invalid, "gate_input", "there is nothing to check")

// The severities of findings.
const (
	Error   = "error"   // the change must not be released
	Warning = "warning" // worth a look
)

// The directions in which a change can break.
const (
	Backward = "BACKWARD" // the new schema cannot read what older ones wrote
	Forward  = "FORWARD"  // programs with an older schema cannot read what the new one writes
	Both     = "FULL"
)

// A Finding is one thing that is wrong at one place.
type Finding struct {
	Rule     string `json:"rule"`
	Severity string `json:"severity"`
	File     string `json:"file"`
	Line     int    `json:"line"` // from 1
	Col      int    `json:"col"`  // from 1, in characters
	Pointer  string `json:"pointer"`
	Subject  string `json:"subject"`
	// Of a change: in which direction, and against which stored versions, e.g. "v1–v4"; who reads what whose data.
	Direction string `json:"direction,omitempty"`
	Against   string `json:"against_version,omitempty"`
	Reader    string `json:"reader,omitempty"`
	Writer    string `json:"writer,omitempty"`
	Name      string `json:"name,omitempty"` // of the field or type
	Message   string `json:"message"`
	Fix       string `json:"fix,omitempty"`
}

// String returns the finding in one line:
//
//	file:line:col: severity RULE pointer "name": message. fix: …
func (f Finding) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s:%d:%d: %s %s", f.File, f.Line, f.Col, f.Severity, f.Rule)
	if f.Pointer != "" {
		b.WriteString(" " + f.Pointer)
	}
	if f.Name != "" {
		fmt.Fprintf(&b, " %q", f.Name)
	}
	b.WriteString(": " + f.Message)
	if f.Fix != "" {
		b.WriteString(". fix: " + f.Fix)
	}
	return b.String()
}

// sorted puts findings into the order of their places, and drops repetitions.
func sorted(all []Finding) []Finding {
	slices.SortStableFunc(all, func(a, b Finding) int {
		return cmp.Or(strings.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Col, b.Col), strings.Compare(a.Rule, b.Rule),
			strings.Compare(a.Direction, b.Direction), strings.Compare(a.Message, b.Message))
	})
	return slices.Compact(all)
}

// Errors counts the findings that are errors.
func Errors(all []Finding) int {
	n := 0
	for _, f := range all {
		if f.Severity == Error {
			n++
		}
	}
	return n
}

// at fills in the place.
func (f File) at(rule, severity, pointer, message string) Finding {
	line, col := locate(f.Text, pointer)
	return Finding{Rule: rule, Severity: severity, File: f.Path, Line: line, Col: col, Pointer: pointer, Subject: f.Subject, Message: message}
}

// exempt drops the findings that the folder's settings let pass.
func (d Folder) exempt(all []Finding) []Finding {
	return slices.DeleteFunc(all, func(f Finding) bool {
		return slices.ContainsFunc(d.Settings.Allow, func(e contract.Exempt) bool {
			return e.Rule == f.Rule && matches(e.Subjects, f.Subject) && (e.Pointer == "" || e.Pointer == f.Pointer)
		})
	})
}

func matches(pattern, subject string) bool {
	if pattern == "" {
		return true
	}
	ok, err := path.Match(pattern, subject)
	return ok && err == nil
}
