#!/bin/sh
# Make .venv from requirements.lock, once, and again when the lock changes. Called by make.
#
#   PYTHON=python3.12 make test     which Python to use (3.11 to 3.13)
#
# A set-up that was killed half-way leaves .venv/.unfinished; the next one starts from nothing, because a
# package that was half unpacked looks installed.
set -eu
cd "$(dirname "$0")/.."
venv=.venv
unfinished=$venv/.unfinished

usable() {
    "$1" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1
}

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        if usable "$PYTHON"; then echo "$PYTHON"; return; fi
        echo "PYTHON=$PYTHON is not a Python 3.11, 3.12 or 3.13 with the modules venv and ensurepip." >&2
        return 1
    fi
    for candidate in python3 python3.13 python3.12 python3.11; do
        if usable "$candidate"; then echo "$candidate"; return; fi
    done
    echo "No usable Python found: noduleflow needs Python 3.11, 3.12 or 3.13 with the modules venv and ensurepip" >&2
    echo "(Debian and Ubuntu: apt-get install python3-venv). Name another with: make PYTHON=/path/to/python3 ..." >&2
    return 1
}

# A folder that was copied or moved from elsewhere has a Python whose scripts point to the old place.
if [ -e "$unfinished" ] || [ ! -x $venv/bin/python ] || ! $venv/bin/python -c 'import pip' >/dev/null 2>&1 ||
    ! grep -qF "$(pwd -P)/$venv" $venv/bin/activate; then
    python=$(find_python)
    echo "Setting up $venv with $("$python" --version) (once; a few minutes)." >&2
    rm -rf $venv
    mkdir $venv
    : >$unfinished
    "$python" -m venv $venv
else
    echo "Bringing $venv up to date with requirements.lock." >&2
    : >$unfinished
fi

# A PYTHONPATH or another active environment must not decide what is installed here.
unset PYTHONPATH PYTHONHOME VIRTUAL_ENV CONDA_PREFIX || true

$venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-bootstrap.txt
# Compiled once here: where PYTHONDONTWRITEBYTECODE is set, every start would compile thousands of modules again.
$venv/bin/uv pip install --python $venv/bin/python --compile-bytecode --require-hashes -r requirements.lock
$venv/bin/uv pip install --python $venv/bin/python --no-build-isolation --no-deps --offline -e .
# Every new workspace begins with a copy of it; without it each makes its own, which takes seconds.
$venv/bin/python -m flows.running.server_database || echo "No empty database was laid in; new workspaces make their own." >&2
rm $unfinished
pwd -P >$venv/.installed
