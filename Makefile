# Two commands for a newcomer: `make train` and `make test`. Both make .venv and install the package first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
RIVALS := $(VENV)/.rivals-installed
SOURCES := $(shell find csrc -type f) setup.py pyproject.toml constraints.txt

.PHONY: install train test test-oldest test-slow lint format bench bench-quick gpu clean

install: $(INSTALLED)

$(INSTALLED): $(SOURCES)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[cli,dev]'
	@touch $@

train: install  ## train on the digits that come with scikit-learn
	$(BIN)/iwae-fast train

test: install  ## the whole suite, under 10 minutes on 2 cores; waiting threads leave the cores to other workers
	OMP_WAIT_POLICY=passive $(BIN)/pytest -n auto

test-oldest:  ## what torch sees of the package, on the oldest one that pyproject.toml allows, in .venv-oldest
	$(PYTHON) -m venv .venv-oldest
	grep -v '^torch\|^triton' constraints.txt > .venv-oldest/constraints.txt
	.venv-oldest/bin/pip install --quiet --constraint .venv-oldest/constraints.txt 'torch==2.11.*' --editable '.[cli,dev]'
	OMP_WAIT_POLICY=passive .venv-oldest/bin/pytest -n auto tests/test_tracing.py tests/test_backends.py tests/test_ops.py

test-slow: install  ## what takes minutes: packaging, and ten times the hypothesis examples
	$(BIN)/pytest -m slow
	HYPOTHESIS_PROFILE=thorough $(BIN)/pytest -k no_worse

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(RIVALS): $(INSTALLED)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[cli,dev,bench]'
	@touch $@

bench: $(RIVALS)  ## all providers side by side, under 15 minutes on 2 cores; results under benchmarks/results/
	$(BIN)/python -m benchmarks

bench-quick: $(RIVALS)  ## fewer works and rounds, 2 minutes
	$(BIN)/python -m benchmarks --quick --output build/benchmarks-quick.csv

gpu:  ## on a machine with an NVIDIA GPU, all that it can show, under 9 minutes; uses its python3 and installs nothing
	bash benchmarks/gpu.sh

clean:
	rm -rf $(VENV) build *.egg-info iwae_fast/*.so
