package registry

import (
	"strings"
	"unicode/utf8"
)

// clip shortens what a client sent to what is worth repeating.
func clip(s string) string {
	if len(s) > 200 {
		return strings.ToValidUTF8(s[:200], "") + "…"
	}
	if !utf8.ValidString(s) {
		return strings.ToValidUTF8(s, "\uFFFD")
	}
	return s
}
