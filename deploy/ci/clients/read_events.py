"""Reads a topic of events from its beginning to its end with the official confluent-kafka client, decodes every record, and compares
what it holds with what is expected: read_events.py --brokers B --registry URL --topic T --expect JSON [--isolation LEVEL].

It joins no group, commits nothing and produces nothing. On success it prints one line of JSON: how many records there are in all, and a
digest of their partitions, offsets and keys by which other readers can be compared. Anything unexpected ends it with status 1.
"""

import argparse
import hashlib
import json
import re
import sys
import time
import uuid
from collections import Counter
from datetime import datetime, timezone

from confluent_kafka import OFFSET_BEGINNING, TIMESTAMP_LOG_APPEND_TIME, DeserializingConsumer, TopicPartition
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer

NAMESPACE = "shop.orders.v1."
MARKS = {"millrace.v1.CommandNoted", "millrace.v1.PartitionClaimed", "millrace.v1.PartitionBarrier", "millrace.v1.PartitionClosed"}
TIME = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$")


def murmur2(data):
    """The hash by which Kafka's Java clients choose a partition."""
    m, mask = 0x5BD1E995, 0xFFFFFFFF
    h = 0x9747B28C ^ len(data)
    whole = len(data) & ~3
    for i in range(0, whole, 4):
        k = int.from_bytes(data[i : i + 4], "little") * m & mask
        h = (h * m & mask) ^ ((k ^ k >> 24) * m & mask)
    if len(data) > whole:
        h = (h ^ int.from_bytes(data[whole:], "little")) * m & mask
    h = (h ^ h >> 13) * m & mask
    return h ^ h >> 15


class Reading:
    """What was read so far."""

    def __init__(self, partitions, stamped):
        self.partitions = partitions
        self.stamped = stamped  # whether the broker keeps LogAppendTime
        self.types = Counter()
        self.ids = set()
        self.orders = {}  # state by key: version, units, total
        self.units = self.total = 0
        self.names = {}  # full name by schema id
        self.digest = []

    def fail(self, message, why):
        sys.exit(f"{message.topic()}/{message.partition()}@{message.offset()}: {why}")

    def take(self, message, raw_schema_id, registry):
        headers = dict(message.headers() or [])
        if len(headers) != len(message.headers() or []):
            self.fail(message, f"a header twice: {message.headers()}")
        text = {name: value.decode() for name, value in headers.items()}
        if raw_schema_id not in self.names:
            self.names[raw_schema_id] = full_name(registry.get_schema(raw_schema_id).schema_str)
        name = self.names[raw_schema_id]
        key, value = message.key(), message.value()
        self.digest.append(f"{message.partition()}\t{message.offset()}\t".encode() + (b"null" if key is None else key.encode()))
        if not isinstance(value, dict):
            self.fail(message, f"decoded as {value!r}")
        want = {"ce_specversion": "1.0", "ce_type": name, "content-type": "application/avro"}
        for header, v in want.items():
            if text.get(header) != v:
                self.fail(message, f"{header} is {text.get(header)!r}, want {v!r}")
        for header in ("ce_source", "ce_id", "ce_time"):
            if not text.get(header):
                self.fail(message, f"no {header}")
        if not TIME.match(text["ce_time"]):
            self.fail(message, f"ce_time {text['ce_time']!r} is not RFC 3339, UTC")
        if str(uuid.UUID(text["ce_id"])) != text["ce_id"] or uuid.UUID(text["ce_id"]).version != 5 or text["ce_id"] in self.ids:
            self.fail(message, f"ce_id {text['ce_id']!r} is not a new UUID of version 5")
        self.ids.add(text["ce_id"])
        if self.stamped and message.timestamp()[0] != TIMESTAMP_LOG_APPEND_TIME:
            self.fail(message, "its timestamp is not the broker's")
        self.types[name] += 1
        if name in MARKS:
            if key is not None or not value["instance"]:
                self.fail(message, f"a mark with key {key!r}: {value}")
            return
        if not name.startswith(NAMESPACE):
            self.fail(message, f"an event of the unknown type {name}")
        self.event(message, text, name.removeprefix(NAMESPACE), key, value)

    def event(self, message, text, name, key, value):
        if text.get("ce_subject") != key or value["order_id"] != key:
            self.fail(message, f"key {key!r}, ce_subject {text.get('ce_subject')!r}, order_id {value['order_id']!r}")
        if (murmur2(key.encode()) & 0x7FFFFFFF) % self.partitions != message.partition():
            self.fail(message, f"a Java producer would put {key!r} into another partition")
        if not text.get("ce_commandid") or not 0 <= int(text["ce_commandindex"]) < int(text["ce_commandcount"]):
            self.fail(message, f"the command is not told: {text}")
        if not isinstance(value["ordered_at"], datetime) or value["ordered_at"].utcoffset() != timezone.utc.utcoffset(None):
            self.fail(message, f"ordered_at decoded as {value['ordered_at']!r}")
        version, units, total = self.orders.get(key, (0, 0, 0))
        if int(text["ce_streamversion"]) != version + 1:
            self.fail(message, f"version {text['ce_streamversion']} of {key!r} after {version}")
        before = units, total
        if name == "OrderPlaced":
            units, total = sum(n["quantity"] for n in value["lines"]), sum(n["amount"] for n in value["lines"])
        elif name == "OrderLineAdded":
            units, total = units + value["quantity"], total + value["amount"]
        if name != "OrderConfirmed" and (value["units"], value["total"]) != (units, total):
            self.fail(message, f"units and total {value['units']}, {value['total']}; its lines say {units}, {total}")
        if name == "OrderCancelled":
            units = total = 0
        self.units, self.total = self.units + units - before[0], self.total + total - before[1]
        self.orders[key] = version + 1, units, total


def full_name(schema):
    schema = json.loads(schema)
    return schema["name"] if "." in schema["name"] else f"{schema['namespace']}.{schema['name']}"


def main():
    p = argparse.ArgumentParser()
    for name in ("--brokers", "--registry", "--topic", "--expect"):
        p.add_argument(name, required=True)
    p.add_argument("--isolation", default="read_committed")
    a = p.parse_args()
    expect = json.loads(a.expect)

    registry = SchemaRegistryClient({"url": a.registry})
    avro = AvroDeserializer(registry)
    frames = []

    def value_of(data, context):
        """AvroDeserializer, remembering which schema the frame names."""
        if data is None or data[:1] != b"\0":
            sys.exit(f"not a framed value: {data!r}")
        frames.append(int.from_bytes(data[1:5], "big"))
        return avro(data, context)

    consumer = DeserializingConsumer({
        "bootstrap.servers": a.brokers, "group.id": "read-events", "enable.auto.commit": False, "enable.metrics.push": False, "isolation.level": a.isolation,
        "key.deserializer": lambda data, _: None if data is None else data.decode(), "value.deserializer": value_of,
    })
    found = consumer.list_topics(a.topic, timeout=30).topics[a.topic]
    if found.error or not found.partitions:
        sys.exit(f"no topic {a.topic}: {found.error}")
    ends = {}
    for n in found.partitions:
        low, high = consumer.get_watermark_offsets(TopicPartition(a.topic, n), timeout=30)
        if low != 0:
            sys.exit(f"{a.topic}/{n} begins at {low}")
        ends[n] = high
    consumer.assign([TopicPartition(a.topic, n, OFFSET_BEGINNING) for n in ends])
    reading, following, deadline = Reading(len(ends), expect.get("append_time", False)), dict.fromkeys(ends, 0), time.monotonic() + 120
    while any(following[n] < ends[n] for n in ends):
        if time.monotonic() > deadline:
            sys.exit(f"not at the ends {ends} after 120 s, but at {following}")
        frames.clear()
        message = consumer.poll(1)
        if message is None or message.offset() >= ends[message.partition()]:
            continue
        n = message.partition()
        if message.offset() != following[n]:
            sys.exit(f"{a.topic}/{n} goes on at {message.offset()} after {following[n] - 1}: a plain reader must see no gap")
        following[n] += 1
        reading.take(message, frames[-1], registry)
    consumer.close()

    got = {
        "types": {t: reading.types[NAMESPACE + t] for t in expect["types"]},
        "streams": len(reading.orders), "units": reading.units, "total": reading.total,
    }
    if got != {k: expect[k] for k in got}:
        sys.exit(f"{a.topic} holds\n{json.dumps(got)}\nwant\n{json.dumps(expect)}")
    for mark in expect.get("marks", []):
        if not reading.types[mark]:
            sys.exit(f"{a.topic} holds no {mark}: {dict(reading.types)}")
    reading.digest.sort()
    print(json.dumps({"records": sum(ends.values()), "digest": hashlib.sha256(b"\n".join(reading.digest) + b"\n").hexdigest(), "types": dict(sorted(reading.types.items()))}))


if __name__ == "__main__":
    main()
