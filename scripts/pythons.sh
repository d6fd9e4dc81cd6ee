#!/usr/bin/env bash
# pythons.sh [VERSION...]: the quick tests, which start no engine, on each Python from 3.10 to 3.14 that is there.
# A version that is named must be there; one that is not named and not there is listed at the end.
set -uo pipefail
cd "$(dirname "$0")/.."
versions=("$@")
[ ${#versions[@]} -gt 0 ] || versions=(3.10 3.11 3.12 3.13 3.14)
quick=(tests/gguf tests/block tests/sources tests/schemas tests/cli/test_cli.py tests/test_other_systems.py)
passed=() failed=() missing=()

# The path of a Python of this version: in PATH, of pyenv, or of uv.
find_python() {
    local each
    for each in "python$1" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$1"*/bin/python \
        "${UV_PYTHON_INSTALL_DIR:-$HOME/.local/share/uv/python}"/cpython-"$1"*/bin/python3; do
        if [ "$("$each" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)" = "$1" ]; then
            command -v "$each"
            return
        fi
    done
}

for version in "${versions[@]}"; do
    python=$(find_python "$version")
    if [ -z "$python" ]; then
        missing+=("$version")
        continue
    fi
    venv=build/pythons/$version
    echo "== Python $version: $python"
    if { [ -e "$venv/.installed" ] && [ "$venv/.installed" -nt pyproject.toml ]; } || {
        rm -rf "$venv" && "$python" -m venv "$venv" &&
            "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable '.[test]' &&
            touch "$venv/.installed"
    } && "$venv/bin/python" -m pytest -q -m "not engine" -p no:cacheprovider "${quick[@]}"; then
        passed+=("$version")
    else
        failed+=("$version")
    fi
done
echo "passed: ${passed[*]:-none}; failed: ${failed[*]:-none}; not on this machine: ${missing[*]:-none}"
[ ${#failed[@]} -eq 0 ] && [ ${#passed[@]} -gt 0 ] && { [ $# -eq 0 ] || [ ${#missing[@]} -eq 0 ]; }
