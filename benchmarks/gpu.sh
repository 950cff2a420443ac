#!/usr/bin/env bash
# All tests and benchmarks for a machine with an NVIDIA GPU, in under 10 minutes. It builds the package, runs the GPU
# tests and those of every op on the GPU backends, then the benchmarks and some seconds of training, then every kernel
# under compute-sanitizer. A summary is printed last, and its last line says in how many rows the package is fastest.
#
# It needs python3 with torch, triton, numpy, pybind11, setuptools, pytest and hypothesis (for training also filelock
# and safetensors), nvcc and a C++ compiler, but no virtual environment and no network; it installs nothing. Logs and
# results go to $OUT, by default benchmarks/results/. docs/benchmarks.md has the time limit of each part.
set -uo pipefail
cd "$(dirname "$0")/.." || exit
export PYTHON="${PYTHON:-python3}"
RESULTS="$(mkdir -p "${OUT:-benchmarks/results}" && cd "${OUT:-benchmarks/results}" && pwd)"
CSV="$RESULTS/${NAME:-gpu}.csv"
BUILD="$PWD/build/gpu"
DEADLINE="${GPU_SECONDS:-570}"
ENDED=()
STATUS=0

# part NAME SECONDS COMMAND...: runs a part, with output to NAME.log. It is interrupted after SECONDS, or at the
# deadline.
part() {
  local name=$1 limit=$2 started=$SECONDS code
  shift 2
  [ "$limit" -gt $((DEADLINE - SECONDS)) ] && limit=$((DEADLINE - SECONDS))
  if [ "$limit" -lt 1 ]; then
    ENDED+=("$name: not started, no time left")
    STATUS=1
    return 1
  fi
  echo "== $name, at most $limit s"
  timeout --signal=INT --kill-after=5 "$limit" "$@" >"$RESULTS/$name.log" 2>&1
  code=$?
  ENDED+=("$name: exit $code after $((SECONDS - started)) of at most $limit s")
  [ $code -ge 124 ] && ENDED[-1]+=", CUT SHORT"
  [ $code -ne 0 ] && STATUS=1
  return $code
}

# Builds the extension for this GPU only, or without CUDA if that fails.
build() {
  export IWAE_FAST_REQUIRE_EXTENSION=1 IWAE_FAST_CUDA_ARCHITECTURES="$ARCHITECTURE"
  local command=("$PYTHON" setup.py --quiet build --build-lib "$BUILD/lib" --build-temp "$BUILD/temp")
  IWAE_FAST_CUDA=1 part build 100 "${command[@]}" && return
  tail -n 20 "$RESULTS/build.log"
  IWAE_FAST_CUDA=0 part build-without-cuda 60 "${command[@]}"
}

[ -z "${CUDA_HOME:-}" ] && [ -x /usr/local/cuda/bin/nvcc ] && export CUDA_HOME=/usr/local/cuda
ARCHITECTURE="$("$PYTHON" -c 'import torch; print("%d%d" % torch.cuda.get_device_capability())')" || exit 1
"$PYTHON" -c 'import torch; print(torch.cuda.get_device_name(), "torch", torch.__version__)'
build || exit 1
# The built package precedes this folder, whose iwae_fast/ does not contain the kernels and the extension.
export PYTHONSAFEPATH=1 PYTHONPATH="$BUILD/lib:$PWD" PYTHONUNBUFFERED=1 TORCHINDUCTOR_CACHE_DIR="$BUILD/inductor"
"$PYTHON" -c 'import iwae_fast, json; print(json.dumps(iwae_fast.backends.info(), indent=1))'

# While the tests run, what the timings need is compiled into the caches on disk: a minute or two of torch's compiler.
# It is stopped before anything is timed.
nice "$PYTHON" -m benchmarks compile --only '^(?!copy|evaluation)' >"$RESULTS/compile.log" 2>&1 &
COMPILING=$!
trap 'kill $COMPILING 2>/dev/null' EXIT

# Tests that need a GPU come first, then the contracts of every op, whose kernels are compiled for the dtypes and
# layouts that hypothesis draws. They run on all cores if pytest-xdist is installed, with one thread per process.
WORKERS=$("$PYTHON" -c 'import os, xdist; print("-n", min(16, os.cpu_count()))' 2>/dev/null)
# Deterministic algorithms, which the tests enable, require a fixed workspace of cuBLAS.
# shellcheck disable=SC2086
tests() {
  local name=$1 limit=$2
  shift 2
  CUBLAS_WORKSPACE_CONFIG=:4096:8 OMP_NUM_THREADS=1 part "$name" "$limit" \
    "$PYTHON" -m pytest -q -p no:cacheprovider $WORKERS -m "not slow" "$@"
  tail -n 15 "$RESULTS/$name.log"
}
tests tests 90 tests/gpu
# shellcheck disable=SC2046
tests tests-of-ops 180 -k "triton or cuda" $(grep -rl '^from devices import' tests --include='test_*.py' | grep -v ^tests/gpu/)
if [ -f "$RESULTS/tests-of-ops.log" ]; then  # one log for both
  cat "$RESULTS/tests-of-ops.log" >>"$RESULTS/tests.log" && rm "$RESULTS/tests-of-ops.log"
fi

kill $COMPILING 2>/dev/null && ENDED+=("compile: stopped when the tests had ended")
wait $COMPILING 2>/dev/null
# Launch configurations that torch's compiler chose on a busy GPU: it chooses them again on a quiet one.
find "$BUILD/inductor" -name '*.best_config' -delete 2>/dev/null

# In two processes, so that a kernel that breaks the CUDA context affects only one of them: the ops, then training steps
# and an evaluation. No workload starts in the last seconds of either.
rm -f "$CSV"
STEPS='step|evaluation'
part timings 130 "$PYTHON" -m benchmarks --device cuda --output "$CSV" --seconds 115 --only "^(?!$STEPS)"
part timings-steps 150 "$PYTHON" -m benchmarks --device cuda --output "$CSV" --append --seconds 110 --only "^($STEPS)"
part training 80 "$PYTHON" -m benchmarks.training --seconds 30 --models 24 --output "$CSV"
LEFT=$((DEADLINE - SECONDS))
part sanitizer $LEFT bash benchmarks/sanitize.sh $((LEFT - 8))

echo
grep -hE 'left out|error:|not started' "$RESULTS"/timings*.log "$RESULTS/training.log" 2>/dev/null
tail -n 16 "$RESULTS/sanitizer.log" 2>/dev/null
echo
# Without the intervals, which are in the results: the output may be truncated to a few lines.
"$PYTHON" -m benchmarks summary "$CSV" | sed -E 's/ \([0-9.]+ - [0-9.]+\)//g'
echo
"$PYTHON" -m benchmarks predict "$CSV"
echo
"$PYTHON" -m benchmarks targets "$CSV"
echo
printf '%s\n' "${ENDED[@]}" "$SECONDS s in total; logs and results are in $RESULTS"
"$PYTHON" -m benchmarks fastest "$CSV"
exit $STATUS
