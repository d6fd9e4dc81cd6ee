"""`make install` in a copy of what it reads, with Pythons that only play their part: what is said, made and kept."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from conftest import ROOT, need

NEEDED = "nextn needs Python 3.10 or newer: install it, or name one that is there"
# Says its version, makes "environments" whose Python is itself, and keeps what pip is asked for.
PLAYED = """#!/bin/sh
case "$1 $2" in
"-c "*) echo "{version}" ;;
"-m venv") {venv} ;;
"-m pip") echo "{version} $*" >> pip.log ;;
*) exit 64 ;;
esac
"""
MAKES = 'mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && echo "version = {version}" > "$3/pyvenv.cfg"'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkout, as far as installing goes."""
    need("make", shutil.which("make") is not None)
    copy = tmp_path / "a checkout"
    (copy / "scripts").mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml", "scripts/install.sh"):
        shutil.copyfile(ROOT / name, copy / name)
        os.utime(copy / name, (1, 1))  # a checkout is older than what is made in it
    return copy


def python(folder: Path, version: str, venv: str = MAKES) -> Path:
    """A Python that says it is `version`."""
    path = folder.parent / f"python{version}".replace(" ", "-")
    path.write_text(PLAYED.format(version=version, venv=venv.replace("{version}", version)))
    path.chmod(0o755)
    return path


def install(folder: Path, chosen: Path | str) -> subprocess.CompletedProcess[str]:
    """`make install` with that Python."""
    return subprocess.run(
        ["make", "install", f"PYTHON={chosen}"], cwd=folder, capture_output=True, text=True, check=False, timeout=60
    )


def installs(folder: Path) -> list[str]:
    """The versions that pip was called with, in order."""
    log = folder / "pip.log"
    return [line.split()[0] for line in log.read_text().splitlines()] if log.exists() else []


@pytest.mark.parametrize("version", ["3.10", "3.11", "3.14"])
def test_a_python_that_will_do_installs_once(folder: Path, version: str) -> None:
    chosen = python(folder, version)
    for _ in range(2):
        done = install(folder, chosen)
        assert (done.returncode, done.stderr) == (0, "")
    assert installs(folder) == [version]


@pytest.mark.parametrize("version", ["2.7", "3.9", "Python 3.8.10"])
def test_a_python_that_is_too_old(folder: Path, version: str) -> None:
    done = install(folder, python(folder, version))
    assert done.returncode != 0
    found = "3.8" if " " in version else version
    assert f"this is Python {found}, and {NEEDED}" in done.stderr.splitlines()[0]
    assert not (folder / ".venv").exists() and installs(folder) == []


@pytest.mark.parametrize(("chosen", "says"), [("no-such-python", "no such program"), ("true", "does not say which")])
def test_something_else_than_a_python(folder: Path, chosen: str, says: str) -> None:
    done = install(folder, chosen)
    assert done.returncode != 0
    assert done.stderr.startswith(f"{chosen}: ") and says in done.stderr and NEEDED in done.stderr


def test_an_environment_of_another_version_is_remade(folder: Path) -> None:
    assert install(folder, python(folder, "3.10")).returncode == 0
    (folder / ".venv" / "old").touch()
    done = install(folder, python(folder, "3.12"))
    assert done.returncode == 0 and ".venv: its Python is not 3.12" in done.stderr
    assert not (folder / ".venv" / "old").exists() and installs(folder) == ["3.10", "3.12"]
    old = install(folder, python(folder, "3.9"))  # refused before anything is removed
    assert old.returncode != 0 and (folder / ".venv" / "bin" / "python").exists()


def test_an_environment_whose_python_is_gone_is_remade(folder: Path) -> None:
    chosen = python(folder, "3.11")
    assert install(folder, chosen).returncode == 0
    (folder / ".venv" / "bin" / "python").unlink()
    (folder / ".venv" / "bin" / "python").symlink_to(folder / "gone")
    assert install(folder, chosen).returncode == 0
    assert installs(folder) == ["3.11", "3.11"]
    assert (folder / ".venv" / "bin" / "python").exists()


def test_changed_requirements_are_installed_into_the_same_environment(folder: Path) -> None:
    chosen = python(folder, "3.11")
    assert install(folder, chosen).returncode == 0
    (folder / ".venv" / "mine").touch()
    os.utime(folder / "pyproject.toml", (2_000_000_000, 2_000_000_000))
    assert install(folder, chosen).returncode == 0
    assert installs(folder) == ["3.11", "3.11"] and (folder / ".venv" / "mine").exists()


def test_a_python_without_venv(folder: Path) -> None:
    done = install(folder, python(folder, "3.11", venv='mkdir "$3"; echo "No module named ensurepip"; exit 1'))
    assert done.returncode != 0 and "apt install python3-venv" in done.stderr
    assert not (folder / ".venv").exists()


def test_a_folder_of_ones_own_is_never_removed(folder: Path) -> None:
    (folder / ".venv").mkdir()
    (folder / ".venv" / "work").write_text("mine")
    done = install(folder, python(folder, "3.11"))
    assert done.returncode != 0 and ".venv: this is not a virtual environment" in done.stderr
    assert (folder / ".venv" / "work").read_text() == "mine"


def test_a_run_that_was_interrupted_goes_on(folder: Path) -> None:
    chosen = python(folder, "3.11")
    assert install(folder, chosen).returncode == 0
    (folder / ".venv" / ".installed").unlink()
    assert install(folder, chosen).returncode == 0
    assert installs(folder) == ["3.11", "3.11"]
