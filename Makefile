# make setup | demo | test: all that a new machine needs is Python 3.11 or newer, make and a package index.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: setup demo test lint types contracts unit foreign system clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: setup
	$(BIN)/tutelage run digits --out runs/digits

test: lint types contracts unit foreign

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

contracts: setup
	$(BIN)/lint-imports

unit: setup system
	$(BIN)/pytest -n 2

# TensorFlow and JAX are large, and only teachers are made of them: an environment of its own, 2.5 GB, for their tests.
FOREIGN := .venv/foreign
foreign: setup
	@test -x $(FOREIGN)/bin/python || $(PYTHON) -m venv $(FOREIGN)
	$(FOREIGN)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
	  -e '.[dev,tensorflow,jax]'
	$(FOREIGN)/bin/pytest -n 2 $(wildcard tests/test_foreign_*.py)

# Only on a CI machine, and only as root: a browser for the tests of the page, and Fashion-MNIST for those of its loader.
# Without them these tests say why they are skipped.
system:
	@if [ -n "$$CI" ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
	  ! { command -v chromium >/dev/null && [ -d /usr/share/datasets/fashion-mnist ]; }; then \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium dataset-fashion-mnist; \
	fi >/dev/null 2>&1 || echo "no system packages installed: tests that need them will be skipped"

clean:
	rm -rf .venv runs build dist .mypy_cache .ruff_cache .pytest_cache
