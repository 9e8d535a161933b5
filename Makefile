# Two commands to begin with: `make sweep` and `make test`. Both work on a fresh clone.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: sweep test test-slow lint install clean

sweep: $(INSTALLED)  ## A sweep over the sample that the package carries
	$(BIN)/kobert-tune sweep search_spaces/quickstart.yaml --name quickstart-$$(date +%Y%m%d-%H%M%S)

test: $(INSTALLED)  ## The tests, without the slow drills
	$(BIN)/python -m pytest -m "not slow"

test-slow: $(INSTALLED)  ## The slow drills: kills, hangs, clusters of several nodes, pictures
	$(BIN)/python -m pytest -m slow

lint: $(INSTALLED)  ## ruff, mypy, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache
