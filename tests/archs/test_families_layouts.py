"""Every family in every layout, and from one to the other: the block's bytes are the same wherever they stand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from families import KINDS, PACKED, trunk_of
from splitting import split_gguf

import nextn
from conftest import stored
from nextn.gguf.files import Model, open_model

WHOLE = [kind for kind in KINDS if kind not in PACKED]


def block_of(model: Model) -> dict[str, tuple[tuple[int, ...], int, bytes]]:
    """The block's tensors by the name behind `blk.N.`, with their layer counted from the block's first."""
    first = model.arch_int("block_count") - model.arch_int("nextn_predict_layers")
    out = {}
    for name, (_, info) in model.tensors.items():
        if name.startswith("blk.") and int(name.split(".")[1]) >= first:
            out[name] = (info.ne, info.type_id, stored(model, name))
    return out


def trunk_tensors(model: Model) -> dict[str, bytes]:
    return {name: stored(model, name) for name in model.tensors if name not in block_of(model)}


@pytest.mark.slow
@pytest.mark.parametrize("kind", WHOLE)
def test_shards_sidecar_donor_file_and_bundle_hold_one_block(
    kind: str, family: Callable[[str], Path], tmp_path: Path
) -> None:
    trunk, donor = trunk_of(kind), family(kind)
    bundle = nextn.attach(trunk, donor, layout="bundle", out=tmp_path / "bundle").entry
    block = block_of(open_model(bundle))
    assert block and trunk_tensors(open_model(bundle)) == trunk_tensors(open_model(trunk))

    some = split_gguf(trunk, tmp_path / "set", 2, tensors_first=False)
    shards = nextn.attach(some[0], donor, out=tmp_path / "shards")
    assert shards.plan.layout == "shards" and shards.entry.parent.joinpath(
        shards.entry.name.replace("00001-of", "00002-of")
    ).samefile(some[1])
    assert block_of(open_model(shards.entry)) == block
    plain = nextn.detach(shards.entry, out=tmp_path / "plain")
    assert {name: stored(open_model(plain.entry), name) for name in open_model(plain.entry).tensors} == trunk_tensors(
        open_model(trunk)
    )

    sidecar = nextn.attach(trunk, donor, layout="sidecar", out=tmp_path / "side").sidecar
    assert sidecar is not None and block_of(open_model(sidecar)) == block
    taken_out = nextn.extract(bundle, out=tmp_path / "extracted").entry
    assert block_of(open_model(taken_out)) == block
    again = nextn.attach(trunk, sidecar, layout="bundle", out=tmp_path / "again").entry
    assert block_of(open_model(again)) == block
    assert open_model(again).arch_value("nextn_predict_layers") == open_model(bundle).arch_value("nextn_predict_layers")
    for suffix in ("block_count", "attention.head_count", "attention.head_count_kv", "feed_forward_length"):
        assert open_model(again).arch_value(suffix) == open_model(bundle).arch_value(suffix)

    alone = nextn.extract(bundle, block_only=True, out=tmp_path / "alone").entry
    from_file = nextn.attach(trunk, alone, layout="bundle", out=tmp_path / "from file").entry
    assert block_of(open_model(from_file)) == block
    from_bundle = nextn.attach(trunk, bundle, layout="bundle", out=tmp_path / "from bundle").entry
    assert block_of(open_model(from_bundle)) == block


@pytest.mark.parametrize("kind", [kind for kind in WHOLE if kind in ("glm4moe", "deepseek3", "glmdsa", "hyv3")])
def test_a_draft_head_where_the_loader_takes_one(kind: str, family: Callable[[str], Path], tmp_path: Path) -> None:
    made = nextn.attach(trunk_of(kind), family(kind), layout="bundle", draft_head="q4_0", out=tmp_path)
    tensors = open_model(made.entry).tensors
    heads = [info for name, (_, info) in tensors.items() if name.endswith("shared_head_head.weight")]
    assert heads and {info.type_name for info in heads} == {"q4_0"}
