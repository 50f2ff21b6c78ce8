# Every target works as the first command in a fresh clone: it makes .venv and installs what it needs.
# Needs: Python 3.11+, pip, make, git.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
FILE ?=

# nox runs the tools of .venv by name
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help demo up down test lint types imports unit bench clean

help: ## show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check install --root-user-action=ignore

# Debian ships Python without ensurepip unless python3-venv is installed; virtualenv through pip does without it.
# The stamp, and not the interpreter, says that the environment is whole: an interrupted run is repaired by the next.
$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "torpor needs Python 3.11 or newer, and $(PYTHON) is not: say make PYTHON=python3.12 or the like" >&2; exit 1; }
	@rm -rf $(VENV) .bootstrap
	@$(PYTHON) -m venv $(VENV) >/dev/null 2>&1 || { \
	  rm -rf $(VENV) && \
	  $(PYTHON) -m pip --quiet --disable-pip-version-check install --root-user-action=ignore --target .bootstrap virtualenv && \
	  PYTHONPATH=.bootstrap $(PYTHON) -m virtualenv --quiet $(VENV) && \
	  rm -rf .bootstrap; }
	@$(PIP) --upgrade 'pip>=25.1'
	@touch $@

$(VENV)/.installed: pyproject.toml $(VENV)/.made
	@echo "installing torpor into $(VENV)" >&2
	@$(PIP) --editable .
	@touch $@

$(VENV)/.dev: pyproject.toml $(VENV)/.installed
	@echo "installing test and lint tools into $(VENV)" >&2
	@$(PIP) --group dev
	@touch $@

demo: $(VENV)/.installed ## watch a service sleep, wake, scale and split; ends by itself
	@$(BIN)/torpor demo

up: $(VENV)/.installed ## start the platform here (Ctrl-C stops it); FILE=manifest.yaml applies one
	@$(BIN)/torpor up --images examples/images.yaml $(if $(FILE),-f $(FILE))

down: $(VENV)/.installed ## remove the platform's state
	@$(BIN)/torpor down

test: $(VENV)/.dev ## lint, types, import contracts and every test: what CI runs
	@$(BIN)/nox --no-venv --error-on-missing-interpreters -s lint types imports test

lint: $(VENV)/.dev ## ruff
	@$(BIN)/nox --no-venv -s lint

types: $(VENV)/.dev ## mypy --strict
	@$(BIN)/nox --no-venv -s types

imports: $(VENV)/.dev ## import contracts
	@$(BIN)/nox --no-venv -s imports

unit: $(VENV)/.dev ## the fast tests only
	@$(BIN)/python -m pytest -q tests/unit tests/property

bench: $(VENV)/.dev ## the data plane beside the original's and others', in under 20 minutes; see benchmarks/README.md
	@$(BIN)/python -m benchmarks all

clean: ## remove the virtual environment and caches
	@rm -rf $(VENV) .bootstrap .mypy_cache .ruff_cache .pytest_cache .hypothesis
