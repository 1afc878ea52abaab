# The contributor's door. Every target sets up what it needs: uv and a virtual environment in .venv.

SHELL := bash
PYTHON ?= python3
RUN = .venv/bin

.PHONY: help setup demo test check bench docs clean

help:
	@echo "make demo   a simulated kiln, the fingerprint pipeline and its live page on port 8000 (FOR=30s, PORT=8001)"
	@echo "make test   all tests; those on Kafka get a real broker through Maven, if there are Java 17 and Maven"
	@echo "make check  lint, types, import rules, docs"
	@echo "make docs   the generated reference pages"
	@echo "make bench  the figures of docs/performance.md (some minutes)"

setup: .venv/.ready

.venv/.ready: pyproject.toml
	@$(PYTHON) -m venv .venv || { echo "make: $(PYTHON) 3.11 or newer with its venv module is needed (Debian: apt install python3-venv)" >&2; exit 1; }
	@$(RUN)/pip install --quiet uv
	@$(RUN)/uv pip install --quiet --compile-bytecode --python $(RUN)/python --editable . --group dev
	@touch $@

demo: setup
	@$(RUN)/headrace demo --port $(or $(PORT),8000) $(if $(FOR),--for $(FOR))

test: setup
	@$(RUN)/python tests/broker.py --fetch
	@$(RUN)/pytest

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

clean:
	rm -rf .venv .headrace .pytest_cache .ruff_cache .mypy_cache .hypothesis .import_linter_cache
