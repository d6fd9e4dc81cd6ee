"""What detach says."""

from __future__ import annotations

from pathlib import Path

import pytest

import nextn
from conftest import CHECKPOINT, Q4
from nextn.cli import main
from nextn.errors import NoBlock


def test_what_it_did(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = nextn.attach(Q4, CHECKPOINT, layout="bundle", out=tmp_path / "b.gguf").entry
    out = tmp_path / "plain.gguf"
    assert main(["detach", str(model), "-o", str(out), "--dry-run"]) == 0
    said = capsys.readouterr()
    assert said.out == f"{out}\n" and "would write" in said.err and "load it with" not in said.err
    assert not out.exists()
    assert main(["detach", str(model), "-o", str(out), "-q"]) == 0
    assert capsys.readouterr() == (f"{out}\n", "")
    assert out.read_bytes() == Q4.read_bytes()


def test_nothing_to_take_off(tmp_path: Path) -> None:
    with pytest.raises(NoBlock):
        nextn.detach(Q4, out=tmp_path / "x.gguf")
    assert list(tmp_path.iterdir()) == []
