#!/usr/bin/env bash
# Makes .venv hold what requirements-dev.lock says, nothing else, and meshagent itself as it stands in this folder.
# PYTHON names the interpreter to make it with (default: python3).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=${PYTHON:-python3}
lock=requirements-dev.lock
made_from=.venv/made-from

fail() {
    printf 'setup: %s\nnext:  %s\n' "$1" "$2" >&2
    exit 1
}

"$python" -c '' 2>/dev/null ||
    fail "$python does not run" "install Python 3.11 or later, or name yours: make setup PYTHON=/path/to/python3"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "$("$python" -V) is too old, meshagent needs 3.11 or later" "name a later one: make setup PYTHON=/path/to/python3"
"$python" -c 'import ensurepip, venv' 2>/dev/null ||
    fail "$("$python" -V) came without venv and pip" "apt-get install python3-venv (Debian, Ubuntu), then make setup again"

# A fresh environment whenever the lock or the interpreter changed: what the lock no longer names must not linger.
wanted=$("$python" -VV; cat "$lock")
if [ ! -x .venv/bin/python ] || [ "$(cat "$made_from" 2>/dev/null)" != "$wanted" ]; then
    printf 'setup: installing %s into .venv\n' "$lock"
    "$python" -m venv --clear .venv
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement "$lock"
    printf '%s\n' "$wanted" >"$made_from"
fi

.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
.venv/bin/python scripts/typings.py

printf 'setup: .venv holds (%s)\n' "$(.venv/bin/python -V)"
.venv/bin/python -m pip list --disable-pip-version-check --format=freeze | sed 's/==/ /' | paste -sd, - | sed 's/,/, /g' | fold -s -w 118 | sed 's/^/  /'
touch .venv/ready
