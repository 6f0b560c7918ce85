package registry

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/riferrei/srclient"

	"github.com/millrace/millrace/platform/contract"
	"github.com/millrace/millrace/platform/fault"
)

// Errors of the client, beside contract.ErrUnregistered, contract.ErrUnknownSchema and contract.ErrSchema.
var (
	ErrURL          = fault.New(fault.Invalid, "invalid_registry_url", "the address of the schema registry is not usable")
	ErrUnreachable  = fault.New(fault.Unavailable, "registry_unreachable", "the schema registry does not answer")
	ErrCredentials  = fault.New(fault.Forbidden, "registry_credentials", "the schema registry does not accept the credentials")
	ErrIncompatible = fault.New(fault.Rejected, "schema_incompatible", "the schema is not compatible with earlier versions")
	ErrRefused      = fault.New(fault.Rejected, "registry_refused", "the schema registry refuses the request")
	ErrAnswer       = fault.New(fault.Unavailable, "registry_answer", "the schema registry's answer is not usable")
)

// ClientConfig is what a Client needs. Zero fields mean the default that is named.
type ClientConfig struct {
	URLs     []string      // of the instances of one registry, tried in turn; at least one. With /contexts/{context} at the end: of that context
	Username string        // for basic authentication
	Password string        //
	Token    string        // for bearer authentication, instead of username and password
	TLS      *tls.Config   // for https URLs; the system's certificates by default
	HTTP     *http.Client  // its Transport is used instead of one of the client's own, and TLS is not
	Cache    string        // file that keeps what was learnt for times when the registry is down; "" = none
	Setting  string        // what the user sets the URLs with, for error texts; MILLRACE_REGISTRY_URL
	Attempts int           // how often a request is sent at most; 4
	Timeout  time.Duration // of one attempt; 5 s
	Backoff  time.Duration // before the second attempt, doubled before each further one, plus or minus half; 100 ms
	Negative time.Duration // how long an id counts as unknown before it is asked for again; 30 s
	Latest   time.Duration // how long the newest version of a subject counts as such; 10 s
}

// A Client talks to a Confluent-compatible schema registry. It implements contract.Resolver, is safe for concurrent use, and keeps
// every schema that it has seen for ever: what an id stands for never changes. A registry that says so is not believed.
type Client struct {
	cfg       ClientConfig
	urls      []*url.URL
	transport http.RoundTripper
	preferred atomic.Int32 // the URL that answered last

	mu      sync.Mutex
	texts   map[int32]string
	unknown map[int32]time.Time // until when
	flights map[int32]*flight
	newest  map[string]newest // by subject
	store   *store            // nil = none
	down    time.Time         // until when the registry is not asked for what the store has
}

// A newest is an answer of Latest and until when it counts.
type newest struct {
	Latest
	until time.Time
}

// Latest is the newest version of a subject.
type Latest struct {
	ID      int32
	Version int
	Schema  string
}

// A flight is one look-up that several callers wait for.
type flight struct {
	done chan struct{}
	text string
	err  error
}

var _ contract.Resolver = (*Client)(nil)

// maxUnknown bounds the memory of the negative cache: ids come out of records, so anybody could make them up.
const maxUnknown = 10_000

// Dial returns a client for the registry at the URLs, or ErrURL. It does not connect: Ping does.
func Dial(cfg ClientConfig) (*Client, error) {
	if cfg.Setting == "" {
		cfg.Setting = "MILLRACE_REGISTRY_URL"
	}
	if cfg.Attempts == 0 {
		cfg.Attempts = 4
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 5 * time.Second
	}
	if cfg.Backoff == 0 {
		cfg.Backoff = 100 * time.Millisecond
	}
	if cfg.Negative == 0 {
		cfg.Negative = 30 * time.Second
	}
	if cfg.Latest == 0 {
		cfg.Latest = 10 * time.Second
	}
	c := &Client{cfg: cfg, texts: map[int32]string{}, unknown: map[int32]time.Time{}, flights: map[int32]*flight{}, newest: map[string]newest{}}
	if len(cfg.URLs) == 0 {
		return nil, ErrURL.Because("none is given").WithFix("set %s, e.g. to http://127.0.0.1:8081", cfg.Setting)
	}
	for _, text := range cfg.URLs {
		u, err := url.Parse(strings.TrimSpace(text))
		if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
			return nil, ErrURL.Because("%s is not of the form http://host:port", redact(text)).WithFix("correct %s", cfg.Setting)
		}
		if u.User != nil && c.cfg.Username == "" {
			c.cfg.Username = u.User.Username()
			c.cfg.Password, _ = u.User.Password()
		}
		u.User = nil
		u.Path, u.RawPath = strings.TrimRight(u.Path, "/"), ""
		c.urls = append(c.urls, u)
	}
	if cfg.HTTP != nil && cfg.HTTP.Transport != nil {
		c.transport = cfg.HTTP.Transport
	} else {
		t := http.DefaultTransport.(*http.Transport).Clone()
		t.MaxIdleConnsPerHost = 16 // as many as srclient lets run at once
		t.TLSClientConfig = cfg.TLS.Clone()
		c.transport = t
	}
	if cfg.Cache != "" {
		var err error
		if c.store, err = openStore(cfg.Cache, strings.Join(c.addresses(), " ")); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func (c *Client) addresses() []string {
	names := make([]string, len(c.urls))
	for i, u := range c.urls {
		names[i] = u.String()
	}
	return names
}

// redact hides the password of a URL that may be malformed.
func redact(text string) string {
	if i := strings.LastIndexByte(text, '@'); i >= 0 {
		return "…" + text[i:]
	}
	return clip(text)
}

// with calls f with a srclient for this one call: it knows no contexts and no retries, so both are in the transport it is given.
func (c *Client) with(ctx context.Context, f func(*srclient.SchemaRegistryClient) error) error {
	x := &exchange{client: c, ctx: ctx}
	sr := srclient.NewSchemaRegistryClient("http://registry.invalid", srclient.WithClient(&http.Client{
		Transport:     x,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}))
	sr.CachingEnabled(false)
	err := f(sr)
	if err == nil {
		return nil
	}
	if errors.Is(err, ErrAnswer) {
		return err // found out here, not by the registry
	}
	return x.explain(err)
}

// SchemaID returns the id of the text under the subject, or contract.ErrUnregistered. It never registers. While the registry is down it
// answers from the cache's file.
func (c *Client) SchemaID(ctx context.Context, subject, schema string) (int32, error) {
	kept, known := c.store.id(subject, schema)
	if known && c.isDown() {
		return kept, nil
	}
	var found *srclient.Schema
	err := c.with(ctx, func(sr *srclient.SchemaRegistryClient) (err error) {
		found, err = sr.LookupSchema(subject, schema, srclient.Avro)
		return err
	})
	switch {
	case err != nil && known && c.wentDown(err):
		return kept, nil
	case err != nil && notThere(err):
		return 0, contract.ErrUnregistered.Because("%s", subject).Wrap(err)
	case err != nil:
		return 0, err
	}
	return c.id(subject, schema, found)
}

// isDown reports whether the registry did not answer just now.
func (c *Client) isDown() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Before(c.down)
}

// wentDown reports whether err means that the registry does not answer, and remembers it for a moment.
func (c *Client) wentDown(err error) bool {
	if !errors.Is(err, ErrUnreachable) {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.down = time.Now().Add(downTime)
	return true
}

// downTime is how long a registry that did not answer is not asked for what the cache's file has.
const downTime = 2 * time.Second

// Cached reports whether the cache's file knows anything of this registry, so that a service may start without it.
func (c *Client) Cached() bool { return c.store.any() }

// Latest returns the newest version of a subject, which may be out of date by ClientConfig.Latest, or contract.ErrUnregistered.
func (c *Client) Latest(ctx context.Context, subject string) (Latest, error) {
	c.mu.Lock()
	if n, ok := c.newest[subject]; ok && time.Now().Before(n.until) {
		c.mu.Unlock()
		return n.Latest, nil
	}
	c.mu.Unlock()
	var found *srclient.Schema
	var text string
	err := c.with(ctx, func(sr *srclient.SchemaRegistryClient) (err error) {
		if found, err = sr.GetLatestSchema(subject); err != nil {
			return err
		}
		text, err = c.whole(sr, fmt.Sprintf("the newest schema of subject %s", subject), found)
		return err
	})
	if err != nil {
		if notThere(err) {
			return Latest{}, contract.ErrUnregistered.Because("%s", subject).Wrap(err)
		}
		return Latest{}, err
	}
	id, err := positive(found.ID())
	if err == nil {
		err = c.learn(id, text)
	}
	if err != nil {
		return Latest{}, err
	}
	n := newest{Latest{id, found.Version(), text}, time.Now().Add(c.cfg.Latest)}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.newest) >= maxUnknown {
		clear(c.newest)
	}
	c.newest[subject] = n
	return n.Latest, nil
}

// Register registers the schema under the subject unless it is there, and returns its id. A registry that refuses it answers
// ErrIncompatible, with its reasons, or contract.ErrSchema.
func (c *Client) Register(ctx context.Context, s contract.Subject) (int32, error) {
	var made *srclient.Schema
	err := c.with(ctx, func(sr *srclient.SchemaRegistryClient) (err error) {
		made, err = sr.CreateSchema(s.Name, s.Schema, srclient.Avro)
		return err
	})
	if err != nil {
		return 0, err
	}
	c.mu.Lock()
	delete(c.newest, s.Name)
	c.mu.Unlock()
	return c.id(s.Name, s.Schema, made)
}

// id returns the id that the registry gave a schema if what it says about it is consistent: an id that stands for another schema
// would make every event undecodable.
func (c *Client) id(subject, schema string, found *srclient.Schema) (int32, error) {
	id, err := positive(found.ID())
	if err != nil {
		return 0, err
	}
	want, err := contract.Parse(schema)
	if err != nil {
		return 0, err
	}
	got, err := contract.Parse(found.Schema())
	if err != nil {
		return 0, ErrAnswer.Because("the schema with id %d of subject %s cannot be parsed", id, subject).Wrap(err)
	}
	if got.Name() != want.Name() || len(contract.Compatible(got, want)) > 0 || len(contract.Compatible(want, got)) > 0 {
		return 0, ErrAnswer.Because("the schema with id %d is not the one of subject %s that was asked for", id, subject)
	}
	if err := c.learn(id, found.Schema()); err != nil {
		return 0, err
	}
	c.store.keep(entry{ID: id, Subject: subject, Schema: schema})
	return id, nil
}

// learn keeps what an id stands for, unless it is known to stand for something else.
func (c *Client) learn(id int32, text string) error {
	c.mu.Lock()
	known, ok := c.texts[id]
	if !ok {
		c.texts[id] = text
		delete(c.unknown, id)
	}
	c.mu.Unlock()
	switch {
	case !ok:
		c.store.keep(entry{ID: id, Schema: text})
	case !bytes.Equal(canonical([]byte(known)), canonical([]byte(text))):
		return ErrAnswer.Because("the id %d stands for another schema than before", id).WithFix("check %s: is it still the same registry?", c.cfg.Setting)
	}
	return nil
}

func positive(id int) (int32, error) {
	if id < 1 || id > 1<<31-1 {
		return 0, ErrAnswer.Because("the schema's id is %d", id)
	}
	return int32(id), nil
}

// SchemaByID returns the text with the id, or contract.ErrUnknownSchema. Each id is fetched once; those who ask meanwhile wait for it.
func (c *Client) SchemaByID(ctx context.Context, id int32) (string, error) {
	if id < 1 {
		return "", contract.ErrUnknownSchema.Because("id %d", id)
	}
	c.mu.Lock()
	if text, ok := c.texts[id]; ok {
		c.mu.Unlock()
		return text, nil
	}
	if until, ok := c.unknown[id]; ok && time.Now().Before(until) {
		c.mu.Unlock()
		return "", contract.ErrUnknownSchema.Because("id %d", id)
	}
	f := c.flights[id]
	if f == nil {
		f = &flight{done: make(chan struct{})}
		c.flights[id] = f
		// The one who asked first may give up earlier than those who joined, so the flight has its own time.
		own, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Duration(c.cfg.Attempts)*(c.cfg.Timeout+maxPause))
		go func() {
			defer cancel()
			c.land(id, f, own)
		}()
	}
	c.mu.Unlock()
	select {
	case <-f.done:
		return f.text, f.err
	case <-ctx.Done():
		return "", ErrUnreachable.Because("while waiting for the schema with id %d", id).Wrap(ctx.Err())
	}
}

// land fetches the schema of a flight and keeps what was learnt.
func (c *Client) land(id int32, f *flight, ctx context.Context) { //nolint:revive // the context is the flight's own
	f.text, f.err = c.fetch(ctx, id)
	if f.err == nil {
		f.err = c.learn(id, f.text)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case f.err == nil:
	case contract.ErrUnknownSchema.Is(fault.From(f.err)):
		if len(c.unknown) >= maxUnknown {
			clear(c.unknown)
		}
		c.unknown[id] = time.Now().Add(c.cfg.Negative)
	}
	delete(c.flights, id)
	close(f.done)
}

// fetch asks the registry for an id, and the cache's file while the registry is down.
func (c *Client) fetch(ctx context.Context, id int32) (string, error) {
	kept, known := c.store.text(id)
	if known && c.isDown() {
		return kept, nil
	}
	var text string
	err := c.with(ctx, func(sr *srclient.SchemaRegistryClient) error {
		found, err := sr.GetSchema(int(id))
		if err != nil {
			return err
		}
		text, err = c.whole(sr, fmt.Sprintf("the schema with id %d", id), found)
		return err
	})
	switch {
	case err != nil && known && c.wentDown(err):
		return kept, nil
	case err != nil && notThere(err):
		return "", contract.ErrUnknownSchema.Because("id %d", id).Wrap(err)
	}
	return text, err
}

// whole returns the text of a schema that the registry answered, with all that it refers to written into it.
func (c *Client) whole(sr *srclient.SchemaRegistryClient, what string, found *srclient.Schema) (string, error) {
	var texts []string
	done, open := map[place]bool{}, map[place]bool{}
	check := func(what string, x *srclient.Schema) error {
		switch {
		case x.SchemaType() != nil && *x.SchemaType() != "" && *x.SchemaType() != srclient.Avro:
			return ErrAnswer.Because("%s is of type %s, not AVRO", what, clip(string(*x.SchemaType())))
		case len(x.Schema()) > contract.MaxSchemaBytes:
			return ErrAnswer.Because("%s has %d bytes, at most %d are allowed", what, len(x.Schema()), contract.MaxSchemaBytes)
		case x.Schema() == "" || !json.Valid([]byte(x.Schema())):
			return ErrAnswer.Because("%s is not JSON", what)
		}
		return nil
	}
	var visit func(references []srclient.Reference, depth int) error
	visit = func(references []srclient.Reference, depth int) error {
		if len(references) > 0 && depth > maxReferenceDepth {
			return ErrAnswer.Because("the references of %s lead more than %d levels deep", what, maxReferenceDepth)
		}
		for _, r := range references {
			at := place{r.Subject, int32(r.Version)} //nolint:gosec // only compared
			switch {
			case open[at]:
				return ErrAnswer.Because("the references of %s are a cycle: version %d of subject %s leads back to itself", what, r.Version, clip(r.Subject))
			case done[at]:
				continue
			case len(done) >= maxReferences:
				return ErrAnswer.Because("%s has more than %d references", what, maxReferences)
			}
			x, err := sr.GetSchemaByVersion(r.Subject, r.Version)
			if err != nil {
				var said srclient.Error
				if errors.As(err, &said) && (said.Code == codeNoSubject || said.Code == codeNoVersion) {
					return ErrAnswer.Because("%s refers to version %d of subject %s, which is not there", what, r.Version, clip(r.Subject))
				}
				return err
			}
			if err := check(fmt.Sprintf("version %d of subject %s", r.Version, clip(r.Subject)), x); err != nil {
				return err
			}
			open[at] = true
			if err := visit(x.References(), depth+1); err != nil {
				return err
			}
			delete(open, at)
			done[at] = true
			texts = append(texts, x.Schema())
		}
		return nil
	}
	if err := check(what, found); err != nil {
		return "", err
	}
	if err := visit(found.References(), 1); err != nil {
		return "", err
	}
	text, err := contract.Inline(found.Schema(), texts...)
	if err != nil {
		return "", ErrAnswer.Because("%s and its references do not fit together", what).Wrap(err)
	}
	return text, nil
}

// Ping returns nil if a registry answers, else ErrUnreachable, ErrCredentials or ErrAnswer.
func (c *Client) Ping(ctx context.Context) error {
	return c.with(ctx, func(sr *srclient.SchemaRegistryClient) error {
		_, err := sr.GetGlobalCompatibilityLevel()
		return err
	})
}
