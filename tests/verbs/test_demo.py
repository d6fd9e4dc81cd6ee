"""The demo: what it calls a success, and its table."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import nextn
from nextn.report.demo import show
from nextn.verbs.demo import DemoLayout, DemoResult

ROW = DemoLayout("bundle", 3_646_432, 0.25, "passed", True, {"1": [0.93], "2": [0.92, 0.85]}, 50.0, {"1": 80.0}, ("x",))
DEMO = DemoResult("engine 1.0", "no MTP layers", (ROW,))


def test_what_passes() -> None:
    assert DEMO.passed and not DEMO.failed
    for verdict, failed in (("failed", True), ("cannot_tell", False)):
        other = replace(DEMO, rows=(ROW, replace(ROW, verdict=verdict)))
        assert (other.passed, other.failed) == (False, failed)
    assert not replace(DEMO, refusal="").passed


def test_its_table_and_document(capsys: pytest.CaptureFixture[str]) -> None:
    show(replace(DEMO, rows=(ROW, replace(ROW, layout="shards", verdict="failed", reasons=("it differs",)))))
    out = capsys.readouterr().out
    assert "3.65 MB" in out and "1: 93%" in out and "shards: it differs" in out
    data = json.loads(json.dumps(DEMO.to_json()))
    assert data["passed"] is True and data["rows"][0]["acceptance"]["2"] == [0.92, 0.85]


@pytest.mark.engine
def test_files_stay_where_they_are_asked_for(tmp_path: Path) -> None:
    heard: list[str] = []
    result = nextn.demo(tmp_path / "demo", say=heard.append)
    assert result.passed and len(result.rows) == 3
    assert {path.name for path in (tmp_path / "demo").iterdir()} >= {"shards", "sidecar", "bundle"}
    assert any(text.startswith("sidecar: ") for text in heard)
