"""What measures, with each kind of draft that is a model of its own beside its model; and the page of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from drafts import NAME, made

import nextn
from nextn.engines import LlamaServer
from nextn.gguf.files import open_model
from nextn.measure.worth_bytes import body_bytes, estimated_draft, head_of
from nextn.results.page import page
from nextn.results.sections import read_sections

KINDS = {"eagle3-specforge": "eagle3", "dflash": "dflash", "dspark": "dspark"}
PROMPT = "def read(self):\n"


def page_of(folder: Path, *found: Any) -> str:
    """Their documents as a page."""
    for number, one in enumerate(found):
        (folder / f"{number}.json").write_text(json.dumps(one.to_json()))
    return page(read_sections([folder / f"{number}.json" for number in range(len(found))])).decode()


@pytest.mark.engine
@pytest.mark.parametrize("kind", KINDS)
def test_bench_times_it(kind: str, tmp_path: Path) -> None:
    path = made(kind, tmp_path)
    prompts = tmp_path / "p.txt"
    prompts.write_text(PROMPT)
    found = nextn.bench(
        tmp_path / NAME, n_max=[2], prompts=prompts, repeats=1, n_predict=24, threads=1, patience_s=0,
        engine="xllamacpp",
    )  # fmt: skip
    assert found.sidecar == str(path)
    off, on = found.rows
    assert on.drafted > 0 and on.setup.sidecar == path and off.drafted == 0
    assert on.size_bytes - off.size_bytes == path.stat().st_size
    assert on.acceptance is not None and on.acceptance[0] <= 0.1  # random weights
    assert "Speed:" in page_of(tmp_path, found)


@pytest.mark.engine
@pytest.mark.parametrize("kind", KINDS)
def test_worth_times_it(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = made(kind, tmp_path)
    for module in ("batch_curve", "timed_run"):  # whether the machine is quiet is not what is tested
        monkeypatch.setattr(f"nextn.measure.{module}.disturbances", lambda usage, threads, cpus: ())
    monkeypatch.setattr("nextn.engines.batches.SETTLE_S", 0.01)  # nor how good the figures are
    monkeypatch.setattr("nextn.measure.batch_curve.SLOW_REPEAT", 0.0)
    monkeypatch.setattr("nextn.measure.batch_curve.MOST_PASSES", 3)
    monkeypatch.setattr("nextn.verbs.worth.N_PREDICT", 16)
    found = nextn.worth(tmp_path / NAME, sidecar=path, threads=1, engine="xllamacpp", remember=False)
    assert found.sidecar == str(path)
    assert found.draft is not None and found.draft.source == "measured", found.notes
    assert {run.setup for run in found.runs} == {"off", "n_max 1", "n_max 4"}
    assert all(run.drafted > 0 for run in found.runs if run.setup != "off")
    assert "Worth:" in page_of(tmp_path, found)


@pytest.mark.engine
@pytest.mark.parametrize("kind", KINDS)
def test_tune_uses_it_as_it_is(kind: str, tmp_path: Path) -> None:
    path = made(kind, tmp_path)
    found = nextn.tune(
        tmp_path / NAME, n_max=[1, 2], p_min=[0.0], threads=[1], tasks=["code"], n_predict=16, patience_s=0,
        engine="xllamacpp", from_curve=False, out=tmp_path / "tuned",
    )  # fmt: skip
    data = found.to_json()
    drafting = [one for one in data["candidates"] if one["n_max"]]
    assert drafting and {one["block_type"] for one in drafting} == {None} and data["sidecar"] in (None, str(path))
    assert any(run["drafted"] > 0 for run in data["runs"])
    assert not list((tmp_path / "tuned").glob("*.gguf"))


def test_an_estimate_counts_the_drafts_own_bytes(tmp_path: Path) -> None:
    path = made("eagle3-specforge", tmp_path)
    trunk = open_model(tmp_path / NAME)
    draft = open_model(path)
    sizes = {name: file.stored_size(info) for name, (file, info) in draft.tensors.items()}
    token = body_bytes(trunk) + head_of(trunk).computed_size_bytes  # type: ignore[union-attr,operator]
    features = sum(sizes.get(name, 0) for name in ("fc.weight", "enc.output_norm.weight"))
    found = estimated_draft(trunk, draft=draft)
    assert found.per_token == pytest.approx((sum(sizes.values()) - features - sizes["d2t"]) / token)  # its own head
    assert found.per_step == 0 and found.catch_up > features / token
    at_once = estimated_draft(trunk, draft=open_model(made("dflash", tmp_path / "b")))
    assert at_once.per_token == 0 < at_once.per_step  # with the model's head
    assert at_once.per_step > head_of(trunk).computed_size_bytes / token  # type: ignore[union-attr,operator]


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_of_what_reads_headers(kind: str, tmp_path: Path, standin: LlamaServer) -> None:
    path = made(kind, tmp_path / "models")
    model = path.parent / NAME
    text = page_of(
        tmp_path, nextn.inspect(path), nextn.doctor(path, trunk=model), nextn.plan(model, header_only=True),
        nextn.serve(model, engine=str(standin.binary)), nextn.pack([model], out=tmp_path / "out", dry_run=True),
    )  # fmt: skip
    title = nextn.inspect(path).to_json()["draft"]["title"]
    for words in (title, "reads the inputs of layers", "256", f"draft-{KINDS[kind]}", path.name, "NO PROBLEMS"):
        assert words in text
