#!/usr/bin/env bash
# Runs every kernel of the CUDA backend under compute-sanitizer, which detects out-of-bounds accesses, races in shared
# memory, reads of uninitialized memory, and invalid barriers. The four tools run in parallel, on the iwae_fast found by
# PYTHONPATH.
#
# Usage: sanitize.sh [SECONDS]; a tool is stopped after SECONDS. The exit status is 0 if no tool found an error, and
# also, with a message, if compute-sanitizer is not installed.
set -uo pipefail
cd "$(dirname "$0")/.." || exit
PYTHON="${PYTHON:-python3}"
LIMIT="${1:-600}"

find_tool() {
  local beside
  command -v compute-sanitizer && return
  beside="$(dirname "$(readlink -f "$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)")")"
  for beside in "$beside" "$beside/../compute-sanitizer" "${CUDA_HOME:-/usr/local/cuda}/compute-sanitizer"; do
    [ -x "$beside/compute-sanitizer" ] && echo "$beside/compute-sanitizer" && return
  done
  return 1
}

if ! TOOL="$(find_tool)"; then
  echo "compute-sanitizer is neither on PATH nor next to nvcc: memory accesses were not checked"
  exit 0
fi
LOGS="$(mktemp -d)"
trap 'kill $(jobs -p) 2>/dev/null; rm -rf "$LOGS"' EXIT

# No caching allocator: each tensor is an allocation of its own, so that an access beyond it is detected.
export PYTORCH_NO_CUDA_MEMORY_CACHING=1
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-4}"  # per process; there are four
check() {
  local tool=$1
  shift
  timeout --kill-after=3 "$LIMIT" "$TOOL" --tool "$tool" --error-exitcode 86 "$@" \
    "$PYTHON" tests/support/every_kernel.py cuda >"$LOGS/$tool" 2>&1
}
# Races, bounds and barriers are checked in our own kernels only. Initialization can be tracked only if all kernels are
# observed.
OURS=()
[[ "$("$TOOL" --help 2>&1)" == *--kernel-regex* ]] && OURS=(--kernel-regex kns=iwae)
check memcheck "${OURS[@]}" &
MEMCHECK=$!
check racecheck "${OURS[@]}" &
RACECHECK=$!
check synccheck "${OURS[@]}" &
SYNCCHECK=$!
check initcheck &
INITCHECK=$!
STATUS=0
for tool in memcheck:$MEMCHECK racecheck:$RACECHECK synccheck:$SYNCCHECK initcheck:$INITCHECK; do
  wait "${tool#*:}"
  code=$?
  [ $code -ne 0 ] && STATUS=1 && head -n 40 "$LOGS/${tool%:*}"
  tail -n 3 "$LOGS/${tool%:*}"
  echo "${tool%:*}: exit $code$([ $code -ge 124 ] && echo ", stopped after $LIMIT s")"
done
exit $STATUS
