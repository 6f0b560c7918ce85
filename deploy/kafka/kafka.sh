#!/usr/bin/env bash
# Runs a real Apache Kafka on loopback without Docker: Java 17 or newer, and Maven for the jars (once).
set -euo pipefail

usage() {
  cat <<'U'
usage: kafka.sh start|stop|status|run|clean|fetch [options]

  start    start the broker(s) in the background and wait until they answer
  run      start, and stop again at Ctrl-C
  stop     stop what this directory's start started, and nothing else
  status   say what runs; exit status 1 if not everything does
  clean    stop, and delete the data
  fetch    only fetch the jars

  --port N        port of the first broker on 127.0.0.1 (9092); each broker takes two ports: N and N+1, then N+2 and N+3, …
  --dir D         where data, logs and process ids are kept (run/ beside this script, for another port run-N/)
  --brokers N     1 or 3 brokers (1); with 3, topics are replicated 3 times and need 2 in sync
  --set KEY=VALUE a broker setting, e.g. --set producer.id.expiration.ms=10000; may be repeated
  KAFKA_HEAP      the JVM's heap for each broker (512m; 256m with 3 brokers)
U
}

fail() { echo "kafka.sh: $*" >&2; exit 1; }

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
port=9092 dir='' brokers=1 settings=()
[ $# -gt 0 ] || { usage >&2; exit 2; }
command=$1
shift
while [ $# -gt 0 ]; do
  case $1 in
    --port | --dir | --brokers | --set) [ $# -ge 2 ] || fail "$1 needs a value" ;;&
    --port) port=$2 ;;
    --dir) dir=$2 ;;
    --brokers) brokers=$2 ;;
    --set) [[ $2 == *=* ]] || fail "--set $2 is not key=value"; settings+=("$2") ;;
    *) usage >&2; fail "unknown option $1" ;;
  esac
  shift 2
done
[[ $port =~ ^[0-9]+$ ]] && ((port > 0 && port < 65530)) || fail "--port $port is no port"
[[ $brokers == 1 || $brokers == 3 ]] || fail "--brokers is 1 or 3, not $brokers"
if [ -z "$dir" ]; then
  dir=$here/run
  [ "$port" = 9092 ] || dir=$here/run/port-$port
fi
libs=$here/libs

fetch() {
  [ -f "$libs/.complete" ] && [ "$libs/.complete" -nt "$here/pom.xml" ] && return
  command -v mvn >/dev/null || fail "Maven is not installed; it fetches Kafka's jars once (apt-get install maven)"
  echo "fetching Apache Kafka's jars (126 MB, once) …" >&2
  rm -rf "$libs"
  mvn -q -B -f "$here/pom.xml" dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$libs" >&2 ||
    fail "Maven could not fetch the jars; is Maven's repository reachable?"
  touch "$libs/.complete"
}

# pid_of prints the process id of broker $1 if it is alive and really this directory's.
pid_of() {
  local file=$dir/broker-$1/pid pid
  [ -f "$file" ] || return 1
  pid=$(cat "$file")
  [[ $pid =~ ^[0-9]+$ ]] || return 1
  [[ $(ps -o command= -p "$pid" 2>/dev/null) == *"$dir/broker-$1/server.properties"* ]] || return 1
  echo "$pid"
}

# answers sends an ApiVersions request to port $1 and waits up to 2 s for the head of an answer.
answers() {
  (
    exec 3<>"/dev/tcp/127.0.0.1/$1" || exit 1
    printf '\0\0\0\012\0\022\0\0\0\0\0\001\377\377' >&3
    [ "$(timeout 2 head -c 8 <&3 | od -An -tx1 | tr -d ' \n' | tail -c 8)" = 00000001 ]
  ) 2>/dev/null
}

taken() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# broker_port and controller_port print the ports of broker $1, counted from 1.
broker_port() { echo $((port + 2 * ($1 - 1))); }
controller_port() { echo $((port + 2 * ($1 - 1) + 1)); }

configure() {
  local i voters='' inner=1
  ((brokers == 1)) || inner=2
  for ((i = 1; i <= brokers; i++)); do voters+=${voters:+,}$i@127.0.0.1:$(controller_port "$i"); done
  for ((i = 1; i <= brokers; i++)); do
    mkdir -p "$dir/broker-$i"
    {
      cat <<P
process.roles=broker,controller
node.id=$i
controller.quorum.voters=$voters
listeners=PLAINTEXT://127.0.0.1:$(broker_port "$i"),CONTROLLER://127.0.0.1:$(controller_port "$i")
advertised.listeners=PLAINTEXT://127.0.0.1:$(broker_port "$i")
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs=$dir/broker-$i/data
auto.create.topics.enable=false
default.replication.factor=$brokers
min.insync.replicas=$inner
unclean.leader.election.enable=false
offsets.topic.replication.factor=$brokers
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=$brokers
transaction.state.log.min.isr=$inner
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=$brokers
share.coordinator.state.topic.min.isr=$inner
share.coordinator.state.topic.num.partitions=4
group.initial.rebalance.delay.ms=0
P
      # The last of two equal keys counts.
      ((${#settings[@]} == 0)) || printf '%s\n' "${settings[@]}"
    } >"$dir/broker-$i/server.properties"
  done
}

format() {
  local i id
  [ -f "$dir/cluster.id" ] || java -cp "$libs/*" -Dlog4j2.configurationFile="$here/log4j2.xml" kafka.tools.StorageTool random-uuid | tail -1 >"$dir/cluster.id"
  id=$(cat "$dir/cluster.id")
  for ((i = 1; i <= brokers; i++)); do
    [ -f "$dir/broker-$i/data/meta.properties" ] && continue
    java -cp "$libs/*" -Dlog4j2.configurationFile="$here/log4j2.xml" kafka.tools.StorageTool format \
      -t "$id" -c "$dir/broker-$i/server.properties" >"$dir/broker-$i/format.log" 2>&1 ||
      fail "the data directory cannot be formatted, see $dir/broker-$i/format.log"
  done
}

start() {
  local i heap pid deadline session=''
  if command -v setsid >/dev/null; then session=setsid; fi
  command -v java >/dev/null || fail "Java 17 or newer is needed (apt-get install openjdk-17-jre-headless)"
  fetch
  mkdir -p "$dir"
  dir=$(cd "$dir" && pwd)
  if [ -f "$dir/brokers" ] && [ "$(cat "$dir/brokers")" != "$brokers" ]; then
    fail "$dir holds a cluster of $(cat "$dir/brokers"); give its --brokers, another --dir, or clean it"
  fi
  echo "$brokers" >"$dir/brokers"
  for ((i = 1; i <= brokers; i++)); do
    if pid_of "$i" >/dev/null; then continue; fi
    for p in $(broker_port "$i") $(controller_port "$i"); do
      if taken "$p"; then fail "port $p is in use by another program; give another --port"; fi
    done
  done
  configure
  format
  heap=${KAFKA_HEAP:-$([ "$brokers" = 1 ] && echo 512m || echo 256m)}
  for ((i = 1; i <= brokers; i++)); do
    if pid_of "$i" >/dev/null; then continue; fi
    # In a session of its own, so that Ctrl-C at a terminal reaches this script only.
    $session nohup java -Xms"$heap" -Xmx"$heap" -XX:+UseSerialGC -XX:+ExitOnOutOfMemoryError \
      -Dlog4j2.configurationFile="$here/log4j2.xml" -cp "$libs/*" kafka.Kafka "$dir/broker-$i/server.properties" \
      >>"$dir/broker-$i/broker.log" 2>&1 </dev/null &
    echo $! >"$dir/broker-$i/pid"
  done
  deadline=$((SECONDS + 60))
  for ((i = 1; i <= brokers; i++)); do
    until answers "$(broker_port "$i")"; do
      pid=$(cat "$dir/broker-$i/pid")
      kill -0 "$pid" 2>/dev/null || { tail -5 "$dir/broker-$i/broker.log" >&2; fail "broker $i ended at once, see $dir/broker-$i/broker.log"; }
      ((SECONDS < deadline)) || fail "broker $i does not answer after 60 s, see $dir/broker-$i/broker.log"
      sleep 0.1
    done
  done
  echo "kafka 127.0.0.1:$port"
}

stop() {
  local i pid pids=() deadline
  [ -d "$dir" ] || return 0
  dir=$(cd "$dir" && pwd)
  for i in 1 2 3; do
    if pid=$(pid_of "$i"); then
      kill "$pid" 2>/dev/null || true
      pids+=("$pid")
    fi
  done
  deadline=$((SECONDS + 30))
  for pid in "${pids[@]:+${pids[@]}}"; do
    while kill -0 "$pid" 2>/dev/null; do
      if ((SECONDS >= deadline)); then kill -KILL "$pid" 2>/dev/null || true; fi
      sleep 0.1
    done
  done
  rm -f "$dir"/broker-*/pid
}

status() {
  local i pid ok=0
  [ -f "$dir/brokers" ] || { echo "nothing was started in $dir"; return 1; }
  dir=$(cd "$dir" && pwd)
  for ((i = 1; i <= $(cat "$dir/brokers"); i++)); do
    if pid=$(pid_of "$i") && answers "$(broker_port "$i")"; then
      echo "broker $i answers on 127.0.0.1:$(broker_port "$i"), process $pid"
    else
      echo "broker $i does not answer on 127.0.0.1:$(broker_port "$i")"
      ok=1
    fi
  done
  return "$ok"
}

case $command in
  start) start ;;
  stop) stop ;;
  status) status ;;
  fetch) fetch ;;
  clean)
    stop
    rm -rf "$dir"/broker-[123] "$dir/cluster.id" "$dir/brokers"
    rmdir "$dir" 2>/dev/null || true # not if there is more in it
    ;;
  run)
    trap 'stop; exit 0' INT TERM
    start
    while status >/dev/null; do sleep 1; done
    status >&2 || true
    stop
    exit 1
    ;;
  help | -h | --help) usage ;;
  *) usage >&2; fail "unknown command $command" ;;
esac
