"""Doubt about a donor: a question on a terminal, an error anywhere else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from terminal import on_a_terminal

import nextn
from conftest import CHECKPOINT, Q4
from nextn.errors import UsageError


@pytest.fixture
def trunk(tmp_path: Path) -> Path:
    """A trunk between two donors that fit equally well."""
    path = tmp_path / Q4.name
    path.symlink_to(Q4)
    nextn.extract(CHECKPOINT, out=tmp_path / "tiny-qwen35-MTP-donor-Q8_0.gguf", block_only=True)
    nextn.extract(CHECKPOINT, out=tmp_path / "tiny-qwen35-MTP-donor-Q4_0.gguf", block_only=True, type="q4_0")
    return path


@pytest.mark.parametrize(("answers", "name"), [("1\n", "Q4_0"), ("7\nx\n2\n", "Q8_0")])
def test_the_answer_is_the_donor(trunk: Path, answers: str, name: str) -> None:
    code, shown, out = on_a_terminal(answers, "attach", trunk)
    assert code == 0, shown
    assert "which donor?" in shown and "1  " in shown and "2  " in shown
    made = trunk.parent / f"mtp-tiny-qwen35-{name}.gguf"
    assert made.exists() and out.strip() == str(trunk)


def test_no_answer_writes_nothing(trunk: Path) -> None:
    before = sorted(trunk.parent.iterdir())
    code, shown, out = on_a_terminal("\x04", "attach", trunk)
    assert code not in (0, 1) and out == "" and "Traceback" not in shown
    assert "number: " in shown and "\nnextn: interrupted;" in shown.replace("\r", "")  # on a line of its own
    assert sorted(trunk.parent.iterdir()) == before


def test_in_a_pipe_it_is_an_error(trunk: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "nextn", "attach", str(trunk)],
        capture_output=True, text=True, input="1\n", check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == UsageError.exit_code and done.stdout == ""
    assert "2 files beside it hold a block that fits" in done.stderr and "--from" in done.stderr


def test_pack_asks_as_well(trunk: Path, tmp_path: Path) -> None:
    code, shown, out = on_a_terminal("2\n", "pack", trunk, "-o", tmp_path / "out")
    assert code == 0 and "which donor?" in shown
    assert out.strip() == str(tmp_path / "out") and (tmp_path / "out" / "mtp-tiny-qwen35-Q8_0.gguf").exists()
