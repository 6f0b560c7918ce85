package service

import (
	"context"
	"fmt"
	"io"
	"iter"
	"strconv"
	"time"

	"github.com/millrace/millrace/platform/contract/avrofile"
	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/projection"
	"github.com/millrace/millrace/platform/rest"
)

const (
	// writeTime is for how long a client may not read before it is cut off.
	writeTime = 20 * time.Second
	// rowsTrailer follows an export that is whole.
	rowsTrailer = "Millrace-Rows"
)

// A sheet is an export that is being written. What close has not ended is not the whole.
type sheet interface {
	write(row *projection.Row) error
	close() error
}

// An extract is all rows of a query on a view as a whole, or of a divided one, to be closed.
type extract struct {
	applied es.Positions
	lag     time.Duration
	build   string
	version int
	rows    func() iter.Seq2[projection.Row, error]
	again   bool // rows yields them all each time
	close   func()
}

// A format says what an export is written as: its media type, and how one begins.
type format func(x *extract, form form) (media string, begin func(w io.Writer) (sheet, error), err error)

// formatOf returns what a client wants an export as; nil = it wants none.
func (a *viewAPI) formatOf(r *rest.Request) format {
	switch {
	case accepts(r, avrofile.Media):
		return a.asAvro
	case accepts(r, typeNDJSON):
		return asLines
	}
	return nil
}

// export streams all rows of a query from one state of the view.
func (a *viewAPI) export(ctx context.Context, name string, q projection.Query, atLeast es.Positions, form form, as format) (*rest.Response, error) {
	x, err := a.engine.Export(ctx, name, q, atLeast)
	if err != nil {
		return nil, err
	}
	// With a filter, it may take long to find one.
	return sheetOf(&extract{x.Applied, x.Lag, x.Build, x.Version, x.Rows, q.Where == nil, x.Close}, form, as)
}

// sheetOf streams an extract. What cannot be written as it should be cuts the connection, as the end of this process does: a body that ends is
// the whole, and is followed by how many rows it has.
func sheetOf(x *extract, form form, as format) (*rest.Response, error) {
	begun := false
	defer func() {
		if !begun {
			x.close()
		}
	}()
	media, begin, err := as(x, form)
	if err != nil {
		return nil, err
	}
	if x.again {
		// Rows that cannot be written at all are worth an answer that says so.
		if err := writeFirst(x, begin); err != nil {
			return nil, err
		}
	}
	header := freshness(x.applied.String(), x.lag)
	header["Trailer"] = []string{rowsTrailer}
	begun = true
	return &rest.Response{Header: header, ContentType: media, Stream: func(ctx context.Context, w *rest.Stream) error {
		defer x.close()
		c := &client{w: w}
		n, err := writeAll(ctx, x, c, begin)
		switch {
		case c.gone:
			return nil
		case err != nil:
			return err
		}
		w.SetTrailer(rowsTrailer, strconv.Itoa(n))
		return w.Flush()
	}}, nil
}

func writeAll(ctx context.Context, x *extract, w io.Writer, begin func(io.Writer) (sheet, error)) (n int, err error) {
	out, err := begin(w)
	if err != nil {
		return 0, err
	}
	for row, err := range x.rows() {
		if err != nil {
			return n, err
		}
		if ctx.Err() != nil {
			return n, context.Cause(ctx)
		}
		n++
		if err := out.write(&row); err != nil {
			return n, err
		}
	}
	return n, out.close()
}

// writeFirst writes the first row to nobody.
func writeFirst(x *extract, begin func(io.Writer) (sheet, error)) error {
	out, err := begin(io.Discard)
	if err != nil {
		return err
	}
	for row, err := range x.rows() {
		if err != nil {
			return err
		}
		return out.write(&row)
	}
	return nil
}

// A client is who reads an export.
type client struct {
	w    *rest.Stream
	at   time.Time // when it was given writeTime last
	gone bool      // or it has stopped reading
}

func (c *client) Write(p []byte) (n int, err error) {
	if now := time.Now(); now.Sub(c.at) > time.Second {
		c.at, err = now, c.w.SetWriteDeadline(now.Add(writeTime))
	}
	if err == nil {
		n, err = c.w.Write(p)
	}
	c.gone = c.gone || err != nil
	return n, err
}

// asLines writes a row in each line.
func asLines(_ *extract, form form) (string, func(io.Writer) (sheet, error), error) {
	return typeNDJSON, func(w io.Writer) (sheet, error) { return &lineSheet{out: w, form: form}, nil }, nil
}

type lineSheet struct {
	out  io.Writer
	form form
	line []byte
}

func (s *lineSheet) write(row *projection.Row) (err error) {
	if s.line, err = s.form.append(s.line[:0], row); err != nil {
		return err
	}
	s.line = append(s.line, '\n')
	_, err = s.out.Write(s.line)
	return err
}

func (s *lineSheet) close() error { return nil }

// asAvro writes an Avro object container file, whose schema is that of the rows of the version that is read.
func (a *viewAPI) asAvro(x *extract, form form) (string, func(io.Writer) (sheet, error), error) {
	v, ok := a.versions[x.version]
	if !ok {
		return "", nil, projection.ErrBuild.Because("view %s, build %s: the program does not have version %d of it any more, and so not the type of its rows, from which the schema would follow", a.view.name, x.build, x.version).
			WithFix("ask for %s, which needs none", typeNDJSON)
	}
	f, err := avrofile.For(v.row, avrofile.Options{
		View: a.view.name, Doc: fmt.Sprintf("A row of the view %s, version %d.", a.view.name, x.version), Fields: form.fields, Explain: form.explain,
	})
	if err != nil {
		return "", nil, err
	}
	meta := map[string]string{"millrace.view": a.view.name, "millrace.build": x.build, "millrace.position": x.applied.String()}
	return avrofile.Media, func(w io.Writer) (sheet, error) {
		file, err := avrofile.NewWriter(w, f, meta)
		if err != nil {
			return nil, err
		}
		return &avroSheet{file: file, form: form, whole: f.IsRecord()}, nil
	}, nil
}

type avroSheet struct {
	file  *avrofile.Writer
	form  form
	whole bool // the file's schema selects the fields
	some  []byte
}

func (s *avroSheet) write(row *projection.Row) (err error) {
	r := avrofile.Row{Key: row.Key, Position: row.Position.String(), EventID: row.EventID, JSON: row.JSON}
	if !s.whole {
		if s.some, err = s.form.json(s.some[:0], row); err != nil {
			return err
		}
		r.JSON = s.some
	}
	return s.file.Write(&r)
}

func (s *avroSheet) close() error { return s.file.Close() }
