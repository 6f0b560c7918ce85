package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/millrace/millrace/platform/contract/avrofile"
	"github.com/millrace/millrace/platform/service"
)

// urlFlag adds where queries are answered.
func urlFlag(c *cobra.Command) {
	c.Flags().String("url", "http://127.0.0.1:8088", "where queries are answered (MILLRACE_URL); MILLRACE_TOKEN is sent as a bearer token")
}

func viewGetCommand() *cobra.Command {
	var o output
	var atLeast, fields, build string
	var explain bool
	c := &cobra.Command{
		Use: "get VIEW KEY", Short: "Read one row", Args: cobra.ExactArgs(2),
		Long:    "Read one row; standard error tells on which positions the answer is based. --explain adds the event that changed the row last, with its headers, and which build answered.",
		Example: "  millrace view get orders o-1\n  millrace view get orders o-1 --at-least orders.events/6@1 --explain",
		RunE: func(c *cobra.Command, args []string) error {
			if err := o.check(); err != nil {
				return err
			}
			i, err := public(c)
			if err != nil {
				return err
			}
			query := url.Values{}
			if explain {
				query.Set("explain", "")
			}
			if fields != "" {
				query.Set("fields", fields)
			}
			if build != "" {
				query.Set("build", build)
			}
			resp, err := i.send(c.Context(), http.MethodGet, viewPath(args[0], args[1]), query, nil, asked(atLeast, ""))
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			tellFreshness(c, o, resp)
			return copyJSON(c.OutOrStdout(), o, resp.Body)
		},
	}
	o.flag(c)
	urlFlag(c)
	c.Flags().StringVar(&atLeast, "at-least", "", "positions that the answer must hold, comma separated")
	c.Flags().StringVar(&fields, "fields", "", "only these fields, comma separated")
	c.Flags().BoolVar(&explain, "explain", false, "say which event changed it last")
	c.Flags().StringVar(&build, "build", "", buildUsage)
	return c
}

const buildUsage = "build to read, e.g. v2-3; default: the one that answers queries"

// asked returns the header of a query.
func asked(atLeast, accept string) http.Header {
	h := http.Header{}
	if atLeast != "" {
		h.Set("Millrace-At-Least", atLeast)
	}
	if accept != "" {
		h.Set("Accept", accept)
	}
	return h
}

// tellFreshness tells on which positions an answer is based.
func tellFreshness(c *cobra.Command, o output, resp *http.Response) {
	if at := resp.Header.Get("Millrace-Position"); at != "" && o == "text" {
		lag, err := strconv.ParseFloat(resp.Header.Get("Millrace-Lag-Seconds"), 64)
		if err != nil {
			lag = 0
		}
		fmt.Fprintf(c.ErrOrStderr(), "at %s, lag %s\n", at, seconds(lag))
	}
}

// copyJSON writes a document, indented for people.
func copyJSON(w io.Writer, o output, in io.Reader) error {
	text, err := io.ReadAll(io.LimitReader(in, mostAnswer))
	if err != nil {
		return errAnswer.Wrap(err)
	}
	if o == "text" {
		var b bytes.Buffer
		if json.Indent(&b, bytes.TrimSpace(text), "", "  ") == nil {
			text = append(b.Bytes(), '\n')
		}
	}
	_, err = w.Write(text)
	return err
}

// A selection is what selects rows.
type selection struct {
	indexes                           []string
	prefix, from, to, where, fields   string
	order, cursor, atLeast, changedBy string
	build                             string
	limit                             int
	all, avro, counted, explain       bool
}

func (s *selection) flags(c *cobra.Command) {
	f := c.Flags()
	f.StringArrayVar(&s.indexes, "index", nil, "index to go by, NAME, or NAME=VALUE for each of its first parts; may be given several times for one index")
	f.StringVar(&s.prefix, "prefix", "", "how keys begin, or the part of the index after those that have a value")
	f.StringVar(&s.from, "from", "", "first key, or value of that part")
	f.StringVar(&s.to, "to", "", "last key, or value of that part, inclusive")
	f.StringVar(&s.where, "where", "", "CEL filter over the fields of a row, e.g. 'total > 5000 && status == \"placed\"'")
	f.StringVar(&s.fields, "fields", "", "only these fields, comma separated")
	f.StringVar(&s.order, "order", "", "asc (default) or desc")
	f.IntVar(&s.limit, "limit", 0, "rows, 1 to 1000; 0 = 100")
	f.StringVar(&s.build, "build", "", buildUsage)
	f.StringVar(&s.atLeast, "at-least", "", "positions that the answer must hold, comma separated")
}

// query returns the parameters of the selection.
func (s *selection) query() (url.Values, error) {
	q := url.Values{}
	index := ""
	for _, given := range s.indexes {
		name, value, has := strings.Cut(given, "=")
		if name == "" || index != "" && name != index {
			return nil, service.ErrUsage.Because("--index %q: one index at a time, as NAME or NAME=VALUE", given)
		}
		index = name
		if has {
			q.Add(name, value)
		}
	}
	bound := func(name, value string) {
		if index != "" {
			name = index + "." + name
		}
		if value != "" {
			q.Set(name, value)
		}
	}
	bound("prefix", s.prefix)
	bound("from", s.from)
	bound("to", s.to)
	if index != "" && len(q) == 0 {
		q.Set(index+".from", "") // all of the index
	}
	for name, value := range map[string]string{"where": s.where, "fields": s.fields, "order": s.order, "cursor": s.cursor, "changed_by": s.changedBy, "build": s.build} {
		if value != "" {
			q.Set(name, value)
		}
	}
	if s.limit != 0 {
		q.Set("limit", strconv.Itoa(s.limit))
	}
	for name, set := range map[string]bool{"count": s.counted, "explain": s.explain} {
		if set {
			q.Set(name, "")
		}
	}
	return q, nil
}

func viewScanCommand() *cobra.Command {
	var o output
	var s selection
	c := &cobra.Command{
		Use: "scan VIEW", Short: "Read the rows of a view: by key or by an index, in ranges, filtered, counted", Args: cobra.ExactArgs(1),
		Long: "Read rows in the order of their keys or of an index, one in a line. Standard error tells on which positions they are based, and the cursor of the next page if there is one.\n" +
			"--all reads all of them, from one state of the view, however many they are; with --avro as an Avro object container file. It fails if they are cut off.",
		Example: "  millrace view scan orders --index customer=c-00004 --limit 3\n  millrace view scan orders --index total=USD --from 50000 --order desc --fields order_id,total\n" +
			"  millrace view scan orders --where 'units > 20' --count\n  millrace view scan sales --from 1997-01-01 --to 1997-01-31\n  millrace view scan orders --all > orders.ndjson\n  millrace view scan orders --all --avro > orders.avro",
		RunE: func(c *cobra.Command, args []string) error {
			if err := o.check(); err != nil {
				return err
			}
			i, err := public(c)
			if err != nil {
				return err
			}
			query, err := s.query()
			if err != nil {
				return err
			}
			accept, wants := "", "application/json"
			if s.all {
				if s.limit != 0 || s.cursor != "" || s.counted || s.changedBy != "" {
					return service.ErrUsage.Because("--all goes with neither --limit, --cursor, --count nor --changed-by")
				}
				accept = "application/x-ndjson"
			}
			if s.avro {
				if !s.all || o != "text" {
					return service.ErrUsage.Because("--avro goes with --all, and not with -o")
				}
				accept = avrofile.Media
			}
			if accept != "" {
				wants = accept
			}
			resp, err := i.send(c.Context(), http.MethodGet, viewPath(args[0]), query, nil, asked(s.atLeast, accept))
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			if media, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";"); media != wants {
				return i.noRows(resp, fmt.Sprintf("with %q and not %s", media, wants))
			}
			if s.all {
				tellFreshness(c, o, resp)
				return exported(c, o, resp)
			}
			text, err := io.ReadAll(io.LimitReader(resp.Body, mostAnswer))
			if err != nil {
				return errAnswer.Wrap(err)
			}
			var page struct {
				Rows  []json.RawMessage `json:"rows"`
				Gone  []string          `json:"gone"`
				Next  string            `json:"next"`
				Count *int64            `json:"count"`
				More  bool              `json:"more"`
			}
			if err := json.Unmarshal(text, &page); err != nil {
				return errAnswer.Wrap(err)
			}
			// The admin address has other documents at the same paths.
			switch {
			case s.counted && s.changedBy == "" && page.Count == nil:
				return i.noRows(resp, "without a count")
			case page.Rows == nil && page.Count == nil:
				return i.noRows(resp, "without rows")
			}
			tellFreshness(c, o, resp)
			if o == "json" {
				return copyJSON(c.OutOrStdout(), o, bytes.NewReader(text))
			}
			if page.Count != nil {
				fmt.Fprintln(c.OutOrStdout(), *page.Count)
			}
			if page.More {
				fmt.Fprintln(c.ErrOrStderr(), "there may be more: only so many rows were looked at")
			}
			for _, row := range page.Rows {
				fmt.Fprintln(c.OutOrStdout(), string(row))
			}
			for _, key := range page.Gone {
				fmt.Fprintf(c.ErrOrStderr(), "%s is not there any more\n", key)
			}
			if page.Next != "" {
				fmt.Fprintf(c.ErrOrStderr(), "there may be more: --cursor %s\n", page.Next)
			}
			return nil
		},
	}
	o.flag(c)
	urlFlag(c)
	s.flags(c)
	f := c.Flags()
	f.StringVar(&s.cursor, "cursor", "", "go on where a page ended, with the same selection")
	f.BoolVar(&s.all, "all", false, "all rows instead of a page")
	f.BoolVar(&s.avro, "avro", false, "with --all: as an Avro object container file")
	f.BoolVar(&s.counted, "count", false, "only how many they are")
	f.BoolVar(&s.explain, "explain", false, "each row with its key and the event that changed it last")
	f.StringVar(&s.changedBy, "changed-by", "", "the rows that the event at this position changed")
	return c
}

// noRows returns the error that an answer is which is not one to a query.
func (i *instance) noRows(resp *http.Response, how string) error {
	return errAnswer.Because("%s answers %s: these are no rows of a view", resp.Request.URL, how).
		WithFix("see that it is the address where queries are answered, not an admin address, and name it with %s", i.flag)
}

// exported copies rows as they come, or lines as a JSON document if that is asked for. How many there are follows what is whole: a connection
// that ends without was cut off, maybe by something in between that does not say so.
func exported(c *cobra.Command, o output, resp *http.Response) error {
	w := c.OutOrStdout()
	if o == "text" {
		if _, err := io.Copy(w, resp.Body); err != nil {
			return errAnswer.Because("the rows were cut off: this is not the whole").Wrap(err)
		}
		n := resp.Trailer.Get("Millrace-Rows")
		if n == "" {
			return errUncounted()
		}
		fmt.Fprintf(c.ErrOrStderr(), "%s rows\n", n)
		return nil
	}
	fmt.Fprint(w, `{"rows":[`)
	d := json.NewDecoder(resp.Body)
	n := 0
	for {
		var row json.RawMessage
		err := d.Decode(&row)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return errAnswer.Because("the rows were cut off after %d", n).Wrap(err)
		}
		if n++; n > 1 {
			fmt.Fprint(w, ",")
		}
		fmt.Fprintf(w, "\n%s", row)
	}
	if resp.Trailer.Get("Millrace-Rows") != strconv.Itoa(n) {
		return errUncounted()
	}
	fmt.Fprintln(w, "\n]}")
	return nil
}

// errUncounted is why rows that were written may not be all.
func errUncounted() error {
	return errAnswer.Because("how many rows there are, the trailer Millrace-Rows, did not come after them: this may not be the whole").
		WithFix("repeat it, and see that no proxy in between removes trailers")
}
