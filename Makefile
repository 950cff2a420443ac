# Two commands for a newcomer: `make train` and `make test`. Both make .venv and install the package first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
RIVALS := $(VENV)/.rivals-installed
OLDEST := .venv-oldest
RELEASE := .venv-release
SOURCES := $(shell find csrc -type f) setup.py pyproject.toml constraints.txt

.PHONY: install train test test-fast test-slow test-machine-code test-oldest test-release wheels lint \
	format bench bench-quick gpu clean

install: $(INSTALLED)

# In two steps, to show which one takes the time. Compiled kernels are cached in build/objects/.
$(INSTALLED): $(SOURCES)
	@echo "== 1 of 2: compiling the kernels, about 2 minutes the first time"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check 'setuptools>=77' 'pybind11>=2.13'
	$(BIN)/python setup.py --quiet build_ext
	@echo "== 2 of 2: installing packages, about 2 minutes the first time (torch is 200 MB)"
	$(BIN)/pip install --disable-pip-version-check --no-build-isolation --constraint constraints.txt --editable '.[cli,dev]'
	@touch $@

train: install  ## train on the digits that come with scikit-learn
	$(BIN)/iwae-fast train

# OMP_WAIT_POLICY=passive: idle OpenMP threads sleep instead of spinning on cores that other workers need.
test: install  ## the whole suite, about 10 minutes on 2 cores
	OMP_WAIT_POLICY=passive $(BIN)/pytest -n auto --dist loadgroup

# What runs in the interpreter or the emulator, compiles graphs, or averages many draws is left to `make test`.
LEFT_OUT := triton or cuda or compile or graph or traced or tracing or oracle or unbiased or is_the_sum or ddp or heap

test-fast: install  ## the library alone with few examples, under 2 minutes on 2 quiet cores: for running while editing
	HYPOTHESIS_PROFILE=fast OMP_WAIT_POLICY=passive $(BIN)/pytest -q -n auto --dist loadgroup -k "not ($(LEFT_OUT))" \
		tests/ops tests/backends tests/bounds tests/likelihoods tests/models tests/objectives tests/evaluate

test-slow: install  ## tests that take minutes: packaging, and ten times the hypothesis examples
	$(BIN)/pytest -m slow
	HYPOTHESIS_PROFILE=thorough $(BIN)/pytest -k no_worse

test-machine-code: install  ## registers, spills and load widths of the GPU kernels, from Triton and (if built) nvcc
	$(BIN)/pytest -m machine_code -n auto --dist loadscope

# PyPI's torch of that version includes CUDA and the matching Triton, as on a machine with a GPU: 5 GB of disk.
$(OLDEST)/.installed: $(SOURCES) constraints-oldest.txt
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/pip install --quiet --disable-pip-version-check 'setuptools>=77' 'pybind11>=2.13'
	$(OLDEST)/bin/pip install --quiet --disable-pip-version-check --no-build-isolation \
		--constraint constraints-oldest.txt --editable '.[dev]'
	@touch $@

test-oldest: $(OLDEST)/.installed  ## tests of the torch interface on the oldest torch that pyproject.toml allows
	OMP_WAIT_POLICY=passive $(OLDEST)/bin/pytest -n auto --dist loadgroup tests/objectives/test_tracing.py tests/backends/test_backends.py tests/ops/test_registry.py

# The tools of a release, and everything of .venv: release/requirements.txt says why they are not in .venv.
$(RELEASE)/.installed: $(INSTALLED) release/requirements.txt
	$(PYTHON) -m venv $(RELEASE)
	$(RELEASE)/bin/pip install --quiet --disable-pip-version-check --requirement release/requirements.txt
	for site in $(CURDIR)/$(VENV)/lib/python3*/site-packages; do \
		echo "import site; site.addsitedir('$$site')" > $$(echo $(RELEASE)/lib/python3*/site-packages)/development.pth; done
	@touch $@

test-release: $(RELEASE)/.installed  ## types in strict mypy and pyright, the hub's loader, the citation, imports: 3 minutes
	$(RELEASE)/bin/python -P -m pytest -m 'slow or not slow' \
		tests/package/test_types.py tests/package/test_hub_kernel.py tests/package/test_citation.py tests/package/test_imports.py

wheels: $(RELEASE)/.installed  ## source distribution and wheels in dist/, tested without a compiler; WHEELS=--cuda adds CUDA
	$(RELEASE)/bin/python -m release.wheels $(WHEELS)

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

bench-quick: $(RIVALS)  ## fewer workloads and rounds, 2 minutes
	$(BIN)/python -m benchmarks --quick --output build/benchmarks-quick.csv

gpu:  ## tests and benchmarks on an NVIDIA GPU, under 10 minutes; uses the machine's python3 and installs nothing
	bash benchmarks/gpu.sh

clean:
	rm -rf $(VENV) $(RELEASE) build dist *.egg-info iwae_fast/*.so
