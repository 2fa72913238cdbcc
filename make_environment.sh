#!/usr/bin/env bash
# Makes a Python environment, unless it is there and up to date.
#
#   ./make_environment.sh <folder> <requirements file>...
#
# Installs the versions that were tested, where tests/constraints-<Python>.txt
# names them; else, and with NEWEST=1, the newest that the files allow. OLDEST=1
# installs the oldest, by uv, which it installs too. Installs again only when one
# of the files changes. PYTHON=/path/to/python3.12 chooses the Python of a new
# environment.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

venv=$1
shift

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

wanted=$(cat "$@" tests/constraints-*.txt | cksum)
wanted+=${OLDEST:+ oldest}${NEWEST:+ newest}
# The stamp is written last: an interrupted installation is done again.
if [[ ! -x $venv/bin/python ]] ||
  [[ $(cat "$venv/installed" 2>/dev/null) != "$wanted" ]]; then
  python=$(find_python)
  rm -f "$venv/installed"
  "$venv/bin/python" -c '' 2>/dev/null || "$python" -m venv --clear "$venv"
  echo "installing $* into $venv, a few minutes"
  if [[ -n ${OLDEST:-} ]]; then
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check uv
    "$venv/bin/uv" pip install --quiet --python "$venv/bin/python" \
      --resolution lowest-direct "${@/#/--requirement=}"
  else
    tested=tests/constraints-$("$venv/bin/python" -c \
      'import sys; print("%d.%d" % sys.version_info[:2])').txt
    if [[ -n ${NEWEST:-} || ! -f $tested ]]; then tested=/dev/null; fi
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
      --constraint="$tested" "${@/#/--requirement=}"
  fi
  echo "$wanted" >"$venv/installed"
fi
