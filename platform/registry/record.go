package registry

import (
	"bytes"
	"crypto/md5" //nolint:gosec // the record format has an MD5; nothing here relies on it
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
)

// A record is one record of the topic; a nil value deletes what the key stands for.
type record struct{ key, value []byte }

// The key types of the topic. All others are left alone.
const (
	keySchema        = "SCHEMA"
	keyConfig        = "CONFIG"
	keyMode          = "MODE"
	keyDeleteSubject = "DELETE_SUBJECT"
	// keyMaxID is Millrace's own: the highest id ever given, kept because hard-deleted schemas leave no trace after compaction, and an
	// id that comes back would decode old events with a new schema. Other registries skip the key type.
	keyMaxID = "MILLRACE_MAX_ID"
	// keyRules is Millrace's own, too: which of its rules are off for a subject.
	keyRules       = "MILLRACE_RULES"
	keyContext     = "CONTEXT"
	keyAssociation = "ASSOC"
	tenant         = "default" // of CONTEXT and ASSOC records
)

// The keys and values below are marshalled with their fields in exactly this order: compaction compares keys byte by byte.
type (
	schemaKey struct {
		Keytype string `json:"keytype"`
		Subject string `json:"subject"`
		Version int32  `json:"version"`
		Magic   int    `json:"magic"`
	}
	subjectKey struct { // of CONFIG, MODE and DELETE_SUBJECT; a nil subject is the global one
		Keytype string  `json:"keytype"`
		Subject *string `json:"subject"`
		Magic   int     `json:"magic"`
	}
	maxIDKey struct {
		Keytype string `json:"keytype"`
		Context string `json:"context,omitempty"` // "" = the default one
		Magic   int    `json:"magic"`
	}
	contextKey struct {
		Keytype string `json:"keytype"`
		Tenant  string `json:"tenant"`
		Context string `json:"context"`
		Magic   int    `json:"magic"`
	}
	contextValue struct {
		Tenant  string `json:"tenant"`
		Context string `json:"context"`
	}
	anyKey struct {
		Keytype string  `json:"keytype"`
		Subject *string `json:"subject"`
		Version int32   `json:"version"`
		Context string  `json:"context"`
	}

	schemaValue struct {
		Subject    string          `json:"subject"`
		Version    int32           `json:"version"`
		ID         int32           `json:"id"`
		MD5        string          `json:"md5,omitempty"`
		SchemaType string          `json:"schemaType,omitempty"` // "" = AVRO
		References []reference     `json:"references,omitempty"`
		Metadata   json.RawMessage `json:"metadata,omitempty"`
		RuleSet    json.RawMessage `json:"ruleSet,omitempty"`
		Schema     string          `json:"schema"`
		Deleted    bool            `json:"deleted"`
		GUID       string          `json:"guid,omitempty"` // only where another registry has given one: older ones do not know it
	}
	rulesValue struct {
		Subject  string   `json:"subject,omitempty"`
		Disabled []string `json:"disabled"`
	}
	configValue struct {
		Subject string `json:"subject,omitempty"`
		config
	}
	modeValue struct {
		Subject string `json:"subject,omitempty"`
		Mode    string `json:"mode"`
	}
	deleteSubjectValue struct {
		Subject string `json:"subject"`
		Version int32  `json:"version"`
	}
	maxIDValue struct {
		ID int32 `json:"id"`
	}
)

// A reference names a schema that another one uses.
type reference struct {
	Name    string `json:"name"`
	Subject string `json:"subject"`
	Version int32  `json:"version"`
}

// A config is the settings of a subject, of a context or, globally, of all.
type config struct {
	Alias              string          `json:"alias,omitempty"`
	Normalize          *bool           `json:"normalize,omitempty"`
	ValidateFields     *bool           `json:"validateFields,omitempty"` // is kept, and does nothing
	CompatibilityLevel string          `json:"compatibilityLevel,omitempty"`
	CompatibilityGroup string          `json:"compatibilityGroup,omitempty"`
	DefaultMetadata    json.RawMessage `json:"defaultMetadata,omitempty"`
	OverrideMetadata   json.RawMessage `json:"overrideMetadata,omitempty"`
	DefaultRuleSet     json.RawMessage `json:"defaultRuleSet,omitempty"`
	OverrideRuleSet    json.RawMessage `json:"overrideRuleSet,omitempty"`
	DisabledRules      []string        `json:"disabledRules,omitempty"` // in answers; the topic has them in a record of their own
}

func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("registry: a record does not marshal: %v", err)) // raw messages were checked when they came in
	}
	return b
}

func schemaRecord(v *version) record {
	c := v.content
	given := ""
	if c.given {
		given = c.guid.String()
	}
	return record{encode(schemaKey{keySchema, v.subject, v.number, 1}), encode(schemaValue{
		GUID: given, Subject: v.subject, Version: v.number, ID: c.id, MD5: md5Of(c.text), SchemaType: storedType(c.schemaType),
		References: c.references, Metadata: c.metadata, RuleSet: c.ruleSet, Schema: c.text, Deleted: v.deleted,
	})}
}

func storedType(t string) string {
	if t == typeAvro {
		return ""
	}
	return t
}

func md5Of(text string) string {
	sum := md5.Sum([]byte(text)) //nolint:gosec // see the import
	return base64.StdEncoding.EncodeToString(sum[:])
}

// A hash tells contents apart: what has the same hash gets the same id.
type hash [sha256.Size]byte

// A guid names a content in every registry that has it.
type guid [16]byte

func (h hash) guid() guid { return guid(h[:16]) }

// parseGUID reads the form that String returns.
func parseGUID(text string) (g guid, ok bool) {
	b, err := hex.DecodeString(strings.ReplaceAll(text, "-", ""))
	if err != nil || len(b) != len(g) {
		return g, false
	}
	return guid(b), true
}

func (g guid) String() string {
	x := hex.EncodeToString(g[:])
	return x[:8] + "-" + x[8:12] + "-" + x[12:16] + "-" + x[16:20] + "-" + x[20:]
}

// hashOf is of the content as a JSON value: white space, the order of an object's members and empty members of rules do not count.
func hashOf(schemaType, text string, references []reference, metadata, ruleSet json.RawMessage) hash {
	h := sha256.New()
	for _, part := range [][]byte{[]byte(schemaType), canonical([]byte(text)), encode(references), canonical(metadata), canonical(significant(ruleSet))} {
		fmt.Fprintf(h, "%d:", len(part))
		h.Write(part)
	}
	var sum hash
	h.Sum(sum[:0])
	return sum
}

// canonical returns the JSON value without white space and with members in the order of their names; what is no JSON stays as it is.
func canonical(data []byte) []byte {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber() // 1 and 1.0 are different defaults
	var v any
	if err := d.Decode(&v); err != nil || d.More() {
		return data
	}
	b, err := json.Marshal(v)
	if err != nil {
		return data
	}
	return b
}

// compact returns text without insignificant white space, as other registries store it.
func compact(text string) string {
	var b bytes.Buffer
	if err := json.Compact(&b, []byte(text)); err != nil {
		return text
	}
	return b.String()
}
