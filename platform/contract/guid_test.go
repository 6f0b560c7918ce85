package contract

import (
	"context"
	"crypto/md5"
	"errors"
	"reflect"
	"strings"
	"testing"
)

// guids is a Memory that knows GUIDs, too.
type guids struct {
	*Memory
	asked int
}

func guidOf(text string) GUID { return md5.Sum([]byte(text)) }

func (g *guids) SchemaByGUID(ctx context.Context, guid GUID) (string, error) {
	g.asked++
	for id := int32(1); ; id++ {
		text, err := g.SchemaByID(ctx, id)
		if err != nil || guidOf(text) == guid {
			return text, err
		}
	}
}

func TestDecodeHeader(t *testing.T) {
	ctx := context.Background()
	r := &guids{Memory: NewMemory()}
	c, err := Bind(ctx, upcasting, r)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{placedOldSchema, mergedSchema} {
		if _, err := r.SchemaID(ctx, "s", text); err != nil {
			t.Fatal(err)
		}
	}
	frame, err := c.Append(nil, typical())
	if err != nil {
		t.Fatal(err)
	}
	resolved := typical()
	resolved.Channel, resolved.Gift = "web", false
	header := func(text string) []byte { g := guidOf(text); return append([]byte{1}, g[:]...) }
	for _, tc := range []struct {
		name          string
		header, value []byte
		want          []event
		err           error
	}{
		{"a frame", nil, frame, []event{typical()}, nil},
		{"GUID", header(placedSchema), frame[5:], []event{typical()}, nil},
		{"GUID again", header(placedSchema), frame[5:], []event{typical()}, nil},
		{"id", frame[:5], frame[5:], []event{typical()}, nil},
		{"GUID of an old version", header(placedOldSchema), oldPayload(t), []event{resolved}, nil},
		{"GUID of a retired type", header(mergedSchema), []byte{4, 2, 'a', 2, 'b', 0, 0}, []event{cancelled{"a"}, cancelled{"b"}}, nil},
		{"unknown GUID", header("x"), frame[5:], nil, ErrUnknownSchema},
		{"unknown id", []byte{0, 0, 0, 0, 99}, frame[5:], nil, ErrUnknownSchema},
		{"id 0", []byte{0, 0, 0, 0, 0}, frame[5:], nil, ErrUndecodable},
		{"short GUID", header(placedSchema)[:16], frame[5:], nil, ErrUndecodable},
		{"long GUID", append(header(placedSchema), 0), frame[5:], nil, ErrUndecodable},
		{"another kind", []byte{2, 0, 0, 0, 1}, frame[5:], nil, ErrUndecodable},
		{"a frame behind the header", header(placedSchema), frame, nil, ErrUndecodable},
		{"truncated", header(placedSchema), frame[5:50], nil, ErrUndecodable},
	} {
		t.Run(tc.name, func(t *testing.T) {
			before := []event{cancelled{"before"}}
			got, err := c.DecodeHeader(ctx, before, tc.header, tc.value)
			if want := append(before[:1:1], tc.want...); !errors.Is(err, tc.err) || !reflect.DeepEqual(got, want) {
				t.Errorf("got %+v, %v, want %+v, %v", got, err, want, tc.err)
			}
		})
	}
	if r.asked != 4 {
		t.Errorf("the registry was asked %d times, want 4: what a GUID stands for never changes", r.asked)
	}
	plain, _ := bindTest(t, guards{})
	if _, err := plain.DecodeHeader(ctx, nil, header(placedSchema), frame[5:]); !errors.Is(err, ErrUndecodable) || !strings.Contains(err.Error(), guidOf(placedSchema).String()) {
		t.Errorf("a client without GUIDs: %v", err)
	}
	if got := (GUID{0xab, 15: 1}).String(); got != "ab000000-0000-0000-0000-000000000001" {
		t.Errorf("got %s", got)
	}
}
