"""Standard streams that are closed, full or gone: results, files and exit codes are what they would be otherwise."""

from __future__ import annotations

import hashlib
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import CHECKPOINT, Q4

needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")


def run(redirections: str, *command: object, cwd: Path) -> int:
    line = shlex.join([sys.executable, "-m", "nextn", *map(str, command)])
    return subprocess.run(["sh", "-c", f"exec {line} {redirections}"], cwd=cwd, check=False).returncode


@pytest.mark.slow
@pytest.mark.parametrize(
    "redirections", [">&-", "2>&-", "<&- >&- 2>&-", pytest.param(">/dev/null 2>/dev/full", marks=needs_full)]
)
def test_a_block_is_attached_all_the_same(redirections: str, tmp_path: Path) -> None:
    made = {}
    for name, how in (("plain", ">/dev/null 2>&1"), ("odd", redirections)):
        command = ("attach", Q4, "--from", CHECKPOINT, "--layout", "bundle", "-o", name)
        assert run(how, *command, cwd=tmp_path) == 0
        made[name] = {path.name: hashlib.sha256(path.read_bytes()).digest() for path in (tmp_path / name).iterdir()}
    assert made["plain"] == made["odd"] != {}


@pytest.mark.slow
@pytest.mark.parametrize("redirections", ["2>&-", "<&- >&- 2>&-", pytest.param("2>/dev/full", marks=needs_full)])
def test_an_error_that_nobody_can_read_keeps_its_exit_code(redirections: str, tmp_path: Path) -> None:
    assert run(redirections, "inspect", "nothing.gguf", cwd=tmp_path) == 22
    assert run(redirections, "unknown", cwd=tmp_path) == 2


@needs_full
@pytest.mark.slow
@pytest.mark.parametrize("command", [["inspect", Q4], ["inspect", Q4, "--json"], ["--version"], ["--help"]])
def test_a_result_that_cannot_be_printed_is_an_error(command: list[object], tmp_path: Path) -> None:
    assert run(">/dev/full 2>/dev/null", *command, cwd=tmp_path) == 22
    assert run(">/dev/full 2>/dev/full", *command, cwd=tmp_path) == 22


@pytest.mark.slow
@pytest.mark.parametrize("command", [["inspect", Q4], ["inspect", Q4, "--json"], ["--version"], ["--help"], []])
def test_a_reader_that_has_gone_is_no_error(command: list[object], tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    line = [sys.executable, "-m", "nextn", *map(str, command)]
    done = subprocess.run(line, stdout=writing, stderr=subprocess.PIPE, cwd=tmp_path, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.slow
def test_no_file_gets_the_number_of_a_closed_stream(tmp_path: Path) -> None:
    """Libraries write to descriptor 2, whatever it is."""
    script = (
        "import os; from pathlib import Path; from nextn.cli.streams import take_over; take_over(); "
        "null = os.stat(os.devnull).st_ino; "
        "Path('seen').write_text(repr([os.fstat(fd).st_ino == null and os.get_inheritable(fd) for fd in range(3)]))"
    )
    line = shlex.join([sys.executable, "-c", script])
    subprocess.run(["sh", "-c", f"exec {line} <&- >&- 2>&-"], cwd=tmp_path, check=True)
    assert (tmp_path / "seen").read_text() == "[True, True, True]"
    assert [path.name for path in tmp_path.iterdir()] == ["seen"]
