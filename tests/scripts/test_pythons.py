"""`scripts/pythons.sh` with Pythons that only play their part: what ran, what failed and what is missing is said."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from conftest import ROOT

PLAYED = """#!/bin/sh
case "$1 $2" in
"-c "*) echo "{version}" ;;
"-V ") echo "Python {version}.7" ;;
"-m venv") mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
"-m pip") exit {pip} ;;
"-m pytest") echo "$*" >> pytest.log; echo "12 of {version}"; exit {pytest} ;;
*) exit 64 ;;
esac
"""


def pythons(folder: Path, *words: str, **more: dict[str, int]) -> tuple[int, list[str]]:
    """Exit code and printed lines where only the Pythons `more` ("v3_11") are there, with exit codes of their parts."""
    (folder / "scripts").mkdir(exist_ok=True)
    shutil.copy(ROOT / "scripts" / "pythons.sh", folder / "scripts")
    (folder / "pyproject.toml").touch()
    for name, codes in more.items():
        version = name.removeprefix("v").replace("_", ".")
        path = folder / "bin" / f"python{version}"
        path.parent.mkdir(exist_ok=True)
        path.write_text(PLAYED.format(**{"version": version, "pip": 0, "pytest": 0} | codes))
        path.chmod(0o755)
    nowhere = str(folder / "nowhere")
    # Pythons of this machine are out of sight, those in /usr/bin too.
    tools = folder / "tools"
    tools.mkdir(exist_ok=True)
    for tool in ("bash", "cat", "cp", "dirname", "mkdir", "rm", "sh", "tail", "tee", "touch"):
        found = shutil.which(tool)
        assert found is not None
        (tools / tool).symlink_to(found)
    env = {"PATH": f"{folder / 'bin'}:{tools}", "PYENV_ROOT": nowhere, "UV_PYTHON_INSTALL_DIR": nowhere}
    done = subprocess.run(
        ["bash", "scripts/pythons.sh", *words], cwd=folder, env={**os.environ, **env}, capture_output=True, text=True,
        check=False, timeout=60,
    )  # fmt: skip
    return done.returncode, done.stdout.splitlines()


def test_what_ran_and_what_is_missing_is_said(tmp_path: Path) -> None:
    code, lines = pythons(tmp_path, v3_11={}, v3_14={})
    assert code == 0
    assert lines[-3:] == [
        "Python 3.11 (Python 3.11.7): 12 of 3.11",
        "Python 3.14 (Python 3.14.7): 12 of 3.14",
        "passed: 3.11 3.14; failed: none; not on this machine: 3.10 3.12 3.13",
    ]
    assert lines[-4].startswith("== tests that start no engine, of: tests/gguf ")
    calls = (tmp_path / "pytest.log").read_text().splitlines()
    assert len(calls) == 2 and all("-m not engine" in call and "tests/schemas" in call for call in calls)


@pytest.mark.parametrize(
    ("words", "parts", "last"),
    [
        (["3.14"], {"v3_11": {}}, "passed: none; failed: none; not on this machine: 3.14"),
        (["3.11", "3.14"], {"v3_11": {}}, "passed: 3.11; failed: none; not on this machine: 3.14"),
        ([], {"v3_11": {"pytest": 1}, "v3_12": {}}, "passed: 3.12; failed: 3.11; not on this machine: 3.10 3.13 3.14"),
        (["3.12"], {"v3_12": {"pip": 1}}, "passed: none; failed: 3.12; not on this machine: none"),
        ([], {}, "passed: none; failed: none; not on this machine: 3.10 3.11 3.12 3.13 3.14"),
    ],
)
def test_less_than_was_asked_for_is_a_failure(
    tmp_path: Path, words: list[str], parts: dict[str, dict[str, int]], last: str
) -> None:
    code, lines = pythons(tmp_path, *words, **parts)
    assert (code, lines[-1]) == (1, last)
    assert ("Python 3.12 (Python 3.12.7): not installed" in lines) == ("pip" in parts.get("v3_12", {}))


def test_other_tests_can_be_named(tmp_path: Path) -> None:
    code, lines = pythons(tmp_path, "3.11", "--", "tests/cli", "-x", v3_11={})
    assert code == 0 and lines[-3] == "== tests that start no engine, of: tests/cli -x"
    assert (tmp_path / "pytest.log").read_text().rstrip().endswith("tests/cli -x")


@pytest.mark.parametrize("others", [{}, {"v3_12": {}}])
def test_the_python_of_the_environment_is_left_out(others: dict[str, dict[str, int]], tmp_path: Path) -> None:
    """And that there is no other one is no failure."""
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    path = tmp_path / ".venv" / "bin" / "python"
    path.write_text(PLAYED.format(version="3.11", pip=0, pytest=0))
    path.chmod(0o755)
    code, lines = pythons(tmp_path, "--others", "--", "tests/x.py", v3_11={}, **others)
    passed, missing = ("3.12", "3.10 3.13 3.14") if others else ("none", "3.10 3.12 3.13 3.14")
    assert code == 0 and lines[-1] == f"passed: {passed}; failed: none; not on this machine: {missing}"
    assert "== tests that start no engine, of: tests/x.py" in lines
