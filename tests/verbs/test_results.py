"""What every verb returns: short to look at, documented, logged."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import nextn
from conftest import CHECKPOINT, DATA, Q4, TRUNKS
from nextn.schemas.base import Documented

MAKERS: dict[str, Callable[[Path], Any]] = {
    "attach": lambda out: nextn.attach(Q4, CHECKPOINT, layout="bundle", out=out / "b.gguf"),
    "attach shards": lambda out: nextn.attach(Q4, CHECKPOINT, layout="shards", out=out / "s", dry_run=True),
    "detach": lambda out: nextn.detach(
        nextn.attach(Q4, CHECKPOINT, layout="bundle", out=out / "b.gguf").entry, out=out / "d.gguf"
    ),
    "extract": lambda out: nextn.extract(CHECKPOINT, out=out / "mtp-x.gguf"),
    "inspect": lambda out: nextn.inspect(Q4),
    "inspect a checkpoint": lambda out: nextn.inspect(CHECKPOINT),
    "doctor": lambda out: nextn.doctor(Q4),
    "plan": lambda out: nextn.plan(TRUNKS / "families" / "glm4moe-Q8_0.gguf", header_only=True),
    "pack": lambda out: nextn.pack([Q4], donor=CHECKPOINT, out=out / "pack"),
    "report": lambda out: nextn.report([DATA / "samples" / "bench.json"], out=out / "page.html"),
    "cache": lambda out: nextn.cache(),
    "tune": lambda out: nextn.tune(
        nextn.attach(Q4, CHECKPOINT, layout="bundle", out=out / "b.gguf").entry, dry_run=True, threads=[1]
    ),
    "verify": lambda out: nextn.verify(  # of another original, so that no engine is asked
        nextn.attach(Q4, CHECKPOINT, layout="bundle", out=out / "b.gguf").entry,
        trunk=TRUNKS / "tiny-qwen35-Q8_0.gguf",
    ),
}


def inner(result: Any) -> list[Any]:
    """What is reached from a result by names that its user may print."""
    names = ("plan", "outcome", "model", "block", "before", "package", "checkpoint", "rows", "findings", "document")
    return [getattr(result, name) for name in names if getattr(result, name, None) is not None]


@pytest.mark.parametrize("name", MAKERS)
def test_it_is_short_to_look_at(name: str, tmp_path: Path) -> None:
    result = MAKERS[name](tmp_path)
    assert isinstance(result, Documented) and result.to_json()["kind"] == name.split()[0]
    assert 20 < len(repr(result)) < 2000
    for each in inner(result):
        if not isinstance(each, tuple | list):
            assert len(repr(each)) < 2000, type(each)
    assert result.when_unprinted


def test_a_pull_is_short_too(tmp_path: Path) -> None:
    from nextn.publish.choose import Chosen
    from nextn.publish.listing import Listed
    from nextn.publish.pulling import PullResult, Step

    files = tuple(Listed(f"model-{i:05}.gguf", 1 << 30, "0" * 64) for i in range(1000))
    chosen = Chosen("Q4_K_M", "mtp", files[0].path, None, files, "the manifest says so")
    steps = tuple(Step(file, file.path, "download") for file in files)
    assert len(repr(PullResult("org/tiny", "0" * 40, chosen, tmp_path, steps, None, 1.0, 0))) < 2000


def test_long_results_are_cut(tmp_path: Path) -> None:
    from nextn.diagnosis import Diagnosis, Finding

    finding = Finding("id", "error", "what " * 5000, "where", "engine", "mend")
    assert len(repr(Diagnosis("name", "bundled", "arch", (finding,) * 1000))) < 2000
    document = nextn.report([DATA / "samples" / "bench.json"]).document
    assert json.loads(json.dumps(nextn.report([DATA / "samples" / "bench.json"]).to_json()))["sections"]
    assert document.sections[0].title.startswith("Speed")


def test_steps_go_to_the_logger_when_nobody_listens(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    with caplog.at_level(logging.INFO, "nextn"):
        nextn.plan(Q4, header_only=True)
    assert "reading headers" in [record.message for record in caplog.records if record.name == "nextn"]
    caplog.clear()
    heard: list[str] = []
    with caplog.at_level(logging.INFO, "nextn"):
        nextn.plan(Q4, header_only=True, say=heard.append)
    assert "reading headers" in heard and not caplog.records
