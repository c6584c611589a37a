# `make demo` and `make test` work on a machine that has nothing but git and make.  `make help` lists the rest.
#
# Everything made lies in .venv (Python and its packages), .venvs (the same, for other versions), build (all else) and
# mitm_forwarder/_core.abi3.so.  Rules for the C tests are in tests/c/rules.mk, those for fuzzing and for the
# benchmark of the blacklist in tests/fuzz/rules.mk and bench/rules/rules.mk.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules

VENV ?= .venv
PY := $(VENV)/bin/python
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
PIP_INSTALL := -m pip --quiet --disable-pip-version-check install

PACKAGES := build/.system-packages
TEST_PACKAGES := build/.test-packages
DEPS := $(VENV)/.deps
CORE := mitm_forwarder/_core.abi3.so
C_SOURCES := $(wildcard csrc/*.[ch])
PY_FILES = $(shell find mitm_forwarder -name '*.py' -o -name '*.pyi')

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

# --- set-up -------------------------------------------------------------------------------------------------------

$(PACKAGES): deploy/system-packages deploy/find-python
	@deploy/system-packages build
	@mkdir -p $(@D) && touch $@

$(TEST_PACKAGES): deploy/system-packages $(PACKAGES)
	@deploy/system-packages test
	@touch $@

$(DEPS): deploy/lock-dev.txt | $(PACKAGES)
	@test -x $(PY) || { python=$$(deploy/find-python); echo "+ $$python -m venv $(VENV)"; "$$python" -m venv $(VENV); }
	$(PY) $(PIP_INSTALL) --use-pep517 --require-hashes -r deploy/lock-dev.txt
	@touch $@

# pip puts the checkout into the environment and builds the core in place; after that a change of C needs no pip.
$(CORE): $(DEPS) setup.py pyproject.toml $(C_SOURCES)
	$(PY) $(if $(filter-out $(C_SOURCES),$?),$(PIP_INSTALL) --no-deps --no-build-isolation -e .,setup.py -q build_ext --inplace)
	@touch $@

build: $(CORE) ## the addon with its C core, ready in .venv

demo: $(CORE) ## backend, proxy, target and one request of each kind on this machine; KEEP=1 leaves it running
	@$(VENV)/bin/mitm-forwarder demo $(if $(KEEP),--keep)

# --- tests --------------------------------------------------------------------------------------------------------

include tests/c/rules.mk
include tests/fuzz/rules.mk
include bench/rules/rules.mk

# In this order, so that the quick ones fail first.  Those of many parts keep each part's output together.
TEST_STEPS := lint ctest asan tsan fuzz leak torture pytest compat-smoke asan-python
test: $(CORE) $(TEST_PACKAGES) ## everything that CI runs
	@for step in $(TEST_STEPS); do \
	    start=$$SECONDS; echo "== make $$step"; \
	    case $$step in lint | ctest | asan | tsan | fuzz | torture) parts="-j$(JOBS) -O" ;; *) parts= ;; esac; \
	    $(MAKE) --no-print-directory $$parts $$step; \
	    echo "== make $$step: ok, $$((SECONDS - start)) s"; \
	done

lint: ruff mypy stubtest ## ruff, mypy --strict, stubtest

ruff: $(DEPS)
	$(VENV)/bin/ruff check --quiet .
	$(VENV)/bin/ruff format --check --quiet .

mypy: $(DEPS)
	$(VENV)/bin/mypy --no-error-summary

stubtest: $(CORE)
	$(PY) -m mypy.stubtest --concise mitm_forwarder._core

PYTEST_WORKERS ?= auto
PYTEST_ARGS ?=
pytest: $(CORE) $(TOOLS) ## the Python tests; PYTEST_ARGS="-k name -x"
	$(PY) -m pytest -q -n $(PYTEST_WORKERS) $(PYTEST_ARGS) tests

# Every protocol, request and failure, against real proxies.  A row without a result is an error.
NOTES := build/forwarding.jsonl
forwarding-table: $(CORE) $(TEST_PACKAGES) ## the tables of docs/forwarding.md, from a run of tests/e2e/test_matrix.py
	@mkdir -p $(dir $(NOTES)); rm -f $(NOTES)
	FORWARDING_TABLE=$(CURDIR)/$(NOTES) $(PY) -m pytest -q -n 0 tests/e2e/test_matrix.py
	$(PY) -m tests.support.forwarding_table $(NOTES) docs/forwarding.md

memory: $(CORE) ## 1 GiB up and down, HTTP/1 and HTTP/2: the gateway's memory stays flat
	FORWARDING_MEMORY_MB=1024 $(PY) -m pytest -q -n 0 tests/e2e/test_memory.py

# In a copy of the tree, as the checkout holds the release build.  An ASan report of any process counts, whatever the
# tests made of its end; UBSan ends the process.
ASAN_PYTHON := $(CURDIR)/build/asan-python
asan-python: $(CORE) $(TEST_PACKAGES) ## the smoke tests with the extension under ASan and UBSan
	@rm -rf $(ASAN_PYTHON)/{lib,tree} $(ASAN_PYTHON)/report.*; mkdir -p $(ASAN_PYTHON)/tree
	FORWARDER_BUILD=asan $(PY) setup.py -q build --build-base $(ASAN_PYTHON) --build-lib $(ASAN_PYTHON)/lib 2>&1 | \
	    { grep -v '^warning: no ' || true; }
	@cp -a tests bench examples docs pyproject.toml README.md $(ASAN_PYTHON)/lib/* $(ASAN_PYTHON)/tree
	rc=0; cd $(ASAN_PYTHON)/tree; env LD_PRELOAD="$$(gcc -print-file-name=libasan.so)" PYTHONMALLOC=malloc \
	    ASAN_OPTIONS=detect_leaks=0:log_path=$(ASAN_PYTHON)/report \
	    $(CURDIR)/$(PY) -m pytest -q -p no:cacheprovider -n $(PYTEST_WORKERS) -m smoke $(PYTEST_ARGS) tests || rc=$$?; \
	    cat $(ASAN_PYTHON)/report.* 2>/dev/null && rc=1; exit $$rc

leak: $(CORE) ## start and stop the engine many times: memory, descriptors and threads stay flat
	@for script in tests/leaks/*.py; do echo "$$script"; timeout 600 $(PY) "$$script"; done

ORACLE_EXAMPLES ?= 100000
oracle: $(CORE) ## the forms of generated URLs, in C and in Python; ORACLE_EXAMPLES=100000
	ORACLE_EXAMPLES=$(ORACLE_EXAMPLES) $(PY) -m pytest -q -k oracle tests/test_url_forms.py

# --- speed --------------------------------------------------------------------------------------------------------

# Both say in words what is missing on this machine (Go, valgrind), and need nothing of it to be idle: the one pairs
# slices of each gateway, the other counts instructions.
BENCH_ARGS ?=
bench: $(CORE) ## CPU, latency and peak beside bare mitmdump's; writes docs/performance.*; BENCH_ARGS="-r 3 -k plain"
	@$(PY) -m bench.cpu $(BENCH_ARGS)
	@$(PY) -m bench.plot

bench-growth: $(CORE) ## cost per request as connections, rules, upstreams and requests grow; the memory of workers
	@$(PY) -m bench.growth $(BENCH_ARGS)

bench-ir: $(CORE) ## instructions per request under callgrind, which repeat to 2 %; fails over the limits of bench/ir.py
	@$(PY) -m bench.ir --gate $(BENCH_ARGS)

# --- reliability --------------------------------------------------------------------------------------------------

CHAOS_ARGS ?=
chaos: $(CORE) ## 1,000 kills, faults, full disks, a backlog of 1 GiB; writes docs/reliability.md (half an hour)
	$(PY) -m tests.chaos.run $(CHAOS_ARGS)

SOAK_ARGS ?= --minutes 10
soak: $(CORE) ## ten minutes of load: the slopes of memory, descriptors and threads, in the same page
	$(PY) -m tests.chaos.run soak $(SOAK_ARGS)

SPOOL_BENCH_DIR ?= build/bench-spool-data
bench-spool: $(TEST_PACKAGES) ## what an activity record costs, on the disk of SPOOL_BENCH_DIR
	@mkdir -p build $(SPOOL_BENCH_DIR)
	gcc -std=c11 -D_GNU_SOURCE -DFORWARDER_VERSION='"bench"' -O2 $(C_WARN) -Icsrc -o build/bench_spool \
	    bench/spool/bench_spool.c $(CORE_C) $(LIB_CFLAGS) $(LIB_LIBS)
	build/bench_spool $(SPOOL_BENCH_DIR)

# --- other Pythons and mitmproxies --------------------------------------------------------------------------------

# The matrices are in deploy/compat.  Every environment runs the same wheel, built once.
WHEEL := build/compat/.wheel

$(WHEEL): $(DEPS) $(C_SOURCES) $(PY_FILES) mitm_forwarder_addon.py setup.py pyproject.toml
	@deploy/compat wheel
	@touch $@

compat-smoke: $(WHEEL) ## the smoke tests on mitmproxy 10.1.5, 11.0.2, 12.2.3 and the newest, Python 3.11 to 3.13
	@deploy/compat smoke

compat: $(WHEEL) ## all Python tests on these and on 10.4.2, 11.1.3, 12.0.1, 12.1.2
	@deploy/compat test

# --- releases -----------------------------------------------------------------------------------------------------

lock: $(DEPS) ## deploy/lock-*.txt anew, from the ranges in pyproject.toml
	@deploy/lock

image: ## the Docker image, built and run (buildah where there is no docker)
	@deploy/image

fresh: ## make demo and make test in bare Debian roots (root and debootstrap needed); SUITES="bookworm trixie"
	@for suite in $(or $(SUITES),bookworm trixie); do deploy/fresh-root $$suite; done

clean: ## all that make has made, but for .venv and .venvs
	rm -rf build dist *.egg-info mitm_forwarder/*.so

.PHONY: help build demo test lint ruff mypy stubtest pytest forwarding-table memory asan-python leak oracle bench bench-growth bench-ir chaos \
	soak bench-spool compat compat-smoke lock image fresh clean
