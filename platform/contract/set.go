package contract

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
)

// A Subject is one event type as a registry knows it.
type Subject struct {
	Name   string // "<topic>-<record full name>": the TopicRecordName strategy
	Schema string // the original text
}

// A Set is the contract of one topic: the closed set of its event types, which together make up the sealed interface E.
type Set[E any] struct {
	Topic     string
	Types     []Type[E]
	Upcasters []Upcaster[E] // from the types that the log holds and nobody writes any more
}

// A Type is one event type of a Set: a Go struct with its schema. Make it with For.
type Type[E any] struct {
	schema string
	typ    reflect.Type
	open   func(*binding) (reading[E], error)
}

// For returns the event type T, a struct that implements the sealed interface E by value, with its schema, the text of an .avsc file.
// Mistakes in it are reported by Bind.
func For[T, E any](schema string) Type[E] {
	return Type[E]{schema: schema, typ: reflect.TypeFor[T](), open: openType[T, E]}
}

// Schema returns the text of the type's schema.
func (t Type[E]) Schema() string { return t.schema }

// GoType returns the struct type that For was given.
func (t Type[E]) GoType() reflect.Type { return t.typ }

// Subjects returns what has to be registered for the set, in the order of its types.
// A schema that cannot be parsed has a subject without a name; Bind refuses it.
func (s Set[E]) Subjects() []Subject {
	subjects := make([]Subject, len(s.Types))
	for i, t := range s.Types {
		subjects[i].Schema = t.schema
		if schema, err := Parse(t.schema); err == nil {
			subjects[i].Name = SubjectName(s.Topic, schema.Name())
		}
	}
	return subjects
}

// SubjectName returns the subject of the record type with the full name on the topic.
func SubjectName(topic, fullName string) string { return topic + "-" + fullName }

// A Resolver finds schemas in a registry.
type Resolver interface {
	// SchemaID returns the id of the text under the subject, or ErrUnregistered. It does not register, but for Memory.
	SchemaID(ctx context.Context, subject, schema string) (int32, error)
	// SchemaByID returns the text with the id, or ErrUnknownSchema. What it answers for an id never changes.
	SchemaByID(ctx context.Context, id int32) (string, error)
}

// Bind looks every type of the set up in the registry and returns the set's codec. All types that are not registered are named
// in one ErrUnregistered; a set that contradicts itself or its Go types is an ErrContract. ctx bounds the look-ups only.
func Bind[E any](ctx context.Context, s Set[E], r Resolver) (*Codec[E], error) {
	return bindSet(ctx, s, r, guards{})
}

func bindSet[E any](ctx context.Context, s Set[E], r Resolver, g guards) (*Codec[E], error) {
	c := &Codec[E]{resolver: r, topic: s.Topic, guards: g, byType: map[uintptr]*bound[E]{}, byName: map[string]*bound[E]{}}
	if s.Topic == "" || len(s.Types) == 0 {
		return nil, ErrContract.Because("a set needs a topic and at least one type")
	}
	var missing []string
	for _, t := range s.Types {
		b, err := bindType(t, g)
		if err != nil {
			return nil, err
		}
		if c.byType[b.rtype] != nil {
			return nil, ErrContract.Because("%s is in the set twice", t.typ)
		}
		c.byType[b.rtype] = b
		if err := c.claim(b); err != nil { // a record that was renamed reads what was written under its old name
			return nil, err
		}
		b.subject = SubjectName(s.Topic, b.schema.Name())
		b.id, err = r.SchemaID(ctx, b.subject, t.schema)
		switch {
		case errors.Is(err, ErrUnregistered):
			missing = append(missing, b.subject)
		case err != nil:
			return nil, fmt.Errorf("contract: look up %s: %w", b.subject, err)
		default:
			c.plans.add(b.id, &plan[E]{what: fmt.Sprintf("schema id %d", b.id), bound: b, writer: b.schema.root, straight: true})
		}
	}
	if err := c.bindUpcasters(s, g); err != nil {
		return nil, err
	}
	if len(missing) > 0 {
		return nil, ErrUnregistered.Because("the registry does not have %s with the text this program was built with", strings.Join(missing, ", ")).
			WithFix("register them before the service starts: millrace contract register DIR")
	}
	return c, nil
}
