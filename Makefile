# Two commands to begin with: `make sweep` and `make test`. Both work on a fresh clone.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
ORIGINAL := .venv-original

.PHONY: sweep test test-parts test-whole test-slow cases notebooks drills drills-kills drills-stores drills-others azurite ray-versions schema lint docs reference pictures bench gpu original install clean

sweep: $(INSTALLED)  ## A sweep over the sample that the package carries
	$(BIN)/kobert-tune sweep search_spaces/quickstart.yaml --name quickstart-$$(date +%Y%m%d-%H%M%S)
	@echo 'for the commands of the README: . $(BIN)/activate'

test: $(INSTALLED)  ## The tests, without the slow ones: those of parts and those of the whole side by side
	$(MAKE) --jobs 2 --output-sync=target test-parts test-whole

test-parts: $(INSTALLED)
	$(BIN)/python -m pytest -m "not slow" tests/unit tests/parity

test-whole: $(INSTALLED)
	$(BIN)/python -m pytest -m "not slow" tests/integration tests/drills

test-slow: $(INSTALLED)  ## The slow tests: kills, hangs, clusters of several nodes, pictures
	$(BIN)/python -m pytest -m "slow and not long"

cases: $(INSTALLED)  ## The inputs of ../shared/cases, which once went wrong
	$(BIN)/python -m pytest tests/integration/test_cases.py

notebooks: $(INSTALLED)  ## The notebooks of docs/, executed, with real data and without
	$(BIN)/python -m pytest tests/integration/test_notebooks.py

KILLS := tests/drills/test_kills.py tests/drills/test_helpers_killed.py
STORES := tests/drills/test_storage.py tests/drills/test_store_faults.py tests/drills/test_nodes_apart.py

drills: $(INSTALLED)  ## Everything that can be killed, filled or broken, is; prints what was lost
	$(MAKE) --jobs 3 --keep-going --output-sync=target drills-kills drills-stores drills-others

drills-kills: $(INSTALLED)
	$(BIN)/python -m pytest $(KILLS)

drills-stores: $(INSTALLED)
	$(BIN)/python -m pytest $(STORES)

drills-others: $(INSTALLED)
	$(BIN)/python -m pytest tests/drills $(addprefix --ignore=,$(KILLS) $(STORES))

azurite: build/azurite/node_modules  ## Microsoft's emulator of Azure Blob Storage, for the tests that need one; takes npm

build/azurite/node_modules:
	npm install --prefix build/azurite --no-audit --no-fund --no-save azurite@3.35.0

ray-versions: $(INSTALLED)  ## The quickstart's sweep on the oldest and the newest Ray that pyproject.toml allows
	PYTHONPATH=. $(BIN)/python tests/ray_versions.py

schema: $(INSTALLED)  ## The JSON Schema of study files, from the code; a test says when it is due
	$(BIN)/kobert-tune schema > search_spaces/study.schema.json.tmp && mv search_spaces/study.schema.json.tmp search_spaces/study.schema.json

lint: $(INSTALLED)  ## ruff, mypy, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(INSTALLED)  ## The pages of docs/ as a site that opens from disk: build/site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

reference: $(INSTALLED)  ## Writes docs/reference from the code
	$(BIN)/python docs/reference/make.py

pictures: $(INSTALLED)  ## Takes the pictures of the README from a real run
	PYTHONPATH=. $(BIN)/python docs/pictures/make.py

bench: $(VENV)/.installed-bench  ## Side by side with what people would use instead; writes benchmarks/RESULTS.md
	$(BIN)/python benchmarks/bench.py

gpu: $(VENV)/.installed-bench  ## What is right and how fast it is on a GPU; writes benchmarks/GPU.md
	$(BIN)/python benchmarks/gpu/run.py

original: $(ORIGINAL)/.installed  ## A second environment with the original's tokenizer and pipeline, for `bench`

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	touch $@

$(VENV)/.installed-bench: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[bench]"
	touch $@

$(ORIGINAL)/.installed: benchmarks/original-requirements.txt
	$(PYTHON) -m venv $(ORIGINAL)
	$(ORIGINAL)/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	touch $@

clean:
	rm -rf $(VENV) $(ORIGINAL) .venv-rays benchmarks/.results build *.egg-info .pytest_cache .mypy_cache .ruff_cache
