# One verb per chore; `make help` lists them. Needs Python 3.10, 3.11 or 3.12.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= $(shell for python in python3 python3.12 python3.11 python3.10; do \
	$$python -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 13))' 2>/dev/null && echo $$python && break; done)
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
LOCK := $(BIN)/uv pip compile pyproject.toml --universal --python-version 3.10 --generate-hashes \
	--no-emit-index-url --no-header --no-annotate --quiet

.PHONY: help install demo up bento test test-deployment lint type bench soak fuzz chaos lock audit clean

help: ## List the chores
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 17

install: $(INSTALLED) ## Make the virtual environment and install the locked packages

demo: $(INSTALLED) ## Train on Fashion-MNIST, serve, and bulk-score 10,000 images; leaves nothing running
	@$(BIN)/python -m demo

up: $(INSTALLED) ## Run an embedded Redis, a worker and the service until Ctrl-C
	@$(BIN)/loupe up

bento: $(INSTALLED) ## Build the Bento, of the fashion-mnist that is the newest in the store
	@$(BIN)/loupe models show fashion-mnist >/dev/null
	@BENTOML_DO_NOT_TRACK=True $(BIN)/bentoml build

test: $(INSTALLED) ## Run the tests, two at a time
	$(BIN)/pytest --numprocesses 2 --dist worksteal

test-deployment: $(INSTALLED) ## Build the images, run all of it in containers, and break it; needs Docker, or LOUPE_CONTAINER_ENGINE
	$(BIN)/pytest tests/deployment -m containers -rs --durations=20 --durations-min=1

lint: $(INSTALLED) ## Check style and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

type: $(INSTALLED) ## Check types
	$(BIN)/mypy

bench: $(INSTALLED) ## Measure the service and bulk scoring beside plain loops, other servers and other queues; half an hour
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --require-hashes -r requirements/bench.txt || echo 'going on without other servers and queues'
	@$(BIN)/python -m bench

soak: $(INSTALLED) ## Load the service with everything at once for half an hour, and see that it stays as it was
	@$(BIN)/python -m bench.soak

fuzz: $(INSTALLED) ## Send the service 100,000 requests, right, wrong and broken, and see that it answers rightly or refuses
	@$(BIN)/python -m bench.fuzz

chaos: $(INSTALLED) ## Score in bulk for ten minutes while workers are killed and Redis is restarted, and see that the results are the same
	@$(BIN)/python -m tests.chaos

lock: $(INSTALLED) ## Choose newer versions of all packages within the bounds of pyproject.toml
	$(LOCK) --upgrade --all-extras --group dev --output-file requirements/dev.txt
	for extra in service grpc tracing worker s3 train; do \
		$(LOCK) --upgrade --extra $$extra --constraint requirements/dev.txt --output-file requirements/$$extra.txt; done
	$(LOCK) --upgrade --group bench --constraint requirements/dev.txt --output-file requirements/bench.txt
	echo uv | $(BIN)/uv pip compile - --universal --python-version 3.10 --generate-hashes --no-emit-index-url \
		--no-header --no-annotate --quiet --upgrade --output-file requirements/uv.txt

audit: $(INSTALLED) ## Ask PyPI for known vulnerabilities of the locked packages
	for lock in dev bench uv; do $(BIN)/uvx --quiet pip-audit --disable-pip --require-hashes --requirement requirements/$$lock.txt; done

clean: ## Remove the virtual environment and all caches
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): requirements/dev.txt requirements/uv.txt pyproject.toml
	@test -n '$(PYTHON)' || { echo 'Loupe needs Python 3.10, 3.11 or 3.12; found: '$$(python3 --version 2>&1) >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo '$(PYTHON) cannot make virtual environments. On Debian: apt install python3-venv' >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --require-hashes --compile-bytecode -r requirements/dev.txt
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --no-deps --no-build-isolation --offline --editable .
	@touch $@
