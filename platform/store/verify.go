package store

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"hash"
	"io"
	"os"
)

// VerifyBackup reads the backup in the file path as a whole, checks all its checksums and says what is in it, or returns ErrBackup, which
// says what is wrong, or the error of ctx.
func VerifyBackup(ctx context.Context, path string) (BackupInfo, error) {
	return ReadBackup(ctx, path, nil)
}

// ReadBackup is VerifyBackup that calls each, unless it is nil, with each key and its value, in the order of the keys; both are valid until
// it returns. An error of it ends ReadBackup, which returns it. Only after ReadBackup has returned nil are they known to be a backup's.
func ReadBackup(ctx context.Context, path string, each func(key, value []byte) error) (BackupInfo, error) {
	f, err := os.Open(path)
	if err != nil {
		return BackupInfo{}, ErrBackup.Because("%s", path).WithFix("name a file that this user may read").Wrap(err)
	}
	defer f.Close()
	b, err := newBackupReader(f)
	if err != nil {
		return BackupInfo{}, wrongBackup(path, err)
	}
	for {
		key, stored, err := b.next()
		switch {
		case errors.Is(err, io.EOF):
			return b.info, nil
		case err != nil:
			return BackupInfo{}, wrongBackup(path, err)
		case ctx.Err() != nil:
			return BackupInfo{}, ctx.Err()
		case each == nil:
			continue
		}
		if err := each(key, stored[valueHeader:]); err != nil { // next has checked it
			return BackupInfo{}, err
		}
	}
}

func wrongBackup(path string, err error) error {
	return ErrBackup.Because("%s", path).WithFix("use another backup").Wrap(err)
}

// A backupReader reads a backup from any bytes.
type backupReader struct {
	r      *bufio.Reader
	sum    hash.Hash
	header []byte
	info   BackupInfo // complete when next has returned io.EOF
	key    []byte
	before []byte
	value  []byte
}

var (
	errNoBackup = errors.New("it is not a backup of this version")
	errCutOff   = errors.New("it is cut off")
)

func newBackupReader(r io.Reader) (*backupReader, error) {
	b := &backupReader{r: bufio.NewReaderSize(r, 256<<10), sum: sha256.New()}
	start := make([]byte, len(backupMagic)+4)
	if err := b.read(start); err != nil {
		return nil, err
	}
	length := binary.BigEndian.Uint32(start[len(backupMagic):])
	if string(start[:len(backupMagic)]) != backupMagic || length > maxBackupHeader {
		return nil, errNoBackup
	}
	var err error
	if b.header, err = b.readLength(int(length)); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(b.header, &b.info.BackupHeader); err != nil {
		return nil, errors.Join(errNoBackup, err)
	}
	return b, nil
}

// next returns the next key with its stored value, both valid until the next call, or io.EOF after all was read and found right.
func (b *backupReader) next() (key, stored []byte, err error) {
	length, err := b.uvarint()
	if err != nil {
		return nil, nil, err
	}
	if length == 0 {
		return nil, nil, b.end()
	}
	if length > MaxKey {
		return nil, nil, errors.New("a key is too long")
	}
	b.before, b.key = b.key, sized(b.before, int(length))
	if err := b.read(b.key); err != nil {
		return nil, nil, err
	}
	if b.info.Keys > 0 && bytes.Compare(b.before, b.key) >= 0 {
		return nil, nil, errors.New("its keys are not in order")
	}
	if length, err = b.uvarint(); err != nil {
		return nil, nil, err
	}
	if length > valueHeader+MaxValue {
		return nil, nil, errors.New("a value is too long")
	}
	b.value = sized(b.value, int(length))
	if err := b.read(b.value); err != nil {
		return nil, nil, err
	}
	if _, err := openValue(b.key, b.value); err != nil {
		return nil, nil, err
	}
	b.info.Keys++
	return b.key, b.value, nil
}

// end checks what follows the last value.
func (b *backupReader) end() error {
	var keys [8]byte
	if err := b.read(keys[:]); err != nil {
		return err
	}
	if n := binary.BigEndian.Uint64(keys[:]); n != uint64(b.info.Keys) {
		return errors.New("the number of its keys is wrong")
	}
	want := b.sum.Sum(nil)
	got := make([]byte, len(want))
	if err := b.read(got); err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		return errors.New("it fails its checksum")
	}
	if _, err := b.r.ReadByte(); !errors.Is(err, io.EOF) {
		return errors.Join(errors.New("something follows its end"), err)
	}
	b.info.SHA256 = hex.EncodeToString(got)
	return io.EOF
}

// read fills p.
func (b *backupReader) read(p []byte) error {
	n, err := io.ReadFull(b.r, p)
	b.sum.Write(p[:n])
	b.info.Bytes += int64(n)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errCutOff
	}
	return err
}

// readLength reads n bytes without trusting n: what is cut off takes no memory.
func (b *backupReader) readLength(n int) ([]byte, error) {
	var all []byte
	for len(all) < n {
		part := make([]byte, min(n-len(all), 64<<10))
		if err := b.read(part); err != nil {
			return nil, err
		}
		all = append(all, part...)
	}
	return all, nil
}

func (b *backupReader) uvarint() (uint64, error) {
	var buf [binary.MaxVarintLen64]byte
	for i := range buf {
		if err := b.read(buf[i : i+1]); err != nil {
			return 0, err
		}
		if buf[i] < 0x80 {
			n, size := binary.Uvarint(buf[:i+1])
			if size != i+1 || i > 0 && buf[i] == 0 {
				break
			}
			return n, nil
		}
	}
	return 0, errors.New("a length is malformed")
}

func sized(b []byte, n int) []byte {
	if cap(b) < n {
		return make([]byte, n)
	}
	return b[:n]
}
