"""A newcomer's folder, the calls that every verb gets there, and how an answer is checked."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from all_verbs import Ran

from conftest import CHECKPOINT, Q4

# Verbs that take a model -> the rest of a call that writes nothing.
ON_A_MODEL = {
    "inspect": (), "doctor": (), "attach": ("--dry-run",), "detach": ("--dry-run",), "recover": ("--dry-run",),
    "extract": ("--dry-run",), "explode": ("--dry-run", "-o", "out"), "assemble": ("--dry-run", "-o", "out.gguf"),
    "verify": (), "worth": ("--patience", "0"), "plan": ("--header-only",), "bench": (), "tune": ("--dry-run",),
    "serve": ("--print",), "pack": ("--dry-run", "-o", "out"), "train": ("--dry-run",),
    "up": ("--dry-run", "--no-verify", "--for", "llama.cpp"),
}  # fmt: skip
LOCAL_ONLY = ("verify", "worth", "bench", "tune", "train", "serve", "pack", "detach", "explode", "assemble", "recover")
REMOTE = ("inspect", "doctor", "attach", "extract", "plan", "up")
TAKE_ENGINES = ("verify", "worth", "bench", "tune", "serve", "up")


def work_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a newcomer works: one model, its checkpoint, a home of its own."""
    (tmp_path / "home").mkdir()
    work = tmp_path / "work"
    work.mkdir()
    (work / Q4.name).symlink_to(Q4)
    shutil.copytree(CHECKPOINT, work / CHECKPOINT.name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("NEXTN_TRACEBACK", raising=False)
    monkeypatch.chdir(work)
    return work


def says(ran: Ran, code: int, *parts: str) -> str:
    """The call's one sentence, which has these parts."""
    assert ran.code == code, (ran.argv, ran.err, ran.bug)
    lines = [line for line in ran.err.splitlines() if line.startswith("nextn: ")]
    assert len(lines) == 1 and lines[0] == ran.err.splitlines()[-1], (ran.argv, ran.err)
    for part in parts:
        assert part in lines[0], (ran.argv, lines[0])
    return lines[0]
