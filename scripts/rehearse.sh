#!/usr/bin/env bash
# Rehearse a release: build the wheel, install it in a fresh environment outside the checkout, and
# run README's two commands from it. Nothing of the checkout is on the path.
#
#     scripts/rehearse.sh PYTHON UV_REQUIREMENT
set -euo pipefail
python=$1 uv=$2
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$python" -m venv "$work/build"
"$work/build/bin/python" -m pip install --quiet "$uv"
git -C "$root" archive HEAD | tar -x -C "$(mkdir -p "$work/source" && echo "$work/source")"
"$work/build/bin/uv" build --quiet --wheel --out-dir "$work/dist" "$work/source"
wheel=$(ls "$work"/dist/*.whl)
echo "wheel: $(basename "$wheel"), $(du -h "$wheel" | cut -f1)"
"$python" -m venv "$work/user"
"$work/build/bin/uv" pip install --quiet --python "$work/user/bin/python" \
  --requirement "$root/requirements.lock" "$wheel"
cd "$work"
"$work/user/bin/audit" doctor
"$work/user/bin/audit" demo --out "$work/demo-run"
"$work/user/bin/audit" demo --out "$work/demo-run"   # nothing is left to do
"$work/user/bin/audit" gate demo-run demo-run \
  --baseline-arm balanced,own --candidate-arm balanced,own --out "$work/gate" || test $? = 3
echo "rehearsed: $(basename "$wheel")"
