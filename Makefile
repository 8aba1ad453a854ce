# One command set for people and CI. `make help` lists it.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV ?= .venv
PORT ?= 3000
HOST ?= 127.0.0.1
BIN := $(VENV)/bin
READY := $(VENV)/.installed
EXAMPLE := examples/digits

export BENTOML_DO_NOT_TRACK := True
export PYTHONDONTWRITEBYTECODE := 1

.PHONY: help setup import serve test lint types check bento verify-rebuild verify-bento image image-test validate lock lock-check certify bench bench-quick clean

help: ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'
	@echo "variables: PORT=3000 HOST=127.0.0.1 PYTHON=python3 VENV=.venv"

setup: $(READY) ## create the environment from the hash-pinned lock

$(READY): requirements/dev.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; (3, 11) <= v < (3, 14) or sys.exit(f"make: Python is {v[0]}.{v[1]}, expected 3.11 to 3.13; set PYTHON=python3.12 or the like")'
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "make: Python has no venv; on Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	@echo "creating $(VENV) from requirements/dev.txt (about 3 GB to fetch the first time)"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/pip install --disable-pip-version-check --require-hashes --only-binary :all: -r requirements/dev.txt
	@touch $@

import: $(READY) ## import the example model and write model.lock
	@$(BIN)/python model_import.py --name digits \
		--network $(EXAMPLE)/network.py:build --weights $(EXAMPLE)/weights.safetensors \
		--preprocessing $(EXAMPLE)/preprocessing.py:DigitsPreprocessing \
		--labels $(EXAMPLE)/labels.txt --golden $(EXAMPLE)/samples

model.lock: | $(READY)
	@$(MAKE) --no-print-directory import

serve: $(READY) | model.lock ## serve the locked model (the example, if none is imported)
	@echo "serving on http://$(HOST):$(PORT)  (Ctrl-C stops)"
	@exec $(BIN)/bentoml serve --host $(HOST) --port $(PORT)

test: $(READY) ## run the tests
	@$(BIN)/python -m pytest

lint: $(READY) ## ruff
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(READY) ## mypy --strict
	@$(BIN)/mypy

check: lint types test ## lint, types, tests: what CI runs

bento: $(READY) | model.lock ## build the bento of the locked model
	@$(BIN)/python -m release build

verify-rebuild: $(READY) | model.lock ## build the bento twice in different surroundings, compare
	@$(BIN)/python -m release verify-rebuild

verify-bento: $(READY) ## compare a bento with its manifest: BENTO=PATH|TAG, default the latest
	@$(BIN)/python -m release verify-bento $(or $(BENTO),image_classifier)

image: $(READY) | model.lock ## build the image with podman, buildah or docker: BASE=python:3.11-slim@sha256:...
	@$(BIN)/python -m release image $(if $(BASE),--base $(BASE))

image-test: $(READY) | model.lock ## build the image twice, compare, run it locked down
	@$(BIN)/python -m release image-test $(if $(BASE),--base $(BASE))

validate: $(READY) ## add the validators of requirements/validate.txt, test releases and manifests
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r requirements/validate.txt
	@$(BIN)/python -m pytest tests/release tests/deploy

lock: $(READY) ## resolve the requirement locks anew
	@for name in dev serve-cpu serve-gpu validate; do \
		if [ $$name = dev ]; then constraint=; else constraint="--constraint requirements/dev.txt"; fi; \
		$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
			--no-emit-index-url --no-header --no-annotate $$constraint \
			requirements/$$name.in --output-file requirements/$$name.txt || exit 1; \
	done

lock-check: $(READY) ## check the locks for drift: complete, hashed, one version everywhere
	@$(BIN)/python -m release lock-check

certify: $(READY) | model.lock ## measure the rate this machine holds; RATE=200 proposes replicas
	@$(BIN)/python -m tools.certify $(if $(RATE),--rate $(RATE))

# The peers run on the system's Python where there is one: Triton brings an interpreter that the
# standard library of another patch release does not fit.
BENCH_PYTHON ?= $(firstword $(wildcard /usr/bin/python3) $(PYTHON))
.PHONY: bench-lock bench-report
BENCH_ENV := build/benchmarks/venv
BENCH_LOCK := tools/benchmarks/requirements/bench.txt

$(BENCH_ENV)/.installed: $(BENCH_LOCK) | $(READY)
	@$(BIN)/uv venv --quiet --clear --python $(BENCH_PYTHON) $(BENCH_ENV)
	@$(BIN)/uv pip install --quiet --python $(BENCH_ENV)/bin/python --require-hashes -r $<
	@touch $@

bench: $(READY) $(BENCH_ENV)/.installed ## measure this project and its peers for docs/performance.md (hours)
	@$(BIN)/python -m tools.benchmarks full
	@$(MAKE) --no-print-directory bench-report

bench-quick: $(READY) $(BENCH_ENV)/.installed ## ResNet-50 int8, every peer once, about 6 minutes; printed
	@$(BIN)/python -m tools.benchmarks quick

bench-lock: $(READY) ## resolve the lock of the benchmark's environment anew
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-header --no-annotate $(BENCH_LOCK:.txt=.in) --output-file $(BENCH_LOCK)

bench-report: $(BENCH_ENV)/.installed ## write docs/performance.md from the stored sessions
	@$(BENCH_ENV)/bin/python -m tools.benchmarks report

clean: ## remove the environment and what tools left
	rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
