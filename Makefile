PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
OLDEST_TORCH ?= torch==2.6.0

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow attack test-oldest check docs bench wheel

help:  ## list the verbs
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable ".[dev]"
	@touch $@

demo: $(INSTALLED)  ## install, grade examples/, show the table and the report's path
	$(BIN)/kneegrade grade examples --output demo-report

test: $(INSTALLED)  ## run all tests but the slow ones; tests that need Chromium are skipped without it
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not slow" --ignore tests/imaging/test_decoding_process.py
	$(BIN)/python -m pytest -m "not slow" tests/imaging/test_decoding_process.py  # by itself: it ends processes

test-slow: $(INSTALLED)  ## run the slow tests (training; minutes)
	$(BIN)/python -m pytest -m slow

attack: $(INSTALLED)  ## try to break each promise of docs/reference/promises.md (an hour); ATTACK=3 tries three times as often
	KNEEGRADE_ATTACK=$(or $(ATTACK),1) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -s -q tests/attacks

test-oldest:  ## run the tests with the lowest versions that pyproject.toml allows, in build/oldest
	$(PYTHON) -m venv build/oldest
	mkdir -p build && echo "$(OLDEST_TORCH)" > build/oldest/torch.txt
	build/oldest/bin/pip install --quiet uv
	build/oldest/bin/uv pip compile pyproject.toml --python build/oldest/bin/python --resolution lowest-direct \
	  --extra dicom --extra openvino --extra ray --only-binary :all: --override build/oldest/torch.txt --no-annotate --no-header --quiet -o build/oldest/all.txt
	grep -vE "^(nvidia|cuda|triton)" build/oldest/all.txt > build/oldest/requirements.txt  # pip adds what torch needs
	build/oldest/bin/pip install --quiet -r build/oldest/requirements.txt
	build/oldest/bin/pip install --quiet --no-deps --editable .
	build/oldest/bin/pip install --quiet --constraint build/oldest/requirements.txt \
	  pytest pytest-xdist hypothesis jsonschema mpmath duckdb polars
	KNEEGRADE_TEST_WARNINGS=default build/oldest/bin/python -m pytest -W default -m "not slow" --ignore tests/reporting/test_html_in_browser.py

docs: $(INSTALLED)  ## build the documentation into site/; a dead link fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

check: $(INSTALLED)  ## format, lint, types, import rules
	$(BIN)/ruff format --check src tests benchmarks recipes docs_hooks
	$(BIN)/ruff check src tests benchmarks recipes docs_hooks
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(INSTALLED)  ## measure the shipped detector on phantom films (two minutes)
	$(BIN)/python benchmarks/phantom_films.py --number 100

wheel: $(INSTALLED)  ## build the wheel, install it alone in a clean environment, grade from there
	rm -rf dist build/clean && $(BIN)/python -m build --wheel --outdir dist >/dev/null
	$(PYTHON) -m venv build/clean && build/clean/bin/pip install --quiet dist/*.whl
	cd build && clean/bin/kneegrade grade ../examples --output report --quiet
	build/clean/bin/kneegrade info
