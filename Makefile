# Every verb sets up what it needs from a plain python3 >= 3.11. `make demo` and `make test` are the two to know.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
DEMO := demo
FIXTURE := fixtures/twelve_bit

# Figures of these runs are in docs/reliability.md.
CRASH_TESTS := tests/store/test_boundaries.py tests/store/test_faults.py tests/store/test_machine.py tests/cli/test_kills.py

.PHONY: help demo test crash-test fuzz lint format types bench docs clean

help:            ## list the verbs
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/'

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if v >= (3, 11) else f"repstat needs python3 >= 3.11, found {v.major}.{v.minor}; name another with: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.base: $(VENV)/.created pyproject.toml constraints.txt
	@echo "Setting up repstat with its base dependencies in $(VENV) ..."
	$(PIP) install --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.plot: $(VENV)/.base
	@echo "Adding what reports and figures need ..."
	$(PIP) install --constraint constraints.txt --editable '.[plot]'
	@touch $@

# torch goes first, at its exact version: an index that offers a CPU build of it is then content with that one.
$(VENV)/.dev: $(VENV)/.base
	@echo "Adding the development tools and every framework (several GB) ..."
	$(PIP) install --constraint constraints.txt torch
	$(PIP) install --constraint constraints.txt "pip>=25.1"
	$(PIP) install --constraint constraints.txt --group dev --editable '.[torch,tensorflow,plot]'
	@touch $@

demo: $(VENV)/.plot  ## extract, analyse and report the real training trajectory in fixtures/
	@mkdir -p $(DEMO)
	$(BIN)/repstat extract $(FIXTURE)/step-*.onnx --inputs $(FIXTURE)/data.npz --metrics $(FIXTURE)/metrics.csv -o $(DEMO)/acts.h5 --overwrite
	$(BIN)/repstat analyze $(DEMO)/acts.h5 -o $(DEMO)/acts.results.h5 --csv $(DEMO)/acts.csv --overwrite
	$(BIN)/repstat report $(DEMO)/acts.results.h5 --overwrite

test: $(VENV)/.dev  ## the whole test suite, with every framework
	REPSTAT_REQUIRE_ALL=1 $(BIN)/python -m pytest $(PYTEST_ARGS)

crash-test: $(VENV)/.dev  ## every write boundary, loss of power, fault and 200 kills of an extraction (30 to 45 minutes)
	REPSTAT_CRASH_EVERY=$${REPSTAT_CRASH_EVERY:-2} $(BIN)/python -m pytest -m crash $(CRASH_TESTS) $(PYTEST_ARGS)

fuzz: $(VENV)/.dev  ## 10,000 broken stores and results, every command at each (20 minutes; FUZZ_ARGS="--seed 2")
	$(BIN)/python -m tests.store.fuzz $(FUZZ_ARGS)

lint: $(VENV)/.dev  ## ruff and import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

format: $(VENV)/.dev  ## rewrite the sources the way `make lint` wants them
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/.dev  ## mypy --strict
	$(BIN)/mypy

bench: $(VENV)/.dev  ## time and memory against peers
	$(BIN)/python benchmarks/run.py

docs: $(VENV)/.dev  ## regenerate docs/cli.md from --help
	$(BIN)/python docs/make_cli.py

clean:           ## remove the virtual environment, caches and the demo's output
	rm -rf $(VENV) $(DEMO) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
