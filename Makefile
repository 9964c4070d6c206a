# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
#
# Every command first makes .venv, or repairs it; see .ci/setup. ARGS="..." is passed on to what a command runs,
# PYTHON=... names the interpreter to start from, NN=1 adds torch, BENCH=1 what benchmarks compare with, SPE10=... the folder
# or file with SPE10 data for the demo, EXECUTE=off builds the documentation without running what it shows.

# One thread a process: the ranks of an MPI run share the cores.
export OMP_NUM_THREADS ?= 1
# Ranks that wait (MPICH) leave the core to those that work: there may be more ranks than cores.
export MPIR_CVAR_ENABLE_HEAVY_YIELD ?= 1

RANKS ?= 2 3 4
TABLES ?= accuracy time losses operators data resolution contrast solvers growth rock spaces
DETAILS ?= learned classes space bases map guard two_level trust richards transient parametric
PY := .venv/bin/python
# Should a rank hang outside of a test, the run ends too (macOS has no timeout of its own).
LIMIT := $(shell command -v timeout >/dev/null 2>&1 && echo timeout 3600)

.PHONY: help venv demo test test-parallel lint types docs docs-check bench bench-details gate lock release clean

help:
	@echo "make demo           solve a high-contrast problem on a multiscale space, print a table, draw a figure"
	@echo "make test           run the tests"
	@echo "make test-parallel  run the tests on $(RANKS) MPI ranks (RANKS=\"2 4\" chooses)"
	@echo "make lint, types    check style, formatting and the order of imports, check types"
	@echo "make docs           build the documentation in docs/_build/html, running all demos (EXECUTE=off: none)"
	@echo "make docs-check     look for broken links and, with Chromium, at the pages"
	@echo "make bench          make the tables of benchmarks/results anew (many hours; ARGS=--quick: minutes, elsewhere);"
	@echo "                    TABLES=\"time losses\" chooses; bench-details runs the other programs"
	@echo "make gate           whether any basis has become worse (a minute; ARGS=--record: after a change that is meant to)"
	@echo "make venv           only make .venv, with all of the above needs"
	@echo "make venv NN=1      the same with torch, for the learned bases and their tests (gigabytes); stays so"
	@echo "make venv BENCH=1   the same with the libraries that benchmarks compare with"
	@echo "make release        build wheel and sdist in dist, and test the wheel in an empty environment"
	@echo "make lock           write the requirements*.lock (ARGS=--upgrade: with the newest versions)"
	@echo "make clean          remove .venv and everything that is made from the sources"

venv:
	@sh .ci/setup

demo: venv
	$(PY) demos/demo_spe10.py $(ARGS)

test: venv
	$(PY) -m pytest $(ARGS)

# One process a rank; a test that hangs is named and ended (tests/conftest.py).
test-parallel: venv
	set -e; for n in $(RANKS); do echo "$$n ranks"; \
	  $(LIMIT) .venv/bin/mpiexec -n $$n $(PY) -m pytest $(ROOMS:%=tests/%) -x -q -m "not serial" $(ARGS) </dev/null; \
	done

lint: venv
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	.venv/bin/lint-imports --no-logo --no-cache

types: venv
	$(PY) -m mypy

# Needs torch too: its demos are executed, its classes described. What was executed before is kept until it changes. After
# a failure all pages are read again: of those that were read Sphinx would not complain twice.
docs docs-check: export DOCS = 1

docs: venv
	EXECUTE=$(EXECUTE) $(PY) -m sphinx -b html -W --keep-going $(ARGS) docs docs/_build/html \
	  || { rm -rf docs/_build/html/.doctrees; exit 1; }

docs-check: venv
	$(PY) docs/check.py

# A table that fails does not keep the others from being made.
bench bench-details: venv
	@failed=; for t in $(if $(filter bench,$@),$(TABLES),$(DETAILS)); do echo "bench_$$t.py $(ARGS)"; \
	  $(PY) benchmarks/bench_$$t.py $(ARGS) </dev/null || failed="$$failed $$t"; done; \
	[ -z "$$failed" ] || { echo "failed:$$failed"; exit 1; }

gate: venv
	$(PY) benchmarks/gate.py $(ARGS)

lock:
	@sh .ci/lock $(ARGS)

# Builds wheel and sdist into dist, and tests the wheel in an empty environment.
release: venv
	@sh .ci/release $(ARGS)

clean:
	rm -rf .venv build dist docs/_build docs/api .ci/log .mypy_cache .pytest_cache .ruff_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
