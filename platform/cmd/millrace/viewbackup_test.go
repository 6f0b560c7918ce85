package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/eventlog"
	"github.com/millrace/millrace/platform/store"
)

// sampleBackup returns a backup of a view of two rows.
func sampleBackup(t *testing.T, view string) string {
	t.Helper()
	db, err := store.Open(t.TempDir()+"/db", store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	c := eventlog.Topic{Name: "orders.events", Partitions: 1}.Start(0)
	c.Next = 5
	cursor, err := c.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	b := db.NewBatch()
	for key, value := range map[string]string{"s": "{}", "ro-1": "1", "ro-2": "2", "c" + "orders": string(cursor)} {
		if err := b.Set([]byte(key), []byte(value)); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Commit(); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	at := es.Position{TopicPartition: c.TopicPartition, Offset: 4}
	_, err = db.Backup(t.Context(), &out, store.BackupOptions{Describe: func(*store.Reader) (map[string]string, error) {
		return map[string]string{"view": view, "version": "1", "build": "v1-1", "shape": "{}", "positions": at.String()}, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// TestViewBackup: a file is replaced by a backup that is good, and by no other.
func TestViewBackup(t *testing.T) {
	good := sampleBackup(t, "orders")
	f := newAdmin(t, map[string][]string{
		"GET /v1/views/orders/backup": {good, good[:len(good)/2], strings.Replace(good, "ro-1", "ro-0", 1)},
		"GET /v1/views/sales/backup":  {good},
	})
	dir := t.TempDir()
	file := filepath.Join(dir, "orders.backup")
	out, talk, status := millrace("", "view", "backup", "orders", "-o", file, "--admin-url", f.URL)
	if want := file + ": 2 rows of build v1-1, " + count(int64(len(good))) + " bytes, verified, in "; status != 0 || !strings.HasPrefix(out, want) || !strings.HasSuffix(out, "\nat orders.events/0@4\n") {
		t.Errorf("%d: %s%s, want %s…", status, out, talk, want)
	}
	for _, tc := range []struct{ args, says string }{
		{"orders -o " + file, "[backup_invalid]"}, // cut off
		{"orders -o " + file, "[backup_invalid]"}, // another key
		{"sales -o " + file, "sent a backup of the view orders"},
		{"nothing -o " + file, "[view_not_found]"},
		{"orders", "-o is missing"},
		{"orders -o " + dir + "/nowhere/x", "[backup_file]"},
		{"orders -o x --admin-url http://a,http://b", "a backup is one instance's"},
	} {
		out, talk, status := millrace("", append([]string{"view", "--admin-url", f.URL, "backup"}, strings.Fields(tc.args)...)...)
		if status == 0 || out != "" || !strings.Contains(talk, tc.says) {
			t.Errorf("%s: %d, %s%s, want %q", tc.args, status, out, talk, tc.says)
		}
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != good {
		t.Errorf("the file was replaced: %v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("%v is left", left)
	}
}

func TestViewStore(t *testing.T) {
	f := newAdmin(t, map[string][]string{"GET /v1/views/orders/store": {`{"build":"v2-1","table_bytes":52428800,"log_bytes":1048576,"other_bytes":4096,"memtables":1,
 "levels":[{"level":0,"tables":2,"bytes":10485760,"score":0.2},{"level":6,"tables":4,"bytes":41943040,"target_bytes":67108864,"score":0.625}],"keys":1204000,"stale_bytes":2048,"compactions":0}`}})
	out, talk, status := millrace("", "view", "store", "orders", "--admin-url", f.URL)
	want := `orders at ` + hostOf(f.URL) + `: build v2-1
  on the disk   51 MiB
  tables        50 MiB, 2.0 KiB of them overwritten or removed
  memtables     1, with 1.0 MiB of logs
  entries       1,204,000 in tables
  to compact    0 levels
  LEVEL  TABLES    SIZE  TARGET  FULL
      0       2  10 MiB       -  20 %
      6       4  40 MiB  64 MiB  62 %
`
	if diff := cmp.Diff(want, out); status != 0 || diff != "" {
		t.Errorf("%d: %s\n%s", status, talk, diff)
	}
	out, _, status = millrace("", "view", "store", "orders", "--admin-url", f.URL, "-o", "json")
	if status != 0 || !strings.Contains(out, `"table_bytes": 52428800`) || !strings.Contains(out, `"build": "v2-1"`) {
		t.Errorf("%d: %s", status, out)
	}
}
