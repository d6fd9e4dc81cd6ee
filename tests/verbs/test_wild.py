"""Every kind of file in the registry: what nextn says of it and makes of it, and that the engine agrees."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hub_server import HubServer
from remake import deepened, in_nvfp4, pruned
from sick import rewrite
from sicknesses import checked, ids
from splitting import split_gguf
from wild import DONORS, DRAFTS, NOT_LOADED, TWICE, WILD, Given, Parts, Wild

import nextn
from conftest import CHECKPOINT, Q4, need, stored
from nextn.diagnosis import examine
from nextn.discovery.sidecars import find_sidecars
from nextn.donors.infer import Guess, Headers, Strength, confirm
from nextn.engines import LlamaServer, find_engine
from nextn.engines.base import Launch
from nextn.errors import DonorMismatch, EngineRefused, NextnError, UnsupportedModel
from nextn.ggml.quantize import dequantize
from nextn.gguf.files import open_model
from nextn.gguf.types import TensorType
from nextn.sources.checkpoint import Checkpoint
from nextn.writing.result import Result

NAMES = {"name-hides-sidecar", "folder-hides-sidecar"}  # what a file of any content may be called
ROWS = {row.name: row for row in WILD}
ATTACHED = [(row.name, layout) for row in WILD for layout in row.attach]
# One row of each kind gets all layouts: shards and in-place carry out what a bundle does, more slowly.
EVERY_LAYOUT = ("deeper", "experts pruned", "fused in the trunk", "NVFP4 in a sidecar", "a lone mtp.safetensors")
MADE = [(name, layout) for name, layout in ATTACHED if layout in ("sidecar", "bundle") or name in EVERY_LAYOUT]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    return Parts(tmp_path_factory.mktemp("parts"))


def test_rows_are_told_apart() -> None:
    assert len(ROWS) == len(WILD)
    assert all(row.what and row.nextn and (row.shape or row.refused) for row in WILD)


@pytest.mark.parametrize("name", ROWS)
def test_inspect_and_doctor_say_the_same(name: str, parts: Parts, tmp_path: Path) -> None:
    row = ROWS[name]
    given = row.make(parts, tmp_path)
    if row.refused:
        for verb in (nextn.inspect, nextn.doctor):
            with pytest.raises(NextnError, match=row.refused):
                verb(given.path)
        return
    trunk = None if given.trunk is None or row.shape == "checkpoint" else given.trunk
    found = checked(nextn.doctor(given.path, trunk=trunk)).before
    assert (found.shape, tuple(one for one in ids(found) if one not in NAMES)) == (row.shape, row.found)
    seen = nextn.inspect(given.path)
    assert seen.shape == row.shape
    alone = [each.what for each in examine(given.path).problems]
    assert list(seen.problems) == alone
    refused = any(each.severity == "error" for each in found.problems)
    assert (row.shape in ("bundled", "sidecar") and not refused) == (row.engine == DRAFTS)


def attached(row: Wild, given: Given, layout: str, folder: Path, **how: Any) -> tuple[Path, Result]:
    """A trunk of the row, fit for the layout, and the donor's block on it."""
    trunk, donor = given.trunk or given.path, given.donor or given.path
    if trunk == donor:  # a bundle: its block goes onto what is left without it
        trunk = nextn.detach(given.path, out=folder / "plain.gguf").entry
    if layout == "shards":
        trunk = split_gguf(trunk, folder / "set", 2)[0]
    if layout == "in-place":
        return trunk, nextn.attach(trunk, donor, layout=layout, **how)
    return trunk, nextn.attach(trunk, donor, layout=layout, out=folder / layout, **how)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "layout"), MADE)
def test_attach_makes_a_healthy_model_or_says_why_not(name: str, layout: str, parts: Parts, tmp_path: Path) -> None:
    row = ROWS[name]
    given = row.make(parts, tmp_path)
    before = (given.trunk or given.path).read_bytes()
    if row.attach[layout]:
        with pytest.raises(NextnError, match=row.attach[layout]):
            attached(row, given, layout, tmp_path)
        return
    trunk, made = attached(row, given, layout, tmp_path)
    target = open_model(made.entry if layout == "sidecar" else made.sidecar or made.entry)
    problems = examine(made.sidecar or made.entry, trunk=target if layout == "sidecar" else None)
    assert [one for one in ids(problems) if one not in NAMES] == []
    if layout == "bundle":
        again = nextn.detach(made.entry, out=tmp_path / "again.gguf").entry
        assert again.read_bytes() == trunk.read_bytes()
    if layout == "in-place":
        nextn.detach(made.entry, in_place=True)
        assert trunk.read_bytes() == before


def drafts(model: Path, sidecar: Path | None) -> bool:
    """Whether an engine drafts. Raises EngineRefused."""
    with find_engine(None).start(Launch(model, sidecar, n_max=1, n_ctx=256, threads=1)) as running:
        return running.complete("def read(self):\n", 24).draft_n > 0


@pytest.mark.engine
@pytest.mark.parametrize("name", [row.name for row in WILD if row.engine != NOT_LOADED])
def test_the_engine_does_what_the_row_says(name: str, parts: Parts, tmp_path: Path) -> None:
    need("xllamacpp", importlib.util.find_spec("xllamacpp") is not None)
    row = ROWS[name]
    given = row.make(parts, tmp_path)
    if row.engine == DRAFTS:
        assert drafts(*given.launch)
    else:
        with pytest.raises(EngineRefused):
            drafts(*given.launch)
    model, _ = given.launch
    try:
        with find_engine(None).start(Launch(model, n_ctx=256, threads=1)) as running:
            running.complete("def read(self):\n", 4)
        alone = "runs"
    except EngineRefused:
        alone = "refuses"
    assert alone == row.without_mtp


@pytest.mark.engine
@pytest.mark.parametrize(("name", "layout"), [one for one in MADE if one[1] in ("sidecar", "bundle")])
def test_the_engine_drafts_with_what_attach_makes(name: str, layout: str, parts: Parts, tmp_path: Path) -> None:
    need("xllamacpp", importlib.util.find_spec("xllamacpp") is not None)
    row = ROWS[name]
    if row.attach[layout]:
        return
    _, made = attached(row, row.make(parts, tmp_path), layout, tmp_path)
    assert drafts(made.entry, made.sidecar)
    if layout == "bundle":  # and run without MTP
        with find_engine(None).start(Launch(made.entry, n_ctx=256, threads=1)) as running:
            assert running.complete("def read(self):\n", 4).tokens


# -- trunks that are not the donor's twin -----------------------------------------------------------------------------


def test_attach_says_what_differs_and_advises_verify(parts: Parts, tmp_path: Path) -> None:
    for name, words in (("deeper", "made for 4 trunk layers, but the model has 8"),
                        ("experts pruned", "has 4 experts, but the model has 3")):  # fmt: skip
        row = ROWS[name]
        _, made = attached(row, row.make(parts, tmp_path / name), "sidecar", tmp_path / name)
        note = next(note for note in made.plan.notes if "not this trunk's own" in note)
        assert words in note and "'nextn verify' measures" in note


def test_the_block_goes_after_the_deeper_trunk(parts: Parts, tmp_path: Path) -> None:
    trunk = deepened(Q4, tmp_path / "Deeper-Q4_K_M.gguf", TWICE)
    made = open_model(nextn.attach(trunk, parts.bundle, layout="bundle", out=tmp_path / "out.gguf").entry)
    healthy = open_model(parts.bundle)
    assert made.arch_int("block_count") == 9
    assert made.arch_value("attention.recurrent_layers") == [*[True, True, True, False] * 2, False]
    for name in healthy.tensors:
        if name.startswith("blk.4."):
            assert stored(made, name.replace("blk.4.", "blk.8.")) == stored(healthy, name)


def test_a_pruned_trunk_gets_a_sidecar_without_being_asked(parts: Parts, tmp_path: Path) -> None:
    trunk = pruned(parts.moe, tmp_path / "Pruned-BF16.gguf", 3)
    shards = split_gguf(trunk, tmp_path / "set", 2)
    made = nextn.attach(shards[0], parts.moe_bundle, out=tmp_path / "made")
    assert made.sidecar is not None
    sidecar = open_model(made.sidecar)
    assert sidecar.arch_int("expert_count") == 4 and sidecar.arch_int("expert_used_count") == 2
    with pytest.raises(DonorMismatch, match=r"a sidecar can: nextn attach \S+Pruned\S+ --from \S+ --layout sidecar"):
        nextn.attach(trunk, parts.moe_bundle, layout="bundle", out=tmp_path / "no.gguf")


def test_the_finder_doctor_and_inspect_agree_on_a_sidecar_of_another_trunk(parts: Parts, tmp_path: Path) -> None:
    for name, words in (("sidecar beside a deeper trunk", "made for 4 trunk layers, but the model has 8"),
                        ("sidecar beside a pruned trunk", "has 4 experts, but the model has 3")):  # fmt: skip
        (tmp_path / name).mkdir()
        given = ROWS[name].make(parts, tmp_path / name)
        assert given.trunk is not None
        trunk = open_model(given.trunk)
        best = find_sidecars(trunk).best()
        assert best is not None and best.path == given.path and words in best.why
        assert any(words in hint for hint in nextn.inspect(given.trunk).hints)
        note = next(each for each in examine(given.path, trunk=trunk).findings if not each.is_problem)
        assert note.id == "sidecar-of-another-trunk" and words in note.what


def test_a_donor_of_another_depth_is_only_taken_when_it_is_named(
    parts: Parts, tmp_path: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    trunk = deepened(Q4, tmp_path / "Tiny-Q4_K_M.gguf", TWICE)
    shutil.copy(parts.bundle, tmp_path / "Tiny-MTP-Q4_K_M.gguf")
    with pytest.raises(NextnError, match="no donor could be found"):
        nextn.attach(trunk, layout="bundle", out=tmp_path / "out.gguf")


def test_a_deeper_bundle_that_lost_a_tensor_is_completed_by_its_shallower_donor(parts: Parts, tmp_path: Path) -> None:
    trunk = deepened(Q4, tmp_path / "Deeper-Q4_K_M.gguf", TWICE)
    made = nextn.attach(trunk, CHECKPOINT, layout="bundle", out=tmp_path / "whole.gguf").entry
    sick = rewrite(made, tmp_path / "sick.gguf", lose=lambda name: name == "blk.8.attn_q.weight")
    done = checked(nextn.doctor(sick, fix=True, donor=CHECKPOINT))
    assert done.remaining == () and done.plan is not None
    assert "blk.8.attn_q.weight" in open_model(done.plan.entry).tensors


# -- NVFP4 ------------------------------------------------------------------------------------------------------------


def test_factors_are_multiplied_in(parts: Parts, tmp_path: Path) -> None:
    packed = in_nvfp4(parts.moe_bundle, tmp_path / "Packed.gguf", 4)
    made = nextn.attach(parts.moe, packed, layout="bundle", type="f32", out=tmp_path / "out.gguf").entry
    assert not any(name.endswith("scale") for name in open_model(made).tensors)
    for name in ("blk.4.ffn_gate_exps", "blk.4.attn_q"):  # one factor for each expert, and one for all rows
        matrix, factors = values(packed, f"{name}.weight"), values(packed, f"{name}.scale").reshape(-1)
        each = np.repeat(factors, len(matrix) // len(factors))[:, np.newaxis]
        assert np.array_equal(values(made, f"{name}.weight"), matrix * each)


def test_nvfp4_is_kept_when_asked_for(parts: Parts, tmp_path: Path) -> None:
    packed = in_nvfp4(parts.bundle, tmp_path / "Packed.gguf", 4)
    made = nextn.attach(Q4, packed, layout="bundle", type="nvfp4", out=tmp_path / "out.gguf")
    assert any("when it is loaded without MTP" in note for note in made.plan.notes)
    old, new = open_model(packed), open_model(made.entry)
    assert set(old.tensors) == set(new.tensors)
    assert all(stored(old, name) == stored(new, name) for name in old.tensors)


def values(path: Path, name: str) -> np.ndarray[Any, Any]:
    info = open_model(path).tensors[name][1]
    assert isinstance(info.type, TensorType)
    return dequantize(stored(open_model(path), name), info.type, info.ne[0])


# -- donors that leave something out ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [row.name for row in WILD if row.found == ("block-not-whole",)])
def test_a_donor_of_one_tensor_completes_the_block(name: str, parts: Parts, tmp_path: Path) -> None:
    given = ROWS[name].make(parts, tmp_path)
    done = checked(nextn.doctor(given.path, fix=True, donor=given.donor))
    assert done.remaining == () and done.plan is not None
    mended, healthy = open_model(done.plan.entry), open_model(parts.bundle)
    assert all(stored(mended, name) == stored(healthy, name) for name in healthy.tensors)
    with pytest.raises(NextnError, match=r"no MTP block in this model|block is incomplete"):
        nextn.attach(Q4, given.donor, layout="bundle", out=tmp_path / "no.gguf")


def test_a_trunks_layer_is_not_taken_for_a_lost_tensor(parts: Parts, tmp_path: Path) -> None:
    given = ROWS["one missing tensor"].make(parts, tmp_path)
    deeper = deepened(Q4, tmp_path / "Deeper-Q4_K_M.gguf", (0, 1, 2, 3, 3))
    with pytest.raises(NextnError, match="no MTP block in this model"):
        nextn.doctor(given.path, fix=True, donor=deeper)


def test_a_lost_tensor_of_another_shape_is_not_taken(parts: Parts, tmp_path: Path) -> None:
    given = ROWS["one missing tensor"].make(parts, tmp_path)
    small = ("blk.4.attn_output.weight", (256, 128), 0, bytes(256 * 128 * 4))
    donor = rewrite(parts.bundle, tmp_path / "other.gguf", lose=lambda name: True, add=[small])
    done = checked(nextn.doctor(given.path, fix=True, donor=donor))
    assert done.plan is None and ids(done.before) == ["block-not-whole"]


def test_a_lone_file_gives_the_same_block_as_its_checkpoint(parts: Parts, tmp_path: Path) -> None:
    given = ROWS["a lone mtp.safetensors"].make(parts, tmp_path)
    made = nextn.attach(Q4, given.path, layout="bundle", out=tmp_path / "out.gguf")
    assert any("no config.json" in note for note in made.plan.notes)
    new, old = open_model(made.entry), open_model(parts.bundle)
    assert {name: stored(new, name) for name in new.tensors} == {name: stored(old, name) for name in old.tensors}


def test_a_merged_checkpoints_block_is_the_block(parts: Parts, tmp_path: Path) -> None:
    donor = ROWS["a merged checkpoint"].make(parts, tmp_path).path
    made = nextn.attach(Q4, donor, layout="bundle", out=tmp_path / "out.gguf")
    new, old = open_model(made.entry), open_model(parts.bundle)
    assert {name: stored(new, name) for name in new.tensors} == {name: stored(old, name) for name in old.tensors}
    text = json.loads((donor / "config.json").read_text())
    headers = Headers(text, list(Checkpoint(donor).weight_map))
    assert confirm(open_model(Q4), Guess("org/merged", "a test", Strength.STATED), headers).fits


def test_a_type_that_an_engine_cannot_read_is_said(parts: Parts, tmp_path: Path) -> None:
    seen = nextn.inspect(in_nvfp4(parts.bundle, tmp_path / "Packed.gguf", 4)).runs_on
    assert seen["ik_llama.cpp"] == (
        "not as it is: some of its tensors are in nvfp4, which ik_llama.cpp up to 8337e4cd cannot read"
    )
    assert seen["llama.cpp"].startswith("drafts with it")


def test_what_is_wrong_with_a_lone_file_names_the_file(parts: Parts, tmp_path: Path) -> None:
    part = ROWS["one missing tensor, from safetensors"].make(parts, tmp_path).donor
    junk = tmp_path / "junk.safetensors"
    junk.write_text("junk")
    for donor, words in ((part, "the MTP block is incomplete"), (junk, "not a safetensors file"),
                         (tmp_path / "none.safetensors", "there is no such file")):  # fmt: skip
        with pytest.raises(NextnError, match=words) as refused:
            nextn.attach(Q4, donor, layout="bundle", out=tmp_path / "no.gguf")
        assert str(refused.value).startswith(str(donor))


def test_a_renamed_donor_is_named(parts: Parts, tmp_path: Path) -> None:
    given = ROWS["renamed, with a block"].make(parts, tmp_path)
    with pytest.raises(UnsupportedModel, match=r"of 'qwen35': nextn doctor .* --fix restores the name 'qwen35'"):
        nextn.attach(Q4, given.path, layout="bundle", out=tmp_path / "no.gguf")


def test_sidecars_that_lack_something_are_ignored(parts: Parts, tmp_path: Path, standin: LlamaServer) -> None:
    for row in WILD:
        if row.shape != "sidecar" or row.engine == DRAFTS or row.group == DONORS:
            continue
        (tmp_path / row.name).mkdir()
        given = row.make(parts, tmp_path / row.name)
        assert given.trunk is not None
        answer = find_sidecars(open_model(given.trunk))
        assert answer.candidates == () and [each.path for each in answer.passed_over] == [given.path]
        serving = nextn.serve(given.trunk, engine=standin)
        assert serving.sidecar is None
        assert any(f"ignored {given.path.name}: " in note for note in serving.notes)


