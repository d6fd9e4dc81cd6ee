#!/bin/sh
# install.sh PYTHON VENV [EXTRA]: nextn with an extra (dev, unless another is named) in the virtual environment VENV,
# made with PYTHON.
# A VENV of another Python version, or of a Python that is gone, is remade; one that is up to date is left alone.
set -eu
python=$1 venv=$2 extra=${3:-dev}
needed="nextn needs Python 3.10 or newer: install it, or name one that is there, as in: make PYTHON=python3.12 install"

give_up() {
    echo "$1" >&2
    exit 1
}

# "3.11", or nothing where there is no such Python.
version() {
    "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null |
        sed -n 's/^[^0-9]*\([0-9][0-9]*\.[0-9][0-9]*\).*/\1/p'
}

command -v "$python" >/dev/null 2>&1 || give_up "$python: there is no such program, and $needed"
found=$(version "$python")
[ -n "$found" ] || give_up "$python: it does not say which Python it is, and $needed"
major=${found%%.*} minor=${found#*.}
if [ "$major" -lt 3 ] || { [ "$major" -eq 3 ] && [ "$minor" -lt 10 ]; }; then
    give_up "$python: this is Python $found, and $needed"
fi

if [ -e "$venv" ] && [ "$(version "$venv/bin/python")" != "$found" ]; then
    [ -f "$venv/pyvenv.cfg" ] || give_up "$venv: this is not a virtual environment; move it away, and run make again"
    echo "$venv: its Python is not $found; making it anew" >&2
    rm -rf "$venv"
fi
# What has everything has what a smaller extra needs.
for mark in "$venv/.installed" "$venv/.installed-$extra"; do
    [ "$mark" -nt pyproject.toml ] && exit 0
done
if [ ! -e "$venv" ] && ! "$python" -m venv "$venv"; then
    rm -rf "$venv"
    give_up "$python: it cannot make a virtual environment (its words are above); on Debian and Ubuntu: apt install python3-venv"
fi
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable ".[$extra]"
if [ "$extra" = dev ]; then touch "$venv/.installed"; else touch "$venv/.installed-$extra"; fi
