# The contributor's door. Every target sets up what it needs: uv and a virtual environment in .venv.

SHELL := bash
PYTHON ?= python3
RUN = .venv/bin
JAR = src/headrace/engines/jar/headrace-engines.jar

.PHONY: help setup demo java engines test test-long check bench bench-engines docs clean

help:
	@echo "make demo   a simulated kiln, the fingerprint pipeline and its live page on port 8000 (FOR=30s, PORT=8001)"
	@echo "make test   all tests; those on Kafka get a real broker through Maven, if there are Java 17 and Maven"
	@echo "make test-long   what repeats: hundreds of kills, soaks, large random runs (an hour)"
	@echo "make java   the jar for Flink and Spark, with Maven; make test builds it too"
	@echo "make check  lint, types, import rules, docs"
	@echo "make docs   the generated reference pages"
	@echo "make bench  the figures of docs/performance.md (some minutes); make bench-engines those beside Flink and Spark (hours)"

setup: .venv/.ready

.venv/.ready: pyproject.toml
	@$(PYTHON) -m venv .venv || { echo "make: $(PYTHON) 3.11 or newer with its venv module is needed (Debian: apt install python3-venv)" >&2; exit 1; }
	@$(RUN)/pip install --quiet uv
	@$(RUN)/uv pip install --quiet --compile-bytecode --python $(RUN)/python --editable . --group dev
	@touch $@

demo: setup
	@$(RUN)/headrace demo --port $(or $(PORT),8000) $(if $(FOR),--for $(FOR))

java: $(JAR)

$(JAR): java/pom.xml $(shell find java/src -name '*.java')
	@{ command -v javac && command -v mvn; } >/dev/null || { echo "make: a JDK (11 or newer) and Maven are needed (Debian: apt install openjdk-17-jdk-headless maven)" >&2; exit 1; }
	@mvn -q -B -f java/pom.xml package
	@touch $@

engines: setup
	@$(RUN)/python tests/broker.py --fetch
	@if { command -v javac && command -v mvn; } >/dev/null; then $(MAKE) --no-print-directory java; else echo "tests on Flink and Spark will be skipped: no JDK or no mvn to build their jar with; Debian: apt install openjdk-17-jdk-headless maven"; fi
	@$(RUN)/python tests/flink.py --fetch
	@$(RUN)/python tests/spark.py --fetch

test: engines
	@$(RUN)/pytest

test-long: engines
	@$(RUN)/pytest -m long

check: setup
	@$(RUN)/ruff check
	@$(RUN)/ruff format --check
	@$(RUN)/mypy
	@$(RUN)/lint-imports
	@$(RUN)/python docs/generate.py --check

docs: setup
	@$(RUN)/python docs/generate.py

bench: setup
	@$(RUN)/python bench/run.py

bench-engines: setup java
	@$(RUN)/python tests/broker.py --fetch
	@$(RUN)/python tests/flink.py --fetch
	@$(RUN)/python tests/spark.py --fetch
	@$(RUN)/python bench/engines.py
	@$(RUN)/python bench/process_on_flink.py
	@$(RUN)/python bench/process_on_spark.py

clean:
	rm -rf .venv .headrace .pytest_cache .ruff_cache .mypy_cache .hypothesis .import_linter_cache
