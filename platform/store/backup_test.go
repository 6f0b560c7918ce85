package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// describe tells the position, from the snapshot that is backed up.
func describe(r *Reader) (map[string]string, error) {
	text, err := r.Get([]byte("position"))
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	return map[string]string{"position": string(text)}, err
}

// TestBackup takes backups while the store is written to: each is one snapshot, says which one, and is what is restored.
func TestBackup(t *testing.T) {
	t.Parallel()
	w := workload(testSeed(t))
	tmp := t.TempDir()
	db, err := openWith(tmp+"/db", small())
	if err != nil {
		t.Fatal(err)
	}
	stop, stopped := make(chan struct{}), make(chan error, 1)
	begun := make(chan struct{})
	go func() {
		for n := 0; ; n++ {
			if n == 10 {
				close(begun)
			}
			select {
			case <-stop:
				stopped <- nil
				return
			default:
			}
			if err := w.run(db, n, n+1); err != nil {
				stopped <- err
				return
			}
		}
	}()
	<-begun
	const backups = 5
	m := &model{workload: w}
	for i := range backups {
		path := filepath.Join(tmp, fmt.Sprint(i))
		each := int64(0)
		info, err := db.BackupFile(t.Context(), path, BackupOptions{Describe: describe, Each: func([]byte) { each++ }})
		if err != nil {
			t.Fatal(err)
		}
		read, err := VerifyBackup(t.Context(), path)
		if err != nil || read.SHA256 != info.SHA256 || read.Keys != info.Keys || read.Bytes != info.Bytes || read.Store != info.Store ||
			!read.Created.Equal(info.Created) || !maps.Equal(read.Metadata, info.Metadata) {
			t.Errorf("verified: %+v, %v\nwritten: %+v", read, err, info)
		}
		if stat, err := os.Stat(path); err != nil || stat.Size() != info.Bytes {
			t.Errorf("it has %v bytes, want %d", stat, info.Bytes)
		}
		to := path + "-restored"
		if _, err := Restore(t.Context(), path, to, Options{MinFree: -1}); err != nil {
			t.Fatal(err)
		}
		restored := open(t, to)
		position, err := m.check(restored)
		if err != nil || strconv.Itoa(position) != info.Metadata["position"] {
			t.Errorf("backup %d: position %d, want %v, %v", i, position, info.Metadata, err)
		}
		if got := len(rows(t, restored)); int64(got) != info.Keys || each != info.Keys {
			t.Errorf("%d keys, told of %d, want %d", got, each, info.Keys)
		}
		all := map[string]string{}
		_, err = ReadBackup(t.Context(), path, func(key, value []byte) error {
			all[string(key)] = string(value)
			return nil
		})
		if err != nil || !maps.Equal(all, rows(t, restored)) {
			t.Errorf("read: %d pairs, %v", len(all), err)
		}
		enough := errors.New("enough")
		if _, err := ReadBackup(t.Context(), path, func(_, _ []byte) error { return enough }); !errors.Is(err, enough) {
			t.Errorf("read in part: %v", err)
		}
		// It is a store like any other.
		if err := w.run(restored, position, position+2); err != nil {
			t.Fatal(err)
		}
		if position, err := m.check(restored); err != nil {
			t.Errorf("position %d: %v", position, err)
		}
		if _, err := os.Stat(to + ".restoring"); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the place where it was built is left: %v", err)
		}
	}
	close(stop)
	if err := errors.Join(<-stopped, db.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Backup(t.Context(), io.Discard, BackupOptions{}); !errors.Is(err, ErrClosed) {
		t.Errorf("of a closed store: %v", err)
	}
}

// sampleBackup returns a backup of a few keys.
func sampleBackup(t testing.TB) []byte {
	t.Helper()
	db, err := Open(t.TempDir()+"/db", Options{})
	if err != nil {
		t.Fatal(err)
	}
	b := db.NewBatch()
	for key, value := range map[string]string{"a": "1", "b": "", "\xff\xff": strings.Repeat("x", 200)} {
		if err := b.Set([]byte(key), []byte(value)); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Commit(); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	_, err = db.Backup(context.WithoutCancel(t.Context()), &out, BackupOptions{Describe: func(*Reader) (map[string]string, error) {
		return map[string]string{"orders": "0:17"}, nil
	}})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// TestBrokenBackups flips each bit of a small backup, cuts it everywhere, and adds to it: each of these is found, and nothing is restored.
func TestBrokenBackups(t *testing.T) {
	whole := sampleBackup(t)
	tmp := t.TempDir()
	path := tmp + "/backup"
	try := func(what string, data []byte) {
		t.Helper()
		if _, err := reread(data); err == nil {
			t.Errorf("%s: it was not found", what)
		}
	}
	for bit := range len(whole) * 8 {
		flipped := bytes.Clone(whole)
		flipped[bit/8] ^= 1 << (bit % 8)
		try(fmt.Sprintf("bit %d of %d", bit, len(whole)*8), flipped)
	}
	for n := range whole {
		try(fmt.Sprintf("cut to %d of %d", n, len(whole)), whole[:n])
	}
	try("with more", append(bytes.Clone(whole), 0))
	try("twice", append(bytes.Clone(whole), whole...))
	for _, at := range []int{len(whole) / 2, len(whole) - 1} {
		broken := bytes.Clone(whole)
		broken[at] ^= 4
		if err := os.WriteFile(path, broken, 0o600); err != nil {
			t.Fatal(err)
		}
		if info, err := VerifyBackup(t.Context(), path); !errors.Is(err, ErrBackup) {
			t.Errorf("VerifyBackup: %+v, %v, want ErrBackup", info, err)
		}
		if _, err := Restore(t.Context(), path, tmp+"/to", Options{MinFree: -1}); !errors.Is(err, ErrBackup) {
			t.Errorf("Restore: %v, want ErrBackup", err)
		}
		if held, err := holdsData(tmp + "/to"); held || err != nil {
			t.Errorf("something was restored: %v, %v", held, err)
		}
		for _, left := range []string{"/to.restoring", "/to.restoring.sentinel", "/to.sentinel"} {
			if _, err := os.Stat(tmp + left); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s is left: %v", left, err)
			}
		}
	}
	if _, err := VerifyBackup(t.Context(), tmp+"/none"); !errors.Is(err, ErrBackup) {
		t.Errorf("no file: %v", err)
	}
}

// TestRestoreInPlace: what is there is never overwritten, and a store that is gone is replaced with the marks that it left.
func TestRestoreInPlace(t *testing.T) {
	t.Parallel()
	tmp := t.TempDir()
	dir, path := tmp+"/db", tmp+"/backup"
	want := fill(t, dir, 2)
	db, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.BackupFile(t.Context(), path, BackupOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := Restore(t.Context(), path, dir, Options{}); !errors.Is(err, ErrLocked) {
		t.Errorf("an open one: %v, want ErrLocked", err)
	}
	if err := errors.Join(db.Condemn("a hole"), db.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := Restore(t.Context(), path, dir, Options{}); !errors.Is(err, ErrNotEmpty) {
		t.Errorf("a closed one: %v, want ErrNotEmpty", err)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Restore(ctx, path, dir, Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	// A start that was ended within Open leaves this.
	if err := os.WriteFile(dir+"/opening", []byte("1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	refuse(t, dir, ErrDamaged, "was found to be wrong: a hole")
	if _, err := Restore(t.Context(), path, dir, Options{}); err != nil {
		t.Fatal(err)
	}
	if got := rows(t, open(t, dir)); !maps.Equal(got, want) {
		t.Errorf("%d rows, want %d, or other values", len(got), len(want))
	}
}

// TestKilledRestore kills a process that restores: the store is there as a whole or not at all, and restoring again works.
func TestKilledRestore(t *testing.T) {
	t.Parallel()
	w := workload(testSeed(t))
	rnd := rand.New(rand.NewPCG(uint64(w), 9))
	tmp := t.TempDir()
	path := tmp + "/backup"
	db, err := openWith(tmp+"/db", small())
	if err != nil {
		t.Fatal(err)
	}
	const batches = 40
	_, err = db.Backup(t.Context(), io.Discard, BackupOptions{}) // of an empty one
	if err := errors.Join(err, w.run(db, 0, batches)); err != nil {
		t.Fatal(err)
	}
	if _, err := db.BackupFile(t.Context(), path, BackupOptions{Describe: describe}); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	m := &model{workload: w}
	dir := tmp + "/to"
	absent, whole := 0, 0
	patience := 100 * time.Millisecond
	for range 8 {
		cmd := child(t, "restore", dir, "0", path)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		begun := time.Now()
		go func() { ended <- cmd.Wait() }()
		select {
		case <-ended:
			patience = time.Since(begun)
		case <-time.After(time.Duration(rnd.Int64N(int64(patience)))):
			if err := cmd.Process.Signal(syscall.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
				t.Fatal(err)
			}
			<-ended
			patience += patience / 4 // towards the time that it takes
		}
		held := false
		if _, err := os.Stat(dir); err == nil {
			if held, err = holdsData(dir); err != nil {
				t.Fatal(err)
			}
		}
		if !held {
			absent++
			continue
		}
		whole++
		restored, err := openWith(dir, small())
		if err != nil {
			t.Fatal(err)
		}
		if position, err := m.check(restored); err != nil || position != batches {
			t.Errorf("position %d, want %d, %v", position, batches, err)
		}
		if err := errors.Join(restored.Close(), Remove(dir)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Restore(t.Context(), path, dir, Options{MinFree: -1}); err != nil {
		t.Errorf("after all these: %v", err)
	}
	t.Logf("%d times it was not there, %d times it was whole", absent, whole)
}

// TestBackupFails: writers that fail, a context that ends and a description that fails leave no file that could be taken for a backup.
func TestBackupFails(t *testing.T) {
	tmp := t.TempDir()
	db := open(t, tmp+"/db")
	set(t, db, "a", strings.Repeat("x", 100<<10), "b", strings.Repeat("y", 300<<10))
	if _, err := db.Backup(t.Context(), &fails{after: 200 << 10}, BackupOptions{}); !errors.Is(err, ErrBackupFailed) || !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("%v, want ErrBackupFailed", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := db.BackupFile(ctx, tmp+"/backup", BackupOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want context.Canceled", err)
	}
	no := errors.New("no")
	if _, err := db.BackupFile(t.Context(), tmp+"/backup", BackupOptions{Describe: func(*Reader) (map[string]string, error) { return nil, no }}); !errors.Is(err, no) {
		t.Errorf("%v, want %v", err, no)
	}
	if _, err := db.BackupFile(t.Context(), tmp+"/none/backup", BackupOptions{}); !errors.Is(err, ErrBackupFailed) {
		t.Errorf("%v, want ErrBackupFailed", err)
	}
	if names, err := filepath.Glob(tmp + "/backup*"); err != nil || len(names) > 0 {
		t.Errorf("%q are left, %v", names, err)
	}
}

type fails struct{ after int }

func (f *fails) Write(p []byte) (int, error) {
	if f.after -= len(p); f.after < 0 {
		return 0, io.ErrShortWrite
	}
	return len(p), nil
}

// FuzzBackup reads any bytes as a backup, as they are and with a checksum that is right: nothing panics, and what is accepted is exactly
// what was written.
func FuzzBackup(f *testing.F) {
	whole := sampleBackup(f)
	f.Add(whole)
	f.Add(whole[:len(whole)-sha256.Size])
	f.Add([]byte(backupMagic))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		sum := sha256.Sum256(data)
		for _, data := range [][]byte{data, append(bytes.Clone(data), sum[:]...)} {
			again, err := reread(data)
			if err == nil && !bytes.Equal(again, data) {
				t.Errorf("%d bytes were accepted, which are\n%q and not\n%q", len(data), again, data)
			}
		}
	})
}

// reread returns a backup written anew from what was read of it.
func reread(data []byte) ([]byte, error) {
	b, err := newBackupReader(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	out := append([]byte(backupMagic), 0, 0, 0, 0)
	binary.BigEndian.PutUint32(out[len(backupMagic):], uint32(len(b.header)))
	out = append(out, b.header...)
	for {
		key, stored, err := b.next()
		if errors.Is(err, io.EOF) {
			out = binary.BigEndian.AppendUint64(append(out, 0), uint64(b.info.Keys))
			sum := sha256.Sum256(out)
			return append(out, sum[:]...), nil
		}
		if err != nil {
			return nil, err
		}
		out = append(binary.AppendUvarint(out, uint64(len(key))), key...)
		out = append(binary.AppendUvarint(out, uint64(len(stored))), stored...)
	}
}
