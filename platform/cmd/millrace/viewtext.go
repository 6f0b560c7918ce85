package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/mattn/go-isatty"
	"github.com/spf13/cobra"

	"github.com/millrace/millrace/platform/service"
)

// A table is written with a space of two between its columns; numbers stand right.
type table struct {
	head []string // a name that begins with ">" is that of a column of numbers
	rows [][]string
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

func (t *table) write(w io.Writer) {
	widths := make([]int, len(t.head))
	head := make([]string, len(t.head))
	for i, name := range t.head {
		head[i] = strings.TrimPrefix(name, ">")
		widths[i] = len(head[i])
	}
	for _, row := range t.rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	line := func(cells []string) {
		var b strings.Builder
		for i, cell := range cells {
			gap := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			if strings.HasPrefix(t.head[i], ">") {
				b.WriteString(gap + cell + "  ")
			} else {
				b.WriteString(cell + gap + "  ")
			}
		}
		fmt.Fprintln(w, strings.TrimRight(b.String(), " "))
	}
	line(head)
	for _, row := range t.rows {
		line(row)
	}
}

// count writes a number with its thousands apart.
func count(n int64) string {
	s := strconv.FormatInt(n, 10)
	sign := ""
	if n < 0 {
		sign, s = "-", s[1:]
	}
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return sign + s
}

// span writes a duration as people say it.
func span(d time.Duration) string {
	switch {
	case d <= 0:
		return "0s"
	case d < time.Second:
		return fmt.Sprintf("%dms", max(1, d.Milliseconds()))
	case d < 10*time.Second:
		return strconv.FormatFloat(d.Seconds(), 'f', 1, 64) + "s"
	case d < time.Hour:
		return d.Round(time.Second).String()
	case d < 48*time.Hour:
		return strings.TrimSuffix(d.Round(time.Minute).String(), "0s")
	}
	return fmt.Sprintf("%dd", int(d.Hours())/24)
}

func seconds(s float64) string {
	if s > 1e9 {
		return "?"
	}
	return span(time.Duration(s * float64(time.Second)))
}

// size writes bytes.
func size(n int64) string {
	v := float64(n)
	for _, unit := range []string{"B", "KiB", "MiB", "GiB"} {
		if v < 1024 || unit == "GiB" && v < 10240 {
			if unit == "B" || v >= 10 {
				return fmt.Sprintf("%.0f %s", v, unit)
			}
			return fmt.Sprintf("%.1f %s", v, unit)
		}
		v /= 1024
	}
	return fmt.Sprintf("%.1f TiB", v)
}

// percent never says 100 before it is.
func percent(part float64) string {
	return fmt.Sprintf("%.1f %%", math.Floor(min(max(part, 0), 1)*1000)/10)
}

// An output is how a command writes what it found.
type output string

func (o *output) flag(c *cobra.Command) {
	*o = "text"
	c.Flags().StringVarP((*string)(o), "output", "o", "text", "text or json")
}

func (o output) check() error {
	if o != "text" && o != "json" {
		return service.ErrUsage.Because("-o %q is neither text nor json", string(o))
	}
	return nil
}

// json writes v if the output is that, and reports whether it did.
func (o output) json(w io.Writer, v any) (bool, error) {
	if o != "json" {
		return false, nil
	}
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return true, e.Encode(v)
}

// line writes v as JSON in one line.
func line(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// isTerminal reports whether there is somebody to see or type on the other end.
func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && isatty.IsTerminal(f.Fd())
}

// A plan is what a command that destroys something does: it is told, and done if somebody says so.
type plan struct{ yes, dry bool }

func (p *plan) flags(c *cobra.Command) {
	c.Flags().BoolVar(&p.yes, "yes", false, "do it without asking")
	c.Flags().BoolVar(&p.dry, "dry-run", false, "only say what would be done")
}

// agreed tells the plan and reports whether to go on. Without a terminal, that takes --yes.
func (p *plan) agreed(c *cobra.Command, text string) (bool, error) {
	fmt.Fprintln(c.ErrOrStderr(), text)
	switch {
	case p.dry:
		return false, nil
	case p.yes:
		return true, nil
	case !isTerminal(c.InOrStdin()):
		return false, service.ErrUsage.Because("this cannot be undone, and there is no terminal to ask at").WithFix("repeat it with --yes, or with --dry-run to see what it does")
	}
	fmt.Fprint(c.ErrOrStderr(), "go on? [y/N] ")
	var answer string
	if _, err := fmt.Fscanln(c.InOrStdin(), &answer); err != nil || !strings.EqualFold(answer, "y") && !strings.EqualFold(answer, "yes") {
		fmt.Fprintln(c.ErrOrStderr(), "nothing was done")
		return false, nil
	}
	return true, nil
}
