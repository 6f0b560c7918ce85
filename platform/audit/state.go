package audit

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"hash"
	"hash/crc32"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/eventlog"
)

// A state is where an audit is and what it knows, as the file holds it.
type state struct {
	key   [16]byte
	found int64    // findings so far
	first *Finding // of them
	parts map[es.TopicPartition]*part
}

// A part is the state of a partition.
type part struct {
	cursor eventlog.Cursor
	ledger *ledger
}

// magic begins the file and is its version; the rest is written by encode, and a CRC-32C of all ends it.
const magic = "millrace audit 1\n"

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// save writes the file as a whole: who reads it, after a crash too, finds the state before or this one. It is written piece by piece, for
// it can be large.
func (s *state) save(path string) error {
	failed := ErrState.WithFix("see that the directory is there, can be written and has room")
	tmp, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return failed.Because("%s cannot be written", path).Wrap(err)
	}
	buffered := bufio.NewWriterSize(tmp, 1<<16)
	sum := crc32.New(castagnoli)
	err = s.encode(io.MultiWriter(buffered, sum))
	if err == nil {
		_, err = buffered.Write(sum.Sum(nil))
	}
	err = errors.Join(err, buffered.Flush(), tmp.Sync(), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return failed.Because("%s cannot be written", path).Wrap(errors.Join(err, os.Remove(tmp.Name())))
	}
	d, err := os.Open(filepath.Dir(path))
	if err == nil {
		err = errors.Join(d.Sync(), d.Close())
	}
	if err != nil {
		return failed.Because("%s may not last", path).Wrap(err)
	}
	return nil
}

// loadState reads the file; nil is no file. Anything but what save wrote is ErrState.
func loadState(path string) (*state, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, ErrState.Because("%s cannot be read", path).Wrap(err)
	}
	defer f.Close()
	s, err := decodeState(f)
	if err != nil {
		return nil, ErrState.Because("%s is damaged, or no state of this version", path).WithFix("remove it: the audit then begins at the start of the log").Wrap(err)
	}
	return s, nil
}

// An encoder writes numbers and bytes until the first error.
type encoder struct {
	w   io.Writer
	buf []byte
	err error
}

func (e *encoder) write(b []byte) {
	if e.err == nil {
		_, e.err = e.w.Write(b)
	}
}

func (e *encoder) number(n uint64) {
	e.buf = binary.AppendUvarint(e.buf[:0], n)
	e.write(e.buf)
}

func (e *encoder) word(n uint64) {
	e.buf = binary.BigEndian.AppendUint64(e.buf[:0], n)
	e.write(e.buf)
}

func (e *encoder) bytes(b []byte) {
	e.number(uint64(len(b)))
	e.write(b)
}

func (s *state) encode(w io.Writer) error {
	e := &encoder{w: w}
	e.write([]byte(magic))
	e.write(s.key[:])
	e.number(uint64(s.found)) //nolint:gosec // a count
	first, err := json.Marshal(s.first)
	if err != nil {
		return err
	}
	e.bytes(first)
	e.number(uint64(len(s.parts)))
	for _, tp := range inOrder(s.parts) {
		p := s.parts[tp]
		cursor, err := p.cursor.MarshalBinary()
		if err != nil {
			return err
		}
		e.bytes(cursor)
		l := p.ledger
		e.owner(l.owner)
		e.number(uint64(len(l.closed)))
		for _, pid := range l.closed {
			e.word(uint64(pid)) //nolint:gosec // as it is
		}
		e.number(l.open.count)
		if l.open.count > 0 {
			e.bytes([]byte(l.open.stream))
			e.bytes([]byte(l.open.command))
			e.bytes([]byte(l.open.hash))
			e.word(uint64(l.open.offset)) //nolint:gosec // not negative
			e.number(l.open.index)
			e.owner(l.open.owner)
		}
		e.number(uint64(len(l.streams)))
		for digest, version := range l.streams {
			e.word(digest)
			e.number(version)
		}
		e.number(uint64(len(l.recall.order)))
		older, newer := l.recall.list()
		for _, digest := range older {
			e.word(digest)
		}
		for _, digest := range newer {
			e.word(digest)
		}
	}
	return e.err
}

func (e *encoder) owner(o owner) {
	e.word(uint64(o.pid))             //nolint:gosec // as it is
	e.number(uint64(uint16(o.epoch))) //nolint:gosec // as it is
}

// What is wrong with a file.
var (
	errForm = errors.New("it does not have the form of a state")
	errSum  = errors.New("its checksum is wrong")
)

// A decoder reads what an encoder wrote, until the first error.
type decoder struct {
	r   *bufio.Reader
	sum hash.Hash32
	buf [8]byte
	err error
}

// ReadByte reads one byte, for numbers.
func (d *decoder) ReadByte() (byte, error) {
	b, err := d.r.ReadByte()
	if err == nil {
		d.buf[0] = b
		d.sum.Write(d.buf[:1])
	}
	return b, err
}

func (d *decoder) number(most uint64) uint64 {
	if d.err != nil {
		return 0
	}
	n, err := binary.ReadUvarint(d)
	if err != nil || n > most {
		d.err = errors.Join(errForm, err)
		return 0
	}
	return n
}

func (d *decoder) read(b []byte) {
	if d.err != nil {
		return
	}
	if _, err := io.ReadFull(d.r, b); err != nil {
		d.err = errors.Join(errForm, err)
		return
	}
	d.sum.Write(b)
}

func (d *decoder) word() uint64 {
	d.read(d.buf[:])
	return binary.BigEndian.Uint64(d.buf[:])
}

// maxName is longer than any name or finding.
const maxName = 1 << 16

func (d *decoder) bytes() []byte {
	b := make([]byte, d.number(maxName))
	d.read(b)
	return b
}

func (d *decoder) owner() owner {
	pid := int64(d.word())                             //nolint:gosec // as it was
	return owner{pid, int16(d.number(math.MaxUint16))} //nolint:gosec // as it was
}

func decodeState(r io.Reader) (*state, error) {
	d := &decoder{r: bufio.NewReaderSize(r, 1<<16), sum: crc32.New(castagnoli)}
	head := make([]byte, len(magic))
	d.read(head)
	if string(head) != magic {
		return nil, errForm
	}
	s := &state{parts: map[es.TopicPartition]*part{}}
	d.read(s.key[:])
	s.found = int64(d.number(math.MaxInt64)) //nolint:gosec // bounded
	if first := d.bytes(); d.err == nil {
		if err := json.Unmarshal(first, &s.first); err != nil {
			return nil, errors.Join(errForm, err)
		}
	}
	for n := d.number(1 << 20); n > 0 && d.err == nil; n-- {
		p := &part{}
		if b := d.bytes(); d.err == nil {
			if err := p.cursor.UnmarshalBinary(b); err != nil {
				return nil, errors.Join(errForm, err)
			}
		}
		tp := p.cursor.TopicPartition
		l := newLedger(tp, s.key)
		p.ledger = l
		l.owner = d.owner()
		for n := d.number(1 << 20); n > 0 && d.err == nil; n-- {
			l.closed = append(l.closed, int64(d.word())) //nolint:gosec // as it was
		}
		if l.open.count = d.number(math.MaxInt32); l.open.count > 0 {
			l.open.stream, l.open.command, l.open.hash = string(d.bytes()), string(d.bytes()), string(d.bytes())
			l.open.offset = int64(d.word()) //nolint:gosec // as it was
			l.open.index = d.number(math.MaxInt32)
			l.open.owner = d.owner()
		}
		for n := d.number(math.MaxInt64); n > 0 && d.err == nil; n-- {
			digest := d.word()
			l.streams[digest] = d.number(math.MaxInt64)
		}
		n := d.number(math.MaxInt32)
		l.recall.limit = int(n) //nolint:gosec // bounded
		for ; n > 0 && d.err == nil; n-- {
			l.recall.add(d.word())
		}
		if d.err == nil && s.parts[tp] != nil {
			return nil, errForm
		}
		s.parts[tp] = p
	}
	if d.err != nil {
		return nil, d.err
	}
	sum := d.sum.Sum(nil)
	var end [5]byte
	if n, _ := io.ReadFull(d.r, end[:]); n != len(sum) || string(end[:n]) != string(sum) {
		return nil, errSum
	}
	return s, nil
}
