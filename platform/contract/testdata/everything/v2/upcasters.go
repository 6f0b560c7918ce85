package everythingv2

import "github.com/millrace/millrace/platform/contract"

var upcasters = []contract.Upcaster[Event]{
	contract.Split(thingsEndedSchema, func(e ThingsEnded) (all []Event) {
		for _, p := range e.Parts {
			all = append(all, ThingEnded{ID: p.ID})
		}
		return all
	}),
}
