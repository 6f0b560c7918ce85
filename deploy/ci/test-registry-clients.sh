#!/usr/bin/env bash
# Lets the official clients drive the schema registry: test-registry-clients.sh. Needs Go, Python 3.11, Node 20 and npm, Java 17 and Maven;
# installs confluent-kafka, @confluentinc/schemaregistry, @kafkajs/confluent-schema-registry and Spring Cloud Stream's client into
# deploy/ci/run, which git ignores. srclient and franz-go's sr are among the tests' own libraries.
#
# Confluent's Java serializers are not among them: they are not in Maven Central but only in Confluent's repository.
set -euo pipefail
cd "$(dirname "$0")/../.."
(($# == 0)) || { echo "usage: $0" >&2; exit 2; }
venv=$PWD/deploy/ci/run/venv
node=$PWD/deploy/ci/run/node
requirements=deploy/ci/clients/requirements.txt
package=deploy/ci/registry-clients/package.json
java=$PWD/deploy/ci/run/java
pom=deploy/ci/registry-clients/java/pom.xml
for tool in go node npm java mvn; do command -v "$tool" >/dev/null || { echo "$tool is needed" >&2; exit 1; }; done
# Settings of whoever runs this are not the tests'.
for name in $(compgen -e MILLRACE_ || true); do unset "$name"; done
say() { printf -- '-- %s (%ss)\n' "$1" "$SECONDS"; }

say "Python client"
if ! cmp -s "$requirements" "$venv/.installed"; then
  rm -rf "$venv"
  "${PYTHON:-python3}" -m venv "$venv"
  "$venv/bin/pip" install -q --disable-pip-version-check -r "$requirements"
  cp "$requirements" "$venv/.installed"
fi
say "JavaScript clients"
if ! cmp -s "$package" "$node/.installed"; then
  rm -rf "$node"
  mkdir -p "$node"
  cp "$package" "$node/"
  npm install --prefix "$node" --no-audit --no-fund --ignore-scripts --loglevel=error
  cp "$package" "$node/.installed"
fi

say "Java client"
if ! cmp -s "$pom" "$java/.installed"; then
  rm -rf "$java"
  mvn -q -B -f "$pom" dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$java/libs"
  cp "$pom" "$java/.installed"
fi

say "the registry's conformance suites"
MILLRACE_TEST_PYTHON=$venv/bin/python MILLRACE_TEST_NODE=$node \
  go test -count=1 -timeout 10m -v -run '^(TestPythonClient|TestJavaScriptClients|TestFranzClient|TestFranzClientRest|TestSrclient)$' ./platform/registry |
  grep -vE '^=== '

say "the client in Java"
go build -o "$java/shop" ./services/shop
rm -f "$java/ready.json"
"$java/shop" dev --ephemeral --http-addr 127.0.0.1:0 --kafka-addr 127.0.0.1:0 --registry-addr 127.0.0.1:0 --admin-addr 127.0.0.1:0 \
  --ready-file "$java/ready.json" >"$java/shop.log" 2>&1 &
shop=$!
trap 'kill "$shop" 2>/dev/null || true; wait "$shop" 2>/dev/null || true' EXIT
trap 'exit 130' INT TERM
for ((deadline = SECONDS + 60; ; )); do
  [ -s "$java/ready.json" ] && break
  kill -0 "$shop" 2>/dev/null || { cat "$java/shop.log" >&2; echo "the shop ended before it was ready" >&2; exit 1; }
  ((SECONDS < deadline)) || { cat "$java/shop.log" >&2; echo "the shop is not ready after 60 s" >&2; exit 1; }
  sleep 0.05
done
java -cp "$java/libs/*" deploy/ci/registry-clients/java/Spring.java "$(sed -E 's/.*"registry":"([^"]*)".*/\1/' "$java/ready.json")"
say "all clients agree"
