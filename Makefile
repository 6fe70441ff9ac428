# Edgeward. `make` explains, `make run` shows a hospital, `make test` tests everything.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
ARGS   ?=
JOBS   ?= 3

# Debian packages that the tests talk to. `make run` needs none of them.
PEERS := orthanc orthanc-dicomweb dcmtk dicom3tools mosquitto mosquitto-clients chromium fonts-noto-cjk gcc libc6-dev

.PHONY: help run demo test setup setup-dev peers lint types imports check unit faults bench lock clean

help:
	@echo "Edgeward: an edge platform for medical AI. Not a medical device."
	@echo
	@echo "  make run      set everything up, then run a whole hospital with simulated devices (Ctrl-C stops it)"
	@echo "  make test     set everything up, Debian peers included, then check and test everything"
	@echo
	@echo "  make check    lint, types and import rules only"
	@echo "  make unit     the tests only, without setting up again; ARGS='-k name' selects, JOBS=1 one at a time"
	@echo "  make faults   the long fault campaigns, 100,000 hostile associations among them; ARGS='--seed 7' repeats one"
	@echo "  make bench    measure latency, start-up and memory; prints the table of docs/benchmarks.md"
	@echo "  make lock     write the lock files anew from pyproject.toml"
	@echo "  make clean    remove what was set up here"
	@echo
	@echo "  needs: Linux, Python 3.11 or later with venv; for make test also Debian's apt-get (root or sudo)"

# ---------------------------------------- set-up: each step runs once, and again when its lock file changes

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"Edgeward needs Python 3.11 or later; {sys.executable} is {v.major}.{v.minor}. Try: make run PYTHON=python3.12")'
	@echo "[1/3] making a virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV) || { echo "venv failed: on Debian and Ubuntu, apt-get install python3-venv"; exit 1; }

# uv installs ten times faster than pip; where it cannot be had or cannot reach the index, pip does the same work.
define install
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-setup.lock || true
	@if ! { test -x $(BIN)/uv && $(BIN)/uv pip install --python $(BIN)/python --require-hashes -r $(1); }; then \
		echo "      uv could not do it; with pip instead"; \
		$(BIN)/python -m pip install --disable-pip-version-check --progress-bar on --require-hashes -r $(1); fi
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
endef

$(VENV)/.run: requirements.lock requirements-setup.lock pyproject.toml | $(BIN)/python
	@echo "[2/3] installing packages (about 250 MB on a fresh machine)"
	$(call install,requirements.lock)
	@echo "[3/3] compiling the signal processing"
	@$(BIN)/python -c "from edgeward.clinic.monitor import bank, signals; bank.warm_up(); signals.warm_up()"
	@touch $@

# Images are received faster with it; without a compiler they are received all the same.
$(VENV)/.native: $(wildcard src/edgeward/native/*.[ch]) src/edgeward/native/build.py $(VENV)/.run
	@$(BIN)/python -m edgeward.native.build
	@touch $@

$(VENV)/.dev: requirements-dev.lock $(VENV)/.run
	@echo "installing test packages"
	$(call install,requirements-dev.lock)
	@touch $@

setup: $(VENV)/.run $(VENV)/.native
setup-dev: $(VENV)/.dev $(VENV)/.native

# ---------------------------------------- for people

run: setup
	@exec $(BIN)/edgeward demo $(ARGS)

demo: run

test: setup-dev peers check unit

peers:
	@tools/peers.sh $(PEERS)

check: lint types imports

lint:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types:
	$(BIN)/mypy

imports:
	$(BIN)/lint-imports

# Most faults want the machine for themselves: they come second, one at a time. (5: nothing was selected.)
ALONE := $(addprefix tests/, $(patsubst %,faults/test_%.py,delivery doors_hostile images_arrive images_survive never_silent) test_whole_site.py)
unit:
	$(BIN)/python -m pytest --durations=10 -n $(JOBS) --dist loadfile $(ALONE:%=--ignore=%) $(ARGS) || test $$? = 5
	$(BIN)/python -m pytest --durations=10 $(ALONE) $(ARGS) || test $$? = 5

faults: setup-dev peers
	$(BIN)/python -m pytest tests/faults --campaign $(ARGS)

bench: setup-dev peers
	$(BIN)/python benchmarks/whole_site.py $(ARGS)

# ---------------------------------------- for maintainers

LOCK = uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header -q
lock:
	$(LOCK) --extra demo --extra evaluate --extra build -o requirements.lock
	$(LOCK) --extra demo --extra evaluate --extra build --extra dev -o requirements-dev.lock
	echo uv | uv pip compile - --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header -q -o requirements-setup.lock
	@! grep -lE 'https?://' requirements*.lock

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
