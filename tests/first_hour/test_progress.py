"""What a newcomer sees while waiting: a line per step in a pipe, no figures of bytes that nobody knows yet."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from terminal import on_a_terminal

import nextn
from conftest import CHECKPOINT, Q4
from nextn.cli import main
from nextn.report.progress import step_progress


def test_every_step_gets_a_line_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    with step_progress(every_step=True) as say:
        for number in range(3):
            say(f"load {number}")
    assert capsys.readouterr().err == "load 0\nload 1\nload 2\n"


def test_verify_says_every_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    trunk = tmp_path / Q4.name
    trunk.symlink_to(Q4)
    nextn.attach(trunk, CHECKPOINT)

    def steps(*args: object, say: object, **kwargs: object) -> None:
        assert callable(say)
        say("one")
        say("two")
        raise KeyboardInterrupt

    monkeypatch.setattr("nextn.verbs.verify.verify", steps)
    assert main(["verify", str(trunk)]) == 130
    assert capfd.readouterr().err.startswith("one\ntwo\n")


def test_a_search_is_not_shown_as_bytes(tmp_path: Path) -> None:
    trunk = tmp_path / Q4.name
    trunk.symlink_to(Q4)
    nextn.extract(CHECKPOINT, out=tmp_path / "tiny-qwen35-MTP-donor-Q8_0.gguf", block_only=True)
    code, shown, _ = on_a_terminal("", "attach", trunk)
    assert code == 0, shown
    assert "the donor is" in shown and "/?" not in shown and "0/0" not in shown


@pytest.mark.parametrize("layout", ["sidecar", "bundle", "in-place"])
def test_a_bar_reaches_its_end(tmp_path: Path, layout: str) -> None:
    model = Path(shutil.copy(Q4, tmp_path / "m.gguf"))
    seen: list[tuple[int, int]] = []
    made = nextn.attach(model, CHECKPOINT, layout=layout, progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen) and seen[-1] == (made.bytes_written, made.bytes_written)
    if layout == "bundle":
        seen.clear()
        off = nextn.detach(made.entry, progress=lambda done, total: seen.append((done, total)))
        assert seen[-1] == (off.bytes_written, off.bytes_written)
