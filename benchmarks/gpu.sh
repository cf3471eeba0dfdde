#!/usr/bin/env bash
# Checks and measures on a GPU what no CPU can show, in 9 minutes:  benchmarks/gpu.sh OUT [SECONDS [ARGUMENTS]]
#
# OUT gets results.json, results.md, log.txt and runs.tar.gz; SECONDS (540) is for all of it; the ARGUMENTS are those of
# benchmarks/gpu.py, such as --only resume,throughput. DIGITS_DATA names the folder that holds MNIST/raw.
# DEVICE=cpu QUICK=1 tries the script itself, on a machine without a GPU.
#
# Where packages are missing and there is no network: wheels of them in .whl/ are installed into a temporary folder.
set -euo pipefail
SECONDS=0 # bash counts from here
out=${1:?give a folder for the results: benchmarks/gpu.sh OUT [SECONDS]}
limit=${2:-540}
shift $(($# < 2 ? $# : 2))
mkdir -p "$out"
out=$(cd "$out" && pwd)
cd "$(dirname "$0")/.."

if [ -z "${PYTHON:-}" ]; then
    PYTHON=$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)
fi
missing() {
    "$PYTHON" - << 'END'
from importlib.util import find_spec
needed = "torch torchvision lightning torchmetrics hydra omegaconf pydantic kornia optuna mlxtend cleanlab sklearn captum"
print(*[name for name in f"{needed} pooch sqlalchemy cv2 onnxruntime onnxscript rich".split() if not find_spec(name)])
END
}
export PYTHONPATH="$PWD/src${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
if [ -n "$(missing)" ] && compgen -G ".whl/*.whl" > /dev/null; then
    site=$(mktemp -d)
    trap 'rm -rf "$site"' EXIT
    "$PYTHON" -m pip install --quiet --no-index --no-deps --no-cache-dir --no-compile --target "$site" .whl/*.whl
    export PYTHONPATH="$PYTHONPATH:$site"
fi
if [ -n "$(missing)" ]; then
    echo "error: not installed: $(missing). Run make setup, or put wheels of them into .whl/" >&2
    exit 1
fi

"$PYTHON" -m benchmarks.gpu "$out" --seconds $((limit - SECONDS)) \
    ${DEVICE:+--device "$DEVICE"} ${QUICK:+--quick} "$@"
