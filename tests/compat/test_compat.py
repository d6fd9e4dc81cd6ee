"""The measured table: the page says what it says, and the engine here does what it says."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from families import trunk_of

import nextn
from conftest import CHECKPOINT, Q4, ROOT, need
from nextn.archs import FAMILIES
from nextn.compat import LAYOUTS, EngineBuild, Run, Table, from_json, measured, table, to_json
from nextn.engines import find_engine

RESULTS = {"drafts", "runs", "refuses", "fails", "not made"}


def test_the_page_is_made_from_the_table() -> None:
    from compat_document import document

    assert (ROOT / "docs" / "compatibility.md").read_text("utf-8") == document(table())


def test_every_family_was_measured_in_every_layout_on_every_engine() -> None:
    known = table()
    cells = {(run.arch, run.layout, run.engine) for run in known.runs}
    assert {run.arch for run in known.runs} == set(FAMILIES)
    for arch in FAMILIES:
        for layout in ("bundle", "shards", "sidecar", "trunk-only"):
            for build in known.engines:
                if build.source.startswith("wheel"):  # the others want a build of their own, and stay empty till then
                    assert (arch, layout, build.name) in cells, (arch, layout, build.name)
    assert {run.result for run in known.runs} <= RESULTS and {run.layout for run in known.runs} <= set(LAYOUTS)
    assert len(known.builds("llama.cpp")) >= 6 and any(b.source.startswith("wheel ik") for b in known.engines)
    assert from_json(json.loads(json.dumps(to_json(known)))) == known


def test_no_draft_was_counted_where_none_was_made() -> None:
    for run in table().runs:
        assert (run.draft_n > 0) == (run.result == "drafts"), run
        assert run.draft_n_accepted <= run.draft_n
        assert run.result in ("drafts", "runs") or run.says, run


@pytest.mark.engine
@pytest.mark.parametrize(("kind", "layout"), [("qwen35", "bundle"), ("glm4moe", "sidecar"), ("mimo2", "bundle")])
def test_the_engine_here_does_what_the_table_says(
    kind: str, layout: str, family: Callable[[str], Path], tmp_path: Path
) -> None:
    need("xllamacpp", importlib.util.find_spec("xllamacpp") is not None)
    import compat

    trunk, donor = (Q4, CHECKPOINT) if kind == "qwen35" else (trunk_of(kind), family(kind))
    made = nextn.attach(trunk, donor, layout=layout, out=tmp_path)
    engine = find_engine("xllamacpp")
    result, says, drafted, _, _ = compat.ask(engine, made.entry, made.sidecar, 1)
    said = table().of(made.plan.outputs and nextn.inspect(made.entry).architecture, layout, f"xllamacpp {_version()}")
    assert said is not None and (result, bool(drafted)) == (said.result, said.draft_n > 0), says


def _version() -> str:
    from importlib.metadata import version

    return version("xllamacpp")


def test_look_ups(monkeypatch: pytest.MonkeyPatch) -> None:
    builds = tuple(EngineBuild(f"x {n}", "llama.cpp", str(n), "wheel") for n in (1, 2, 3))
    runs = [
        Run("x 1", "m", "a", "bundle", "refuses", "no such thing"), Run("x 2", "m", "a", "bundle", "drafts", "", 3, 1),
        Run("x 3", "m", "a", "bundle", "drafts", "", 3, 1), Run("x 3", "m", "b", "bundle", "fails", "aborted"),
        Run("x 3", "n", "b", "bundle", "drafts", "", 3, 1), Run("x 3", "m", "c", "bundle", "not made", "cannot"),
    ]  # fmt: skip
    known = Table("2026-11-24", "here", builds, tuple(runs))
    monkeypatch.setattr("nextn.compat.table", lambda: known)
    assert measured("a", "bundle") == {"llama.cpp": "drafts with it (measured on x 2 to x 3)"}
    assert measured("b", "bundle") == {"llama.cpp": "fails with it up to x 3: aborted"}  # the worst of its models
    assert measured("c", "bundle") == {} and measured("a", "shards") == {}
    oldest = known.oldest_that_drafts("a", "bundle")
    assert oldest is not None and oldest.name == "x 2"
