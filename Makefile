# Every target sets up what it needs in .venv, from nothing but Python 3.11+, make and git.
#
#   make demo ARGS="--rows 200000 --json"     options for `zdm demo`
#   make test ARGS="-k backfill" PG=15        options for pytest; another major version of PostgreSQL, or
#   make test PG=/opt/pgsql-16/bin            the directory of its programs
#
# Set-up speaks on standard error only, so that `make demo ARGS=--json` prints one JSON object and nothing else.
# (make itself announces the directory on standard output when called with -C; `make --no-print-directory -C …` does not.)

SHELL := /bin/sh
.DEFAULT_GOAL := help
.SUFFIXES:

VENV := .venv
BIN := $(VENV)/bin
ARGS ?=

# How many processes run the tests. Not pytest's "auto", which counts two threads of one core as one.
JOBS ?= $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)

PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

# The tests start zdm hundreds of times, and compiling its modules each time is a fifth of that.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test lint format bench soak clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

demo: $(VENV)/.demo  ## all four phases on a PostgreSQL of its own, with two versions of an application writing
	@$(BIN)/zdm demo $(ARGS)

test: $(VENV)/.dev  ## the whole test suite, on all cores (not the soak test and the benchmarks)
	@$(if $(PG),ZDM_TEST_PG=$(PG)) $(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(ARGS)

lint: $(VENV)/.dev  ## style, format and types
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy

format: $(VENV)/.dev  ## put the code into its canonical format
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

bench: $(VENV)/.dev  ## measure speed against the ratios that the documentation states
	@$(BIN)/python -m pytest -m bench -s $(ARGS)

soak: $(VENV)/.dev  ## minutes of load, kills and rollbacks
	@ZDM_TEST_THINK=0.004 $(BIN)/python -m pytest -m soak -s -o faulthandler_timeout=0 $(ARGS)

clean:  ## remove the environment and everything generated
	@rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find src tests migrations -name __pycache__ -type d -prune -exec rm -rf {} +

# ----------------------------------------------------------------------------------------------------------------------

$(BIN)/python:
	@for python in $(PYTHON) python3 python3.14 python3.13 python3.12 python3.11; do \
		"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
		echo "setting up $(VENV) with $$("$$python" --version)" >&2; \
		"$$python" -m venv $(VENV) >&2 && exit 0; \
		rm -rf $(VENV); exit 1; \
	done; \
	echo "zdm needs Python 3.11 or newer; name it with: make PYTHON=/path/to/python3" >&2; exit 1

# Installing again after a change of pyproject.toml is quick; the stamps keep it from happening every time.
$(VENV)/.demo: pyproject.toml | $(BIN)/python
	@echo "installing zdm and an embedded PostgreSQL into $(VENV)" >&2
	@$(PIP) install --editable '.[demo]' >&2
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	@echo "installing zdm, its tests and tools into $(VENV)" >&2
	@$(PIP) install --editable '.[dev]' >&2
	@touch $@ $(VENV)/.demo
