# make demo: from nothing to a validated submission on synthetic data.   make test: all tests.
PYTHON ?= python3
BIN := .venv/bin
# the longest files first (tests/conftest.py), which pytest-xdist would else reorder
PYTEST := $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

.PHONY: demo test test-fast lint setup

setup: .venv/installed

.venv/installed: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "the kit needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@

demo: setup
	rm -rf runs/demo
	$(BIN)/python scripts/train.py --data demo --recipe demo --arch resnet34 --time-budget 180s --run demo
	$(BIN)/python scripts/predict.py demo
	$(BIN)/python scripts/tune_threshold.py demo
	$(BIN)/python scripts/submit.py demo --dry-run
	$(BIN)/python scripts/report.py demo

test: setup
	$(PYTEST)

test-fast: setup
	$(PYTEST) -m 'not slow'

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
