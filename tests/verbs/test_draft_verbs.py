"""Verbs with EAGLE-3, DFlash and DSpark drafts beside their model."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from drafts import NAME, as_architecture, changed_gguf, layers, made, number, target
from hub_server import HubServer
from schema_check import validate

import nextn
from conftest import CHECKPOINT, ROOT
from nextn.cli import main
from nextn.discovery import llama_cpp_names
from nextn.engines import LlamaServer, Xllamacpp
from nextn.engines.options import ServerOptions
from nextn.errors import BlockPresent, EngineMissing, NoBlock, UnsupportedModel, UsageError
from nextn.gguf.files import open_model
from nextn.measure.control import make_control
from nextn.verbs.preset import preset_text
from tiny_drafts import make_draft

KINDS = {"eagle3-specforge": "eagle3", "dflash": "dflash", "dspark": "dspark"}
HELP = "-md FNAME\n--spec-type none,draft-mtp,draft-eagle3,draft-dflash,draft-dspark\n--spec-draft-n-max N\n"


@pytest.mark.parametrize("kind", KINDS)
def test_inspect_says_what_it_is(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = made(kind, tmp_path)
    seen = nextn.inspect(path)
    data = seen.to_json()
    validate(data, json.loads((ROOT / "src/nextn/schemas/inspect.json").read_text()))
    n_layer = 1 if kind == "eagle3-specforge" else 2
    assert (seen.shape, seen.n_layer_trunk, seen.n_layer_nextn) == ("sidecar", 0, n_layer)
    assert seen.block_bytes == sum(seen.types.values())
    want: dict[str, Any] = {
        "eagle3-specforge": ("EAGLE-3", 256, False, True, None), "dflash": ("DFlash", None, False, False, 7),
        "dspark": ("DSpark", None, True, False, 7),
    }[kind]  # fmt: skip
    draft = data["draft"]
    found = [draft[key] for key in ("title", "n_draft_vocab", "own_embeddings", "own_head", "most_tokens")]
    assert tuple(found) == want
    assert (draft["target_width"], draft["target_layers"]) == (256, [1, 2, 3])
    assert draft["spec_type"] == f"draft-{KINDS[kind]}" and draft["spec_type"] in seen.runs_on["llama.cpp"]
    assert main(["inspect", str(path)]) == 0
    out = capsys.readouterr().out
    assert re.search("made for +a hidden size of 256, reads the inputs of layers 1, 2, 3\n", out)
    assert ("256 of 2,048 tokens, mapped by d2t" in out) == (kind == "eagle3-specforge")


@pytest.mark.parametrize("kind", KINDS)
def test_inspect_finds_it_beside_its_model(kind: str, tmp_path: Path) -> None:
    path = made(kind, tmp_path)
    seen = nextn.inspect(tmp_path / NAME)
    assert seen.sidecars == (path,) and seen.problems == () and seen.draft is None
    assert f"draft-{KINDS[kind]}" in seen.runs_on["llama.cpp"]
    assert "without MTP" in seen.runs_on["ik_llama.cpp"]


def test_inspect_of_a_published_draft_says_how_to_make_a_sidecar_of_it(tmp_path: Path) -> None:
    seen = nextn.inspect(make_draft("dspark", tmp_path / "d"))
    assert seen.problems == () and "--for-trunk MODEL.gguf" in seen.hints[0]
    assert [each.id for each in seen.findings] == ["draft-model"]


@pytest.mark.parametrize("kind", KINDS)
def test_serve_names_its_type(kind: str, tmp_path: Path) -> None:
    path, model = made(kind, tmp_path), tmp_path / NAME
    binary = tmp_path / "llama-server"
    binary.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo "version: 7" && exit\necho "{HELP}"\n')
    binary.chmod(0o755)
    chosen = nextn.serve(model, engine=str(binary), n_max=2)
    spec = ["--spec-type", f"draft-{KINDS[kind]}", "--spec-draft-n-max", "2", "-md", str(path)]
    assert list(chosen.command[:3]) == [str(binary), "-m", str(model)] and list(chosen.command[3:9]) == spec
    assert f"spec-type = draft-{KINDS[kind]}" in preset_text(chosen)
    with pytest.raises(UsageError, match="name the model that it belongs to, and this file with --sidecar"):
        nextn.serve(path, engine=str(binary))


def test_a_server_that_does_not_know_the_kind(tmp_path: Path) -> None:
    path = made("dflash", tmp_path)
    with pytest.raises(EngineMissing, match="has no --spec-type draft-dflash"):
        ServerOptions("--spec-type none,draft-mtp\n-md F\n").drafting(1, None, path)
    with pytest.raises(EngineMissing, match="has no --spec-type draft-dflash"):
        ServerOptions("--spec-type SPEC  e.g. mtp:n_max=1,p_min=0.0\n-md F\n").drafting(1, None, path)


def test_which_of_several_is_taken(tmp_path: Path) -> None:
    paths = [made(kind, tmp_path) for kind in KINDS]
    assert nextn.inspect(tmp_path / NAME).sidecars == (paths[2], paths[1], paths[0])
    mtp = nextn.attach(tmp_path / NAME, CHECKPOINT, layout="sidecar", out=tmp_path / "mtp-tiny-qwen35-Q8_0.gguf")
    assert nextn.inspect(tmp_path / NAME).sidecars[0] == mtp.sidecar
    names = [path.name for path in (*paths, Path(mtp.sidecar or ""))]
    assert llama_cpp_names.sidecars(names, NAME) == [names[3], names[2], names[1], names[0]]


def test_one_under_another_name_is_found(tmp_path: Path) -> None:
    path = made("eagle3-specforge", tmp_path)
    other = path.rename(tmp_path / "tiny-qwen35.EAGLE3.gguf")
    assert nextn.inspect(tmp_path / NAME).sidecars == (other,)


def test_a_bundle_is_not_given_a_draft(tmp_path: Path) -> None:
    target(tmp_path / "t")
    bundled = nextn.attach(tmp_path / "t" / NAME, CHECKPOINT, layout="bundle", out=tmp_path / "b.gguf").entry
    nextn.extract(make_draft("dflash", tmp_path / "d"), for_trunk=bundled)
    assert nextn.inspect(bundled).sidecars == ()


@pytest.mark.parametrize("verb", ["verify", "bench", "plan"])
def test_verbs_say_that_it_is_no_model(verb: str, tmp_path: Path) -> None:
    path = made("dspark", tmp_path)
    with pytest.raises(UsageError, match="this is a sidecar or donor file; name its trunk, and this file"):
        getattr(nextn, verb)(path)


def test_what_has_no_block_to_take(tmp_path: Path) -> None:
    path = made("dspark", tmp_path)
    with pytest.raises(NoBlock, match="this draft is a model of its own and has no MTP block"):
        nextn.extract(path)
    with pytest.raises(UnsupportedModel, match="'dflash' is a DFlash or DSpark draft"):
        nextn.attach(path, CHECKPOINT)


@pytest.mark.parametrize("kind", KINDS)
def test_attach_places_it(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = made(kind, tmp_path / "down").rename(tmp_path / "down" / "model-Q8_0.gguf")
    model = target(tmp_path / "models")
    assert main(["attach", str(model), "--from", str(path)]) == 0
    said = capsys.readouterr()
    placed = tmp_path / "models" / f"{KINDS[kind]}-tiny-qwen35-Q8_0.gguf"
    assert said.out == f"{model}\n" and placed.samefile(path)
    assert f"-md {placed} --spec-type draft-{KINDS[kind]}" in said.err and "placed, not converted" in said.err
    with pytest.raises(BlockPresent, match="this draft is already beside the model"):
        nextn.attach(model, placed)
    other = as_architecture(model, tmp_path / "g.gguf", "gemma3")
    with pytest.raises(UnsupportedModel, match="hands no layer inputs to a draft"):
        nextn.attach(other, path)


@pytest.mark.parametrize("kind", KINDS)
def test_plan_counts_it(kind: str, tmp_path: Path) -> None:
    path = made(kind, tmp_path)
    found = nextn.plan(tmp_path / NAME, header_only=True, n_ctx=1024)
    rows = {row.setup.id: row for row in found.rows}
    off, on = rows["no_mtp"].prediction, rows["sidecar"].prediction
    assert off is not None and on is not None
    draft = open_model(path)
    assert rows["sidecar"].setup.disk_bytes - rows["no_mtp"].setup.disk_bytes == draft.size_bytes
    # Of the DFlash draft one layer has a window of 128, and keeps a batch of 512 beside it, in steps of 256.
    cells = {"eagle3-specforge": 1024, "dflash": 1024 + 768, "dspark": 2 * 1024}[kind]
    assert on.sum("kv_cache_bytes") - off.sum("kv_cache_bytes") == cells * 2 * (2 * 32) * 2
    assert "can only be a sidecar" in (rows["shards"].setup.why_not or "")


def test_doctor_warns_of_one_that_does_not_fit(tmp_path: Path) -> None:
    good = made("dflash", tmp_path)
    bad = changed_gguf(good, tmp_path / "dflash-other.gguf", [layers("dflash.target_layers", [1, 2, 9])])
    good.unlink()
    warning, = nextn.doctor(tmp_path / NAME).before.problems
    assert (warning.id, warning.severity) == ("draft-beside-does-not-fit", "warning")
    assert "reads the inputs of layers 1, 2, 9" in warning.what and f"nextn doctor {bad} --trunk" in warning.mend
    assert nextn.inspect(tmp_path / NAME).problems == (warning.what,)
    target(tmp_path / "x").rename(tmp_path / "another-model-Q8_0.gguf")  # then it may be that one's
    assert nextn.doctor(tmp_path / NAME).before.problems == ()
    bad.rename(tmp_path / "dflash-tiny-qwen35-Q8_0.gguf")  # but by this name it is this one's
    assert [each.id for each in nextn.doctor(tmp_path / NAME).before.problems] == ["draft-beside-does-not-fit"]


def test_a_model_without_taps_is_not_given_one(tmp_path: Path) -> None:
    path = made("eagle3-specforge", tmp_path / "a")
    model = as_architecture(tmp_path / "a" / NAME, tmp_path / "tiny-qwen35-Q8_0.gguf", "gemma3")
    path.rename(tmp_path / path.name)
    warning = next(each for each in nextn.doctor(model).before.problems if each.id == "draft-beside-does-not-fit")
    assert "the graph of 'gemma3' hands no layer inputs to a draft" in warning.what
    assert nextn.inspect(model).sidecars == ()


@pytest.mark.slow
def test_pull_gets_it_with_its_model(
    hub: HubServer, run_nextn: Callable[..., Any], tmp_path: Path
) -> None:
    repo = tmp_path / "repo"
    path = made("dspark", repo)
    files = {NAME: (repo / NAME).read_bytes(), path.name: path.read_bytes()}
    hub.repo("org/model").commit(files)
    done = run_nextn("pull", "org/model", "--variant", "mtp", "-o", tmp_path / "here")
    assert done.returncode == 0, done.stderr
    assert {each.name for each in (tmp_path / "here").glob("*.gguf")} == set(files)


def test_the_control_has_other_weights(tmp_path: Path) -> None:
    path = made("eagle3-specforge", tmp_path)
    (tmp_path / "control").mkdir()
    _, control = make_control(open_model(tmp_path / NAME), path, tmp_path / "control")
    assert control is not None
    old, new = open_model(path), open_model(control)
    assert old.files[0].header.kvs == new.files[0].header.kvs
    start, end = old.files[0].tensor_range(old.tensors["fc.weight"][1])
    assert path.read_bytes()[start:end] != control.read_bytes()[start:end]
    start, end = old.files[0].tensor_range(old.tensors["d2t"][1])
    assert path.read_bytes()[start:end] == control.read_bytes()[start:end]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_verify_passes_a_draft_that_is_accepted(kind: str, standin: LlamaServer, tmp_path: Path) -> None:
    path = made(kind, tmp_path)
    found = nextn.verify(tmp_path / NAME, engine=standin.binary.as_posix(), n_predict=32)
    assert found.verdict == "passed", found.reasons
    assert found.sidecar == path and found.engine is not None
    data = found.to_json()
    assert data["control"]["collapsed"] is True and data["acceptance"]["1"][0] > 0.5


def test_bench_compares_it_as_it_is(standin: LlamaServer, tmp_path: Path) -> None:
    made("dflash", tmp_path)
    with pytest.raises(UsageError, match="this is a draft, a model of its own, and is compared as it is"):
        nextn.bench(tmp_path / NAME, engine=standin.binary.as_posix(), types=["q4_0"])


@pytest.mark.engine
def test_verify_names_a_random_draft_as_useless(xllamacpp_engine: Xllamacpp, tmp_path: Path) -> None:
    made("eagle3-speculators", tmp_path)
    found = nextn.verify(tmp_path / NAME, engine="xllamacpp", threads=1, n_predict=24, prompts=["def read(self):\n"])
    assert found.verdict == "cannot_tell" and found.engine is not None and found.engine.same_text is True
    assert found.engine.acceptance[1][0] <= 0.05
    assert any("cannot be distinguished from one that guesses" in reason for reason in found.reasons)


@pytest.mark.engine
def test_what_plan_predicts_is_what_the_engine_takes(tmp_path: Path) -> None:
    for kind in KINDS:
        path = made(kind, tmp_path / kind)
        rows = nextn.plan(path.parent / NAME, n_ctx=1024, measure=True).rows
        row = next(row for row in rows if row.setup.id == "sidecar")
        assert row.prediction is not None and row.measured is not None
        for column in ("weights_bytes", "kv_cache_bytes", "recurrent_bytes"):
            said, real = row.prediction.sum(column), getattr(row.measured, column)
            assert abs(said - real) <= max(0.02 * real, 16 << 10), (kind, column)
        assert abs(row.prediction.total_bytes - row.measured.total_bytes) <= 0.1 * row.measured.total_bytes, kind


def test_a_width_is_told_from_the_header(tmp_path: Path) -> None:
    path = made("eagle3-specforge", tmp_path)
    changed = changed_gguf(path, tmp_path / "eagle3-x.gguf", [number("eagle3.target_hidden_size", 4096)])
    assert nextn.inspect(changed).to_json()["draft"]["target_width"] == 4096
