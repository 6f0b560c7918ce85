package registry

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/platform/contract"
)

func writeAuth(t testing.TB, path, text string, at time.Time) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(path, at, at); err != nil {
		t.Fatal(err)
	}
}

func subjectOf(name, schema string) contract.Subject {
	return contract.Subject{Name: name, Schema: schema}
}

func indent(entry string) string {
	return "  " + strings.ReplaceAll(strings.TrimSpace(entry), "\n", "\n  ") + "\n"
}

func TestAuth(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	path := filepath.Join(t.TempDir(), "auth.yaml")
	writeKey, writeEntry := NewKey(ScopeWrite, time.Time{})
	readKey, readEntry := NewKey(ScopeRead, time.Time{})
	oldKey, oldEntry := NewKey(ScopeWrite, now.Add(time.Hour))
	file := "users:\n- {name: ann, password: " + HashPassword("a:b ö") + ", scope: write}\nkeys:\n" + indent(writeEntry) + indent(readEntry) + indent(oldEntry)
	writeAuth(t, path, file, now)
	open, err := LoadAuth(path, false)
	if err != nil {
		t.Fatal(err)
	}
	closed, err := LoadAuth(path, true)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range []*Auth{open, closed} {
		a.now = func() time.Time { return now }
		a.read = now
	}
	try := func(a *Auth, write bool, set func(*http.Request)) int {
		r := request("GET", "/")
		r.RemoteAddr = "192.0.2.1:1"
		set(r)
		return code(a.admit(r, write))
	}
	bearer := func(key string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+key) }
	}
	basic := func(name, password string) func(*http.Request) {
		return func(r *http.Request) { r.SetBasicAuth(name, password) }
	}
	nobody := func(*http.Request) {}
	for _, tt := range []struct {
		name  string
		a     *Auth
		write bool
		set   func(*http.Request)
		want  int
	}{
		{"no auth", nil, true, nobody, 0},
		{"read", open, false, nobody, 0},
		{"write", open, true, nobody, 401},
		{"closed read", closed, false, nobody, 401},
		{"writer writes", open, true, bearer(writeKey), 0},
		{"writer reads", closed, false, bearer(writeKey), 0},
		{"reader reads", closed, false, bearer(readKey), 0},
		{"reader writes", closed, true, bearer(readKey), 403},
		{"key as password", open, true, basic("whoever", writeKey), 0},
		{"key with an end", open, true, bearer(oldKey), 0},
		{"wrong secret", open, true, bearer(writeKey[:len(writeKey)-1]), 401},
		{"unknown key", open, true, bearer("millrace_x_y"), 401},
		{"no key at all", open, true, bearer(""), 401},
		{"user", open, true, basic("ann", "a:b ö"), 0},
		{"user again", open, true, basic("ann", "a:b ö"), 0},
		{"wrong password", open, true, basic("ann", "a:b o"), 401},
		{"unknown user", open, true, basic("bob", "a:b ö"), 401},
		{"name and password shifted", open, true, basic("an", "na:b ö"), 401},
		{"other scheme", open, true, func(r *http.Request) { r.Header.Set("Authorization", "Digest x") }, 401},
		{"too long", open, true, bearer(strings.Repeat("x", 5000)), 401},
	} {
		if got := try(tt.a, tt.write, tt.set); got != tt.want {
			t.Errorf("%s: got %d, want %d", tt.name, got, tt.want)
		}
	}

	// A key that is taken out of the file, or has come to its end, is refused soon.
	now = now.Add(2 * time.Hour)
	if got := try(open, true, bearer(oldKey)); got != 401 {
		t.Errorf("expired: got %d", got)
	}
	writeAuth(t, path, "keys:\n"+indent(readEntry), now)
	now = now.Add(rereadAfter)
	if got := try(open, true, bearer(writeKey)); got != 401 {
		t.Errorf("revoked: got %d", got)
	}
	if got := try(closed, false, bearer(readKey)); got != 0 {
		t.Errorf("kept: got %d", got)
	}
	writeAuth(t, path, "keys: nonsense", now.Add(time.Minute))
	now = now.Add(rereadAfter)
	if got := try(closed, false, bearer(readKey)); got != 401 {
		t.Errorf("with a broken file: got %d", got)
	}

	// Who guesses is slowed down, others are not.
	last := 0
	for range int(maxFailures) + 2 {
		last = try(open, true, bearer("millrace_x_y"))
	}
	if last != http.StatusTooManyRequests {
		t.Errorf("guessing: got %d", last)
	}
	other := request("GET", "/")
	other.RemoteAddr = "192.0.2.2:1"
	if got := code(open.admit(other, true)); got != 401 {
		t.Errorf("another source: got %d", got)
	}
	now = now.Add(2 * failurePause)
	if got := try(open, true, bearer("millrace_x_y")); got != 401 {
		t.Errorf("after a pause: got %d", got)
	}
}

func TestLoadAuthRefuses(t *testing.T) {
	_, entry := NewKey(ScopeWrite, time.Time{})
	hash := HashPassword("x")
	for name, text := range map[string]string{
		"empty": "", "nobody": "users: []", "unknown field": "admins: []", "no YAML": "{",
		"scope": "users:\n- {name: a, password: " + hash + ", scope: all}", "no name": "users:\n- {password: " + hash + ", scope: read}",
		"plain password": "users:\n- {name: a, password: secret, scope: read}",
		"twice":          "users:\n- {name: a, password: " + hash + ", scope: read}\n- {name: a, password: " + hash + ", scope: read}",
		"key twice":      "keys:\n" + indent(entry) + indent(entry), "short sum": "keys:\n- {id: a, sha256: abcd, scope: read}",
		"rounds": "users:\n- {name: a, password: pbkdf2-sha256$99999999999$AAAA$AAAA, scope: read}",
	} {
		path := filepath.Join(t.TempDir(), "auth.yaml")
		writeAuth(t, path, text, time.Now())
		if _, err := LoadAuth(path, false); !errors.Is(err, ErrAuth) {
			t.Errorf("%s: got %v, want ErrAuth", name, err)
		}
	}
	if _, err := LoadAuth(filepath.Join(t.TempDir(), "none"), false); !errors.Is(err, ErrAuth) {
		t.Errorf("no file: got %v, want ErrAuth", err)
	}
}

// Over HTTP: who may do what, and the client's three ways to say who it is. A standby asks for the same and hands it on.
func TestAuthOverHTTP(t *testing.T) {
	path := filepath.Join(t.TempDir(), "auth.yaml")
	key, entry := NewKey(ScopeWrite, time.Time{})
	writeAuth(t, path, "users:\n- {name: ann, password: "+HashPassword("secret")+", scope: read}\nkeys:\n"+indent(entry), time.Now())
	auth, err := LoadAuth(path, true)
	if err != nil {
		t.Fatal(err)
	}
	addr := broker(t, "").Addr()
	one := startWith(t, addr, "one", ServerConfig{Auth: auth})
	two := startWith(t, addr, "two", ServerConfig{Auth: auth})
	eventually(t, "the first instance has stepped down", func() bool { standby, _, _ := one.role(); return standby })
	for i, url := range []string{one.url, two.url} {
		schema := recordSchema("R", fmt.Sprintf("a%d=0", i))
		status, got, header := do(t, "POST", url+"/subjects/s/versions", body(schema))
		if status != 401 || !strings.Contains(got, `"error_code":401`) || !strings.HasPrefix(header.Get("WWW-Authenticate"), "Basic ") {
			t.Errorf("nobody: %d %s %v", status, got, header)
		}
		if status, got, _ := do(t, "POST", url+"/subjects/s/versions", body(schema), "Authorization", "Bearer "+key); status != 200 {
			t.Errorf("with a key: %d %s", status, got)
		}
		if status, _, _ := do(t, "GET", url+"/", ""); status != 200 {
			t.Errorf("the root: %d", status)
		}
		reader := dial(t, ClientConfig{URLs: []string{url}, Username: "ann", Password: "secret"})
		if _, err := reader.SchemaByID(t.Context(), 1); err != nil {
			t.Error(err)
		}
		if _, err := reader.Register(t.Context(), subjectOf("t", schema)); !errors.Is(err, ErrCredentials) {
			t.Errorf("a reader writes: %v", err)
		}
		if _, err := dial(t, ClientConfig{URLs: []string{url}, Token: key}).Register(t.Context(), subjectOf("t", schema)); err != nil {
			t.Errorf("a token: %v", err)
		}
		if err := dial(t, ClientConfig{URLs: []string{url}}).Ping(t.Context()); !errors.Is(err, ErrCredentials) {
			t.Errorf("nobody: %v", err)
		}
	}
}

// What waits at the same time shares an append, and each gets its own answer.
func TestGroupCommit(t *testing.T) {
	one := start(t, broker(t, "").Addr(), "one")
	do(t, "PUT", one.url+"/config", `{"compatibility":"NONE"}`)
	before := one.end()
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			schema := recordSchema("R", fmt.Sprintf("a%d", i/2))
			if i%10 == 0 {
				schema = `"nothing"`
			}
			status, got, _ := do(t, "POST", one.url+"/subjects/s/versions", body(schema))
			if want := map[bool]int{true: 422, false: 200}[i%10 == 0]; status != want {
				t.Errorf("%d: got %d %s", i, status, got)
			}
		})
	}
	wg.Wait()
	if written := one.end() - before; written != 100 { // one record for each schema, although two ask for each
		t.Errorf("%d records for 100 schemas", written)
	}
}
