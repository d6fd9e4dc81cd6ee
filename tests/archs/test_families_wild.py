"""Every family: trunks of another depth, experts as one tensor, and blocks without a config.json."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
from families import KINDS, PACKED, trunk_of
from remake import deepened, fused, safetensors_part
from sicknesses import ids

import nextn
from conftest import need, stored
from nextn.archs import FAMILIES, of_classes
from nextn.archs.base import Rule
from nextn.block.from_checkpoint import block_names
from nextn.diagnosis import examine
from nextn.engines import find_engine
from nextn.engines.base import Launch
from nextn.errors import DonorMismatch, EngineRefused
from nextn.gguf.files import open_model
from nextn.sources.checkpoint import Checkpoint

WHOLE = [kind for kind in KINDS if kind not in PACKED]
TAKES_ONE = {"qwen35moe", "qwen3next", "qwen4exp", "deepseek2", "cohere2moe", "hy_v3"}  # experts' gate and up as one
LISTED = {"bailingmoe3", "step35"}  # config.json lists what the header needs of the block's layers


def drafts(model: Path, sidecar: Path | None = None) -> int:
    """Tokens that an engine drafts. Raises EngineRefused."""
    with find_engine(None).start(Launch(model, sidecar, n_max=1, n_ctx=256, threads=1)) as running:
        return running.complete("def read(self):\n", 24).draft_n


def bundled(kind: str, family: Callable[[str], Path], folder: Path) -> Path:
    return nextn.attach(trunk_of(kind), family(kind), layout="bundle", out=folder / "bundle").entry


def as_one(bundle: Path, target: Path) -> Path | None:
    """The model with its block's experts fused; None without experts that have a gate."""
    model = open_model(bundle)
    n = model.arch_int("block_count")
    layers = range(n - model.arch_int("nextn_predict_layers"), n)
    there = any(f"blk.{layer}.ffn_gate_exps.weight" in model.tensors for layer in layers)
    return fused(bundle, target, layers) if there else None


def test_the_families_that_take_experts_as_one_tensor() -> None:
    takes = {arch for arch, one in FAMILIES.items() if any(rule.replaces for rule in one.rules)}
    assert takes == TAKES_ONE


@pytest.mark.parametrize("kind", WHOLE)
def test_experts_as_one_tensor_move_where_the_loader_takes_them(
    kind: str, family: Callable[[str], Path], tmp_path: Path
) -> None:
    bundle = bundled(kind, family, tmp_path)
    path = as_one(bundle, tmp_path / "fused.gguf")
    if path is None:
        assert not any("ffn_gate_exps" in rule.target for rule in _chosen(bundle))
        return
    again = nextn.attach(trunk_of(kind), path, layout="bundle", out=tmp_path / "again.gguf")
    made = open_model(again.entry)
    if open_model(path).architecture not in TAKES_ONE:
        assert ids(examine(path)) == ["block-wants-split-experts"]
        assert any("split into the two that the loader takes" in note for note in again.plan.notes)
        mended = nextn.doctor(path, fix=True, out=tmp_path / "mended.gguf")
        assert mended.after is not None and ids(mended.after) == []
        whole = {name: stored(open_model(bundle), name) for name in open_model(bundle).tensors}
        for split in (made, open_model(tmp_path / "mended.gguf")):
            assert {name: stored(split, name) for name in split.tensors} == whole
        return
    assert ids(examine(path)) == []
    assert {name: stored(made, name) for name in made.tensors} == {
        name: stored(open_model(path), name) for name in open_model(path).tensors
    }


def _chosen(bundle: Path) -> list[Rule]:
    model = open_model(bundle)
    last = f"blk.{model.arch_int('block_count') - 1}."
    return [rule for rule in FAMILIES[model.architecture].rules if last + rule.target in model.tensors]


@pytest.mark.engine
@pytest.mark.parametrize("kind", WHOLE)
def test_the_engine_takes_experts_as_one_tensor_or_not(
    kind: str, family: Callable[[str], Path], tmp_path: Path
) -> None:
    need("xllamacpp", importlib.util.find_spec("xllamacpp") is not None)
    path = as_one(bundled(kind, family, tmp_path), tmp_path / "fused.gguf")
    if path is None:
        return
    if open_model(path).architecture in TAKES_ONE:
        assert drafts(path)
    else:
        with pytest.raises(EngineRefused, match=r"ffn_gate_exps\.weight' not found"):
            drafts(path)
        assert drafts(nextn.attach(trunk_of(kind), path, layout="bundle", out=tmp_path / "split.gguf").entry)


def deep(kind: str, folder: Path) -> Path:
    """The family's trunk with its last layer three times."""
    trunk = trunk_of(kind)
    n = open_model(trunk).arch_int("block_count")
    return deepened(trunk, folder / "Deep-Q8_0.gguf", [*range(n), n - 1, n - 1])


@pytest.mark.parametrize("kind", KINDS)
def test_a_block_goes_onto_a_deeper_trunk(kind: str, family: Callable[[str], Path], tmp_path: Path) -> None:
    donor = family("deepseek4-plain" if kind == "deepseek4" else kind)
    layout = "sidecar" if kind == "deepseek4" else "bundle"
    trunk = deep(kind, tmp_path)
    ours = nextn.attach(trunk_of(kind), donor, layout=layout, out=tmp_path / "ours")
    from_gguf = nextn.attach(trunk, ours.sidecar or ours.entry, layout=layout, out=tmp_path / "from gguf")
    made = nextn.attach(trunk, donor, layout=layout, out=tmp_path / "from checkpoint")
    for each in (from_gguf, made):
        assert any("not this trunk's own" in note for note in each.plan.notes)
        assert ids(examine(each.sidecar or each.entry)) == []
    left, right = (open_model(each.sidecar or each.entry) for each in (from_gguf, made))
    keys = {kv.key for kv in left.kvs if not kv.key.startswith("nextn.")}
    assert {key: left.header.get(key) for key in keys} == {key: right.header.get(key) for key in keys}
    assert {name: stored(left, name) for name in left.tensors} == {name: stored(right, name) for name in right.tensors}


@pytest.mark.engine
@pytest.mark.parametrize("kind", WHOLE)
def test_the_engine_drafts_on_a_deeper_trunk(kind: str, family: Callable[[str], Path], tmp_path: Path) -> None:
    need("xllamacpp", importlib.util.find_spec("xllamacpp") is not None)
    made = nextn.attach(deep(kind, tmp_path), family(kind), layout="bundle", out=tmp_path / "out.gguf")
    assert drafts(made.entry)


@pytest.mark.parametrize("kind", KINDS)
def test_a_block_without_a_config_takes_its_sizes_from_the_trunk(
    kind: str, family: Callable[[str], Path], tmp_path: Path
) -> None:
    donor = family("deepseek4-plain" if kind == "deepseek4" else kind)
    layout = "sidecar" if kind == "deepseek4" else "bundle"
    checkpoint = Checkpoint(donor)
    found = of_classes(checkpoint.classes)
    assert found is not None
    names = set(block_names(checkpoint, found).values())
    files = {checkpoint.weight_map[name] for name in names}
    assert len(files) == 1
    lone = safetensors_part(donor / files.pop(), tmp_path / "mtp.safetensors", names.__contains__)
    if found.arch in LISTED and any(tail for tail in found.array_tail if open_model(trunk_of(kind)).arch_value(tail)):
        with pytest.raises(DonorMismatch, match="use the checkpoint"):
            nextn.attach(trunk_of(kind), lone, layout=layout, out=tmp_path / "no")
        return
    ours = nextn.attach(trunk_of(kind), donor, layout=layout, out=tmp_path / "ours")
    made = nextn.attach(trunk_of(kind), lone, layout=layout, out=tmp_path / "made")
    left, right = (open_model(each.sidecar or each.entry) for each in (made, ours))
    assert {name: stored(left, name) for name in left.tensors} == {name: stored(right, name) for name in right.tensors}
    keys = {kv.key for kv in right.kvs if not kv.key.startswith("nextn.")}
    assert {key: left.header.get(key) for key in keys} == {key: right.header.get(key) for key in keys}
