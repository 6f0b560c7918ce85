#!/usr/bin/env bash
# Lets foreign clients read what the shop wrote: test-clients.sh [PORT]. Needs Go, Java 17, Maven, Python 3.11 and bin/shop (make build).
#
# On a fresh real Kafka, and then on the embedded one of `shop dev`: confluent-kafka for Python with its Avro deserializer and its client
# of the schema registry, and Kafka's own console consumer in Java, in both isolation levels; fastavro reads exports of views. Confluent's Java Avro deserializer is not
# among them: io.confluent:kafka-avro-serializer is not in Maven Central but only in Confluent's repository.
set -euo pipefail
cd "$(dirname "$0")/../.."
port=${1:-19092}
[[ $port =~ ^[0-9]+$ ]] || { echo "usage: $0 [PORT]" >&2; exit 2; }
topic=orders.events
broker=127.0.0.1:$port
run=$PWD/deploy/ci/run/clients-$port
venv=$PWD/deploy/ci/run/venv
here=deploy/ci/clients
[ -x bin/shop ] || { echo "bin/shop is not there: make build" >&2; exit 1; }
# Settings of whoever runs this are not the tests'.
for name in $(compgen -e MILLRACE_ || true); do unset "$name"; done
kafka() { deploy/kafka/kafka.sh "$1" --port "$port" --dir "$run/kafka" "${@:2}"; }
say() { printf -- '-- %s (%ss)\n' "$1" "$SECONDS"; }

pids=()
# reap SIGNAL PID… sends a signal to processes and waits until they are gone.
reap() {
  local p
  for p in "${@:2}"; do kill -"$1" "$p" 2>/dev/null || true; done
  for p in "${@:2}"; do wait "$p" 2>/dev/null || true; done
}
end() {
  local status=$?
  trap - EXIT
  reap TERM "${pids[@]:+${pids[@]}}"
  kafka stop || true
  if ((status == 0)); then rm -rf "$run"; else echo "logs are in $run" >&2; fi
  exit "$status"
}
trap end EXIT
trap 'exit 130' INT TERM

# start NAME ARGUMENTS… runs the shop until it is ready; its process id is in $started, its addresses in $run/NAME.json.
start() {
  local name=$1 deadline=$((SECONDS + 60))
  rm -f "$run/$name.json"
  bin/shop "${@:2}" --http-addr 127.0.0.1:0 --admin-addr 127.0.0.1:0 --registry-addr 127.0.0.1:0 --data-dir "$run/$name" \
    --ready-file "$run/$name.json" >>"$run/$name.log" 2>&1 &
  started=$!
  pids+=("$started")
  until [ -s "$run/$name.json" ]; do
    kill -0 "$started" 2>/dev/null || { cat "$run/$name.log" >&2; echo "$name ended before it was ready" >&2; exit 1; }
    ((SECONDS < deadline)) || { cat "$run/$name.log" >&2; echo "$name is not ready after 60 s" >&2; exit 1; }
    sleep 0.05
  done
}
# at NAME KEY prints an address of a process.
at() { "$venv/bin/python" -c 'import json, sys; print(json.load(open(sys.argv[1]))[sys.argv[2]])' "$run/$1.json" "$2"; }
# plus EXPECTED JSON adds what is given to an expectation.
plus() { "$venv/bin/python" -c 'import json, sys; a, b = map(json.loads, sys.argv[1:]); a["types"].update({k: a["types"].get(k, 0) + v for k, v in b.pop("types", {}).items()}); a.update({k: a[k] + v if k in a else v for k, v in b.items()}); print(json.dumps(a))' "$1" "$2"; }
read_events() { "$venv/bin/python" "$here/read_events.py" --topic "$topic" "$@"; }
field() { "$venv/bin/python" -c 'import json, sys; print(json.loads(sys.argv[1])[sys.argv[2]])' "$1" "$2"; }
java_tool() { java -cp "deploy/kafka/libs/*" -Dlog4j2.configurationFile=$here/log4j2.xml "$@"; }

say "Python with confluent-kafka"
kafka clean
rm -rf "$run"
mkdir -p "$run"
if ! cmp -s "$here/requirements.txt" "$venv/.installed"; then
  rm -rf "$venv"
  "${PYTHON:-python3}" -m venv "$venv"
  "$venv/bin/pip" install -q --disable-pip-version-check -r "$here/requirements.txt"
  cp "$here/requirements.txt" "$venv/.installed"
fi
"$venv/bin/python" -c 'import confluent_kafka as c; print("confluent-kafka", c.version(), "librdkafka", c.libversion()[0])'

say "a shop on Apache Kafka"
# Producer ids that are forgotten after 20 s make an idle owner write a barrier every 5 s, so that the topic holds barriers too.
kafka start --set producer.id.expiration.ms=20000 --set producer.id.expiration.check.interval.ms=1000
start registry serve registry --kafka-brokers "$broker"
registry=$(at registry registry)
bin/shop contracts register --registry-url "$registry" >/dev/null
start orders serve orders --kafka-brokers "$broker" --registry-url "$registry"
orders=$started
expect=$("$venv/bin/python" "$here/place_orders.py" "$(at orders http)" 300)
# Another owner after an unplanned end: the log holds two claims of each partition.
reap KILL "$orders"
start orders serve orders --kafka-brokers "$broker" --registry-url "$registry"
orders=$started
bin/shop import services/shop/testdata/orders-sample.csv --url "$(at orders http)"
expect=$(plus "$expect" '{"types": {"OrderPlaced": 6919}, "streams": 6919, "units": 16479, "total": 24409194, "append_time": true, "marks": ["millrace.v1.PartitionClaimed", "millrace.v1.PartitionBarrier"]}')
for ((deadline = SECONDS + 30; ; )); do # until an idle owner has written its barriers
  if read_events --brokers "$broker" --registry "$registry" --expect "$expect" >"$run/first.json" 2>"$run/first.log"; then break; fi
  if ! grep -q 'holds no millrace.v1.PartitionBarrier' "$run/first.log" || ((SECONDS > deadline)); then
    cat "$run/first.log" >&2
    exit 1
  fi
  sleep 1
done
reap TERM "$orders" # from here on nobody writes to the topic

say "confluent-kafka reads $topic"
for level in read_committed read_uncommitted; do
  result=$(read_events --brokers "$broker" --registry "$registry" --expect "$expect" --isolation "$level")
  echo "$level: $result"
done
records=$(field "$result" records)
digest=$(field "$result" digest)

say "the Java console consumer reads $topic"
ends=$(java_tool org.apache.kafka.tools.GetOffsetShell --bootstrap-server "$broker" --topic "$topic" | awk -F: '{n += $3} END {print n}')
[ "$ends" = "$records" ] || { echo "the ends of the log add up to $ends, Python read $records" >&2; exit 1; }
for level in read_committed read_uncommitted; do
  # One more than there are: the time-out ends it, and a record too many would be seen.
  java_tool org.apache.kafka.tools.consumer.ConsoleConsumer --bootstrap-server "$broker" --topic "$topic" --from-beginning \
    --isolation-level "$level" --max-messages $((ends + 1)) --timeout-ms 5000 \
    --formatter-property print.partition=true --formatter-property print.offset=true --formatter-property print.key=true \
    --formatter-property print.value=false >"$run/console.txt" 2>"$run/console.log" || { cat "$run/console.log" >&2; exit 1; }
  # Partition:3<TAB>Offset:17<TAB>key
  got=$(wc -l <"$run/console.txt")
  sum=$(sed -E 's/^Partition:([0-9]+)\tOffset:([0-9]+)\t/\1\t\2\t/' "$run/console.txt" | LC_ALL=C sort | sha256sum | cut -d' ' -f1)
  if [ "$got" != "$ends" ] || [ "$sum" != "$digest" ]; then
    cat "$run/console.log" >&2
    echo "$level: the console consumer read $got records, digest $sum; the log has $ends, digest $digest" >&2
    exit 1
  fi
  echo "$level: $got records, the same keys at the same offsets"
done

say "confluent-kafka asks the registry"
"$venv/bin/python" "$here/ask_registry.py" "$registry" "$topic"
reap TERM "${pids[@]}"
pids=()
kafka stop

say "a shop on the embedded Kafka"
# It leaves the records with the producer's time: unlike Kafka, it does not keep message.timestamp.type.
start dev dev --kafka-addr 127.0.0.1:0
expect=$("$venv/bin/python" "$here/place_orders.py" "$(at dev http)" 300)
expect=$(plus "$expect" '{"marks": ["millrace.v1.PartitionClaimed"]}')
for level in read_committed read_uncommitted; do
  read_events --brokers "$(at dev kafka)" --registry "$(at dev registry)" --expect "$expect" --isolation "$level"
done
"$venv/bin/python" "$here/ask_registry.py" "$(at dev registry)" "$topic"

say "fastavro reads exports of views"
for view in orders customers sales; do bin/millrace view wait "$view" --timeout 60s --admin-url "$(at dev admin)"; done
"$venv/bin/python" "$here/read_export.py" "$(at dev http)" orders customers sales
MILLRACE_TEST_PYTHON=$venv/bin/python go test -count=1 -run '^TestForeignReader$' ./platform/contract/avrofile

say "confluent-kafka writes to the registry"
MILLRACE_TEST_PYTHON=$venv/bin/python go test -count=1 -run '^TestPythonClient$' ./platform/registry
say "all foreign clients agree"
