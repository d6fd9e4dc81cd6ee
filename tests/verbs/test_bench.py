"""The verb bench on the real engine: what it prints and writes, and what it refuses. Never how fast anything is."""

from __future__ import annotations

import csv
import importlib.util
import json
import re
from pathlib import Path

import pytest
from schema_check import validate

from conftest import CHECKPOINT, Q4, ROOT, need
from nextn.cli import main
from nextn.measure.bench_report import BenchReport
from nextn.schemas.base import EngineName

SCHEMA = json.loads((ROOT / "src/nextn/schemas/bench.json").read_text())
SHORT = ("--threads", "1", "--n-max", "2", "--tasks", "code", "--repeats", "1", "--n-predict", "16", "--patience", "0")
VERDICTS = (0, 4)  # 4: the machine was busy


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need("xllamacpp", importlib.util.find_spec("xllamacpp") is not None)
    out = tmp_path_factory.mktemp("bench") / "bundle.gguf"
    assert main(["attach", str(Q4), "--from", str(CHECKPOINT), "--layout", "bundle", "-o", str(out), "-q"]) == 0
    return out


def timed(capsys: pytest.CaptureFixture[str], *call: object) -> dict[str, object]:
    capsys.readouterr()
    assert main(["bench", *map(str, call), *SHORT, "--json"]) in VERDICTS
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    validate(found, SCHEMA)
    return found


def runs_of(found: dict[str, object], setup: str) -> list[dict[str, float]]:
    return [run for run in found["runs"] if run["setup"] == setup]  # type: ignore[attr-defined]


@pytest.mark.engine
def test_a_bundle(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "b.csv"
    found = timed(capsys, bundle, "--csv", table)
    assert [one["id"] for one in found["setups"]] == ["off", "n_max 2"]  # type: ignore[attr-defined]
    assert {run["n_tokens"] for run in runs_of(found, "off")} == {16}
    assert all(run["drafted"] == 0 for run in runs_of(found, "off"))
    assert all(0 < run["accepted"] <= run["drafted"] for run in runs_of(found, "n_max 2"))
    rows = list(csv.DictReader(table.open()))
    assert [row["setup"] for row in rows] == ["off", "n_max 2"] and float(rows[1]["acceptance_1"]) > 0.2


def test_a_csv_that_is_there_is_kept(bundle: Path, tmp_path: Path) -> None:
    table = tmp_path / "b.csv"
    table.write_text("mine")
    assert main(["bench", str(bundle), "--csv", str(table), *SHORT]) == 20
    assert table.read_text() == "mine"


@pytest.mark.engine
def test_a_sidecar_and_another_model(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["extract", str(CHECKPOINT), "-o", str(tmp_path / "mtp-tiny.gguf"), "-q"]) == 0
    found = timed(capsys, Q4, "--sidecar", tmp_path / "mtp-tiny.gguf", "--against", bundle)
    drafting = [one for one in found["setups"] if one["n_max"]]  # type: ignore[attr-defined]
    assert {Path(one["model"]).name for one in drafting} == {Q4.name, bundle.name}
    assert all(one["drafted"] > 0 for one in drafting)


@pytest.mark.engine
def test_a_row_for_each_type(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "b.csv"
    timed(capsys, bundle, "--types", "q8_0,q4_0", "--csv", table)
    rows = {row["type"]: row for row in csv.DictReader(table.open()) if row["type"]}
    assert set(rows) == {"q8_0", "q4_0"} and all(int(row["drafted"]) > 0 for row in rows.values())


@pytest.mark.engine
def test_sampled_with_prompts_of_ones_own(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "p.txt").write_text("def read(self):\n---\nclass A:\n")
    capsys.readouterr()
    call = ["bench", str(bundle), "--prompts", str(tmp_path / "p.txt"), "--sampled", "--json"]
    assert main([*call, *(word for word in SHORT if word not in ("--tasks", "code"))]) in VERDICTS
    found = json.loads(capsys.readouterr().out)
    validate(found, SCHEMA)
    assert found["settings"]["temperature"] == 0.8 and {run["prompt"] for run in found["runs"]} == {0, 1}


@pytest.mark.engine
def test_quiet_is_one_sentence(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["bench", str(bundle), *SHORT, "-q"]) in VERDICTS
    out, err = capsys.readouterr()
    assert out.startswith("MTP with n_max 2 ") and out.count("\n") == 1 and not err


@pytest.mark.parametrize(
    ("call", "code", "words"),
    [
        (["--prompts", "{}/absent"], 22, "there is no such file or folder"),
        (["--prompts", "{}"], 22, "this is not a regular file"),
        (["--tasks", "poem"], 2, "poem"),
        (["--n-max", "1.5"], 2, "whole numbers"),
        (["--types", "q9_9"], 2, "q9_9"),
    ],
)
def test_wrong_calls(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], call: list[str], code: int, words: str
) -> None:
    capsys.readouterr()
    assert main(["bench", str(bundle), *(word.format(tmp_path) for word in call)]) == code
    err = capsys.readouterr().err
    assert words in err and "Traceback" not in err


def test_each_column_of_the_csv_is_described() -> None:
    tasks = ["code", "story"]
    empty = BenchReport("m", None, None, EngineName("x", "1"), {}, {"tasks": tasks}, [], [], [], None)
    (head,) = csv.reader(empty.to_csv().splitlines())
    text = (ROOT / "docs" / "publishing.md").read_text().partition("## Speed and acceptance as CSV")[2]
    described = re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`[^|]*) \|", text, re.MULTILINE)))
    by_task = {f"{name.removesuffix('TASK')}{task}" for name in described if name.endswith("TASK") for task in tasks}
    first, last = (int(name.removeprefix("acceptance_")) for name in described if re.fullmatch(r"acceptance_\d", name))
    positions = {f"acceptance_{n}" for n in range(first, last + 1)}
    assert {name for name in described if not name.endswith("TASK")} | by_task | positions == set(head)
