# Every target makes what it needs: on a fresh machine, `make test` is the whole set-up.
# Needed beforehand: make, git, and Python 3.11 or newer with its venv module.

VENV := .venv
BIN := $(VENV)/bin
OUT := build

# What the demonstration, the benchmark and pytest are given, for example: make test PYTEST_ARGS="-k lifecycle"
DEMO_ARGS ?=
BENCH_ARGS ?=
PYTEST_ARGS ?=

# In how many processes the suite runs: one per core, at most four. PYTEST_WORKERS=0 is this one process, as --pdb needs it.
# With two on two busy cores it takes two thirds of the time.
PYTEST_WORKERS ?= logical
SUITE = -p tests.measure -n $(PYTEST_WORKERS) --maxprocesses 4 --dist worksteal -m 'not chaos' $(PYTEST_ARGS)

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1

# An interpreter counts only if it really runs (a version manager's shim may be there and fail) and can make environments.
PROBE := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for python in python3.13 python3.12 python3.11 python3; do \
	$$python -c '$(PROBE)' >/dev/null 2>&1 && { echo $$python; break; }; done)

# What the type checkers read strictly; folders that are not there yet are left out.
TYPED = trepid $(wildcard demo benchmarks tests/types)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:

.PHONY: help
help: ## Show the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# ------------------------------------------------------------------------------------------------ environment

# Made again when its interpreter is gone; the stamps inside it say which requirements are in.
ifneq ($(shell $(BIN)/python -c 'print(1)' 2>/dev/null),1)
$(VENV)/.made: FORCE
endif

$(VENV)/.made:
	@python='$(PYTHON)'; \
	if [ -z "$$python" ]; then \
		echo 'Trepid needs Python 3.11 or newer (with venv), and none was found; name one: make PYTHON=...' >&2; exit 1; \
	fi; \
	if ! "$$python" -c '$(PROBE)' >/dev/null 2>&1; then \
		echo "Trepid needs Python 3.11 or newer (with venv), and $$python is: $$("$$python" --version 2>&1 | head -n 1)" >&2; exit 1; \
	fi; \
	echo "Making $(VENV) with $$("$$python" --version)"; \
	"$$python" -m venv --clear $(VENV)
	@# Dependency groups need pip 25.1.
	@$(BIN)/python -m pip install --quiet --upgrade pip
	@touch $@

# Enough for `make demo`.
$(VENV)/.run: $(VENV)/.made pyproject.toml
	@echo 'Installing Trepid with the extras cli and process'
	@$(BIN)/python -m pip install --quiet --editable '.[cli,process]'
	@touch $@

# Enough for everything.
$(VENV)/.dev: $(VENV)/.made pyproject.toml
	@echo 'Installing Trepid with all extras and the tools of its developers'
	@$(BIN)/python -m pip install --quiet --editable '.[all]' --group dev
	@touch $(VENV)/.run $@

.PHONY: servers
servers: $(VENV)/.made ## Install the servers that the tests start (apt-get; elsewhere it says what to install)
	@$(BIN)/python -m tests.servers.install

.PHONY: FORCE
FORCE:

# ------------------------------------------------------------------------------------------------ what one does

.PHONY: demo
demo: $(VENV)/.run ## Show Trepid at work (DEMO_ARGS: a directory, by default this one)
	$(BIN)/python -m demo $(DEMO_ARGS)

.PHONY: test
test: $(VENV)/.dev servers ## Run the whole suite, with the coverage that it must reach
	$(BIN)/python -m pytest $(SUITE)

.PHONY: coverage
coverage: $(VENV)/.dev servers ## Run the suite and write its coverage as HTML to build/coverage
	@$(BIN)/python -m pytest $(SUITE); verdict=$$?; \
	$(BIN)/coverage html --fail-under=0 && exit $$verdict

.PHONY: chaos
chaos: $(VENV)/.dev servers ## Run the long storm of killed workers
	$(BIN)/python -m pytest -m chaos -o faulthandler_exit_on_timeout=false $(PYTEST_ARGS)

.PHONY: bench
bench: $(VENV)/.dev servers ## Measure Trepid beside a rival
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

.PHONY: engines
engines: $(VENV)/.dev servers ## Put all engines to the conformance suite, and write the table of what each of them can
	$(BIN)/python -m tests.brokers.engine_table

.PHONY: docs
docs: $(VENV)/.dev ## Build the documentation to build/docs, warnings are errors
	$(BIN)/sphinx-build -q -W -n -E -b html -d $(OUT)/doctrees docs $(OUT)/docs
	@echo 'The documentation is in $(OUT)/docs/index.html'

.PHONY: format
format: $(VENV)/.dev ## Format the code and mend what can be mended by itself
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

.PHONY: clean
clean: ## Remove the environment and everything that was built
	rm -rf $(VENV) $(OUT) dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# ------------------------------------------------------------------------------------------------ gates

.PHONY: check
check: lint types rooms ## Run all gates: lint, types, rooms (with `make -k check`, also past the first that fails)

.PHONY: lint
lint: $(VENV)/.dev ## Gate: style (ruff), format, and Trio's own rules (flake8-async)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/flake8 trepid tests $(wildcard demo benchmarks)

.PHONY: types
types: $(VENV)/.dev ## Gate: types, with mypy and with pyright
	$(BIN)/mypy $(TYPED)
	$(BIN)/pyright --pythonpath $(BIN)/python --warnings

.PHONY: rooms
rooms: $(VENV)/.dev ## Gate: who may import whom (import-linter)
	$(BIN)/lint-imports

.PHONY: types-public
types-public: $(VENV)/.dev ## Show how much of the public interface is typed
	$(BIN)/pyright --pythonpath $(BIN)/python --ignoreexternal --verifytypes trepid
