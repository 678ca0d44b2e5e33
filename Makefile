# Works with GNU make 3.81. Installs into the active virtual environment, else into .venv.

PYTHON ?= python3
VENV := $(if $(VIRTUAL_ENV),$(VIRTUAL_ENV),.venv)
BIN := $(VENV)/bin

# A stamp is touched when its install has ended well, so that one happens once per change of what it depends on.
DEV := $(VENV)/.velodrome-dev
DEMO := $(VENV)/.velodrome-demo
INPUTS := pyproject.toml constraints.txt

.PHONY: help demo test check bench chaos fix golden install tools

help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(if $(wildcard $(DEV)),$(DEV),$(DEMO)) ## From real flights to an approved champion.
	$(BIN)/python examples/flights/demo.py

test: tools ## Everything: format, lint, types, imports, every test.
	$(BIN)/pytest --numprocesses 2 --dist worksteal

check: tools ## The same without the slow tests: about a minute.
	PYTHONDONTWRITEBYTECODE= $(BIN)/pytest --quiet -m "not slow" --numprocesses 2 --dist worksteal

bench: $(DEV) ## Run each benchmark; a ratio is printed last.
	@status=0; for file in benchmarks/bench_*.py; do echo "$$file"; $(BIN)/python "$$file" || status=1; done; exit $$status

chaos: $(DEV) ## Storms of kills and faults over stores and trainings: nothing may be missing; SEED=17 for one.
	@status=0; for file in storm training_storm; do \
		$(BIN)/python tests/chaos/$$file.py $(if $(SEED),--seed $(SEED)) || status=1; done; exit $$status

fix: $(DEV) ## Format, and mend what the linter can mend.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

golden: $(DEV) ## Write the golden files anew; read the diff before you commit it.
	$(BIN)/pytest --quiet --golden

install: $(DEV)

tools: $(DEV)
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo --no-cache

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "velodrome needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)

$(DEV): $(INPUTS) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[dev]' --constraint constraints.txt
	@touch $@

$(DEMO): $(INPUTS) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[torch,examples]' --constraint constraints.txt
	@touch $@
