"""The families beside Qwen's: blocks byte-equal to the upstream converter's, per-layer arrays, and the engine."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from families import CODE, KINDS, PACKED, trunk_of
from opened import open_donor

import nextn
from conftest import DATA, need, stored
from nextn.archs import FAMILIES
from nextn.archs.others import LOADS_ONLY
from nextn.errors import UnsupportedModel
from nextn.gguf.files import open_model

GOLDENS = sorted(
    path.stem for path in (DATA / "goldens" / "families").glob("*.json") if not path.stem.startswith(PACKED)
)


@pytest.mark.parametrize("layout", ["bundle", "sidecar"])
@pytest.mark.parametrize("stem", GOLDENS)
def test_blocks_equal_the_upstream_converters(
    stem: str, layout: str, family: Callable[[str], Path], tmp_path: Path
) -> None:
    golden = json.loads((DATA / "goldens" / "families" / f"{stem}.json").read_text())
    trunk, donor = trunk_of(golden["model"]), family(golden["model"])
    made = nextn.attach(trunk, donor, layout=layout, type=golden["outtype"], out=tmp_path)
    model = open_model(made.sidecar or made.entry)
    block = golden["mtp"]["tensors"]
    first = min(int(name.split(".")[1]) for name in block if name.startswith("blk."))
    mine = {name for name in model.tensors if name.startswith("blk.") and int(name.split(".")[1]) >= first}
    mine |= {name for name in model.tensors if name.startswith("output_hc_") and layout == "sidecar"} & set(block)
    assert mine == set(block)
    for name, (kind, ne, sha256) in block.items():
        info = model.tensors[name][1]
        assert (info.type_name.upper(), list(info.ne)) == (kind, ne), name
        assert hashlib.sha256(stored(model, name)).hexdigest() == sha256, name
    pairs = golden["mtp" if layout == "sidecar" else "bundled"].get("kv") or golden["bundled"]["kv"]
    for key, (_, value) in pairs.items():
        if isinstance(value, list | int | bool):
            assert model.header.get(key) == value, key


@pytest.mark.engine
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in PACKED])
def test_bundle_and_sidecar_draft_and_keep_the_text(
    kind: str, family: Callable[[str], Path], tmp_path: Path
) -> None:
    """On the engine; near-ties of a random model in bf16 may part, and are told as such."""
    need("xllamacpp", importlib.util.find_spec("xllamacpp") is not None)
    for layout in ("bundle", "sidecar"):
        made = nextn.attach(trunk_of(kind), family(kind), layout=layout, out=tmp_path / layout)
        data = nextn.verify(made.entry, sidecar=made.sidecar, prompts=CODE, n_predict=16, threads=1).to_json()
        assert data["verdict"] != "failed", (layout, data["reasons"])
        assert data["n_drafted"] > 0
        assert all(item["near_tie"] for item in data["divergences"])


def test_deepseek4_blocks_equal_the_upstream_converters_and_are_never_bundled(
    family: Callable[[str], Path], tmp_path: Path
) -> None:
    """From the same values in bfloat16: all but the experts, which upstream repacks from FP4 and this source lacks."""
    golden = json.loads((DATA / "goldens" / "families" / "deepseek4-q8_0.json").read_text())
    trunk, donor = trunk_of("deepseek4"), family("deepseek4-plain")
    with pytest.raises(UnsupportedModel, match="--layout sidecar"):
        nextn.attach(trunk, donor, layout="bundle", out=tmp_path)
    model = open_model(nextn.attach(trunk, donor, out=tmp_path).sidecar or "")
    block = golden["mtp"]["tensors"]
    assert {name for name in model.tensors if name.startswith("blk.")} == {n for n in block if n.startswith("blk.")}
    for name, (kind, ne, sha256) in block.items():
        info = model.tensors[name][1]
        assert list(info.ne) == ne, name
        if "_exps" not in name:
            assert info.type_name.upper() == kind, name
            assert hashlib.sha256(stored(model, name)).hexdigest() == sha256, name
    for key, (_, value) in golden["mtp"]["kv"].items():
        if isinstance(value, list | int | bool):
            assert model.header.get(key) == value, key


def test_deepseek4_in_its_published_form_equals_the_upstream_converters(
    family: Callable[[str], Path], tmp_path: Path
) -> None:
    """FP8 with E8M0 factors and FP4 experts, as it is published: every tensor, the repacked experts too."""
    golden = json.loads((DATA / "goldens" / "families" / "deepseek4-q8_0.json").read_text())["mtp"]["tensors"]
    made = open_model(nextn.attach(trunk_of("deepseek4"), family("deepseek4"), out=tmp_path).sidecar or "")
    for name, (kind, ne, sha256) in golden.items():
        if name.startswith(("blk.", "output_hc_")):
            info = made.tensors[name][1]
            assert (info.type_name.upper(), list(info.ne)) == (kind, ne), name
            assert hashlib.sha256(stored(made, name)).hexdigest() == sha256, name


@pytest.mark.engine
def test_deepseek4_drafts_beside_a_trunk_with_compressed_attention(
    family: Callable[[str], Path], tmp_path: Path
) -> None:
    """The converter's tiny trunk has no such layer, and llama.cpp ends with a division by zero on it."""
    from tiny_deepseek4 import with_compression

    need("xllamacpp", importlib.util.find_spec("xllamacpp") is not None)
    trunk = with_compression(trunk_of("deepseek4"), tmp_path / "deepseek4-Q8_0.gguf")
    assert nextn.doctor(trunk).before.problems == ()
    made = nextn.attach(trunk, family("deepseek4-plain"))
    data = nextn.verify(trunk, sidecar=made.sidecar, prompts=CODE, n_predict=16, threads=1).to_json()
    assert data["verdict"] != "failed", data["reasons"]
    assert data["n_drafted"] > 0 and all(item["near_tie"] for item in data["divergences"])


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in PACKED])
def test_detaching_gives_the_trunk_back(kind: str, family: Callable[[str], Path], tmp_path: Path) -> None:
    made = nextn.attach(trunk_of(kind), family(kind), layout="bundle", out=tmp_path)
    plain = nextn.detach(made.entry, out=tmp_path / "plain.gguf")
    assert plain.entry.read_bytes() == trunk_of(kind).read_bytes()


def test_architectures_that_only_load_are_no_families() -> None:
    assert not set(LOADS_ONLY) & set(FAMILIES)


def test_the_key_and_value_parts_of_kv_b_equal_a_plain_reference(family: Callable[[str], Path], tmp_path: Path) -> None:
    """DeepSeek-V3's block, which the upstream converter drops: its split against numpy over the whole matrix."""
    import numpy as np

    from nextn.sources.ranges import Reader

    block = open_donor(family("deepseek3"))
    source = block.checkpoint
    assert source is not None
    place = source.tensor("model.layers.2.self_attn.kv_b_proj.weight").where
    raw = place.path.read_bytes()[place.start : place.end]
    kv_b = (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32).reshape(2, 64, 64)
    with Reader() as reader:
        for suffix, wanted in (
            ("attn_k_b.weight", kv_b[:, :32].transpose(0, 2, 1)),
            ("attn_v_b.weight", kv_b[:, 32:]),
        ):
            tensor = block.find(suffix)
            assert tensor is not None and tensor.ne == wanted.shape[::-1]
            mine = np.concatenate(list(tensor.rows.chunks(reader)))
            assert (mine == wanted.reshape(mine.shape)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_of_every_family_can_be_inspected(kind: str, family: Callable[[str], Path]) -> None:
    """However its tensors are made: all bytes that the block is read from are counted by dtype."""
    seen = nextn.inspect(family(kind))
    assert (seen.architecture, seen.problems) == (open_model(trunk_of(kind)).architecture, ())
    assert sum(seen.types.values()) == seen.block_bytes > 0
