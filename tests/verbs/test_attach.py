"""What attach says: how to load what it made, quoted, and what was done when nobody can read it."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import pytest

import nextn
from conftest import CHECKPOINT, Q4
from nextn.cli import main
from nextn.errors import OutputExists, UsageError


@pytest.mark.parametrize("layout", ["sidecar", "bundle", "shards"])
def test_how_to_load_it_can_be_copied(layout: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trunk = tmp_path / "my model's $quant.gguf"
    shutil.copy(Q4, trunk)
    out = tmp_path / "a b"
    assert main(["attach", str(trunk), "--from", str(CHECKPOINT), "--layout", layout, "-o", str(out)]) == 0
    said = capsys.readouterr()
    (line,) = [line for line in said.err.splitlines() if line.startswith("load it with: ")]
    words = shlex.split(line.removeprefix("load it with: "))
    entry = said.out.removesuffix("\n")
    assert words[:3] == ["llama-server", "-m", entry] and Path(entry).exists()
    beside = ["-md", str(next(out.glob("mtp-*.gguf")))] if layout == "sidecar" else []
    assert words[3:] == [*beside, "--spec-type", "draft-mtp"]


def test_only_the_path_when_quiet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "x.gguf"
    assert main(["attach", str(Q4), "--from", str(CHECKPOINT), "--layout", "bundle", "-o", str(out), "-q"]) == 0
    assert capsys.readouterr() == (f"{out}\n", "")


def test_the_document_names_the_verb(tmp_path: Path) -> None:
    made = nextn.attach(Q4, CHECKPOINT, out=tmp_path, dry_run=True)
    assert made.to_json()["kind"] == made.to_json()["verb"] == "attach" and made.when_unprinted == "nothing was written"
    done = nextn.attach(Q4, CHECKPOINT, out=tmp_path)
    assert done.when_unprinted == f"the files are complete, load {done.entry}"
    with pytest.raises(OutputExists):
        nextn.attach(Q4, CHECKPOINT, out=tmp_path)


def test_engines_that_there_are_not(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"choose one of llama\.cpp, ik, both"):
        nextn.attach(Q4, CHECKPOINT, for_engine="vllm", out=tmp_path)
