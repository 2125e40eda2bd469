#!/usr/bin/env bash
# What needs a GPU, in under 9 minutes: tests, kernels, tuning, the default model. Needs Python, torch, Triton and pytest.
#
#   benchmarks/gpu_session.sh OUT_DIR [MODEL]
#
# MODEL is a GGUF file or folder; without one the engine is left out. Results and logs go to OUT_DIR. Ends with 1 where
# a part failed; the parts after it run all the same. OPENM3_DRY_RUN=1 runs a few tests in Triton's interpreter alone.
set -uo pipefail
out=${1:?usage: benchmarks/gpu_session.sh OUT_DIR [MODEL]}
model=${2:-}
mkdir -p "$out"
out=$(cd "$out" && pwd)
[ -z "$model" ] || model=$(realpath "$model")
cd "$(dirname "$0")/.."
export PYTHONPATH="src:.:tests${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 OPENM3_HOME="$out/home"
failed=0

part() { # name, seconds, command...
	local name=$1 limit=$2
	shift 2
	echo "== $name"
	timeout "$limit" "$@" 2>&1 | tee "$out/$name.log" | tail -30 || failed=1
}

if [ "${OPENM3_DRY_RUN:-}" = 1 ]; then
	part tests 400 python3 -m pytest -p no:cacheprovider tests/kernels/test_triton.py tests/kernels/test_gpu_search.py \
		-k "1of1 or shared or infinity or search or launch or table"
	exit $failed
fi
workers=()
python3 -c "import xdist" 2>/dev/null && workers=(-n 12)
part tests 120 python3 -m pytest --noconftest -p no:cacheprovider -W default "${workers[@]}" tests/kernels/test_triton.py \
	tests/kernels/test_triton_index.py tests/kernels/test_triton_training.py tests/kernels/test_gpu_search.py
part experts 30 python3 -m pytest --noconftest -p no:cacheprovider -W default tests/kernels/test_moe.py -k triton
[ -z "$model" ] || part graphs 60 python3 -m pytest -p no:cacheprovider -W default tests/engine/test_graphs.py
part tune 60 python3 -c 'from openm3.cli.main import main; main()' tune --kind scan_few --kind bound_few --out "$out/tuning.json"
part kernels 150 python3 -m benchmarks.kernels_gpu --contexts 8192 131072 1048576 --out "$out"
[ -z "$model" ] || part engine 240 python3 -m benchmarks.engine_gpu --model "$model" --out "$out"
exit $failed
