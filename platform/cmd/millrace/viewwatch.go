package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace/millrace/platform/fault"
	"github.com/millrace/millrace/platform/service"
)

// A frame is a server-sent event.
type frame struct {
	event, id string
	data      string
}

// frames calls do for each event of a stream until it ends, and for each time that says after how long to come back. It returns nil at the
// end, the error of reading, or that of do. beat is called for whatever is read.
func frames(in io.Reader, beat func(), retry func(time.Duration), do func(frame) error) error {
	r := bufio.NewReaderSize(in, 64<<10)
	var f frame
	for {
		text, err := r.ReadString('\n')
		if errors.Is(err, io.EOF) {
			return nil // what has no end is no event
		}
		if err != nil {
			return err
		}
		beat()
		text = strings.TrimRight(text, "\r\n")
		name, value, _ := strings.Cut(text, ":")
		value = strings.TrimPrefix(value, " ")
		switch {
		case text == "":
			if f.data != "" {
				f.data = strings.TrimSuffix(f.data, "\n")
				if err := do(f); err != nil {
					return err
				}
			}
			f = frame{id: f.id}
		case name == "event":
			f.event = value
		case name == "data":
			if f.data += value + "\n"; len(f.data) > mostAnswer {
				return errAnswer.Because("an event of more than %d bytes", mostAnswer)
			}
		case name == "id":
			f.id = value
		case name == "retry":
			if ms, err := strconv.Atoi(value); err == nil && ms >= 0 {
				retry(time.Duration(ms) * time.Millisecond)
			}
		}
	}
}

// A watched is what an event of a watch brings.
type watched struct {
	Event string       `json:"event"` // "state": these rows and no others; "change": those that changed, and the keys of those that went
	ID    string       `json:"id"`    // positions
	Rows  []watchedRow `json:"rows"`
	Gone  []string     `json:"gone,omitempty"`
}

type watchedRow struct {
	Key      string          `json:"key"`
	Position string          `json:"position"`
	EventID  string          `json:"event_id"`
	Row      json.RawMessage `json:"row"`
}

// A watcher follows rows as they change, over as many connections as that takes.
type watcher struct {
	i     *instance
	path  string
	query url.Values
	head  http.Header
	talk  func(format string, args ...any)

	last  string        // id of the last event
	retry time.Duration // until the next connection
}

// silence is after how long without a byte a connection is given up: every 15 s there is one.
const silence = 45 * time.Second

var errDone = errors.New("enough was seen")

// run calls do for each event until that returns an error, or what is asked for is refused.
func (w *watcher) run(ctx context.Context, do func(watched) error) error {
	w.retry = 2 * time.Second
	for {
		err := w.connect(ctx, do)
		var stop stopped
		switch {
		case errors.As(err, &stop):
			return stop.error
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err == nil:
			err = errors.New("it was ended")
		case !errors.Is(err, errCut) && fault.KindOf(err) != fault.Unavailable:
			return err
		}
		w.talk("the connection is gone (%s), again in %s", fault.Line(err), span(w.retry))
		again := time.NewTimer(w.retry)
		select {
		case <-again.C:
		case <-ctx.Done():
			again.Stop()
		}
	}
}

// A stopped is an error of who is called.
type stopped struct{ error }

// errCut is why a connection ended.
var errCut = fault.New(fault.Unavailable, "stream_cut", "the stream was cut off")

func (w *watcher) connect(ctx context.Context, do func(watched) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	header := w.head.Clone()
	if w.last != "" {
		header.Set("Last-Event-ID", w.last)
	}
	quiet := time.AfterFunc(silence, func() { cancel(errCut.Because("nothing was heard for %s", silence)) })
	defer quiet.Stop()
	resp, err := w.i.send(ctx, http.MethodGet, w.path, w.query, nil, header)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if media, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";"); media != "text/event-stream" {
		return fault.New(fault.Unsupported, "no_stream", "the answer is no stream of events").Because("it is %s", media)
	}
	err = frames(resp.Body, func() { quiet.Reset(silence) }, func(d time.Duration) { w.retry = d }, func(f frame) error {
		if f.event == "error" {
			var e struct{ Code, Detail string }
			if json.Unmarshal([]byte(f.data), &e) != nil || e.Detail == "" {
				e.Detail = f.data
			}
			return errCut.Because("%s", e.Detail)
		}
		u := watched{Event: f.event, ID: f.id}
		if err := json.Unmarshal([]byte(f.data), &u); err != nil {
			return stopped{errAnswer.Because("an event that is no JSON").Wrap(err)}
		}
		if err := do(u); err != nil {
			return stopped{err}
		}
		w.last = f.id // what was not seen to its end is sent again
		return nil
	})
	var stop stopped
	if err != nil && !errors.As(err, &stop) && !errors.Is(err, errCut) {
		err = errCut.Wrap(err)
	}
	return err
}

func viewWatchCommand() *cobra.Command {
	var o output
	var s selection
	var most int
	c := &cobra.Command{
		Use: "watch VIEW [KEY]", Short: "Follow a row, or the rows of a selection, as they change", Args: cobra.RangeArgs(1, 2),
		Long: "Print the row, or the first page of rows, and then each row that changes, until interrupted: \"= KEY ROW\" is how it was at the beginning, \"~ KEY ROW\" how it is after a change,\n" +
			"\"- KEY\" a row that went. A connection that is lost is made again and goes on where it ended; if too much has happened for that, everything is printed again, after \"# anew\".\n" +
			"With -o json each event is an object in a line.",
		Example: "  millrace view watch orders o-1\n  millrace view watch orders --index status=placed --where 'total > 100000'",
		RunE: func(c *cobra.Command, args []string) error {
			if err := o.check(); err != nil {
				return err
			}
			if most < 0 {
				return service.ErrUsage.Because("-n is not negative")
			}
			i, err := public(c)
			if err != nil {
				return err
			}
			query, err := s.query()
			if err != nil {
				return err
			}
			w := watcher{i: i, path: viewPath(args[0]), query: query, head: asked(s.atLeast, "text/event-stream"), talk: func(format string, a ...any) {
				fmt.Fprintf(c.ErrOrStderr(), format+"\n", a...)
			}}
			if len(args) > 1 {
				if len(s.indexes) > 0 || s.prefix+s.from+s.to+s.where+s.order != "" || s.limit != 0 {
					return service.ErrUsage.Because("a key, and a selection of rows: watch one or the other")
				}
				w.path = viewPath(args[0], args[1])
			}
			seen := 0
			err = w.run(c.Context(), func(u watched) error {
				if len(args) > 1 && u.Event == "state" && len(u.Rows) == 0 {
					u.Gone = []string{args[1]} // it is not there yet, or not any more
				}
				if err := writeWatched(c, o, &u, seen > 0); err != nil {
					return err
				}
				if seen++; seen == most {
					return errDone
				}
				return nil
			})
			if errors.Is(err, errDone) {
				return nil
			}
			return err
		},
	}
	o.flag(c)
	urlFlag(c)
	s.flags(c)
	c.Flags().IntVarP(&most, "events", "n", 0, "end after so many events; 0 = go on")
	return c
}

func writeWatched(c *cobra.Command, o output, u *watched, again bool) error {
	out := c.OutOrStdout()
	if o == "json" {
		if u.Rows == nil {
			u.Rows = []watchedRow{}
		}
		return line(out, u)
	}
	sign := "~"
	if u.Event == "state" {
		sign = "="
		if again {
			fmt.Fprintln(out, "# anew")
		}
	}
	for _, row := range u.Rows {
		if _, err := fmt.Fprintf(out, "%s %s %s\n", sign, row.Key, row.Row); err != nil {
			return err
		}
	}
	for _, key := range u.Gone {
		if _, err := fmt.Fprintf(out, "- %s\n", key); err != nil {
			return err
		}
	}
	return nil
}
