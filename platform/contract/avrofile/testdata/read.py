"""Prints the rows of an Avro file, a field a line: read.py FILE. It knows nothing of the file but what is in it."""

import sys

import fastavro

with open(sys.argv[1], "rb") as f:
    reader = fastavro.reader(f)
    print(reader.codec, reader.metadata["millrace.view"])
    for entry in reader:
        row = entry.pop("row")
        print(sorted(entry.items()))
        for name, value in row.items():
            print(" ", name, repr(value))
