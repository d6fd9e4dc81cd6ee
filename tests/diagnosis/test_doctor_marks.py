"""Blocks that lost what marks them, and sidecars with another number than their header's, in every family."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from families import KINDS, trunk_of
from sick import rewrite
from sicknesses import checked, ids

import nextn
from conftest import stored
from nextn.diagnosis import examine
from nextn.gguf.files import Model, open_model


def healthy(kind: str, family: Callable[[str], Path], folder: Path) -> tuple[Path, Path]:
    """A model with a block (a sidecar where the family is never bundled), and its donor."""
    donor = family("deepseek4-plain" if kind == "deepseek4" else kind)
    layout = "sidecar" if kind == "deepseek4" else "bundle"
    made = nextn.attach(trunk_of(kind), donor, layout=layout, out=folder / layout)
    return made.sidecar or made.entry, donor


def first_block(model: Model) -> int:
    return min(int(name.split(".")[1]) for name in model.tensors if ".nextn." in name)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_block_without_its_marks_is_no_trunk_layer(
    kind: str, family: Callable[[str], Path], tmp_path: Path
) -> None:
    good, donor = healthy(kind, family, tmp_path)
    model = open_model(good)
    marks = f"blk.{first_block(model)}.nextn."
    path = rewrite(good, tmp_path / "sick" / good.name, lose=lambda name: name.startswith(marks))
    assert ids(examine(path)) == ["block-not-whole"]
    assert checked(nextn.doctor(path, fix=True)).plan is None  # nothing here tells the tensors
    done = checked(nextn.doctor(path, fix=True, donor=donor))
    assert done.plan is not None and done.remaining == (), [finding.what for finding in done.remaining]
    mended = open_model(done.plan.sidecar or done.plan.entry)
    assert set(mended.tensors) == set(model.tensors)
    for key in ("block_count", "nextn_predict_layers"):
        assert mended.arch_int(key) == model.arch_int(key)
    kept = [name for name in model.tensors if not name.startswith(marks)]
    assert all(stored(mended, name) == stored(model, name) for name in kept)
    assert nextn.doctor(mended.entry, fix=True).plan is None  # there is nothing left to do


def test_a_donor_of_another_depth_does_not_complete_a_block(family: Callable[[str], Path], tmp_path: Path) -> None:
    good, _ = healthy("mimo2", family, tmp_path)
    path = rewrite(good, tmp_path / "sick" / good.name, lose=lambda name: name.startswith("blk.2.nextn."))
    done = checked(nextn.doctor(path, fix=True, donor=family("step35")))
    assert done.plan is None and done.remaining


def test_a_sidecars_number_gives_way_to_its_header(family: Callable[[str], Path], tmp_path: Path) -> None:
    good, _ = healthy("deepseek4", family, tmp_path)
    path = rewrite(good, tmp_path / "sick" / good.name, rename={"blk.2.": "blk.9."})
    assert ids(examine(path)) == ["block-at-wrong-index"]
    done = checked(nextn.doctor(path, fix=True))
    assert done.plan is not None and done.remaining == ()
    mended, model = open_model(done.plan.sidecar or done.plan.entry), open_model(good)
    assert set(mended.tensors) == set(model.tensors) and mended.arch_int("block_count") == 3


@pytest.mark.parametrize(
    ("kind", "lost"),
    [
        ("glm4moe", "ffn_up_shexp.weight"),
        ("glm4moe", "attn_k.bias"),
        ("glmdsa", "indexer.proj.weight"),
        ("step35", "attn_k_norm.weight"),
        ("nemotronh", "ffn_latent_up.weight"),
    ],
)
def test_optional_tensors_that_never_come_apart(
    kind: str, lost: str, family: Callable[[str], Path], tmp_path: Path
) -> None:
    good, donor = healthy(kind, family, tmp_path)
    name = f"blk.{first_block(open_model(good))}.{lost}"
    path = rewrite(good, tmp_path / "sick" / good.name, lose=lambda other: other == name)
    found = examine(path)
    assert ids(found) == ["block-not-whole"] and lost in found.problems[0].what
    done = checked(nextn.doctor(path, fix=True, donor=donor))
    assert done.plan is not None and done.remaining == () and name in open_model(done.plan.entry).tensors


@pytest.mark.parametrize("kind", ["glm4moe", "hyv3", "step35", "glmdsa"])
def test_a_norm_that_engines_replace_in_silence(kind: str, family: Callable[[str], Path], tmp_path: Path) -> None:
    good, donor = healthy(kind, family, tmp_path)
    assert ids(examine(good)) == []
    layer = first_block(open_model(good)) + (1 if kind == "step35" else 0)
    name = f"blk.{layer}.nextn.shared_head_norm.weight"
    path = rewrite(good, tmp_path / "sick" / good.name, lose=lambda other: other == name)
    found = examine(path)
    assert ids(found) == ["head-norm-missing"] and found.problems[0].where == name
    assert ("ik_llama.cpp up to 8337e4cd refuses" in found.problems[0].engine) == (kind == "glmdsa")
    assert checked(nextn.doctor(path, fix=True)).plan is None
    done = checked(nextn.doctor(path, fix=True, donor=donor))
    assert done.plan is not None and done.remaining == ()
    mended, model = open_model(done.plan.entry), open_model(good)
    assert set(mended.tensors) == set(model.tensors) and stored(mended, name) == stored(model, name)
