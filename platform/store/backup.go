package store

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"time"

	badger "github.com/dgraph-io/badger/v4"
)

// A backup is: backupMagic; the length of the header in 4 bytes, big endian; the header, a BackupHeader in JSON; for each key, in
// ascending order, the length of the key as a varint, the key, the length of the stored value as a varint, and the stored value with the
// checksum that it has in the store; a zero byte; the number of keys in 8 bytes, big endian; the SHA-256 of all before it.
const (
	backupMagic     = "millrace store backup 1\n"
	maxBackupHeader = 16 << 20
)

// A BackupHeader says where a backup is from.
type BackupHeader struct {
	// Store is the id of the store in hexadecimal. A restored store has another one.
	Store string `json:"store"`
	// Created is when the snapshot was taken.
	Created time.Time `json:"created"`
	// Metadata is what the caller of Backup says of the snapshot, e.g. its positions.
	Metadata map[string]string `json:"metadata,omitempty"`
}

// A BackupInfo says what is in a backup.
type BackupInfo struct {
	BackupHeader
	Keys   int64  // the number of keys
	Bytes  int64  // the length of the backup
	SHA256 string // the backup's checksum in hexadecimal, which its last 32 bytes hold as well
}

// BackupOptions are the settings of a backup; the zero value is right for most.
type BackupOptions struct {
	// Describe returns the metadata of a backup, read from the snapshot that is backed up; nil = none.
	Describe func(*Reader) (map[string]string, error)
	// Each is called with each key that was written, which is valid until it returns; nil = it is not.
	Each func(key []byte)
	// BytesPerSecond bounds how fast is read; 0 = as fast as possible.
	BytesPerSecond int64
}

// Backup writes one snapshot of the store, all that was committed when it was called, to w, while others go on writing. It returns
// ErrClosed, ErrFailed or ErrDamaged as reads do, ErrBackupFailed if w fails, the error of Describe, or that of ctx; then what was
// written is no backup, and VerifyBackup says so.
func (db *DB) Backup(ctx context.Context, w io.Writer, o BackupOptions) (BackupInfo, error) {
	r, err := db.NewReader()
	if err != nil {
		return BackupInfo{}, err
	}
	defer r.Close()
	return r.Backup(ctx, w, o)
}

// Backup writes the snapshot, which NewReader made, as DB.Backup does.
func (r *Reader) Backup(ctx context.Context, w io.Writer, o BackupOptions) (BackupInfo, error) {
	header := BackupHeader{Created: time.Now().UTC().Truncate(time.Millisecond)}
	id, err := r.identity()
	if err != nil {
		return BackupInfo{}, err
	}
	header.Store = hex.EncodeToString(id)
	if o.Describe != nil {
		if header.Metadata, err = o.Describe(r); err != nil {
			return BackupInfo{}, err
		}
	}
	text, err := json.Marshal(header)
	if err != nil {
		return BackupInfo{}, ErrBackupFailed.Wrap(err)
	}
	if len(text) > maxBackupHeader {
		return BackupInfo{}, ErrBackupFailed.Because("its metadata is larger than %d bytes", maxBackupHeader)
	}
	info, err := r.dump(ctx, w, text, o)
	if err != nil {
		return BackupInfo{}, err
	}
	// What is read after a failed write may never have reached the disk.
	if err := r.db.Err(); err != nil {
		return BackupInfo{}, err
	}
	info.BackupHeader = header
	return info, nil
}

// BackupFile writes a backup as Backup does to the file path, which it replaces as a whole once the backup was written, synced and
// verified by reading it again.
func (db *DB) BackupFile(ctx context.Context, path string, o BackupOptions) (info BackupInfo, err error) {
	tmp, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return BackupInfo{}, ErrBackupFailed.Because("%s", path).Wrap(err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(tmp.Name()))
		}
	}()
	info, err = db.Backup(ctx, tmp, o)
	if err != nil {
		return BackupInfo{}, errors.Join(err, tmp.Close())
	}
	if err := errors.Join(tmp.Sync(), tmp.Close()); err != nil {
		return BackupInfo{}, ErrBackupFailed.Because("%s", path).Wrap(err)
	}
	read, err := VerifyBackup(ctx, tmp.Name())
	if err != nil {
		return BackupInfo{}, err
	}
	if read.SHA256 != info.SHA256 {
		return BackupInfo{}, ErrBackupFailed.Because("%s was not read as it was written", path).WithFix("check the disk")
	}
	if err := errors.Join(os.Rename(tmp.Name(), path), syncDir(filepath.Dir(path))); err != nil {
		return BackupInfo{}, ErrBackupFailed.Because("%s", path).Wrap(err)
	}
	return info, nil
}

// dump writes the snapshot as a backup with this header.
func (r *Reader) dump(ctx context.Context, w io.Writer, header []byte, o BackupOptions) (info BackupInfo, err error) {
	defer caught(&err)()
	p := pace{rate: o.BytesPerSecond}
	sum := sha256.New()
	count := &counter{w: w}
	out := bufio.NewWriterSize(io.MultiWriter(count, sum), 256<<10)
	buf := append([]byte(nil), backupMagic...)
	buf = binary.BigEndian.AppendUint32(buf, uint32(len(header)))
	buf = append(buf, header...)
	if _, err := out.Write(buf); err != nil {
		return BackupInfo{}, ErrBackupFailed.Wrap(err)
	}
	keys, unpaid := int64(0), int64(0)
	it := r.txn.NewIterator(badger.IteratorOptions{Prefix: []byte{dataSpace}})
	defer it.Close()
	for it.Seek([]byte{dataSpace}); it.Valid(); it.Next() {
		item := it.Item()
		key := item.Key()[1:]
		err := item.Value(func(stored []byte) error {
			if _, err := openValue(key, stored); err != nil {
				return err
			}
			buf = binary.AppendUvarint(buf[:0], uint64(len(key)))
			buf = append(buf, key...)
			buf = binary.AppendUvarint(buf, uint64(len(stored)))
			buf = append(buf, stored...)
			return nil
		})
		if err != nil {
			return BackupInfo{}, readError(err)
		}
		if _, err := out.Write(buf); err != nil {
			return BackupInfo{}, ErrBackupFailed.Wrap(err)
		}
		keys++
		if o.Each != nil {
			o.Each(key)
		}
		if unpaid += int64(len(buf)); unpaid >= 64<<10 {
			if err := p.spend(ctx, unpaid); err != nil {
				return BackupInfo{}, err
			}
			unpaid = 0
		}
	}
	buf = binary.BigEndian.AppendUint64(append(buf[:0], 0), uint64(keys))
	_, err = out.Write(buf)
	if err := errors.Join(err, out.Flush()); err != nil {
		return BackupInfo{}, ErrBackupFailed.Wrap(err)
	}
	digest := sum.Sum(nil)
	if _, err := count.Write(digest); err != nil {
		return BackupInfo{}, ErrBackupFailed.Wrap(err)
	}
	if err := ctx.Err(); err != nil {
		return BackupInfo{}, err
	}
	return BackupInfo{Keys: keys, Bytes: count.n, SHA256: hex.EncodeToString(digest)}, nil
}

// A counter counts what is written through it.
type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// syncDir makes the names in a directory durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
