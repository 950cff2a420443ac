#!/usr/bin/env bash
# Every kernel of the CUDA backend under compute-sanitizer: accesses out of bounds, races in shared memory, and reads of
# memory that nothing wrote. The three tools run side by side. It runs the iwae_fast that PYTHONPATH says.
#
# Usage: sanitize.sh [SECONDS], after which a tool is stopped. Exits with 0 where none found anything, and where there
# is no compute-sanitizer, which it then says.
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
  echo "compute-sanitizer is neither on the path nor beside nvcc: memory was not watched"
  exit 0
fi
LOGS="$(mktemp -d)"
trap 'kill $(jobs -p) 2>/dev/null; rm -rf "$LOGS"' EXIT

# Each allocation is its own, so that what is beyond it belongs to nobody.
export PYTORCH_NO_CUDA_MEMORY_CACHING=1
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-4}"  # of each of three processes
check() {
  local tool=$1
  shift
  timeout --kill-after=3 "$LIMIT" "$TOOL" --tool "$tool" --error-exitcode 86 "$@" \
    "$PYTHON" tests/support/every_kernel.py cuda >"$LOGS/$tool" 2>&1
}
# Races and bounds of our own kernels alone. Who wrote what is known only where all kernels are watched.
OURS=()
[[ "$("$TOOL" --help 2>&1)" == *--kernel-regex* ]] && OURS=(--kernel-regex kns=iwae)
check memcheck "${OURS[@]}" &
MEMCHECK=$!
check racecheck "${OURS[@]}" &
RACECHECK=$!
check initcheck &
INITCHECK=$!
STATUS=0
for tool in memcheck:$MEMCHECK racecheck:$RACECHECK initcheck:$INITCHECK; do
  wait "${tool#*:}"
  code=$?
  [ $code -ne 0 ] && STATUS=1 && head -n 40 "$LOGS/${tool%:*}"
  tail -n 3 "$LOGS/${tool%:*}"
  echo "${tool%:*}: exit $code$([ $code -ge 124 ] && echo ", stopped after $LIMIT s")"
done
exit $STATUS
