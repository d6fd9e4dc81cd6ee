"""Sidecars of all other families made from a checkpoint alone: header and tensors against the upstream converter's."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from described import described, stored_sha256
from families import CODE, KINDS, trunk_of

import nextn
from conftest import DATA, need
from golden_configs import changed
from nextn.archs import FAMILIES, of_classes
from nextn.archs.hparams import Config
from nextn.errors import FormatError, NextnError, UnsupportedFormat
from nextn.gguf.files import open_model
from nextn.sources.checkpoint import open_checkpoint

FOLDER = DATA / "goldens" / "families"
# DeepSeek-V4's published form keeps its experts' FP4 codes, and so has no other types.
GOLDENS = sorted(path.stem for path in FOLDER.glob("*.json") if path.stem not in ("deepseek4-f32", "deepseek4-bf16"))


def header_of(path: Path) -> dict[str, list[Any]]:
    model = open_model(path)
    return {kv.key: described(kv) for kv in model.kvs if kv.key.startswith(f"{model.architecture}.")}


def with_config(checkpoint: Path, folder: Path, **changes: Any) -> Path:
    """The checkpoint with other values in config.json; None takes a key away."""
    shutil.copytree(checkpoint, folder)
    changed(folder, changes)
    return folder


@pytest.mark.parametrize("stem", GOLDENS)
def test_header_and_block_equal_the_upstream_converters(
    stem: str, family: Callable[[str], Path], tmp_path: Path
) -> None:
    golden = json.loads((FOLDER / f"{stem}.json").read_text())
    kind = None if golden["model"] == "deepseek4" else golden["outtype"]
    made = nextn.extract(family(golden["model"]), type=kind, embd_type="q8_0", out=tmp_path / "mtp-x.gguf")
    assert header_of(made.entry) == (golden["mtp"]["kv"] or golden["bundled"]["kv"])
    model = open_model(made.entry)
    block = golden["mtp"]["tensors"]
    mine = {name for name in model.tensors if name.startswith(("blk.", "output_hc_"))}
    assert mine == set(block)
    for name, (of_type, ne, sha256) in block.items():
        info = model.tensors[name][1]
        assert (info.type_name.upper(), list(info.ne), stored_sha256(model, name)) == (of_type, ne, sha256), name


def test_deepseek_v3_has_the_header_of_its_trunk_and_a_block_more(
    family: Callable[[str], Path], tmp_path: Path
) -> None:
    """The upstream converter drops its block, and writes this header of its trunk."""
    made = header_of(nextn.extract(family("deepseek3"), out=tmp_path / "mtp-x.gguf").entry)
    trunk = header_of(trunk_of("deepseek3"))
    assert made.pop("deepseek2.nextn_predict_layers") == ["u32", 1]
    assert made.pop("deepseek2.block_count") == ["u32", 3] and trunk.pop("deepseek2.block_count") == ["u32", 2]
    assert made == trunk


@pytest.mark.engine
@pytest.mark.parametrize("kind", KINDS)
def test_it_drafts_beside_its_trunk(kind: str, family: Callable[[str], Path], tmp_path: Path) -> None:
    from tiny_deepseek4 import with_compression

    need("xllamacpp", importlib.util.find_spec("xllamacpp") is not None)
    trunk, donor = trunk_of(kind), family(kind)
    if kind == "deepseek4":  # as with_compression changes the trunk
        trunk = with_compression(trunk, tmp_path / "deepseek4-Q8_0.gguf")
        donor = with_config(donor, tmp_path / "donor", compress_ratios=[0, 4, 0], index_head_dim=128)
    sidecar = nextn.extract(donor, embd_type="q8_0", out=tmp_path / "mtp-x.gguf").entry
    data = nextn.verify(trunk, sidecar=sidecar, prompts=CODE, n_predict=16, threads=1).to_json()
    assert data["verdict"] != "failed", data["reasons"]
    assert data["n_drafted"] > 0 and all(item["near_tie"] for item in data["divergences"])


CONFIGS = json.loads((DATA / "goldens" / "configs" / "families.json").read_text())


@pytest.mark.parametrize("variant", [name for name in CONFIGS if name != "converter"])
def test_headers_of_published_configs_equal_the_upstream_converters(
    variant: str, family: Callable[[str], Path], tmp_path: Path
) -> None:
    """Scaled positions, keys under other names, lists that are too short, keys that are not there."""
    golden = CONFIGS[variant]
    donor = with_config(family(golden["kind"]), tmp_path / "donor", **golden["changes"])
    checkpoint = open_checkpoint(donor)  # by itself: some sizes do not fit the tiny tensors
    family_of_it = of_classes(checkpoint.classes)
    assert family_of_it is not None and family_of_it.header is not None
    n_nextn = golden["kv"].get(f"{family_of_it.arch}.nextn_predict_layers", [None, 1])[1]
    config = Config(checkpoint.text_config, donor / "config.json", n_nextn)
    header = {kv.key: described(kv) for kv in family_of_it.header.kvs(family_of_it.arch, config)}
    if golden["kind"] == "deepseek3":  # its block is dropped upstream
        assert header.pop("deepseek2.nextn_predict_layers") == ["u32", 1]
        header["deepseek2.block_count"][1] -= 1
    assert header == golden["kv"]
    found = family_of_it.header.rope_factors(config) if family_of_it.header.rope_factors is not None else None
    if golden["rope_freqs"] is None:
        assert found is None
    else:
        kind, ne, sha256 = golden["rope_freqs"]
        assert found is not None and ["F32", [len(found)]] == [kind, ne]
        assert hashlib.sha256(struct.pack(f"<{len(found)}f", *found)).hexdigest() == sha256


@pytest.mark.parametrize(
    ("kind", "changes", "words"),
    [
        # engines end with an assertion on headers without these
        ("glm4moe", {"num_experts_per_tok": None}, "'num_experts_per_tok'"),
        ("glm4moe", {"n_routed_experts": None}, "'n_routed_experts'"),
        ("mimo2", {"n_routed_experts": None}, "'n_routed_experts'"),
        ("nemotronh", {"head_dim": None}, "'head_dim'"),
        ("nemotronh", {"hybrid_override_pattern": "M*"}, "found 2"),
        ("nemotronh", {"layers_block_type": None}, "'layers_block_type'"),
        ("step35", {"rope_theta": [10000.0]}, "'rope_theta'"),
        # the converter refuses these
        ("step35", {"partial_rotary_factors": [0.25, 1.0, 1.0, 1.0, 1.0]}, "'partial_rotary_factors'"),
        ("step35", {"partial_rotary_factors": None}, "'partial_rotary_factors'"),
        ("bailingmoe3", {"no_kda_lora": False}, "'no_kda_lora'"),
        ("bailingmoe3", {"kda_safe_gate": None}, "'kda_safe_gate'"),
        ("bailingmoe3", {"gated_attention_proj_granularity_type": "element_wise"}, "granularity"),
    ],
)
def test_what_no_engine_would_run_is_refused(
    kind: str, changes: dict[str, Any], words: str, family: Callable[[str], Path], tmp_path: Path
) -> None:
    donor = with_config(family(kind), tmp_path / "donor", **changes)
    with pytest.raises((FormatError, UnsupportedFormat)) as caught:
        nextn.extract(donor, out=tmp_path / "out", dry_run=True)
    assert words in str(caught.value) and "config.json" in str(caught.value) and "\n" not in str(caught.value)


ODD: tuple[Any, ...] = (None, "x", -1, 1.5, 10**12, [], {}, [None], True, {"rope_type": "yarn", "factor": 2})


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_config_with_anything_in_it_is_one_sentence(
    kind: str, family: Callable[[str], Path], tmp_path: Path
) -> None:
    """Every key of config.json, and some that are not there, with every odd value."""
    donor = with_config(family(kind), tmp_path / "donor")
    path = donor / "config.json"
    config = json.loads(path.read_text())
    refused = 0
    for key in (*config, "rope_scaling", "mlp_layer_types", "mrope_section"):
        for value in ODD:
            path.write_text(json.dumps({**config, key: value}))
            try:
                nextn.extract(donor, out=tmp_path / "out", dry_run=True)
            except NextnError as error:
                refused += 1
                assert "\n" not in str(error) and len(str(error)) < 1000
    assert refused > 50 and not (tmp_path / "out").exists()


def test_shared_experts_that_are_summed_are_refused(family: Callable[[str], Path]) -> None:
    """By the header alone: the tiny block has no shared experts."""
    header = FAMILIES["cohere2moe"].header
    assert header is not None
    values = {**open_checkpoint(family("cohere2moe")).text_config, "num_shared_experts": 2}
    header.kvs("cohere2moe", Config(values, Path("config.json"), 1))
    changed_values = {**values, "shared_expert_combination_strategy": "sum"}
    with pytest.raises(UnsupportedFormat, match="'sum'"):
        header.kvs("cohere2moe", Config(changed_values, Path("config.json"), 1))
