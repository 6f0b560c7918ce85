#!/usr/bin/env bash
# Looks for broken promises under faults: fault.sh [smoke]. What it does and found so far is in docs/reliability.md.
#
#   FAULT_SCHEDULES  simulated schedules (10000; smoke: 60)
#   FAULT_KILLS      kills of a projector (1200; smoke: 8); 0 = none
#   FAULT_IMAGES     power cuts of its views (200; smoke: 2); 0 = none
#   FAULT_BITS       bits flipped in them (600; smoke: 3); 0 = none
#   FAULT_MINUTES    minutes of real processes on three real brokers (30; smoke: 40 s); 0 = none. Needs Java 17 and Maven
#   FAULT_SEED       first seed; taken from the clock if it is not set
#
# Mutants are builds of the platform with a promise broken on purpose: the checkers must find all of them (smoke: five).
set -euo pipefail
cd "$(dirname "$0")/../.."
mode=${1:-long}
case $mode in
  long) schedules=${FAULT_SCHEDULES:-10000} kills=${FAULT_KILLS:-1200} images=${FAULT_IMAGES:-200} bits=${FAULT_BITS:-600} minutes=${FAULT_MINUTES:-30} length=${FAULT_MINUTES:-30}m segment=2m mutants=all codes=1 ;;
  smoke) schedules=${FAULT_SCHEDULES:-60} kills=${FAULT_KILLS:-8} images=${FAULT_IMAGES:-2} bits=${FAULT_BITS:-3} minutes=${FAULT_MINUTES:-1} length=40s segment=40s mutants=few codes=12 ;;
  *) echo "usage: $0 [smoke]" >&2; exit 2 ;;
esac
seed=${FAULT_SEED:-$(date +%s%N)}
run=bin/fault
mkdir -p "$run"
# The stores of a simulation live for a second: in memory they cost the disk nothing.
if [ -z "${TMPDIR:-}" ] && [ -d /dev/shm ] && [ -w /dev/shm ]; then
  TMPDIR=$(mktemp -d /dev/shm/millrace-fault.XXXXXX)
  export TMPDIR
  trap 'rm -rf "$TMPDIR"' EXIT
fi
step() { printf '\n-- %s (%ss)\n' "$1" "$SECONDS"; }

step "$schedules simulated schedules from seed $seed on"
# In pieces, so that what is found is seen early and memory stays small.
go test -c -o "$run/sim.test" ./platform/estest/sim
left=$schedules next=$seed
: >"$run/sums"
while ((left > 0)); do
  n=$((left < 500 ? left : 500))
  "$run/sim.test" -test.run '^TestSchedules$' -test.v -test.timeout 30m -sim.seed "$next" -sim.n "$n" >"$run/sim.log" 2>&1 || { grep -a -v '^=== ' "$run/sim.log" | tail -100 >&2; exit 1; }
  grep -a -o '^ *|.*|$' "$run/sim.log" | grep -v -- '---\|how often' >>"$run/sums"
  left=$((left - n)) next=$((next + n))
done
deploy/ci/fault-sums.awk "$run/sums"

step "every error code on every request"
"$run/sim.test" -test.run '^TestEveryCode$' -test.timeout 20m -sim.every-codes "$codes"

step "views: $kills kills, $images power cuts, $bits flipped bits, from seed $seed on"
go test -c -o "$run/folds.test" ./platform/estest/folds
folds() { # test, flag, how often
  (($3 > 0)) || return 0
  "$run/folds.test" -test.run "^$1\$" -test.v -test.timeout 0 -folds.seed "$seed" "-folds.$2" "$3" >"$run/folds.log" 2>&1 || { grep -a -v '^=== ' "$run/folds.log" | cut -c1-2000 | tail -100 >&2; exit 1; }
  grep -a -o '^ *|.*|$' "$run/folds.log" | sed 's/^ *//'
}
folds TestKills kills "$kills"
folds TestPowerCuts images "$images"
folds TestFlippedBits bits "$bits"

step "mutants: $mutants"
go test -count=1 -timeout 120m -v -run '^TestMutants$' ./platform/estest/sim -sim.mutants "$mutants" | grep -v '^=== '
go test -count=1 -timeout 120m -v -run '^TestMutants$' ./platform/estest/folds -folds.mutants "$mutants" | grep -v '^=== '

if ((minutes > 0)); then
  step "real processes, $length"
  command -v java >/dev/null && command -v mvn >/dev/null || { echo "fault.sh: Java 17 and Maven are needed for the real brokers; FAULT_MINUTES=0 leaves them out" >&2; exit 1; }
  deploy/kafka/kafka.sh fetch
  go build -trimpath -o bin/shop ./services/shop
  go build -trimpath -o "$run/chaos" ./services/shop/chaos
  "$run/chaos" -seed "$seed" -for "$length" -segment "$segment" -dir "$run/chaos-data" 2>"$run/chaos.log" || { tail -50 "$run/chaos.log" >&2; exit 1; }
fi
step "nothing was found"
