#!/usr/bin/env bash
# arctic-inference for engine.speculative=suffix. Its own build asks for a second PyTorch of several GB, of which the
# suffix tree needs nothing: it is built without isolation, with build tools that are gone afterwards.
set -euo pipefail
cd "$(dirname "$0")/.."
pip() { "${VENV:-.venv}/bin/python" -m pip --disable-pip-version-check "$@"; }
tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
pip install -q --target "$tools" nanobind==2.9.2 grpcio-tools ninja cmake wheel setuptools 2>&1 | grep -v "dependency conflicts\|requires\|dependency resolver" || true
PYTHONPATH="$tools" PATH="$tools/bin:$PATH" pip install -q --no-build-isolation --no-deps arctic-inference==0.3.0
"${VENV:-.venv}/bin/python" -c "from arctic_inference.suffix_decoding import SuffixDecodingCache"
echo "engine.speculative=suffix is ready"
