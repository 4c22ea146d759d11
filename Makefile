# One command each. Everything is installed into .venv on first use; PYTHON chooses the interpreter.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# One thread a worker: two workers of two threads each wait for one another on two cores.
# Compiled tests are kept even where the shell asks Python not to: compiling them anew takes longer than most of them.
PYTEST := OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n 2 --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help install demo test check bench format clean

help: ## This list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "crossbeat needs Python 3.11 or newer: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

install: $(READY) ## Everything into .venv, which the others do by themselves

demo: $(READY) ## Every method on synthetic hearts, side by side on one page; under 10 minutes on two cores
	$(BIN)/crossbeat demo

test: $(READY) ## All tests
	$(PYTEST)

check: $(READY) ## Format, lint, types, laws and fast tests; a minute and a half on two cores
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(PYTEST) -q -m 'not slow and not real'

bench: $(READY) ## Benchmarks, each a ratio of two sides in one run
	$(BIN)/python benchmarks/run.py

format: $(READY) ## Lay out the sources
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## Remove what these commands made
	rm -rf $(VENV) demo build .pytest_cache .mypy_cache .ruff_cache
