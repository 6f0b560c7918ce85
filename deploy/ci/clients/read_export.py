"""Reads exports of views in Avro with fastavro, and compares them with the same ones in lines: read_export.py URL VIEW…

Exit status 0 means that they are the same, that the trailer counts the rows, and that the file says where it is from.
"""

import datetime
import decimal
import http.client
import io
import json
import sys
from urllib.parse import urlsplit

import fastavro


def get(at, path, accept):
    connection = http.client.HTTPConnection(at.hostname, at.port, timeout=30)
    connection.request("GET", path, headers={"Accept": accept})
    answer = connection.getresponse()
    body = answer.read()  # what is cut off raises IncompleteRead
    if answer.status != 200 or answer.getheader("Content-Type") != accept:
        sys.exit(f"{path}: {answer.status} {answer.getheader('Content-Type')}: {body[:300]!r}")
    connection.close()
    return body, answer.getheader("Millrace-Position")


def same(line, avro):
    """Reports whether a value in a line, None if it is absent, is the one in the file."""
    if isinstance(avro, dict):
        return (line is None or line.keys() <= avro.keys()) and all(same((line or {}).get(k), v) for k, v in avro.items())
    if isinstance(avro, list):
        return isinstance(line, list) and len(line) == len(avro) and all(map(same, line, avro))
    if isinstance(avro, datetime.datetime):
        return line is not None and datetime.datetime.fromisoformat(line) == avro
    if isinstance(avro, decimal.Decimal):
        return (line or 0) == int(avro)
    return line == avro or line is None and not avro


at = urlsplit(sys.argv[1])
for view in sys.argv[2:]:
    path = f"/v1/views/{view}?explain"
    lines, position = get(at, path, "application/x-ndjson")
    file, again = get(at, path, "application/avro")
    if position != again:
        sys.exit(f"{view}: at {position}, and then at {again}: somebody writes")
    lines = [json.loads(line) for line in lines.splitlines()]
    reader = fastavro.reader(io.BytesIO(file))
    rows = list(reader)
    if len(rows) != len(lines) or not rows:
        sys.exit(f"{view}: {len(lines)} lines, {len(rows)} rows in the file")
    for line, row in zip(lines, rows):
        if not same(line, row):
            sys.exit(f"{view}: {line} is {row} in the file")
    said = {k: v for k, v in reader.metadata.items() if k.startswith("millrace.")}
    if said.keys() != {"millrace.view", "millrace.build", "millrace.position"} or said["millrace.view"] != view or said["millrace.position"] != position:
        sys.exit(f"{view}: {said}")
    print(f"{view} {said['millrace.build']}: {len(rows)} rows, {len(file)} bytes of {reader.codec}, {sum(map(len, map(json.dumps, lines)))} of lines")
