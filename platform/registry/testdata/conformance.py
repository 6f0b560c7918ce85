"""Drives a schema registry with the official confluent-kafka client: conformance.py URL CLOSED KEY. Exit status 0 = all as expected.

CLOSED is the URL of another registry, which asks for the API key KEY.
"""

import asyncio
import json
import sys
import uuid

from confluent_kafka.schema_registry import (
    AsyncSchemaRegistryClient,
    Metadata,
    MetadataProperties,
    Rule,
    RuleKind,
    RuleMode,
    RuleParams,
    RuleSet,
    Schema,
    SchemaReference,
    SchemaRegistryClient,
    header_schema_id_serializer,
    record_subject_name_strategy,
    topic_record_subject_name_strategy,
)
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.schema_registry.error import SchemaRegistryError
from confluent_kafka.schema_registry.schema_registry_client import (
    AssociationCreateOrUpdateInfo,
    AssociationCreateOrUpdateRequest,
    ConfigCompatibilityLevel,
    ServerConfig,
)
from confluent_kafka.serialization import MessageField, SerializationContext

url, closed, key = sys.argv[1:]
client = SchemaRegistryClient({"url": url})
steps = 0


def check(what, got, want):
    global steps
    steps += 1
    if got != want:
        sys.exit(f"{what}: got {got!r}, want {want!r}")


def refused(what, status, code, call):
    global steps
    steps += 1
    try:
        got = call()
    except SchemaRegistryError as e:
        check(what, (e.http_status_code, e.error_code), (status, code))
    else:
        sys.exit(f"{what}: got {got!r}, want error {code}")


def record(*fields):
    return json.dumps({"type": "record", "name": "R", "namespace": "shop.test.v1", "fields": [dict({"name": f.rstrip("?"), "type": "long"}, **({"default": 0} if f.endswith("?") else {})) for f in fields]})


a, ab, bad = (Schema(record(*f), "AVRO") for f in (["a"], ["a", "b?"], ["z"]))

check("no subjects", client.get_subjects(), [])
check("register", client.register_schema("s/1", a), 1)
check("register again", SchemaRegistryClient({"url": url}).register_schema("s/1", a, normalize_schemas=True), 1)
check("register the next", client.register_schema("s/1", ab), 2)
full = client.register_schema_full_response("t", a)
check("full answer", (full.schema_id, full.version, full.subject), (1, 1, "t"))
refused("incompatible", 409, 409, lambda: client.register_schema("s/1", bad))
refused("no schema", 422, 42201, lambda: client.register_schema("s/1", Schema("{}", "AVRO")))

check("by id", json.loads(client.get_schema(1).schema_str), json.loads(a.schema_str))
check("by id and subject", json.loads(SchemaRegistryClient({"url": url}).get_schema(2, "s/1").schema_str), json.loads(ab.schema_str))
refused("unknown id", 404, 40403, lambda: client.get_schema(99))
found = SchemaRegistryClient({"url": url}).lookup_schema("s/1", ab)
check("look up", (found.subject, found.schema_id, found.version), ("s/1", 2, 2))
by_guid = client.get_schema_by_guid(found.guid)
check("by GUID", json.loads(by_guid.schema_str), json.loads(ab.schema_str))
latest = client.get_latest_version("s/1")
check("latest", (latest.version, latest.schema_id), (2, 2))
version = client.get_version("s/1", 1)
check("version", (version.version, version.schema_id, json.loads(version.schema.schema_str)), (1, 1, json.loads(a.schema_str)))
check("versions", client.get_versions("s/1"), [1, 2])
check("subjects", client.get_subjects(), ["s/1", "t"])
check("subjects of id", client.get_subjects_by_schema_id(1), ["s/1", "t"])
check("versions of id", [(v.subject, v.version) for v in client.get_schema_versions(1)], [("s/1", 1), ("t", 1)])
check("types", client.get_schema_types(), ["AVRO"])
check("contexts", client.get_contexts(), ["."])
check("referenced by", client.get_referenced_by("s/1", 1), [])
refused("unknown subject", 404, 40401, lambda: client.get_latest_version("nope"))
refused("unknown version", 404, 40402, lambda: client.get_version("s/1", 9))

check("compatible", client.test_compatibility("s/1", ab), True)
check("not compatible", client.test_compatibility("s/1", bad), False)
check("compatible with all", client.test_compatibility_all_versions("s/1", ab), True)

check("global level", client.get_config().compatibility_level, "FULL_TRANSITIVE")
check("set level", client.set_config("s/1", ServerConfig(compatibility=ConfigCompatibilityLevel.NONE))["compatibility"], "NONE")
check("level", client.get_compatibility("s/1"), "NONE")
check("with no check", client.register_schema("s/1", bad), 3)
client.delete_config("s/1")
refused("bad level", 422, 42203, lambda: client.set_compatibility("s/1", "SOME"))
check("mode", client.get_global_mode(), "READWRITE")
check("read only", client.update_mode("s/1", "READONLY"), "READONLY")
refused("in read-only mode", 422, 42205, lambda: client.register_schema("s/1", Schema(record("z", "y?"), "AVRO")))
check("writable", client.update_mode("s/1", "READWRITE"), "READWRITE")

check("delete version", client.delete_version("s/1", 3), 3)
check("delete version for good", client.delete_version("s/1", 3, permanent=True), 3)
check("delete", client.delete_subject("t"), [1])
check("deleted ones", client.get_subjects(deleted=True), ["s/1", "t"])
check("delete for good", client.delete_subject("t", permanent=True), [1])

# Serialize and deserialize: the default strategy asks for associations first; the platform's own subjects are <topic>-<full name>.
for strategy, subject in ((None, "orders-value"), (topic_record_subject_name_strategy, "orders-shop.test.v1.R"), (record_subject_name_strategy, "shop.test.v1.R")):
    fresh = SchemaRegistryClient({"url": url})
    conf = {"auto.register.schemas": True, "normalize.schemas": False}
    if strategy:
        conf["subject.name.strategy"] = strategy
    context = SerializationContext("orders", MessageField.VALUE)
    frame = AvroSerializer(fresh, ab.schema_str, conf=conf)({"a": 7, "b": 8}, context)
    check("frame", frame, b"\x00\x00\x00\x00\x02\x0e\x10")
    check("decoded", AvroDeserializer(SchemaRegistryClient({"url": url}))(frame, context), {"a": 7, "b": 8})
    check("decoded by an older reader", AvroDeserializer(SchemaRegistryClient({"url": url}), a.schema_str)(frame, context), {"a": 7})
    check("subject", subject in fresh.get_subjects(), True)
# References, metadata, rules, contexts and settings.
money = Schema('{"type":"record","name":"Money","namespace":"shop","fields":[{"name":"minor","type":"long"}]}', "AVRO")
id_money = client.register_schema("money", money)
order = Schema(
    '{"type":"record","name":"Order","namespace":"shop","fields":[{"name":"total","type":"Money"}]}', "AVRO", references=[SchemaReference("shop.Money", "money", 1)]
)
id_order = client.register_schema("order", order)
got = SchemaRegistryClient({"url": url}).get_schema(id_order)
check("references", [(r.name, r.subject, r.version) for r in got.references], [("shop.Money", "money", 1)])
check("look up with references", SchemaRegistryClient({"url": url}).lookup_schema("order", order).schema_id, id_order)
check("referenced by", client.get_referenced_by("money", 1), [id_order])
refused("delete what is referred to", 422, 42206, lambda: client.delete_version("money", 1))
refused("unknown reference", 422, 42201, lambda: client.register_schema("order2", Schema(order.schema_str, "AVRO", references=[SchemaReference("x", "money", 9)])))
context = SerializationContext("refs", MessageField.VALUE)
frame = AvroSerializer(SchemaRegistryClient({"url": url}), order, conf={"auto.register.schemas": True})({"total": {"minor": 3}}, context)
check("frame with references", frame, b"\x00" + id_order.to_bytes(4, "big") + b"\x06")
check("decoded with references", AvroDeserializer(SchemaRegistryClient({"url": url}))(frame, context), {"total": {"minor": 3}})

rules = RuleSet(None, [Rule("r", "doc", RuleKind.CONDITION, RuleMode.WRITE, "CEL", [], RuleParams({}), "message.a > 0", None, None, False)])
described = Schema(record("a"), "AVRO", metadata=Metadata(None, MetadataProperties({"owner": "shop", "major": "1"}), None), rule_set=rules)
id_described = client.register_schema("described", described)
got = SchemaRegistryClient({"url": url}).get_schema(id_described)
check("metadata", got.metadata.properties.properties, {"owner": "shop", "major": "1"})
check("rules", [(r.name, r.expr) for r in got.rule_set.domain_rules], [("r", "message.a > 0")])
check("latest with metadata", client.get_latest_with_metadata("described", {"major": "1"}).schema_id, id_described)
refused("latest with other metadata", 404, 40403, lambda: client.get_latest_with_metadata("described", {"major": "2"}))
client.set_config("cfg", ServerConfig(compatibility=ConfigCompatibilityLevel.BACKWARD, compatibility_group="major", default_metadata=Metadata(None, MetadataProperties({"owner": "all"}), None)))
cfg = client.get_config("cfg")
check("configuration", (cfg.compatibility_level, cfg.compatibility_group, cfg.default_metadata.properties.properties), ("BACKWARD", "major", {"owner": "all"}))

staging = SchemaRegistryClient({"url": url + "/contexts/.staging"})
check("register in a context", staging.register_schema("s", ab), 1)
check("the same by name", SchemaRegistryClient({"url": url}).register_schema(":.staging:s", ab), 1)
check("contexts", client.get_contexts(), [".", ".staging"])
check("subjects of a context", client.get_subjects(subject_prefix=":.staging:"), [":.staging:s"])
check("by id in a context", json.loads(SchemaRegistryClient({"url": url}).get_schema(1, ":.staging:s").schema_str), json.loads(ab.schema_str))

conf = {"auto.register.schemas": False, "use.latest.version": True}
check("latest", AvroSerializer(SchemaRegistryClient({"url": url}), conf=conf)({"a": 1, "b": 2}, SerializationContext("orders", MessageField.VALUE)), b"\x00\x00\x00\x00\x02\x02\x04")

# The schema's GUID in a header instead of its id before the data, for values and for keys. The deserializer takes no less than six bytes.
large = {"a": 1 << 40, "b": 8}
for field, header in ((MessageField.VALUE, "__value_schema_id"), (MessageField.KEY, "__key_schema_id")):
    headers = []
    context = SerializationContext("framed", field, headers)
    fresh = SchemaRegistryClient({"url": url})
    frame = AvroSerializer(fresh, ab.schema_str, conf={"auto.register.schemas": True, "schema.id.serializer": header_schema_id_serializer})(large, context)
    guid = client.get_latest_version("framed-" + field).guid
    check("frame without id", (frame, [(name, bytes(value)) for name, value in headers]), (b"\x80\x80\x80\x80\x80\x40\x10", [(header, b"\x01" + uuid.UUID(guid).bytes)]))
    check("decoded by header", AvroDeserializer(SchemaRegistryClient({"url": url}))(frame, context), large)

# Serializers that are told which schema to take, and readers that take the newest or a certain one.
frame = AvroSerializer(SchemaRegistryClient({"url": url}), conf={"auto.register.schemas": False, "use.schema.id": 2})({"a": 1, "b": 2}, SerializationContext("orders", MessageField.VALUE))
check("a certain id", frame, b"\x00\x00\x00\x00\x02\x02\x04")
plain = Schema(record("a"), "AVRO", metadata=Metadata(None, MetadataProperties({"major": "5"}), None))
id_plain = client.register_schema("versioned-value", plain)
client.register_schema("versioned-value", Schema(record("a", "b?"), "AVRO", metadata=Metadata(None, MetadataProperties({"major": "6"}), None)))
context = SerializationContext("versioned", MessageField.VALUE)
frame = AvroSerializer(SchemaRegistryClient({"url": url}), conf={"auto.register.schemas": False, "use.latest.with.metadata": {"major": "5"}})({"a": 1}, context)
check("latest with metadata", frame, b"\x00" + id_plain.to_bytes(4, "big") + b"\x02")
check("read by the newest", AvroDeserializer(SchemaRegistryClient({"url": url}), conf={"use.latest.version": True})(frame, context), {"a": 1, "b": 0})
check("read by one with metadata", AvroDeserializer(SchemaRegistryClient({"url": url}), conf={"use.latest.with.metadata": {"major": "5"}})(frame, context), {"a": 1})
try:
    AvroSerializer(SchemaRegistryClient({"url": url}), bad.schema_str)({"z": 1}, context)
except Exception as e:
    check("what does not fit is not sent", "incompatible" in str(e), True)
else:
    sys.exit("an incompatible schema was registered by a serializer")

# Which subject a topic has: the default strategy asks for it.
client.register_schema("shared", ab)
made = client.create_association(AssociationCreateOrUpdateRequest("associated", "lkc-1", "topic-id", "topic", [AssociationCreateOrUpdateInfo("shared", "value", "WEAK")]))
check("association", [(a.subject, a.association_type, a.lifecycle, a.frozen) for a in made.associations], [("shared", "value", "WEAK", False)])
for namespace in ("-", "lkc-1"):
    got = client.get_associations_by_resource_name("associated", namespace, "topic", ["value"])
    check("associations", [(a.subject, a.resource_id, a.frozen) for a in got], [("shared", "topic-id", False)])
context = SerializationContext("associated", MessageField.VALUE)
frame = AvroSerializer(SchemaRegistryClient({"url": url}), ab.schema_str, conf={"auto.register.schemas": True})({"a": 1, "b": 2}, context)
check("decoded under the associated subject", AvroDeserializer(SchemaRegistryClient({"url": url}))(frame, context), {"a": 1, "b": 2})
check("no subject of the topic's name", "associated-value" in client.get_subjects(), False)
refused("a subject in use", 409, 40904, lambda: client.delete_subject("shared"))
client.delete_associations("topic-id", "topic", ["value"])
check("no associations", client.get_associations_by_resource_name("associated", "-"), [])
refused("no association", 404, 40410, lambda: client.delete_associations("topic-id"))

# What is left of the client.
check("formatted", SchemaRegistryClient({"url": url}).get_schema(id_order, fmt="resolved").references or [], [])
staging.register_schema("money", money)
id_there = staging.register_schema("order", order)
got = SchemaRegistryClient({"url": url + "/contexts/.staging"}).get_schema(id_there, reference_format="qualified")
check("qualified references", [r.subject for r in got.references], [":.staging:money"])
check("the newest, formatted", client.get_latest_version("order", fmt="resolved").schema.references or [], [])
check("versions, deleted ones too", client.get_versions("s/1", deleted=True), [1, 2])
check("page of versions", client.get_versions("s/1", offset=1, limit=1), [2])
check("page of contexts", client.get_contexts(offset=1, limit=1), [".staging"])
check("mode of a subject", client.update_mode("modal", "READONLY"), "READONLY")
check("mode of a subject", client.get_mode("modal"), "READONLY")
check("mode deleted", client.delete_mode("modal"), "READONLY")
check("global mode", client.update_global_mode("FORWARD"), "FORWARD")
refused("in forward mode", 422, 42205, lambda: client.register_schema("new", Schema('"float"', "AVRO")))
check("global mode", client.update_global_mode("READWRITE", force=True), "READWRITE")
check("global level", client.set_compatibility(level="FULL"), {"compatibility": "FULL"})
check("global level", client.get_compatibility(), "FULL")
refused("recursion", 422, 42201, lambda: client.register_schema("list", Schema('{"type":"record","name":"L","fields":[{"name":"next","type":["null","L"]}]}', "AVRO")))

# Credentials, in the three ways that the client knows.
def denied(what, status, conf, call):
    refused(what, status, status, lambda: call(SchemaRegistryClient(dict({"url": closed}, **conf))))


address = closed.removeprefix("http://")
denied("nobody reads", 401, {}, lambda c: c.get_subjects())
denied("a wrong key", 401, {"basic.auth.user.info": "x:millrace_no_key"}, lambda c: c.get_subjects())
for conf in (
    {"url": closed, "basic.auth.user.info": "anybody:" + key},
    {"url": f"http://anybody:{key}@{address}"},
    {"url": closed, "bearer.auth.credentials.source": "STATIC_TOKEN", "bearer.auth.token": key, "bearer.auth.logical.cluster": "lsrc-1", "bearer.auth.identity.pool.id": "pool-1"},
):
    check("with a key", SchemaRegistryClient(conf).register_schema("s", a), 1)


async def concurrently():
    c = AsyncSchemaRegistryClient({"url": url})
    check("without waiting", await c.register_schema("async", ab), 2)
    ids = await asyncio.gather(*(AsyncSchemaRegistryClient({"url": url}).register_schema("at-once", Schema(record("a", "n%d?" % (i % 5)), "AVRO")) for i in range(50)))
    check("at once", (len(set(ids)), sorted(await c.get_versions("at-once"))), (5, [1, 2, 3, 4, 5]))


asyncio.run(concurrently())

print(f"{steps} checks")
