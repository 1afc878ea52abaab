# The contributor's door. Every target sets up what it needs: uv and a virtual environment in .venv.

SHELL := bash
MAKEFLAGS += --jobs=2
PYTHON ?= python3
RUN = .venv/bin
JDK = $(and $(shell command -v javac),$(shell command -v mvn))
JAR = src/headrace/engines/jar/headrace-engines.jar

.PHONY: help setup demo java engines servers jar flink spark test test-long check bench bench-engines bench-detect docs docs-site lock sbom clean

help:
	@echo "make demo   a simulated water plant under attack, its alarms, a kiln, and their page on port 8000 (FOR=30s, PORT=8001)"
	@echo "make test   all tests; those on Kafka get a real broker through Maven, if there are Java 17 and Maven, those on MQTT, InfluxDB and PostgreSQL get Mosquitto, VictoriaMetrics and PostgreSQL through apt-get, those on MongoDB SecantusDB from PyPI"
	@echo "make test-long   what repeats: hundreds of kills, soaks, large random runs (an hour and a half)"
	@echo "make java   the jar for Flink and Spark, with Maven; make test builds it too"
	@echo "make check  lint, types, import rules, docs"
	@echo "make docs   the generated reference pages; make docs-site the docs as a site with search, in build/site"
	@echo "make lock   the newest allowed versions of all packages, with hashes, into locks/; make sbom the image's bill of materials"
	@echo "make bench  the figures of docs/performance.md (some minutes); make bench-engines those beside Flink and Spark (hours)"
	@echo "make bench-detect   what the detectors find on public data sets and on the simulated water plant (docs/detection.md; DATA=folder, NAB=folder)"

setup: .venv/.ready

# What runs needs less than what is developed: make demo installs no linters and no test tools.
.venv/.ready: LOCK = dev
.venv/.runs: LOCK = run
.venv/.ready .venv/.runs: pyproject.toml $(wildcard locks/*.txt)
	@$(PYTHON) -m venv .venv || { echo "make: $(PYTHON) 3.11 or newer with its venv module is needed (Debian: apt install python3-venv)" >&2; exit 1; }
	@$(RUN)/pip install --quiet --require-hashes -r locks/uv.txt
	@$(RUN)/uv pip install --quiet --compile-bytecode --python $(RUN)/python --require-hashes -r locks/$(LOCK).txt
	@$(RUN)/uv pip install --quiet --compile-bytecode --python $(RUN)/python --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(if $(wildcard .venv/.ready),.venv/.ready,.venv/.runs)
	@$(RUN)/headrace demo --port $(or $(PORT),8000) $(if $(FOR),--for $(FOR))

java: $(JAR)

$(JAR): java/pom.xml $(shell find java/src -type f)
	@{ command -v javac && command -v mvn; } >/dev/null || { echo "make: a JDK (11 or newer) and Maven are needed (Debian: apt install openjdk-17-jdk-headless maven)" >&2; exit 1; }
	@mvn -q -B -f java/pom.xml package
	@touch $@

engines: spark servers flink

servers: setup
	@$(RUN)/python tests/broker.py --fetch
	@$(RUN)/python tests/mosquitto.py --fetch
	@$(RUN)/python tests/victoria.py --fetch
	@$(RUN)/python tests/postgres.py --fetch
	@$(RUN)/python tests/mongo.py --fetch

jar: setup $(if $(JDK),$(JAR))
	@$(if $(JDK),:,echo "tests on Flink and Spark will be skipped: no JDK or no mvn to build their jar with; Debian: apt install openjdk-17-jdk-headless maven")

flink: jar
	@$(RUN)/python tests/flink.py --fetch

spark: jar
	@$(RUN)/python tests/spark.py --fetch

# Where no bytecode is written, each process that a test starts compiles our modules again.
test: engines
	@PYTHONDONTWRITEBYTECODE= $(RUN)/pytest --durations=25

test-long: engines
	@$(RUN)/python tests/registry.py --fetch
	@PYTHONDONTWRITEBYTECODE= HEADRACE_TEST_PROFILE=long $(RUN)/pytest -m long

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

bench-detect: setup
	@$(RUN)/python bench/detect.py $(if $(DATA),--data $(DATA)) $(if $(NAB),--nab $(NAB))

bench-engines: setup java
	@$(RUN)/python tests/broker.py --fetch
	@$(RUN)/python tests/flink.py --fetch
	@$(RUN)/python tests/spark.py --fetch
	@$(RUN)/python bench/engines.py
	@$(RUN)/python bench/process_on_flink.py
	@$(RUN)/python bench/process_on_spark.py

docs-site: setup
	@$(RUN)/uv pip install --quiet --python $(RUN)/python --require-hashes -r locks/site.txt
	@NO_MKDOCS_2_WARNING=1 $(RUN)/mkdocs build --strict --quiet
	@echo "build/site/index.html"

LOCKED = $(RUN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --upgrade

# Every package with its version and hashes: the newest that pyproject.toml allows, the same version in every file.
lock: setup
	@echo uv | $(LOCKED) - -o locks/uv.txt
	@$(LOCKED) pyproject.toml --all-extras --group dev --group site -o locks/all.txt
	@$(LOCKED) -c locks/all.txt pyproject.toml --all-extras --group dev -o locks/dev.txt
	@$(LOCKED) -c locks/all.txt pyproject.toml --group build -o locks/run.txt
	@$(LOCKED) -c locks/all.txt pyproject.toml --all-extras -o locks/image.txt
	@$(LOCKED) -c locks/all.txt --group build --group sbom -o locks/build.txt
	@$(LOCKED) -c locks/all.txt --group site -o locks/site.txt
	@rm locks/all.txt

# What the image holds, in CycloneDX's form; the image itself carries the same at /opt/headrace/sbom.json.
sbom: setup
	@mkdir -p build
	@PYTHONWARNINGS=ignore $(RUN)/cyclonedx-py requirements --output-reproducible --pyproject pyproject.toml -o build/sbom.json locks/image.txt
	@echo build/sbom.json

clean:
	rm -rf .venv .headrace .pytest_cache .ruff_cache .mypy_cache .hypothesis .import_linter_cache
