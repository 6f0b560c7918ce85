package registry

import (
	"bytes"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/millrace/millrace/platform/fault"
)

// ErrAuth is returned for a file of credentials that cannot be used.
var ErrAuth = fault.New(fault.Invalid, "invalid_registry_auth", "the file of the registry's credentials cannot be used")

// A Scope says what a credential may be used for.
type Scope string

// The scopes. Who may write may read, too.
const (
	ScopeRead  Scope = "read"
	ScopeWrite Scope = "write"
)

// An Auth knows who may use the registry. It is safe for concurrent use; a nil Auth admits everybody.
type Auth struct {
	path  string
	reads bool
	now   func() time.Time

	mu       sync.Mutex
	users    map[string]user
	keys     map[string]apiKey
	read     time.Time // of the file
	stamp    os.FileInfo
	verified map[[sha256.Size]byte]bool // name and password pairs that were right, so that the slow hash is computed once
	failures map[string]failures        // by source
}

type user struct {
	Name     string `yaml:"name"`
	Password string `yaml:"password"` // as HashPassword returns it
	Scope    Scope  `yaml:"scope"`
}

type apiKey struct {
	ID      string    `yaml:"id"`
	SHA256  string    `yaml:"sha256"` // of the whole key, hexadecimal
	Scope   Scope     `yaml:"scope"`
	Expires time.Time `yaml:"expires"` // zero = never
	sum     [sha256.Size]byte
}

// failures is how often a source may still be wrong.
type failures struct {
	left float64
	at   time.Time
}

const (
	rereadAfter   = 10 * time.Second // a credential that is taken out of the file is refused after so long at the latest
	pbkdf2Rounds  = 600_000
	maxRounds     = 10_000_000
	maxFailures   = 20.0 // in a row, then one every failurePause
	failurePause  = time.Second
	maxSources    = 10_000
	keyPrefix     = "millrace_"
	maxCredential = 1024
)

// LoadAuth reads the file of users and API keys. Writes need one of them with the scope write; with reads, reads need one, too. The file
// is read again when it changes. What cannot be used is ErrAuth.
func LoadAuth(path string, reads bool) (*Auth, error) {
	a := &Auth{path: path, reads: reads, now: time.Now, failures: map[string]failures{}}
	return a, a.load()
}

// load reads the file. The caller has the lock, or is alone.
func (a *Auth) load() error {
	stamp, err := os.Stat(a.path)
	if err != nil {
		return ErrAuth.Wrap(err)
	}
	text, err := os.ReadFile(a.path)
	if err != nil {
		return ErrAuth.Wrap(err)
	}
	var file struct {
		Users []user   `yaml:"users"`
		Keys  []apiKey `yaml:"keys"`
	}
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	if err := d.Decode(&file); err != nil {
		return ErrAuth.Because("%s", a.path).Wrap(err)
	}
	users, keys := map[string]user{}, map[string]apiKey{}
	for i, u := range file.Users {
		if _, _, _, err := parsePassword(u.Password); err != nil || u.Name == "" || strings.Contains(u.Name, ":") || !u.Scope.known() || users[u.Name].Name != "" {
			return ErrAuth.Because("%s: users[%d] needs a name of its own, a password hash and the scope read or write", a.path, i).Wrap(err)
		}
		users[u.Name] = u
	}
	for i, k := range file.Keys {
		sum, err := hex.DecodeString(k.SHA256)
		if err != nil || len(sum) != sha256.Size || k.ID == "" || !k.Scope.known() || keys[k.ID].ID != "" {
			return ErrAuth.Because("%s: keys[%d] needs an id of its own, the key's SHA-256 in hexadecimal and the scope read or write", a.path, i)
		}
		k.sum = [sha256.Size]byte(sum)
		keys[k.ID] = k
	}
	if len(users)+len(keys) == 0 {
		return ErrAuth.Because("%s names neither users nor keys", a.path)
	}
	a.users, a.keys, a.stamp, a.read, a.verified = users, keys, stamp, a.now(), map[[sha256.Size]byte]bool{}
	return nil
}

func (s Scope) known() bool { return s == ScopeRead || s == ScopeWrite }

// refresh reads the file again if it has changed. A file that cannot be used admits nobody: what was taken out must not come back.
func (a *Auth) refresh() {
	if a.now().Sub(a.read) < rereadAfter {
		return
	}
	stamp, err := os.Stat(a.path)
	if err == nil && stamp.ModTime().Equal(a.stamp.ModTime()) && stamp.Size() == a.stamp.Size() {
		a.read = a.now()
		return
	}
	if a.load() != nil {
		a.users, a.keys, a.read = nil, nil, a.now()
	}
}

// admit refuses a request whose credentials do not allow it.
func (a *Auth) admit(r *http.Request, write bool) *apiError {
	if a == nil || !write && !a.reads {
		return nil
	}
	source, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		source = r.RemoteAddr
	}
	if !a.mayTry(source) {
		return refuse(http.StatusTooManyRequests, "Too many wrong credentials; wait a little.")
	}
	scope, ok := a.scope(r)
	switch {
	case !ok:
		if r.Header.Get("Authorization") != "" { // who only does not know yet that it is needed is no attacker
			a.failed(source)
		}
		return refuse(http.StatusUnauthorized, "Unauthorized")
	case write && scope != ScopeWrite:
		return refuse(http.StatusForbidden, "Forbidden: the credentials are for reading")
	}
	return nil
}

// mayTry reports whether a source has not been wrong too often of late.
func (a *Auth) mayTry(source string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.refresh()
	return a.attempts(source).left >= 1
}

func (a *Auth) attempts(source string) failures {
	now := a.now()
	f, ok := a.failures[source]
	if !ok {
		return failures{maxFailures, now}
	}
	return failures{min(maxFailures, f.left+now.Sub(f.at).Seconds()/failurePause.Seconds()), now}
}

func (a *Auth) failed(source string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f := a.attempts(source)
	f.left--
	if len(a.failures) >= maxSources {
		clear(a.failures)
	}
	a.failures[source] = f
}

// scope returns what the request's credentials are for; false if they are none.
func (a *Auth) scope(r *http.Request) (Scope, bool) {
	header := r.Header.Get("Authorization")
	if len(header) > maxCredential {
		return "", false
	}
	if scheme, token, _ := strings.Cut(header, " "); strings.EqualFold(scheme, "Bearer") {
		return a.key(strings.TrimSpace(token))
	}
	name, password, ok := r.BasicAuth()
	if !ok {
		return "", false
	}
	if strings.HasPrefix(password, keyPrefix) { // clients that know basic authentication only
		return a.key(password)
	}
	seen := sha256.Sum256([]byte(strconv.Itoa(len(name)) + ":" + name + password))
	a.mu.Lock()
	u, known := a.users[name]
	verified, right := a.verified, known && a.verified[seen]
	a.mu.Unlock()
	if right {
		return u.Scope, true
	}
	hashed := u.Password
	if !known {
		hashed = "pbkdf2-sha256$" + strconv.Itoa(pbkdf2Rounds) + "$AAAA$AAAA" // takes as long as for a name that exists
	}
	if !checkPassword(hashed, password) || !known {
		return "", false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	verified[seen] = true // of the file that it was checked with
	return u.Scope, true
}

// key returns the scope of an API key, "millrace_<id>_<secret>".
func (a *Auth) key(text string) (Scope, bool) {
	id, _, ok := strings.Cut(strings.TrimPrefix(text, keyPrefix), "_")
	a.mu.Lock()
	k := a.keys[id] // the zero key has a sum that no text has
	a.mu.Unlock()
	sum := sha256.Sum256([]byte(text))
	right := subtle.ConstantTimeCompare(sum[:], k.sum[:]) == 1
	if !ok || !right || !k.Expires.IsZero() && !a.now().Before(k.Expires) {
		return "", false
	}
	return k.Scope, true
}

// NewKey returns a new API key, which is shown once and kept nowhere, and its entry for the file of LoadAuth, YAML. A zero expires means
// that it holds for ever.
func NewKey(scope Scope, expires time.Time) (key, entry string) {
	const letters = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	random := func(n int) string {
		out := make([]byte, 0, n)
		for len(out) < n {
			var b [64]byte
			_, _ = rand.Read(b[:]) // never fails
			for _, x := range b {
				if x < 4*62 && len(out) < n { // the same chance for each letter
					out = append(out, letters[x%62])
				}
			}
		}
		return string(out)
	}
	id := random(8)
	key = keyPrefix + id + "_" + random(43) // 62^43 > 2^256
	sum := sha256.Sum256([]byte(key))
	entry = fmt.Sprintf("- id: %q\n  sha256: %s\n  scope: %s\n", id, hex.EncodeToString(sum[:]), scope)
	if !expires.IsZero() {
		entry += "  expires: " + expires.UTC().Format(time.RFC3339) + "\n"
	}
	return key, entry
}

// HashPassword returns what the file of LoadAuth keeps of a user's password.
func HashPassword(password string) string {
	salt := make([]byte, 16)
	_, _ = rand.Read(salt) // never fails
	sum, err := pbkdf2.Key(sha256.New, password, salt, pbkdf2Rounds, sha256.Size)
	if err != nil {
		panic("registry: " + err.Error()) // only for impossible parameters
	}
	return fmt.Sprintf("pbkdf2-sha256$%d$%s$%s", pbkdf2Rounds, base64.RawStdEncoding.EncodeToString(salt), base64.RawStdEncoding.EncodeToString(sum))
}

func parsePassword(hashed string) (rounds int, salt, sum []byte, err error) {
	parts := strings.Split(hashed, "$")
	if len(parts) != 4 || parts[0] != "pbkdf2-sha256" {
		return 0, nil, nil, fmt.Errorf("a password hash is pbkdf2-sha256$rounds$salt$hash")
	}
	if rounds, err = strconv.Atoi(parts[1]); err != nil || rounds < 1 || rounds > maxRounds {
		return 0, nil, nil, fmt.Errorf("a password hash has 1 to %d rounds", maxRounds)
	}
	if salt, err = base64.RawStdEncoding.DecodeString(parts[2]); err != nil {
		return 0, nil, nil, err
	}
	if sum, err = base64.RawStdEncoding.DecodeString(parts[3]); err != nil || len(sum) == 0 {
		return 0, nil, nil, fmt.Errorf("a password hash ends with the hash")
	}
	return rounds, salt, sum, nil
}

func checkPassword(hashed, password string) bool {
	rounds, salt, want, err := parsePassword(hashed)
	if err != nil {
		return false
	}
	got, err := pbkdf2.Key(sha256.New, password, salt, rounds, len(want))
	return err == nil && subtle.ConstantTimeCompare(got, want) == 1
}
