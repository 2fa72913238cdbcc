#!/usr/bin/env bash
# Checks format, style, types and shell scripts, then runs the tests.
#
#   tests/run.sh                             everything
#   tests/run.sh tests/test_tables.py -k read   arguments go to pytest
#   tests/run.sh --long tests/test_kills.py     more of it: see tests/README.md
#   tests/run.sh -n 0 -s tests/test_tables.py   in one process, with what is printed
#
# Makes its own environment in .venv-tests and installs into it what
# requirements.txt, requirements-cluster.txt and tests/requirements.txt name, again
# only when one changes. PYTHON=/path/to/python3.12 chooses the Python of a new
# environment.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

./make_environment.sh .venv-tests requirements.txt requirements-cluster.txt \
  tests/requirements.txt
.venv-tests/bin/ruff format --check .
.venv-tests/bin/ruff check .
.venv-tests/bin/shellcheck ./*.sh .ci/run tests/run.sh
.venv-tests/bin/mypy
# In several processes, since one keeps one core busy; each takes up to 2 GB. The
# tests of a file stay together: they share what they made.
exec .venv-tests/bin/python -m pytest --numprocesses=auto --maxprocesses=4 \
  --dist=loadfile --no-loadscope-reorder "$@"
