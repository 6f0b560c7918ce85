#!/usr/bin/env bash
# Measures the figures of docs/benchmarks.md. Arguments go to services/shop/bench, e.g. -quick -runs 1 -figures http,visible;
# -o docs/benchmarks.md writes them there. The real Kafka and PostgreSQL are started and stopped by this alone, on ports and data of their own.
# Needs Java 17 (a JDK) and Maven, and for the figure messagedb npm and PostgreSQL; installs message-db into deploy/ci/run, which git ignores,
# and as root PostgreSQL from the system's packages if it is not there. The peers of the figure of that name are built into bin/peers.
set -euo pipefail
cd "$(dirname "$0")/../.."

port=${BENCH_KAFKA_PORT:-29392}
data=bin/bench

command -v java >/dev/null && command -v mvn >/dev/null || { echo "bench.sh: Java 17 and Maven are needed for the figures on a real Kafka" >&2; exit 1; }
deploy/kafka/kafka.sh fetch

# Without these only the figure messagedb fails, which says so.
package=deploy/ci/message-db/package.json
node=deploy/ci/run/message-db
if command -v npm >/dev/null && ! cmp -s "$package" "$node/.installed"; then
  rm -rf "$node"
  mkdir -p "$node"
  cp "$package" "$node/"
  npm install --prefix "$node" --no-audit --no-fund --ignore-scripts --loglevel=error
  cp "$package" "$node/.installed"
fi
postgres() { command -v initdb >/dev/null || compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null; }
if ! postgres && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends postgresql
fi

mkdir -p bin
go build -trimpath -o bin/shop ./services/shop
go build -trimpath -o bin/shop-bench ./services/shop/bench
go test -c -o bin/command.test ./platform/command
go test -c -o bin/eventlog.test ./platform/eventlog
go test -c -o bin/contract.test ./platform/contract

# What Millrace is compared with. Kafka Streams needs the network the first time only; goka is a module of its own.
streams() { mvn -q -B "$@" -f services/shop/bench/peers/streams/pom.xml compile dependency:copy-dependencies; }
streams -o >/dev/null 2>&1 || streams
go build -trimpath -o bin/peers/projector ./services/shop/bench/peers/projector
GOWORK=off go -C services/shop/bench/peers/goka build -trimpath -o "$PWD/bin/peers/goka" .

# The program stops its Kafka and its PostgreSQL itself, also when it fails or is interrupted; this is for the case that it is killed. Exit status 3:
# another measurement is running, and what is there is its.
status=0
trap 'status=130' INT TERM
bin/shop-bench -kafka-port "$port" -dir "$data" "$@" || status=$?
if [ "$status" != 3 ] && [ -d "$data/kafka" ]; then
  deploy/kafka/kafka.sh stop --port "$port" --dir "$data/kafka"
fi
if [ "$status" != 3 ] && [ -f "$data/postgres/postmaster.pid" ]; then
  kill -INT "$(head -1 "$data/postgres/postmaster.pid")" 2>/dev/null || true
fi
exit "$status"
