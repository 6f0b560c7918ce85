#!/usr/bin/env bash
# Runs every test that wants a real Kafka on fresh ones of its own: test-kafka.sh [PORT]. Needs Go, Java 17, Maven.
#
# Two brokers run side by side. The second (PORT+10) forgets producer ids and transactional ids within seconds, which is what the tests
# of expiry need; everything else runs on the first, with the settings that a production broker has. The ports after each are the
# brokers' controllers.
set -euo pipefail
cd "$(dirname "$0")/../.."
port=${1:-19092}
[[ $port =~ ^[0-9]+$ ]] || { echo "usage: $0 [PORT]" >&2; exit 2; }
forgetful=$((port + 10))
run=$PWD/deploy/ci/run/kafka-$port
kafka() { deploy/kafka/kafka.sh "$1" --port "$2" --dir "$run/$2" "${@:3}"; }

end() {
  local status=$?
  trap - EXIT
  for p in "$port" "$forgetful"; do kafka stop "$p" || true; done
  if ((status == 0)); then rm -rf "$run"; else echo "the brokers' logs are in $run" >&2; fi
  exit "$status"
}
trap end EXIT
trap 'exit 130' INT TERM

for p in "$port" "$forgetful"; do kafka clean "$p"; done
rm -rf "$run"
mkdir -p "$run"
kafka start "$port"
KAFKA_HEAP=256m kafka start "$forgetful" \
  --set producer.id.expiration.ms=10000 --set producer.id.expiration.check.interval.ms=1000 \
  --set transactional.id.expiration.ms=12000 --set transaction.remove.expired.transaction.cleanup.interval.ms=1000

failed=() summary=''
# tests NAME ADDRESS ARGUMENTS… runs go test with the broker at ADDRESS and goes on after a failure.
tests() {
  local began=$SECONDS verdict=ok
  printf '\n-- %s\n' "$1"
  MILLRACE_TEST_KAFKA=$2 go test -p 1 -count=1 "${@:3}" || { verdict=FAILED; failed+=("$1"); }
  summary+=$(printf '%-7s %4ss  %s' "$verdict" $((SECONDS - began)) "$1")$'\n'
}

# Whichever packages ask for a real Kafka: a new one is in as soon as it has such a test. The shop has many that don't, and one that
# must find the broker without orders.
mapfile -t packages < <(grep -rl --include='*_test.go' 'os.Getenv("MILLRACE_TEST_KAFKA")\|realKafka = "MILLRACE_TEST_KAFKA"' platform services |
  xargs -n 1 dirname | sort -u | grep -v '^services/shop$')
((${#packages[@]} > 0)) || { echo "no package has tests on a real Kafka" >&2; exit 1; }
for p in "${packages[@]}"; do tests "$p" "127.0.0.1:$port" -timeout 5m "./$p"; done
tests "platform/eventlog, expiry" "127.0.0.1:$forgetful" -timeout 3m -run '^(TestExpiry|TestNewProducerID)$' -v ./platform/eventlog
tests "services/shop, processes" "127.0.0.1:$port" -timeout 5m -run Kafka ./services/shop

printf '\n%s' "$summary"
if ((${#failed[@]} > 0)); then
  printf 'failed: %s\n' "${failed[*]}" >&2
  exit 1
fi
