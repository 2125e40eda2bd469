#!/usr/bin/env bash
# What needs a GPU, in under 9 minutes: tests, kernels, the default model. Needs Python, torch, Triton and pytest.
#
#   benchmarks/gpu_session.sh OUT_DIR [MODEL]
#
# MODEL is a GGUF file or folder; without one the engine is left out. Results and logs go to OUT_DIR. Ends with 1 where
# a part failed; the parts after it run all the same. OPENM3_DRY_RUN=1 runs only the tests, in Triton's interpreter.
set -uo pipefail
out=${1:?usage: benchmarks/gpu_session.sh OUT_DIR [MODEL]}
model=${2:-}
mkdir -p "$out"
out=$(cd "$out" && pwd)
[ -z "$model" ] || model=$(realpath "$model")
cd "$(dirname "$0")/.."
export PYTHONPATH="src:.${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
failed=0

part() { # name, seconds, command...
	local name=$1 limit=$2
	shift 2
	echo "== $name"
	timeout "$limit" "$@" 2>&1 | tee "$out/$name.log" | tail -30 || failed=1
}

if [ "${OPENM3_DRY_RUN:-}" = 1 ]; then
	part tests 400 python3 -m pytest -p no:cacheprovider tests/kernels/test_triton.py -k "1of1 or shared or infinity"
	exit $failed
fi
part tests 150 python3 -m pytest --noconftest -p no:cacheprovider -W default tests/kernels/test_triton.py \
	tests/kernels/test_triton_training.py
part kernels 180 python3 -m benchmarks.kernels_gpu --out "$out"
[ -z "$model" ] || part engine 180 python3 -m benchmarks.engine_gpu --model "$model" --out "$out"
exit $failed
