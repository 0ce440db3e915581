# Every target first installs what it needs into .venv; nothing happens where that is up to date.
# Without a GPU, point pip to PyTorch's CPU wheels (PIP_EXTRA_INDEX_URL or pip.conf): they are ten times smaller.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
# One process; accelerate would warn of every value that is not given.
LAUNCH := $(BIN)/accelerate launch --num_cpu_threads_per_process 2 --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no

.PHONY: install demo demo-digits cards docs test test-fast test-lowest lint format vulnerabilities dist bench clean

install: $(INSTALLED)

$(INSTALLED): setup.cfg setup.py pyproject.toml constraints.txt
	@echo "installing into .venv (about 3 GB, several minutes, silent)"
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[bench,demo,test]"
	touch $@

demo: install
	$(LAUNCH) recipes/demo/unlearn.py recipes/demo/demo.yaml

demo-digits: install
	$(LAUNCH) recipes/digits/unlearn.py recipes/digits/digits.yaml

# Writes the cards of the recipes' own models, after `make demo` and `make demo-digits`.
cards: install
	$(BIN)/hf-unlearn card out/demo --to model_cards/demo.md
	$(BIN)/hf-unlearn card out/digits --to model_cards/digits.md

# Writes the API reference from the docstrings; a test compares the two.
docs: install
	$(BIN)/python docs/api.py docs/api.md

test: install
	$(BIN)/pytest -q -n auto --dist loadfile tests

# Leaves out tests that take long: those that run whole recipes, start processes or install packages.
test-fast: install
	$(BIN)/pytest -q -n auto --dist loadfile -m "not slow" tests

# Tests the lowest versions that setup.cfg allows, in an environment of its own (with torch for CUDA about 8 GB).
LOWEST := .venv-lowest/bin
LOWEST_TESTS ?= tests/ops tests/trainer tests/recipes/test_image_recipes.py
test-lowest:
	test -x $(LOWEST)/python || $(PYTHON) -m venv .venv-lowest
	$(LOWEST)/python -m pip install --quiet --constraint requirements-lowest.txt torch
	$(LOWEST)/python -m pip install --quiet --constraint requirements-lowest.txt --editable ".[audit,demo,test]"
	$(LOWEST)/pytest -q -n auto --dist loadfile $(LOWEST_TESTS)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -q tests/project/test_structure.py

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Looks up known vulnerabilities of the pinned versions; fails where PyPI's advisories are out of reach.
vulnerabilities: install
	$(BIN)/python -m pip install --quiet pip-audit
	$(BIN)/python -m pip_audit --strict --disable-pip --no-deps --requirement constraints.txt

# Builds the sdist and, from it, the wheel; checks their metadata, the README's rendering and their contents.
dist: install
	rm -rf build dist *.egg-info
	$(BIN)/python -m pip install --quiet --constraint constraints.txt build twine
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*
	$(BIN)/python tests/project/distributions.py dist

bench: install
	$(BIN)/python tests/benchmarks/bench.py
	$(BIN)/python tests/benchmarks/bench_kernels.py
	$(BIN)/python tests/benchmarks/bench_ways.py
	$(BIN)/python tests/benchmarks/bench_data.py
	$(BIN)/python tests/benchmarks/bench_runs.py
	$(BIN)/python tests/benchmarks/plot.py

clean:
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache out
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
