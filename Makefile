# Thin names over the programs that do the work; `make help` lists them.
# Works with the make of macOS (3.81) as well.

SHELL := /bin/sh
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# Any Python: scripts/bootstrap.py looks for a newer one when this is too old.
PYTHON ?= $(or $(firstword $(foreach name,python3 python3.13 python3.12 python3.11,\
            $(shell command -v $(name) 2>/dev/null))),python3)
SETUP = $(PYTHON) scripts/bootstrap.py
BIN := .venv/bin
# Arguments for the program behind a target: make run ARGS="--port 9000"
ARGS ?=
# Of make chaos: seconds, and what chooses the faults.
DURATION ?= 120
SEED ?= 1

help: ## list these targets
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' \
		$(MAKEFILE_LIST)

setup: ## make .venv with the packages to run the service, checked against their hashes
	@$(SETUP) run

run: ## serve on 127.0.0.1:8080 with embedded servers and a demo ledger (ARGS="--port 9000")
	@$(SETUP) run
	@exec $(BIN)/tallystick serve $(ARGS)

# Bytecode is kept whatever the environment says: hundreds of processes are started, and each would compile the program.
test: ## the whole suite (ARGS="tests/unit -k name" for a part)
	@$(SETUP) test
	@$(SETUP) locust
	@$(SETUP) peer
	@$(SETUP) contract
	@$(SETUP) docs
	@env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pytest -n 4 --dist worksteal $(ARGS)

contract: ## a running server against its OpenAPI document, for a minute (CONTRACT_SECONDS=600 CONTRACT_SEED=2)
	@$(SETUP) test
	@$(SETUP) contract
	@$(BIN)/python -m pytest -q -s -p no:xdist tests/contract/against_server.py $(ARGS)

lint: ## ruff, mypy, import-linter, SQL checks
	@$(SETUP) test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/check_sql.py
	$(BIN)/squawk sql/migrations/*.sql

format: ## let ruff put the code in order
	@$(SETUP) test
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

load: ## virtual users, then a check of all they were promised (ARGS="--scenario payments --ui")
	@$(SETUP) load
	@$(SETUP) locust
	@exec $(BIN)/python -m loadtests.kit $(ARGS)

replay: ## replay a real bank's books and check every balance (ARGS=--help)
	@$(SETUP) load
	@exec $(BIN)/python -m loadtests.openloop replay $(ARGS)

overload: ## what a server does at 1 to 10 times its peak, and afterwards (ARGS=--help)
	@$(SETUP) load
	@exec $(BIN)/python -m loadtests.openloop overload $(ARGS)

connections: ## ten thousand callers that ask now and then (ARGS=--help)
	@$(SETUP) load
	@exec $(BIN)/python -m loadtests.openloop connections $(ARGS)

neighbour: ## what a caller notices of one that floods (ARGS=--help)
	@$(SETUP) load
	@exec $(BIN)/python -m loadtests.openloop neighbour $(ARGS)

chaos: ## kill, freeze, cut off and flush every part under load, and check (DURATION=600 SEED=1)
	@$(SETUP) load
	@exec $(BIN)/python -m loadtests.chaos --seconds $(DURATION) --seed $(SEED) $(ARGS)

bench: ## measure it beside others, write benchmarks.md and its plots (ARGS="--quick", ARGS=--help)
	@$(SETUP) load
	@$(SETUP) bench
	@exec $(BIN)/python -m loadtests.bench $(ARGS)

screenshots: ## pictures of the console and the reference into docs/pictures, from demo data (ARGS="--only console")
	@$(SETUP) test
	$(BIN)/python -m scripts.screenshots $(ARGS)

docs: ## build the documentation into site/, and check its links
	@$(SETUP) run
	@$(SETUP) docs
	@NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build $(ARGS)

lock: ## rewrite requirements/*.txt from pyproject.toml (ARGS=--upgrade for newer versions)
	@scripts/lock.sh $(ARGS)

wheel: ## build dist/tallystick-*.whl and dist/tallystick_client-*.whl, offline
	@$(SETUP) run
	@$(BIN)/python -m hatchling build --target wheel
	@cd client && ../$(BIN)/python -m hatchling build --target wheel --directory ../dist

clean: ## remove caches, builds and reports; leaves .venv* and data alone
	rm -rf dist reports site .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -path "./.venv*" -prune -o -name __pycache__ -type d -exec rm -rf {} +

.PHONY: help setup run test contract lint format load replay overload connections neighbour chaos bench screenshots docs lock wheel clean
