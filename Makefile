PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
OLDEST_TORCH ?= torch==2.6.0
TORCH_SOURCE ?= --torch-backend cpu
BUILD := PIP_CONSTRAINT=$(CURDIR)/deploy/build-constraints.txt $(BIN)/python -m build --wheel
export SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 1700000000)

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow attack test-oldest check docs bench wheel reproducible lock locked sbom licences audit image

help:  ## list the verbs
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable ".[dev]"
	@touch $@

demo: $(INSTALLED)  ## install, grade examples/, show the table and the report's path
	$(BIN)/kneegrade grade examples --output demo-report

test: $(INSTALLED)  ## run all tests but the slow ones; tests that need Chromium are skipped without it
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not slow"

test-slow: $(INSTALLED)  ## run the slow tests (training; minutes)
	$(BIN)/python -m pytest -m slow

attack: $(INSTALLED)  ## try to break each promise of docs/reference/promises.md (an hour); ATTACK=3 tries three times as often
	KNEEGRADE_ATTACK=$(or $(ATTACK),1) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -s -q tests/attacks

test-oldest:  ## run the tests with the lowest versions that pyproject.toml allows, in build/oldest
	$(PYTHON) -m venv build/oldest
	mkdir -p build && echo "$(OLDEST_TORCH)" > build/oldest/torch.txt
	build/oldest/bin/pip install --quiet uv
	build/oldest/bin/uv pip compile pyproject.toml --python build/oldest/bin/python --resolution lowest-direct \
	  --extra serve --extra openvino --extra ray --only-binary :all: --override build/oldest/torch.txt --no-annotate --no-header --quiet -o build/oldest/all.txt
	grep -vE "^(nvidia|cuda|triton)" build/oldest/all.txt > build/oldest/requirements.txt  # pip adds what torch needs
	build/oldest/bin/pip install --quiet -r build/oldest/requirements.txt
	build/oldest/bin/pip install --quiet --no-deps --editable .
	build/oldest/bin/pip install --quiet --constraint build/oldest/requirements.txt \
	  pytest pytest-xdist hypothesis jsonschema mpmath duckdb polars httpx "fsspec[http]"
	KNEEGRADE_TEST_WARNINGS=ignore build/oldest/bin/python -m pytest -W default -m "not slow" --ignore tests/reporting/test_html_in_browser.py \
	  --ignore tests/server/schemathesis_hooks.py

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
	rm -rf dist build/clean && $(BUILD) --outdir dist >/dev/null
	$(PYTHON) -m venv build/clean && build/clean/bin/pip install --quiet dist/*.whl
	cd build && clean/bin/kneegrade grade ../examples --output report --quiet
	build/clean/bin/kneegrade info

reproducible: $(INSTALLED)  ## build the wheel of the last commit in two folders; their SHA-256 must be equal
	rm -rf build/twice && mkdir -p build/twice/a/src build/twice/another-folder/src
	git archive HEAD | tar x -C build/twice/a/src
	umask 077 && git archive HEAD | tar x -m -C build/twice/another-folder/src
	$(BUILD) --outdir build/twice/a build/twice/a/src >/dev/null
	umask 077 && TZ=Asia/Tokyo LC_ALL=C $(BUILD) --outdir build/twice/another-folder build/twice/another-folder/src >/dev/null
	cd build/twice && sha256sum */*.whl && cmp a/*.whl another-folder/*.whl

lock:  ## write requirements.lock: versions and hashes for a server (UPGRADE=--upgrade takes the newest versions)
	$(PYTHON) -m venv build/uv && build/uv/bin/pip install --quiet uv
	@test ! -f requirements.lock || cp requirements.lock build/requirements.lock
	build/uv/bin/uv pip compile pyproject.toml --extra dicom --extra serve --python-version 3.11 \
	  --python-platform x86_64-manylinux_2_28 --only-binary :all: --generate-hashes --no-annotate --no-header \
	  $(TORCH_SOURCE) $(UPGRADE) --quiet -o build/requirements.lock
	cat deploy/lock-header.txt build/requirements.lock > requirements.lock

locked: $(INSTALLED)  ## install the wheel and requirements.lock, and nothing else, into build/locked (PIP_OPTIONS: where torch is)
	rm -rf dist/*.whl build/locked && $(BUILD) --outdir dist >/dev/null
	$(PYTHON) -m venv --without-pip build/locked
	$(BIN)/pip --python build/locked/bin/python install --quiet --require-hashes $(PIP_OPTIONS) -r requirements.lock
	$(BIN)/pip --python build/locked/bin/python install --quiet --no-deps dist/*.whl
	build/locked/bin/kneegrade info

sbom: locked  ## write dist/kneegrade.cdx.json, a CycloneDX 1.6 list of what build/locked has
	$(BIN)/cyclonedx-py environment --spec-version 1.6 --output-format JSON --output-reproducible \
	  --pyproject pyproject.toml --mc-type application --output-file dist/kneegrade.cdx.json build/locked/bin/python

licences: locked  ## write docs/reference/licences.md from the packages in build/locked
	build/locked/bin/python deploy/licences.py build/locked > docs/reference/licences.md

audit: $(INSTALLED)  ## look for known vulnerabilities of the packages in requirements.lock
	$(BIN)/python deploy/audit.py requirements.lock

image:  ## build the container image kneegrade:latest with buildah (as root, on Debian)
	deploy/build_image.sh
