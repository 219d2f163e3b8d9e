# The door. Every target does all the set-up it needs; `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
TRAIN := algo=trpo env=Hopper-v4 total_steps=500_000
ARGS ?=
WANTED := -c constraints.txt -e ".[dev]"
# Of what pip says, the large downloads, so that one sees it work.
export SHORT := /Downloading .* [MG]B/ { print "  " $$2, $$3, $$4; fflush() } \
	/^Installing collected/ { print "  installing " NF - 3 " packages"; fflush() }
# The tests run on every core.
PARALLEL := --numprocesses=auto --dist=worksteal

.DEFAULT_GOAL := help
.PHONY: help install train test test-slow check bench tensorboard clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | while IFS=$$(printf '\t') read -r name text; do \
		printf '  make %-12s %s\n' "$$name" "$$text"; done

install: $(INSTALLED) ## set up .venv with the tested versions, and the package in it
	@:

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed; set PYTHON=")'
	@echo 'installing the tested versions into $(VENV): a few minutes, and some gigabytes for torch, unless pip has them'
	@$(PYTHON) -m venv $(VENV)
	@bash -o pipefail -c '$(BIN)/python -m pip install --disable-pip-version-check $(WANTED) | awk "$$SHORT"'
	@touch $@
	@echo 'installed; now type:  source $(BIN)/activate   and then:  trpo-train --help'

train: install ## train TRPO on Hopper-v4, a minute or two; ARGS="algo=ppo env=CartPole-v1" overrides
	$(BIN)/trpo-train $(TRAIN) $(ARGS)

test: install ## the tests; `make check`, which CI runs, looks at format, lint and types first
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow"

test-slow: install ## the tests that take longer: learning over seeds, mutants of the core, a clean installation
	$(BIN)/python -m pytest $(PARALLEL) -m slow

check: install ## format, lint, types and then `make test`
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(MAKE) test

bench: install ## how fast, against the physics engine and others; ARGS="--tasks Hopper-v4" for less
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,bench]'
	$(BIN)/python tests/bench.py $(ARGS)

tensorboard: install ## look at every run under runs/; ARGS="--port 6007" for another port
	$(BIN)/tensorboard --logdir runs $(ARGS)

clean: ## remove the virtual environment and caches; runs stay
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
