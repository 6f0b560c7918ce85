"""Asks a schema registry about the contracts of the orders with the official confluent-kafka client: ask_registry.py URL TOPIC.

It registers nothing. Exit status 0 means that every answer was as expected.
"""

import json
import sys

from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.error import SchemaRegistryError

url, topic = sys.argv[1], sys.argv[2]
client = SchemaRegistryClient({"url": url})
steps = 0


def check(what, got, want):
    global steps
    steps += 1
    if got != want:
        sys.exit(f"{what}: got {got!r}, want {want!r}")


names = ["millrace.v1.CommandNoted", "millrace.v1.PartitionBarrier", "millrace.v1.PartitionClaimed", "millrace.v1.PartitionClosed"]
names += [f"shop.orders.v1.{n}" for n in ("OrderCancelled", "OrderConfirmed", "OrderLineAdded", "OrderPlaced")]
subjects = [f"{topic}-{name}" for name in names]
check("subjects", sorted(client.get_subjects()), subjects)
for name, subject in zip(names, subjects):
    latest = client.get_latest_version(subject)
    schema = json.loads(latest.schema.schema_str)
    check("version", (latest.subject, latest.version), (subject, 1))
    check("full name", f"{schema['namespace']}.{schema['name']}", name)
    check("doc", bool(schema["doc"]), True)
    check("by id", json.loads(client.get_schema(latest.schema_id).schema_str), schema)
    check("subjects of the id", client.get_subjects_by_schema_id(latest.schema_id), [subject])
    check("look up", client.lookup_schema(subject, Schema(latest.schema.schema_str, "AVRO")).schema_id, latest.schema_id)
    check("compatible with itself", client.test_compatibility(subject, Schema(latest.schema.schema_str, "AVRO")), True)

placed = f"{topic}-shop.orders.v1.OrderPlaced"
text = client.get_latest_version(placed).schema.schema_str


def changed(change):
    schema = json.loads(text)
    change(schema["fields"])
    return Schema(json.dumps(schema), "AVRO")


def field(fields, name):
    return next(f for f in fields if f["name"] == name)


good = {
    "a new field with a default": lambda f: f.append({"name": "channel", "type": "string", "default": "web", "doc": "Where it was placed.", "pii": False}),
    "another doc": lambda f: field(f, "units").update(doc="How many pieces."),
}
bad = {
    "a new field without a default": lambda f: f.append({"name": "channel", "type": "string", "doc": "Where it was placed.", "pii": False}),
    "a field less": lambda f: f.remove(field(f, "total")),
    "a field renamed": lambda f: field(f, "total").update(name="sum"),
    "a narrower type": lambda f: field(f, "total").update(type="int"),
    "a wider type": lambda f: field(f, "units").update(type="double"),
    "another logical type": lambda f: field(f, "ordered_at").update(type={"type": "long", "logicalType": "timestamp-millis"}),
    "another type": lambda f: field(f, "currency").update(type="long"),
}
for want, changes in ((True, good), (False, bad)):
    for what, change in changes.items():
        check(what, client.test_compatibility(placed, changed(change)), want)
        check(f"{what}, all versions", client.test_compatibility_all_versions(placed, changed(change)), want)
check("level", client.get_config().compatibility_level, "FULL_TRANSITIVE")
for what, status, code, call in (
    ("unknown subject", 404, 40401, lambda: client.get_latest_version("nope")),
    ("unknown version", 404, 40402, lambda: client.get_version(placed, 99)),
    ("unknown id", 404, 40403, lambda: client.get_schema(1 << 20)),
    ("not a schema", 422, 42201, lambda: client.test_compatibility(placed, Schema("{}", "AVRO"))),
):
    try:
        got = call()
    except SchemaRegistryError as e:
        check(what, (e.http_status_code, e.error_code), (status, code))
    else:
        sys.exit(f"{what}: got {got!r}, want error {code}")
check("nothing registered by asking", sorted(client.get_subjects()), subjects)
print(f"{steps} checks of the registry")
