# Millrace: see `make help`. Everything here needs Go only, unless it says otherwise.
SHELL := /bin/bash
MODULES := platform schemas services
PACKAGES := $(MODULES:%=./%/...)
GO ?= go
BIN := bin
KAFKA_PORT ?= 9092
TEST_KAFKA_PORT ?= 19092

.DEFAULT_GOAL := help
.PHONY: help run build test race fuzz lint generate verify kafka kafka-stop test-kafka test-clients test-registry-clients test-node bench fault clean

help: ## show this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  %-22s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build bin/shop and bin/millrace
	@mkdir -p $(BIN)
	$(GO) build -trimpath -o $(BIN)/shop ./services/shop
	$(GO) build -trimpath -o $(BIN)/millrace ./platform/cmd/millrace

run: build ## build, and run everything in one process: embedded Kafka, schema registry, orders, order views
	$(BIN)/shop dev

test: ## run all tests that need nothing but Go
	$(GO) test $(PACKAGES)

race: ## run them under the race detector
	$(GO) test -race $(PACKAGES)

FUZZTIME ?= 20s
fuzz: ## run every fuzz target for FUZZTIME
	@set -e; for pkg in $$($(GO) list $(PACKAGES)); do \
	  for target in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz' || true); do \
	    echo "== $$pkg $$target"; $(GO) test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) $$pkg; \
	  done; \
	done

lint: ## vet, golangci-lint with .golangci.yaml
	$(GO) vet $(PACKAGES)
	@deploy/ci/golangci-lint.sh run $(PACKAGES)

generate: build ## regenerate the Go code of the event contracts
	$(BIN)/millrace contract generate schemas/*/v*

verify: generate ## fail if generated code differs from what is committed
	git diff --exit-code -- schemas

kafka: ## start Apache Kafka 4.3.1 on 127.0.0.1:9092, or KAFKA_PORT (Java 17 and Maven)
	deploy/kafka/kafka.sh start --port $(KAFKA_PORT)

kafka-stop: ## stop it
	deploy/kafka/kafka.sh stop --port $(KAFKA_PORT)

test-kafka: build ## run the conformance and end-to-end tests against a real Kafka (Java 17 and Maven)
	@deploy/ci/test-kafka.sh $(TEST_KAFKA_PORT)

test-clients: build ## let confluent-kafka (Python) and the Java console consumer read what the shop wrote
	@deploy/ci/test-clients.sh $(TEST_KAFKA_PORT)

test-registry-clients: ## let clients in Python, JavaScript and Java drive the schema registry (Python 3.11, Node 20, Java 17 and Maven)
	@deploy/ci/test-registry-clients.sh

test-node: ## let the published AsyncAPI parser check the catalogue of events (Node 20)
	@deploy/ci/test-node.sh

bench: build ## measure the figures of docs/benchmarks.md (Java 17 and Maven for the rows on real Kafka)
	@deploy/ci/bench.sh

fault: ## look for broken promises under faults: simulated schedules, mutants, then FAULT_MINUTES (30) of real processes (Java 17 and Maven)
	@deploy/ci/fault.sh

clean: ## remove what was built
	rm -rf $(BIN)
