package avrofile

import (
	"compress/flate"
	"io"

	"github.com/hamba/avro/v2"
	"github.com/hamba/avro/v2/ocf"
)

// Media is the media type of a file. The "avro/binary" of Avro's specification is another thing: single messages over HTTP.
const Media = "application/avro"

// blockBytes is about how many bytes of rows are kept and compressed together. The file has deflate, for it is the only compression that
// every reader of such files must have; at its fastest level, at which it takes about as long as the rows themselves do.
const blockBytes = 256 << 10

// A Writer writes a file as a stream: it holds one block, or one row if that is larger.
type Writer struct {
	form *Form
	file *ocf.Encoder
	row  []byte
}

// NewWriter begins a file with metadata, whose names must not begin with "avro.".
func NewWriter(w io.Writer, f *Form, metadata map[string]string) (*Writer, error) {
	meta := map[string][]byte{}
	for name, value := range metadata {
		meta[name] = []byte(value)
	}
	// Not what the library makes of the schema, which lacks whatever it has no use for.
	text := func(avro.Schema) ([]byte, error) { return []byte(f.text), nil }
	file, err := ocf.NewEncoderWithSchema(f.schema, struct{ io.Writer }{w}, ocf.WithSchemaMarshaler(text), ocf.WithMetadata(meta),
		ocf.WithBlockLength(0), ocf.WithBlockSize(blockBytes), ocf.WithCompressionLevel(flate.BestSpeed))
	if err != nil {
		return nil, err
	}
	return &Writer{form: f, file: file}, nil
}

// Write adds a row; ErrRow is returned for one that the schema cannot hold.
func (w *Writer) Write(r *Row) (err error) {
	if w.row, err = w.form.Append(w.row[:0], r); err != nil {
		return err
	}
	_, err = w.file.Write(w.row)
	return err
}

// Close writes what is left. A file whose writer was not closed is not whole, which its reader cannot tell.
func (w *Writer) Close() error { return w.file.Close() }
