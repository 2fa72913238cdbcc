#!/usr/bin/env bash
# Checks format and style, then runs the tests.
#
#   tests/run.sh                             everything
#   tests/run.sh tests/test_tables.py -k read   arguments go to pytest
#
# Makes its own environment in .venv-tests and installs into it what
# requirements.txt and tests/requirements.txt name, again only when one of them
# changes. PYTHON=/path/to/python3.12 chooses the Python of a new environment.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

venv=.venv-tests
requirements=(requirements.txt tests/requirements.txt)

find_python() {
  local python
  for python in ${PYTHON:+"$PYTHON"} python3.11 python3.12 python3.13 \
    python3.10 python3 python; do
    if "$python" -c 'import sys, venv, ensurepip
sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
      echo "$python"
      return
    fi
    if [[ -n ${PYTHON:-} ]]; then break; fi
  done
  echo 'error: no Python that TensorFlow supports: wanted python3.10 to' \
    'python3.13 with its venv module (on Debian: apt install python3-venv);' \
    "got ${PYTHON:-$(python3 --version 2>&1 || true)}" >&2
  return 1
}

python=$(find_python)
wanted=$(cat "${requirements[@]}" | cksum)
# The stamp is written last: an interrupted installation is done again.
if [[ $(cat "$venv/installed" 2>/dev/null) != "$wanted" ]]; then
  rm -f "$venv/installed"
  [[ -x $venv/bin/python ]] || "$python" -m venv --clear "$venv"
  echo "installing ${requirements[*]} into $venv, a few minutes"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    "${requirements[@]/#/--requirement=}"
  echo "$wanted" >"$venv/installed"
fi

# TensorFlow's remarks on the processor and on GPUs that are not there.
export TF_CPP_MIN_LOG_LEVEL=${TF_CPP_MIN_LOG_LEVEL:-2}
"$venv/bin/ruff" format --check .
"$venv/bin/ruff" check .
exec "$venv/bin/python" -m pytest "$@"
