package gate

import (
	"fmt"
	"slices"
	"strings"
)

// rules explains every rule: what it finds, why that matters, what to do.
var rules = map[string]string{
	"SCHEMA_INVALID":       "The file holds no Avro schema, or one beyond the limits of the codec. Defaults must be exact and in range: other tools round or cut them silently.",
	"EVENT_RECORD":         "An event is an Avro record: only records have fields that can be added.",
	"NAMESPACE_FORM":       "The namespace is <organisation>.<context>.v<N>. N counts incompatible contracts: v2 is another contract beside v1, with upcasters from it.",
	"RECORD_NAME":          "Record names are in PascalCase; they are Go types, subjects and routing keys.",
	"RECORD_TENSE":         "An event is a fact: OrderPlaced, not PlaceOrder, which would be a command. The rule looks for a word that ends in -ed or is a known participle.",
	"FIELD_NAME":           "Field names are in snake_case in Avro and in JSON.",
	"FILE_NAME":            "The file is named as the record's full name, so that one finds it and no two files hold one type.",
	"DOC_MISSING":          "Every record, enum, fixed and field has a doc: it is all that a reader in ten years will have.",
	"ENUM_NO_DEFAULT":      "A reader that meets a symbol it does not know takes its enum's default; without one it fails. So an enum without a default can never grow.",
	"ENUM_UNKNOWN_FIRST":   "The first symbol is UNKNOWN, which is also the default: the zero value then means what it is.",
	"NULLABLE_FORM":        `A nullable field is ["null", T] with "default": null: the default of a union is of its first type in most clients.`,
	"UNION_BRANCHES":       "A union has at most one type beside null: with two numeric or two text types, clients differ in which one they take, and no Go type is generated.",
	"DEFAULT_FIRST_BRANCH": "The default of a union is of its first type. Avro 1.12 allows any, older clients and hamba/avro refuse the schema.",
	"RECURSIVE_TYPE":       "A type that contains itself makes several clients overflow their stack.",
	"MAP_OF_RECORDS":       "A map with records as values has no order and keeps its key outside the record. Allow it in contracts.yaml if it is meant.",
	"MAX_DEPTH":            "Deeply nested events are read by nobody.",
	"MAX_BYTES":            "A schema this long describes more than one event.",
	"MONEY_FLOAT":          "float and double cannot hold 0.10. Use a long in minor units beside a currency, or a decimal.",
	"MONEY_CURRENCY":       "An amount in minor units means nothing without its currency.",
	"TIME_LOGICAL":         "Times are timestamp-micros in UTC: plain numbers have no unit, texts no order, local times no place.",
	"ID_TYPE":              "Ids are strings or uuids: numbers from one database are not unique in the next.",
	"PROPERTY_MISSING":     "Every event says its owner and retention, every field whether it holds personal data (pii): erasure and access rest on it.",
	"REFERENCE_UNRESOLVED": "What contracts.yaml pins is not in the folder references, or is no schema of that type: the copy there is what events are checked, registered and generated with.",
	"REFERENCE_UNPINNED":   "A type of another subject is used in one version, and contracts.yaml says which: name, subject and version. Otherwise nobody knows what to compare it with.",
	"TYPE_DEFINED_TWICE":   "One definition of a named type per repository: two drift apart.",

	"FIELD_REMOVED_NO_DEFAULT":          "Programs with an older schema need the field, for it has no default there. Keep it, or give fields defaults from the start.",
	"FIELD_ADDED_NO_DEFAULT":            "What is stored does not have the field; without a default it cannot be read any more. Events are read for ever: add a default.",
	"FIELD_RENAMED_NO_ALIAS":            "A rename is a removed and an added field. An alias helps readers with the new schema only; older readers still look for the old name.",
	"FIELD_ALIAS_COLLISION":             "Two fields claim one field of the writer by name or alias: implementations differ in which one gets it.",
	"FIELD_TYPE_NARROWED":               "Stored values need not fit the new type, so Avro does not read them. Only int → long → float → double and string ↔ bytes are read.",
	"FIELD_TYPE_PROMOTED_FORWARD_BREAK": "The new schema reads old data, but older programs cannot read the wider type.",
	"FIELD_NULLABILITY":                 "A nullable type became one that is not, or the reverse: one of the two sides meets a null, or a union, that it cannot read.",
	"UNION_BRANCH_REMOVED":              "Stored values may be of the type that is gone.",
	"UNION_BRANCH_ADDED":                "Older readers meet a type that is not in their union.",
	"UNION_ORDER_CHANGED":               "Legal on the wire, but a default belongs to the first type.",
	"ENUM_SYMBOL_REMOVED":               "Stored values may have the symbol, and without a default of the enum they cannot be read.",
	"ENUM_SYMBOL_ADDED_NO_DEFAULT":      "Older readers do not know the symbol, and their enum has no default. A default of the field does not help.",
	"ENUM_DEFAULT_CHANGED":              "Symbols that a reader does not know are read as another one from now on.",
	"RECORD_RENAMED_NO_ALIAS":           "Records are matched by name. Another name is another subject and another event type: retire the old one and add an upcaster.",
	"NAMESPACE_CHANGED":                 "Avro matches records by their short name, so this is legal on the wire; but the subject, the event type and the Go package are other ones.",
	"FIXED_SIZE":                        "A fixed of another size cannot be read.",
	"LOGICAL_TYPE_CHANGED":              "The same bytes mean something else: milliseconds are read as microseconds. No registry but ours finds this.",
	"DECIMAL_PRECISION_SCALE":           "The same digits mean another number: 10.00 is read as 0.10. No registry but ours finds this.",
	"DEFAULT_VALUE_CHANGED":             "Events without the field mean something else than they did.",
	"TAG_PII_REMOVED":                   "The stored values are personal data whatever the schema says now.",
	"DELETED_EVENT_TYPE":                "The type's events are in the log for ever. Keep it, or retire it: its .avsc in retired/ and an upcaster.",
	"SUBJECT_STRATEGY_CHANGED":          "Another topic means other subjects and another log; readers of the old one see nothing new.",
	"REFERENCE_VERSION_CHANGED":         "A type that events refer to is pinned to another version, or its copy is not that version any more: every event that uses it changes with it, and so do the Go types. Look at what breaking says about those events, then allow the finding with a reason. Versions of a subject never change, so a copy that differs from its version is never right.",
	"KEY_SCHEMA_CHANGED":                "The key of a record decides its partition, and a changed schema changes the bytes of every key, its id in front of them included, even where it is compatible: the events of one stream would lie in two partitions, and their order would be lost. Write to another topic.",
	"SIMULATION_FAILED":                 "Random data of one version could not be read with another through the real codec, although the rules allow the change.",
	"SOURCE_FIELD_RENAMED":              "At level SOURCE programs that use the generated Go type must compile.",
	"SOURCE_TYPE_CHANGED":               "At level SOURCE programs that use the generated Go type must compile.",
	"SOURCE_FIELD_GONE":                 "At level SOURCE programs that use the generated Go type must compile.",
	"DATA_UNREADABLE":                   "Records that are in the topic now cannot be read with the schema.",
	"READER_BREAKS":                     "A process that runs now reads with a schema that cannot read what the new one writes.",
}

// Explain returns what a rule finds, why, and what to do about it, "" for a rule that is not there.
func Explain(rule string) string { return rules[rule] }

// Rules returns the names of all rules in their order, one to a line with its first sentence.
func Rules() string {
	var names []string
	for name := range rules {
		names = append(names, name)
	}
	slices.Sort(names)
	var b strings.Builder
	for _, name := range names {
		first, _, _ := strings.Cut(rules[name], ". ")
		fmt.Fprintf(&b, "%-34s %s\n", name, strings.TrimSuffix(first, "."))
	}
	return b.String()
}
