package command

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace/millrace/platform/contract"
	"github.com/millrace/millrace/platform/es"
)

const exchangedSchema = `{"type":"record","name":"Exchanged","namespace":"test.v1","fields":[{"name":"out","type":"long"},{"name":"in","type":"long"}]}`

// TestSplitEvents retires a type whose events are read as two from then on: versions, receipts and expected versions stay what they were,
// and state and stream reads show the new events, also after the stream store was lost.
func TestSplitEvents(t *testing.T) {
	exchanging := contract.Set[event]{Topic: accounts.Topic, Types: append(accounts.Types[:2:2], contract.For[exchanged, event](exchangedSchema))}
	splitting := contract.Set[event]{Topic: accounts.Topic, Types: accounts.Types, Upcasters: []contract.Upcaster[event]{
		contract.Split(exchangedSchema, func(e exchanged) []event { return []event{debited{e.Out}, credited{e.In, "exchanged"}} }),
	}}
	r := newRig(t, func(r *rig) { r.set = exchanging })
	r.mustSend("a-1", "k-1", credit{Amount: 100})
	first := r.mustSend("a-1", "k-2", emit{Amounts: []int64{10, 20}})
	r.mustSend("a-1", "k-3", debit{1})
	r.set = splitting
	for _, wipe := range []bool{false, true} {
		t.Run(fmt.Sprintf("wipe=%v", wipe), func(t *testing.T) {
			r.restart(wipe)
			if b, v := r.balance("a-1"); b != 100-10+5-20+10+1-1 || v != 5 {
				t.Errorf("balance %d at version %d, want 85 at 5", b, v)
			}
			again, err := r.send("a-1", "k-2", emit{Amounts: []int64{10, 20}})
			if err != nil || !again.Replayed {
				t.Fatalf("the repeat: %+v, %v", again, err)
			}
			again.Replayed = false
			if diff := cmp.Diff(first, again); diff != "" {
				t.Errorf("the repeat gets another receipt than the command (-first +again):\n%s", diff)
			}
			type seen struct {
				Type        string
				Version     es.Version
				Part, Parts int
			}
			var got []seen
			ids := map[string]bool{}
			envs, err := r.engine.Events(t.Context(), "a-1", 2, 3)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range envs {
				got = append(got, seen{e.Type, e.Version, e.Part, e.Parts})
				if ids[e.ID] {
					t.Errorf("the id %s is there twice", e.ID)
				}
				ids[e.ID] = true
			}
			want := []seen{{"test.v1.Debited", 2, 0, 2}, {"test.v1.Credited", 2, 1, 2}, {"test.v1.Debited", 3, 0, 2}, {"test.v1.Credited", 3, 1, 2}, {"test.v1.Credited", 4, 0, 0}}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("three versions from 2 on (-want +got):\n%s", diff)
			}
			if !ids[es.EventID("a-1", "k-2", 0)] {
				t.Error("the first part does not have the stored event's id")
			}
		})
	}
	// The owner decides on the new events: 85 are there, not 86.
	if _, err := r.send("a-1", "k-4", debit{86}); err == nil {
		t.Error("a debit of 86 from 85 was accepted")
	}
	if got := r.mustSend("a-1", "k-5", debit{85}); got.Version != 6 {
		t.Errorf("the next version is %d, want 6", got.Version)
	}
}
