#!/usr/bin/env bash
# Makes .venv with the pinned packages (about 4 GB, a few minutes). A second run installs nothing: see the Makefile.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${VENV:-.venv}

python=
for candidate in ${PYTHON:-} python3.11 python3.12 python3; do
  if command -v "$candidate" >/dev/null && "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' 2>/dev/null; then
    python=$candidate
    break
  fi
done
if [ -z "$python" ]; then
  echo "raythink: error: Python 3.11 or 3.12 is needed: install python3.11 and python3.11-venv, or set PYTHON=/path/to/python" >&2
  exit 2
fi
if [ ! -x "$venv/bin/python" ] && ! "$python" -m venv "$venv" >/dev/null 2>&1; then
  echo "raythink: error: $python has no venv module: install it (on Debian and Ubuntu: apt-get install python3-venv)" >&2
  exit 2
fi

pip() { "$venv/bin/python" -m pip --disable-pip-version-check --no-input -q "$@"; }
echo "raythink: installing the pinned packages into $venv (about 4 GB, a few minutes)"

# torch's CPU build first: any other choice pulls in gigabytes of CUDA libraries.
if ! "$venv/bin/python" -c 'import importlib.metadata as m, sys; sys.exit(not m.version("torch").startswith("2.13.0"))' 2>/dev/null; then
  pip install --no-deps --no-compile --retries 1 --index-url https://download.pytorch.org/whl/cpu torch==2.13.0
fi

# Two installers side by side: unpacking takes longer than downloading, and one uses one core. --no-deps, since the set
# is complete and resolving it would bring CUDA builds of torchvision and torchaudio that nothing here uses.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
grep -hvE '^(#|torch==|$)' requirements/cpu.txt requirements/dev.txt | awk -v dir="$work" '{ print > (dir "/part" NR % 2) }'
pip install --no-deps --no-compile -r "$work/part0" 2>"$work/log0" & first=$!
pip install --no-deps --no-compile -r "$work/part1" 2>"$work/log1" & second=$!
status=0
wait $first || status=$?
wait $second || status=$?
if [ $status -ne 0 ]; then
  grep -hv '^WARNING: Location' "$work"/log? | tail -n 20 >&2
  echo "raythink: error: the packages could not be installed (see above): mend the cause and run the same command again" >&2
  exit 2
fi
echo "raythink: $venv is ready"
