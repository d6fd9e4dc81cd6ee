"""Acceptance by tensor and type: the tables, going on after a stop, and what is refused."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from drafts import NAME, made
from schema_check import validate

import nextn
from conftest import CHECKPOINT, Q4, ROOT
from nextn.cli import main
from nextn.engines import LlamaServer
from nextn.errors import NextnError, OutputExists, QuantizeError, UsageError
from nextn.gguf.files import open_model
from nextn.gguf.types import parse_type_name
from nextn.layouts.retyped import matrices, plan_retyped
from nextn.writing.execute import execute

PROMPT = "def read(self):\n"


@pytest.fixture
def sidecar(tmp_path: Path) -> Path:
    return nextn.extract(CHECKPOINT, type="bf16", out=tmp_path / "mtp-tiny-qwen35-BF16.gguf").entry


def rows(path: Path) -> dict[str, dict[str, str]]:
    return {row.pop("QTYPE"): row for row in csv.DictReader(path.open())}


def test_one_tensor_changes_and_nothing_else(sidecar: Path, tmp_path: Path) -> None:
    base = open_model(sidecar)
    names = matrices(base)
    assert any(name.endswith("nextn.eh_proj.weight") for name in names)
    assert not any(name.startswith(("token_embd", "output")) or "norm" in name for name in names)
    name = names[0]
    execute(plan_retyped(base, name, parse_type_name("q4_0"), tmp_path / "changed.gguf"))
    made = open_model(tmp_path / "changed.gguf")
    assert list(made.tensors) == list(base.tensors)
    assert [(kv.key, kv.value) for kv in made.kvs] == [(kv.key, kv.value) for kv in base.kvs]
    for each, (file, info) in base.tensors.items():
        new_file, new = made.tensors[each]
        assert new.type_name == ("q4_0" if each == name else info.type_name)
        if each != name:
            (a, b), (c, d) = file.tensor_range(info), new_file.tensor_range(new)
            assert sidecar.read_bytes()[a:b] == (tmp_path / "changed.gguf").read_bytes()[c:d]


def test_of_a_draft_the_projection_counts_too(tmp_path: Path) -> None:
    names = matrices(open_model(made("eagle3-specforge", tmp_path)))
    assert "fc.weight" in names and not {"d2t", "output.weight"} & set(names)


@pytest.mark.slow
def test_tables_and_going_on(
    sidecar: Path, standin: LlamaServer, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    prompts = tmp_path / "p.txt"
    prompts.write_text(PROMPT)
    out = tmp_path / "results" / "acceptance_results.csv"
    with pytest.raises(QuantizeError, match="iq1_s cannot be written without an importance matrix"):
        nextn.bench_tensors(Q4, types=["q8_0", "iq1_s"], out=out, sidecar=sidecar, engine=str(standin.binary))
    assert not out.parent.exists()
    args = ["bench", str(Q4), "--sidecar", str(sidecar), "--types", "q8_0,q4_0", "--by-tensor", str(out), "--prompts",
            str(prompts), "--n-predict", "16", "--engine", str(standin.binary), "--json"]  # fmt: skip
    started: list[Path] = []
    start = LlamaServer.start

    def watched(self: LlamaServer, launch: object) -> object:
        if len(started) == 5:
            raise KeyboardInterrupt
        started.append(launch.sidecar)  # type: ignore[attr-defined]
        return start(self, launch)  # type: ignore[arg-type]

    monkeypatch.setattr(LlamaServer, "start", watched)
    assert main(args) == 130 and not out.exists()
    with out.with_name("acceptance_results.csv.runs.jsonl").open("a") as file:
        file.write('{"tensor": "blk')  # a line that was cut
    monkeypatch.setattr(LlamaServer, "start", start)
    capsys.readouterr()
    assert main([*args[:-1], "--n-max", "3", "--json"]) == 20 and "other settings (n_max)" in capsys.readouterr().err
    assert main(args) == 0
    data = json.loads(capsys.readouterr().out)
    validate(data, json.loads((ROOT / "src/nextn/schemas/tensors.json").read_text()))
    assert data["n_resumed"] == 5
    names = matrices(open_model(sidecar))
    assert len(data["runs"]) == 2 * len(names) == len({(run["tensor"], run["type"]) for run in data["runs"]})
    table, loss = rows(out), rows(out.with_name("acceptance_results_loss.csv"))
    assert list(table) == ["q8_0", "q4_0"] == list(loss) and list(table["q8_0"]) == names
    base = data["base"]["acceptance"]
    for run in data["runs"]:
        cell = float(table[run["type"]][run["tensor"]])
        assert cell == pytest.approx(run["accepted"] / run["drafted"], abs=1e-6)
        assert float(loss[run["type"]][run["tensor"]]) == pytest.approx(base - cell, abs=2e-6)
    assert main(args) == 20 and "already exists" in capsys.readouterr().err
    report = tmp_path / "tensors.json"
    report.write_text(json.dumps(data))
    assert main(["report", str(report)]) == 0 and "q4_0" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "words"), [({"types": []}, "needs the types"), ({"n_max": 0}, "at least 1 token"), ({}, "already exists")]
)
def test_what_is_refused(more: dict[str, object], words: str, sidecar: Path, tmp_path: Path) -> None:
    out = tmp_path / "t.csv"
    if not more:
        (tmp_path / "t_loss.csv").write_text("mine")
    with pytest.raises(NextnError, match=words) as caught:
        nextn.bench_tensors(Q4, sidecar=sidecar, out=out, **{"types": ["q8_0"], **more})  # type: ignore[arg-type]
    assert isinstance(caught.value, UsageError | OutputExists) and not out.exists()


def test_timing_options_are_refused(sidecar: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["bench", str(Q4), "--sidecar", str(sidecar), "--types", "q8_0", "--by-tensor", str(tmp_path / "t.csv")]
    assert main([*args, "--repeats", "2"]) == 2 and "--repeats has no use" in capsys.readouterr().err


@pytest.mark.engine
def test_on_an_engine_a_coarser_type_costs_acceptance(sidecar: Path, tmp_path: Path) -> None:
    found = nextn.bench_tensors(
        Q4, sidecar=sidecar, types=["q2_k"], out=tmp_path / "t.csv", tasks=["code"], n_predict=64, threads=1,
        engine="xllamacpp",
    )  # fmt: skip
    assert found.base.acceptance is not None and found.base.acceptance > 0.3
    assert all(run.acceptance is not None and 0 <= run.acceptance <= 1 for run in found.runs)
    assert len({run.acceptance for run in found.runs}) > 1  # tensors differ in what they cost


@pytest.mark.slow
def test_a_draft_is_measured_too(standin: LlamaServer, tmp_path: Path) -> None:
    path = made("dflash", tmp_path)
    prompts = tmp_path / "p.txt"
    prompts.write_text(PROMPT)
    found = nextn.bench_tensors(
        tmp_path / NAME, types=["q4_0"], out=tmp_path / "t.csv", prompts=prompts, n_predict=8,
        engine=str(standin.binary),
    )  # fmt: skip
    assert {run.tensor for run in found.runs} == set(matrices(open_model(path)))
