# One command set for people and CI. `make help` lists it.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV ?= .venv
PORT ?= 3000
HOST ?= 127.0.0.1
BIN := $(VENV)/bin
READY := $(VENV)/.installed
LOCKS := deploy/requirements
EXAMPLE := examples/digits

export BENTOML_DO_NOT_TRACK := True
export PYTHONDONTWRITEBYTECODE := 1

.PHONY: help setup import serve test test-fast test-all lint types check bento verify-rebuild verify-bento image image-test validators lock lock-check audit certify screenshots bench bench-quick bench-gpu bench-lock bench-report clean

help: ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'
	@echo "variables: PORT=3000 HOST=127.0.0.1 PYTHON=python3 VENV=.venv"

setup: $(READY) ## create or update the environment from the hash-pinned lock
	@echo "ready: $(VENV)"

SUPPORTED := (3, 11) <= sys.version_info < (3, 15)
# The lock is complete; with dependencies, pip would look for newer ones.
FROM_LOCK := --no-deps --require-hashes --only-binary :all: -r
PIP_INSTALL = $(BIN)/python -m pip install --disable-pip-version-check --progress-bar off $(FROM_LOCK)

# uv takes a third of pip's time. It does not read pip's configuration; UV_DEFAULT_INDEX sets a mirror.
$(READY): $(LOCKS)/dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if $(SUPPORTED) else "setup: Python is %d.%d, expected 3.11 to 3.14; set PYTHON=python3.12" % sys.version_info[:2])'
	@test ! -L $(VENV) || { echo "setup: $(VENV) is a link; remove it, or run make with VENV=$$(readlink $(VENV))" >&2; exit 1; }
	@echo "installing the packages of $< into $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@sed -n '/^uv==/,/[^\\]$$/p' $< > $(VENV)/uv.txt && $(PIP_INSTALL) $(VENV)/uv.txt --quiet
	@$(BIN)/uv pip install --python $(BIN)/python --compile-bytecode $(FROM_LOCK) $< \
		|| { echo "uv failed; retrying with pip, which takes three times as long"; $(PIP_INSTALL) $< --quiet; }
	@touch $@

import: $(READY) ## import the example model and write model.lock
	@$(BIN)/python model_import.py --name digits \
		--network $(EXAMPLE)/network.py:build --weights $(EXAMPLE)/weights.safetensors \
		--preprocessing $(EXAMPLE)/preprocessing.py:DigitsPreprocessing \
		--labels $(EXAMPLE)/labels.txt \
		--golden $(EXAMPLE)/samples --golden-labels $(EXAMPLE)/labels.csv

model.lock: | $(READY)
	@$(MAKE) --no-print-directory import

serve: $(READY) | model.lock ## serve the locked model (the example, if none is imported)
	@echo "starting on http://$(HOST):$(PORT)  (Ctrl-C stops)"
	@exec $(BIN)/bentoml serve --host $(HOST) --port $(PORT)

# Test processes may write bytecode, so that they need not rewrite the assertions of every test again.
# There is one process per core, so torch gets one thread in each.
PYTEST := env -u PYTHONDONTWRITEBYTECODE OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --dist loadgroup --durations=15

test: $(READY) ## run the tests and print the coverage
	@$(PYTEST) --cov

test-fast: $(READY) ## run the tests that start no server
	@$(PYTEST) -m "not slow and not all"

test-all: $(READY) ## run all tests, including network families, builds, images and fuzzing
	@$(PYTEST) -m "all or not all"

lint: $(READY) ## run ruff, and import-linter for the allowed imports between packages
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports --no-cache --no-logo

types: $(READY) ## run mypy --strict
	@$(BIN)/mypy

check: lint types test ## run lint, types and tests, as in CI

bento: $(READY) | model.lock ## build the bento of the locked model and start it once; START=no only builds
	@$(BIN)/python -m tools.release build $(if $(filter no,$(START)),--skip-start)

verify-rebuild: $(READY) | model.lock ## build the bento twice in different environments and compare
	@$(BIN)/python -m tools.release verify-rebuild

verify-bento: $(READY) ## compare a bento with the digest in its version: BENTO=PATH|TAG, default the latest
	@$(BIN)/python -m tools.release verify-bento $(or $(BENTO),image_classifier)

image: $(READY) | model.lock ## build the image with podman, buildah or docker: BASE=python:3.11-slim@sha256:...
	@$(BIN)/python -m tools.release image $(if $(BASE),--base $(BASE))

image-test: $(READY) | model.lock ## build the image twice with podman, compare, and run it locked down
	@CLASSIFIER_TEST_IMAGE_BASE=$(or $(BASE),debian) $(BIN)/python -m pytest -m all tests/tools/release/test_image.py

validators: $(READY) ## install optional validators of releases and manifests for the tests
	@$(PIP_INSTALL) $(LOCKS)/validate.txt --quiet

# Not `uv lock`, because uv.lock records the package index of one machine. Pinned versions are kept; to
# renew a package, delete its lines first.
RESOLVE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-header --no-annotate

lock: $(READY) ## resolve pyproject.toml into the locks of deploy/requirements
	@$(RESOLVE) pyproject.toml --extra gpu --group dev -o $(LOCKS)/dev.txt
	@$(RESOLVE) pyproject.toml -c $(LOCKS)/dev.txt -o $(LOCKS)/serve-cpu.txt
	@$(RESOLVE) pyproject.toml --extra gpu -c $(LOCKS)/dev.txt -o $(LOCKS)/serve-gpu.txt
	@$(RESOLVE) pyproject.toml --extra gpu-onnxruntime --no-emit-package onnxruntime -c $(LOCKS)/dev.txt \
		-o $(LOCKS)/serve-gpu-onnxruntime.txt
	@$(RESOLVE) --group validate -c $(LOCKS)/dev.txt -o $(LOCKS)/validate.txt

lock-check: lock ## fail if the committed locks do not fit pyproject.toml
	@git diff --exit-code --stat $(LOCKS)

screenshots: $(READY) | model.lock ## take the pictures of the page for README and docs, with Debian's chromium
	@$(BIN)/python -m tools.screenshots

audit: $(READY) ## ask PyPI for known vulnerabilities of the pinned packages (docs/security.md)
	@for lock in serve-cpu serve-gpu serve-gpu-onnxruntime dev; do \
		$(BIN)/uv tool run --quiet pip-audit@2.10.1 --strict --no-deps --disable-pip -r $(LOCKS)/$$lock.txt || exit 1; \
	done

certify: $(READY) | model.lock ## measure the rate this machine sustains; RATE=200 proposes replicas
	@$(BIN)/python -m tools.certify $(if $(RATE),--rate $(RATE))

# Peers and this project run on the system's Python if there is one: builds differ in speed, and Triton
# brings an interpreter that does not fit the standard library of another patch release.
BENCH_PYTHON ?= $(firstword $(wildcard /usr/bin/python3) $(PYTHON))
BENCH_ENV := build/benchmarks/venv
BENCH_LOCK := tools/benchmarks/requirements/bench.txt
OWN_ENV := build/benchmarks/serving

$(BENCH_ENV)/.installed: $(BENCH_LOCK) | $(READY)
$(OWN_ENV)/.installed: $(LOCKS)/serve-cpu.txt | $(READY)
$(BENCH_ENV)/.installed $(OWN_ENV)/.installed:
	@$(BIN)/uv venv --quiet --clear --python $(BENCH_PYTHON) $(@D)
	@$(BIN)/uv pip install --quiet --python $(@D)/bin/python --require-hashes -r $<
	@touch $@

bench: $(READY) $(BENCH_ENV)/.installed $(OWN_ENV)/.installed ## measure this project and its peers for docs/performance.md (hours)
	@$(BIN)/python -m tools.benchmarks full
	@$(MAKE) --no-print-directory bench-report

bench-quick: $(READY) $(BENCH_ENV)/.installed $(OWN_ENV)/.installed ## measure ResNet-50 int8, every peer once (7 minutes), and print it
	@$(BIN)/python -m tools.benchmarks quick

bench-gpu: $(READY) ## measure large networks on this machine's GPU (8 minutes), print and store the results
	@$(BIN)/python -m tools.benchmarks.gpu

bench-lock: $(READY) ## resolve the lock of the benchmark's environment again
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-header --no-annotate $(BENCH_LOCK:.txt=.in) --output-file $(BENCH_LOCK)

bench-report: $(BENCH_ENV)/.installed ## write docs/performance.md from the stored sessions
	@$(BENCH_ENV)/bin/python -m tools.benchmarks report

clean: ## remove the environment and the caches of tools
	rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
