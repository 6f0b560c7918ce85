package store

import (
	"context"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
)

// Restore makes a database of the backup in the file path, in dir, which must be empty or not be there. It is built in dir + ".restoring",
// compared with the backup as a whole, and only then put in place; whatever ends Restore before that leaves dir as it was, and a second
// Restore begins anew. The marks of a former database in dir, its sentinel and its condemnation, are replaced. ErrBackup: the backup is
// wrong. ErrNotEmpty: there is something in dir. ErrLocked, ErrDirectory, ErrDiskFull as from Open and Batch.Commit.
func Restore(ctx context.Context, path, dir string, o Options) (info BackupInfo, err error) {
	dir = filepath.Clean(dir)
	if err := makeDir(dir); err != nil {
		return BackupInfo{}, ErrDirectory.Because("%s", dir).WithFix("name a directory that this user may write to").Wrap(err)
	}
	lock, err := lockDir(dir)
	if err != nil {
		return BackupInfo{}, err
	}
	defer func() {
		if lock != nil {
			err = errors.Join(err, lock.release())
		}
	}()
	switch held, err := holdsData(dir); {
	case err != nil:
		return BackupInfo{}, err
	case held:
		return BackupInfo{}, ErrNotEmpty.Because("%s", dir).WithFix("restore into an empty directory, or move what is there away")
	}
	building := dir + ".restoring"
	if err := Remove(building); err != nil {
		return BackupInfo{}, err
	}
	info, id, err := build(ctx, path, building, o)
	if err != nil {
		return BackupInfo{}, errors.Join(err, Remove(building))
	}
	// From here to the rename there is no database, and the sentinel says that there should be one.
	if err := errors.Join(ReplaceFile(dir+".sentinel", append([]byte(hex.EncodeToString(id)), '\n')), removeFile(condemned(dir))); err != nil {
		return BackupInfo{}, ErrDirectory.Because("%s", dir+".sentinel").Wrap(err)
	}
	if err := removeFile(filepath.Join(dir, "opening")); err != nil {
		return BackupInfo{}, ErrDirectory.Because("%s", dir).Wrap(err)
	}
	err, lock = lock.release(), nil
	if err == nil {
		err = os.Remove(dir) // which fails if somebody was faster and put something there
	}
	if err == nil {
		err = os.Rename(building, dir)
	}
	if err == nil {
		err = errors.Join(syncDir(filepath.Dir(dir)), removeFile(building+".sentinel"))
	}
	if err != nil {
		return BackupInfo{}, ErrDirectory.Because("%s", dir).WithFix("restore again").Wrap(err)
	}
	return info, nil
}

// build makes a database of a backup in an empty directory, compares the two, and returns the id of the database.
func build(ctx context.Context, path, dir string, o Options) (info BackupInfo, id []byte, err error) {
	f, err := os.Open(path)
	if err != nil {
		return BackupInfo{}, nil, ErrBackup.Because("%s", path).WithFix("name a file that this user may read").Wrap(err)
	}
	defer f.Close()
	b, err := newBackupReader(f)
	if err != nil {
		return BackupInfo{}, nil, wrongBackup(path, err)
	}
	db, err := Open(dir, o)
	if err != nil {
		return BackupInfo{}, nil, err
	}
	if err := errors.Join(db.load(ctx, path, b), db.Close()); err != nil {
		return BackupInfo{}, nil, err
	}
	// Open checks all tables, and a backup of what is in them must be the same, byte by byte.
	if db, err = Open(dir, o); err != nil {
		return BackupInfo{}, nil, err
	}
	err = db.Read(func(r *Reader) error {
		if id, err = r.identity(); err != nil {
			return err
		}
		got, err := r.dump(ctx, io.Discard, b.header, BackupOptions{})
		if err != nil {
			return err
		}
		if got.SHA256 != b.info.SHA256 {
			return ErrDamaged.Because("what was restored is not what %s holds", path).WithFix("check the disk, and restore again")
		}
		return nil
	})
	return b.info, id, errors.Join(err, db.Close())
}

// load writes all that is in a backup, in batches as large as they can be.
func (db *DB) load(ctx context.Context, path string, b *backupReader) error {
	batch := db.NewBatch()
	defer func() { batch.Discard() }()
	for {
		key, stored, err := b.next()
		if errors.Is(err, io.EOF) {
			return batch.Commit()
		}
		if err != nil {
			return wrongBackup(path, err)
		}
		payload := stored[valueHeader:] // next has checked it
		err = batch.Set(key, payload)
		if errors.Is(err, ErrBatchFull) {
			if err := errors.Join(ctx.Err(), batch.Commit()); err != nil {
				return err
			}
			batch = db.NewBatch()
			err = batch.Set(key, payload)
		}
		if err != nil {
			return err
		}
	}
}

func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
