# Every target makes .venv and installs into it first, when needed: `demo`, `serve` and `install` what Tuner itself
# needs, `test`, `check` and `bench` their tools as well. PyTorch is the CPU-only build on Linux without an NVIDIA GPU
# (a tenth of the download); TORCH=cpu or TORCH=cuda decides otherwise.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.PHONY: help install demo serve test chaos check format bench catalogue wheel-light clean
# Works with make 3.81, which macOS has: every line of a recipe is a shell of its own, so a longer one is joined by `\`.

# The first of these that is new enough (a name on PATH may be a version manager's stub).
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c '$(NEW_ENOUGH)' 2> /dev/null && echo $$python && break; done)
BIN := .venv/bin
READY := .venv/.installed
TOOLS := .venv/.installed-tools
TORCH ?=
ARGS ?=

help:
	@echo "make demo       train 64 real trials, show the winner, keep the dashboard up (ARGS=--exit ends after the study)"
	@echo "make serve      start the server with a local worker"
	@echo "make test       run every test"
	@echo "make chaos      kill servers and workers at random under a study, on SQLite and PostgreSQL (some minutes)"
	@echo "make check      lint, types, import directions"
	@echo "make format     format the code"
	@echo "make bench      run the benchmarks (slow)"
	@echo "make catalogue  write tuner/optimizers/catalogue.json from the rules"
	@echo "make wheel-light  build dist/tuner_optim-*.whl: optimizers, schedules and noise scale alone"
	@echo "make install    only install what Tuner itself needs"

install: $(READY)

FOUND := $(or $(PYTHON),python3)
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check install -c constraints.txt
CPU_INDEX := https://download.pytorch.org/whl/cpu

$(READY): pyproject.toml constraints.txt
	@if ! "$(FOUND)" -c '$(NEW_ENOUGH)' 2> /dev/null; then \
		echo "Tuner needs Python 3.11 or newer; $(FOUND) is not ($$("$(FOUND)" --version 2>&1 | head -1))." >&2; \
		echo "Install one and name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.12" >&2; \
		exit 1; \
	fi
	@if [ ! -x $(BIN)/python ] && ! "$(FOUND)" -m venv .venv > .venv.log 2>&1; then \
		cat .venv.log >&2; \
		echo "Python's venv module is missing; on Debian and Ubuntu: apt-get install python3-venv" >&2; \
		exit 1; \
	fi
	@rm -f .venv.log
	@echo "installing into .venv (a few minutes the first time)"
	@if [ "$(TORCH)" = cpu ] || { [ -z "$(TORCH)" ] && [ "$$(uname -s)" = Linux ] \
			&& ! nvidia-smi -L 2> /dev/null | grep -q GPU; }; then \
		$(PIP) --retries 1 --no-deps torch --index-url $(CPU_INDEX) > .venv/install.log 2>&1 \
			|| echo "PyTorch's CPU build is not to be had from $(CPU_INDEX); installing the build of the package index"; \
	fi
	@$(PIP) -e . 2> .venv/install.log || { cat .venv/install.log >&2; exit 1; }
	@touch $(READY)

$(TOOLS): $(READY)
	@echo "installing what tests and checks need into .venv"
	@$(PIP) -e '.[dev]' 2> .venv/install.log || { cat .venv/install.log >&2; exit 1; }
	@touch $(TOOLS)

demo: $(READY)
	@exec $(BIN)/tuner demo $(ARGS)

serve: $(READY)
	@exec $(BIN)/tuner serve $(ARGS)

test: $(TOOLS)
	@$(BIN)/python -m pytest $(ARGS)

chaos: $(TOOLS)
	@CHAOS_KILLS=$${CHAOS_KILLS:-30} $(BIN)/python -m pytest -n 0 -q -s tests/acceptance/test_chaos.py $(ARGS)

check: $(TOOLS)
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(TOOLS)
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

bench: $(TOOLS)
	@for script in benchmarks/[a-z]*.py; do $(BIN)/python "$$script" $(ARGS) || exit 1; done

catalogue: $(READY)
	@$(BIN)/python -m tuner.optimizers

wheel-light: $(READY)
	@$(BIN)/python -m pip --disable-pip-version-check wheel --quiet --no-deps --no-index --wheel-dir dist wheels/light

clean:
	@rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
