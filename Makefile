# Everything a fresh clone needs: Python 3.11 or newer with its venv module, and make.
#
#   make run     start the daemon, drills allowed; ARGS="--listen 127.0.0.1:9090" adds flags
#   make test    run the tests; ARGS="-k kmsg" adds flags
#   make lint    ruff, mypy --strict and the import layers
#   make bench   measure latency, loss and memory on this machine; ARGS="latency idle" picks rows
#   make bench-full  all of it with all samples, and how costs grow; kept with plots in benchmarks/results (half an hour)
#   make faults  break everything a promise speaks of, and list what happened in docs/fault-lab.md (root)
#   make soak    an hour under mixed load: counts exact, memory flat; kept in benchmarks/results and docs/soak.md
#   make fuzz    look for inputs that break something: TIME=60 seconds for each target; ARGS="line log" names targets
#   make bpf     build the eBPF programs anew (needs clang, llvm-strip and libbpf's headers: libbpf-dev);
#                BPF_OUT=DIR puts them elsewhere, to compare
#   make manifests  render deploy/manifests from the Helm chart, and the schema of its values
#   make docs    build the documents as a site, strictly; DOCS_OUT=DIR puts it elsewhere than build/site
#   make lock    resolve the lock files anew (needs uv)
#   make clean   remove what the above left, the virtual environment included

SHELL := /bin/bash
.DEFAULT_GOAL := run
.PHONY: run test lint format bench bench-full faults fuzz soak bpf manifests docs lock clean

PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
BIN := .venv/bin
PACKAGES := xidwatch mcp_server daemon probes
CODE := $(PACKAGES) tests benchmarks
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check

run: .venv/.runtime
	@exec $(BIN)/xidwatch serve --allow-drills $(ARGS)

test: .venv/.dev
	$(BIN)/python -m pytest $(ARGS)

lint: .venv/.dev
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy $(CODE)
	$(BIN)/lint-imports

format: .venv/.dev
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

bench: .venv/.dev
	$(BIN)/python -m benchmarks $(ARGS)

bench-full: .venv/.dev
	$(BIN)/python -m benchmarks --full $(ARGS)

faults: .venv/.dev
	XIDWATCH_LONG=1 $(BIN)/python -m pytest tests -m fault --fault-list=docs/fault-lab.md $(ARGS)

soak: .venv/.dev
	$(BIN)/python -m tests.soak --report benchmarks/results/soak.json --document docs/soak.md $(ARGS)

TIME ?= 60
fuzz: .venv/.dev .cache/fuzz/.installed
	PYTHONPATH=.cache/fuzz/packages $(BIN)/python -m tests.fuzz.run --seconds $(TIME) $(ARGS)

BPF_OBJECTS = $(patsubst %.bpf.c,%.bpf.o,$(wildcard probes/bpf/*.bpf.c))
BPF_OUT ?= probes/bpf
bpf:
	@set -e; for object in $(notdir $(BPF_OBJECTS)); do \
		echo "$$object"; \
		clang -target bpf -mcpu=v2 -O2 -g -Wall -Wextra -Werror -ffile-prefix-map=$(CURDIR)=. \
			-idirafter /usr/include/$(shell uname -m)-linux-gnu \
			-c probes/bpf/$${object%.o}.c -o $(BPF_OUT)/$$object; \
		llvm-strip -g $(BPF_OUT)/$$object; done

manifests: .venv/.dev
	$(BIN)/python -m tests.deploy.render $(ARGS)

# Material prints that it and MkDocs will have successors: nothing that a page could mend.
DOCS_OUT ?= build/site
docs: .cache/docs/.installed
	NO_MKDOCS_2_WARNING=1 .cache/docs/bin/mkdocs build --quiet --strict --site-dir $(abspath $(DOCS_OUT))

lock:
	uv pip compile pyproject.toml - <<<'setuptools>=77' -o requirements.lock $(UV_FLAGS)
	uv pip compile pyproject.toml --extra dev - <<<'setuptools>=77' -c requirements.lock \
		-o requirements-dev.lock $(UV_FLAGS)
	uv pip compile pyproject.toml --extra otel - <<<'setuptools>=77' -c requirements.lock \
		-o requirements-otel.lock $(UV_FLAGS)
	uv pip compile - <<<'mkdocs-material>=9.8,<10' -o docs/requirements.lock $(UV_FLAGS)
	uv pip compile - <<<'matplotlib>=3.11,<4' -o benchmarks/requirements.lock $(UV_FLAGS)
UV_FLAGS := --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --no-emit-index-url

clean:
	rm -rf .venv .cache build dist ./*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .benchmarks
	find $(CODE) -name __pycache__ -prune -exec rm -rf {} +

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "xidwatch needs Python 3.11 or newer: none found; name one with PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) lacks venv or ensurepip: on Debian and Ubuntu install python3-venv" >&2; exit 1; }
	@echo "setting up .venv with $$($(PYTHON) --version) (once)"
	@$(PYTHON) -m venv .venv

# --no-build-isolation: the build backend is pinned in the lock files too.
.venv/.runtime: requirements.lock pyproject.toml | .venv/bin/python
	@$(PIP_INSTALL) --require-hashes -r requirements.lock
	@$(PIP_INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

.venv/.dev: requirements-dev.lock .venv/.runtime
	@$(PIP_INSTALL) --require-hashes -r requirements-dev.lock
	@touch $@

.cache/docs/.installed: docs/requirements.lock | .venv/bin/python
	@rm -rf .cache/docs
	@$(BIN)/python -m venv .cache/docs
	@.cache/docs/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r docs/requirements.lock
	@touch $@

# Beside .venv, not in it: the fuzzer runs the program as it is installed there.
.cache/fuzz/.installed: tests/fuzz/requirements.lock | .venv/bin/python
	@rm -rf .cache/fuzz/packages
	@$(PIP_INSTALL) --require-hashes --target .cache/fuzz/packages -r tests/fuzz/requirements.lock
	@touch $@
