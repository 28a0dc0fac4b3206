# `make help` lists the commands. Needs Python 3.11, 3.12 or 3.13.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo $$python && break; done)
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
SERVING := $(VENV)/.installed-to-serve
LOCK := $(BIN)/uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-header --no-annotate --quiet

.PHONY: help install install-serve wheel demo up bento test test-deployment test-engines test-docs lint type bench docs soak fuzz chaos lock audit clean

help: ## List all commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 17

install: $(INSTALLED) ## Create the virtual environment and install the locked packages

install-serve: $(SERVING) ## The same without training and tests: smaller, without TensorFlow

wheel: $(INSTALLED) ## Build the package into dist/
	@$(BIN)/python -m hatchling build --target wheel

demo: $(INSTALLED) ## Train on Fashion-MNIST, serve, and score 10,000 images; leaves nothing running
	@$(BIN)/python -m demo

up: $(or $(wildcard $(SERVING)),$(INSTALLED)) ## Run an embedded Redis, a worker and the service until Ctrl-C
	@$(BIN)/loupe up

bento: $(INSTALLED) ## Build a Bento with the newest fashion-mnist model in the store
	@$(BIN)/loupe models show fashion-mnist >/dev/null
	@BENTOML_DO_NOT_TRACK=True $(BIN)/bentoml build

test: $(INSTALLED) ## Run the tests in three processes, as some of them wait
	$(BIN)/pytest --numprocesses 3 --dist worksteal

test-deployment: $(INSTALLED) ## Build the images, run everything in containers, and test failures; needs Docker or LOUPE_CONTAINER_ENGINE
	$(BIN)/pytest tests/deployment -m containers -rs --durations=20 --durations-min=1

test-engines: $(INSTALLED) ## Install Ray, Spark and Dask, and test scoring inside them; Spark needs Java 17
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --require-hashes -r requirements/engines.txt
	@command -v java >/dev/null || echo 'skipping Spark, which needs Java 17: apt-get install openjdk-17-jre-headless'
	$(BIN)/pytest tests/worker/adapters -m engines -rs

test-docs: $(INSTALLED) ## Run the documented commands that train, install or wait; half an hour. `make test` runs the others
	$(BIN)/pytest tests/documentation -m docs -rs --durations=20 --durations-min=1

lint: $(INSTALLED) ## Check style and import directions
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

type: $(INSTALLED) ## Check types
	$(BIN)/mypy

bench: $(INSTALLED) ## Compare the service and bulk scoring with plain loops, other servers, queues and engines; half an hour
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --require-hashes -r requirements/bench.txt || echo 'continuing without other servers and queues'
	@$(BIN)/python -m bench

docs: $(INSTALLED) ## Build the documentation site into dist/docs
	@PYTHONPATH=. $(BIN)/mkdocs build

soak: $(INSTALLED) ## Load the service with mixed traffic for half an hour, and check that it stays stable
	@$(BIN)/python -m tests.stress.soak

fuzz: $(INSTALLED) ## Send the service 100,000 valid, wrong and broken requests, and check every answer
	@$(BIN)/python -m tests.stress.fuzz

chaos: $(INSTALLED) ## Score for ten minutes while workers are killed and Redis restarts, and compare the results
	@$(BIN)/python -m tests.stress.chaos

lock: $(INSTALLED) ## Upgrade all locked packages within the bounds of pyproject.toml
	$(LOCK) --upgrade --all-extras --group dev --output-file requirements/dev.txt
	for extra in service grpc tracing heif openvino worker s3 train; do \
		$(LOCK) --upgrade --extra $$extra --constraint requirements/dev.txt --output-file requirements/$$extra.txt; done
	$(LOCK) --upgrade --group bench --constraint requirements/dev.txt --output-file requirements/bench.txt
	$(LOCK) --upgrade --group engines --constraint requirements/dev.txt --output-file requirements/engines.txt
	echo uv | $(BIN)/uv pip compile - --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--no-header --no-annotate --quiet --upgrade --output-file requirements/uv.txt

audit: $(INSTALLED) ## Check the locked packages for known vulnerabilities
	for lock in dev bench engines uv; do $(BIN)/uvx --quiet pip-audit --disable-pip --require-hashes --requirement requirements/$$lock.txt; done

clean: ## Remove the virtual environment and all caches
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

define new-venv
@test -n '$(PYTHON)' || { echo 'Loupe needs Python 3.11, 3.12 or 3.13; found: '$$(python3 --version 2>&1) >&2; exit 1; }
@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo '$(PYTHON) cannot create virtual environments. On Debian: apt install python3-venv' >&2; exit 1; }
@$(PYTHON) -m venv --clear $(VENV)
@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
endef

define installed
@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --no-deps --no-build-isolation --offline --editable .
@touch $@
@echo "Installed: $$(du -sh $(VENV) | cut -f1). Next: source $(BIN)/activate, then loupe"
endef

$(INSTALLED): requirements/dev.txt requirements/uv.txt pyproject.toml
	@echo 'Installing Loupe, all its extras and what its tests need: 4.1 GB of disk, most of it for TensorFlow.'
	@echo 'Only to serve and score, without training and tests: make install-serve, 0.6 GB.'
	$(new-venv)
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --require-hashes --compile-bytecode -r requirements/dev.txt
	$(installed)

$(SERVING): requirements/service.txt requirements/worker.txt requirements/heif.txt requirements/uv.txt pyproject.toml
	@echo 'Installing Loupe without training: 0.6 GB of disk. It replaces $(VENV).'
	$(new-venv)
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --require-hashes --compile-bytecode \
		-r requirements/service.txt -r requirements/worker.txt -r requirements/heif.txt
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --constraint requirements/dev.txt hatchling editables
	$(installed)
