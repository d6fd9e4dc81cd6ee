#!/usr/bin/env bash
# pythons.sh [--others | VERSION...] [-- TEST...]: tests that start no engine, on each Python from 3.10 to 3.14 that is
# there; --others: but for that of .venv. TEST is what pytest takes; without it, the quick tests below. The last lines
# say which Pythons ran what, and which are not there; a version that is named must be there.
set -uo pipefail
cd "$(dirname "$0")/.."
# "3.11", of a Python by its path or name.
version_of() {
    "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])'
}

own=
if [ "${1-}" = --others ]; then
    own=$(version_of .venv/bin/python) || exit
    shift
fi
versions=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do versions+=("$1") && shift; done
[ $# -gt 0 ] && shift
named=${#versions[@]}
[ "$named" -gt 0 ] || versions=(3.10 3.11 3.12 3.13 3.14)
tests=("$@")
[ ${#tests[@]} -gt 0 ] ||
    tests=(tests/gguf tests/block tests/sources tests/schemas tests/cli/test_cli.py tests/test_other_systems.py)
passed=() failed=() missing=() reports=()

# The path of a Python of this version: in PATH, of pyenv, or of uv.
find_python() {
    local each
    for each in "python$1" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$1"*/bin/python \
        "${UV_PYTHON_INSTALL_DIR:-$HOME/.local/share/uv/python}"/cpython-"$1"*/bin/python3; do
        if [ "$(version_of "$each" 2>/dev/null)" = "$1" ]; then
            command -v "$each"
            return
        fi
    done
}

for version in "${versions[@]}"; do
    [ "$version" != "$own" ] || continue
    python=$(find_python "$version")
    if [ -z "$python" ]; then
        missing+=("$version")
        continue
    fi
    venv=build/pythons/$version
    echo "== Python $version: $python"
    said="not installed"
    if { [ -e "$venv/.installed" ] && [ "$venv/.installed" -nt pyproject.toml ]; } || {
        rm -rf "$venv" && "$python" -m venv "$venv" &&
            "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable '.[test]' &&
            touch "$venv/.installed"
    }; then
        log=$venv/pytest.log
        if "$venv/bin/python" -m pytest -q -m "not engine" -n logical -p no:cacheprovider "${tests[@]}" 2>&1 | tee "$log"; then
            passed+=("$version")
        else
            failed+=("$version")
        fi
        said=$(tail -n 1 "$log")
    else
        failed+=("$version")
    fi
    reports+=("Python $version ($("$python" -V 2>&1)): $said")
done
echo "== tests that start no engine, of: ${tests[*]}"
[ ${#reports[@]} -eq 0 ] || printf '%s\n' "${reports[@]}"
echo "passed: ${passed[*]:-none}; failed: ${failed[*]:-none}; not on this machine: ${missing[*]:-none}"
[ ${#failed[@]} -eq 0 ] && { [ -n "$own" ] || [ ${#passed[@]} -gt 0 ]; } && { [ "$named" -eq 0 ] || [ ${#missing[@]} -eq 0 ]; }
