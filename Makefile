# The contributor's door. Every target sets up what it needs: uv and a virtual environment in .venv.

SHELL := bash
PYTHON ?= python3
RUN = .venv/bin

.PHONY: help setup demo test check bench docs clean

help:
	@echo "make demo   a simulated kiln into the fingerprint pipeline, fingerprints printed as they come"
	@echo "make test   all tests"
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
	@mkdir -p .headrace
	@$(RUN)/headrace simulate kiln --history 10m --duration $(or $(FOR),30s) --seed 1 2>.headrace/demo-generator.log \
	    | $(RUN)/headrace run fingerprint --input -

test: setup
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
