#!/usr/bin/env bash
# Everything that a machine with an NVIDIA GPU can show, in under 9 minutes: builds the package, runs the tests of the GPU
# and of every op on the GPU's backends, then the benchmarks, whose table comes last.
#
# It needs python3 with torch, triton, numpy, pybind11, setuptools, pytest and hypothesis, and a C++ compiler: no virtual
# environment, no network; it installs nothing. Results go to $OUT, else to benchmarks/results/.
set -uo pipefail
cd "$(dirname "$0")/.."
PYTHON="${PYTHON:-python3}"
RESULTS="$(mkdir -p "${OUT:-benchmarks/results}" && cd "${OUT:-benchmarks/results}" && pwd)"
BUILD="$PWD/build/gpu"

"$PYTHON" -c 'import torch; print(torch.cuda.get_device_name(), "torch", torch.__version__)' || exit 1
"$PYTHON" setup.py --quiet build --build-lib "$BUILD/lib" --build-temp "$BUILD/temp" || exit 1
# The built package comes before this folder, whose iwae_fast/ lacks the kernels and the extension.
export PYTHONSAFEPATH=1 PYTHONPATH="$BUILD/lib:$PWD" PYTHONUNBUFFERED=1 TORCHINDUCTOR_CACHE_DIR="$BUILD/inductor"
"$PYTHON" -c 'import iwae_fast, json; print(json.dumps(iwae_fast.backends.info(), indent=1))'

# Each kernel is compiled for the dtypes and layouts that hypothesis draws: on all cores, where pytest-xdist is there.
WORKERS=$("$PYTHON" -c 'import os, xdist; print("-n", min(12, os.cpu_count()))' 2>/dev/null)
# shellcheck disable=SC2046,SC2086
timeout "${TEST_SECONDS:-270}" "$PYTHON" -m pytest -q -p no:cacheprovider $WORKERS -m "not slow" -k "gpu or triton or cuda" \
  tests/test_gpu*.py $(grep -l '^from devices import' tests/test_*.py) >"$RESULTS/gpu-tests.log" 2>&1
TESTS=$?
tail -n 15 "$RESULTS/gpu-tests.log"

"$PYTHON" -m benchmarks.captured_step | tee "$RESULTS/captured-step.txt"
timeout "${BENCHMARK_SECONDS:-240}" "$PYTHON" -m benchmarks --device cuda --output "$RESULTS/${NAME:-gpu}.csv"
BENCHMARKS=$?
echo "tests: exit $TESTS, benchmarks: exit $BENCHMARKS"
exit $((TESTS != 0 || BENCHMARKS != 0))
