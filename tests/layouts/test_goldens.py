"""Converted tensors are byte-equal to what llama.cpp's own converter writes (docs/goldens.md)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

import nextn
from conftest import DATA, TRUNKS, stored
from nextn.gguf.files import Model, open_model

GOLDENS = sorted(path.stem for path in (DATA / "goldens").glob("*-*.json"))
TRUNK_OF = {
    "tiny-qwen35-mtp": "tiny-qwen35-Q8_0.gguf",
    "qwen35-dense": "qwen35-dense-F32.gguf",
    "qwen35moe": "qwen35moe-BF16.gguf",
    "qwen3next": "qwen3next-BF16.gguf",
}


def load(stem: str) -> dict:
    return json.loads((DATA / "goldens" / f"{stem}.json").read_text())


def trunk_of(model: str) -> Path:
    return TRUNKS / next(name for prefix, name in TRUNK_OF.items() if model.startswith(prefix))


def check_block(model: Model, golden: dict) -> int:
    """Compare every block tensor with the golden; return how many there are."""
    wanted = {name: entry for name, entry in golden["mtp"]["tensors"].items() if name.startswith("blk.")}
    first = min(int(name.split(".")[1]) for name in wanted)
    mine = {name for name in model.tensors if name.startswith(f"blk.{first}.")}
    assert mine == set(wanted)
    for name, (kind, ne, sha256) in wanted.items():
        _, info = model.tensors[name]
        assert list(info.ne) == ne, name
        assert info.type_name.upper() == kind, name
        assert hashlib.sha256(stored(model, name)).hexdigest() == sha256, name
    return len(wanted)


@pytest.mark.parametrize("stem", GOLDENS)
def test_the_attached_block_equals_the_upstream_converters(
    stem: str, checkpoints: Callable[[str], Path], tmp_path: Path
) -> None:
    golden = load(stem)
    made = nextn.attach(
        trunk_of(golden["model"]),
        checkpoints(golden["model"]),
        layout="bundle",
        type=golden["outtype"],
        out=tmp_path,
    )
    assert check_block(open_model(made.entry), golden) >= 14


def test_goldens_cover_sources_types_prefixes_and_expert_forms() -> None:
    models = {load(stem)["model"] for stem in GOLDENS}
    types = {load(stem)["outtype"] for stem in GOLDENS}
    assert types == {"f32", "f16", "bf16", "q8_0"}
    assert {name.rpartition("-")[2] for name in models} >= {"bf16", "f16", "f32", "mtp"}
    assert {name.rpartition("-")[0] for name in models} >= {
        "qwen35moe-fused",
        "qwen35moe-experts",
        "qwen35moe-nested",
        "qwen3next-fused",
        "qwen3next-experts",
        "qwen35-dense",
    }


@pytest.mark.parametrize("layout", ["sidecar", "shards"])
def test_every_layout_holds_the_same_bytes(layout: str, checkpoints: Callable[[str], Path], tmp_path: Path) -> None:
    golden = load("tiny-qwen35-mtp-q8_0")
    made = nextn.attach(trunk_of("tiny-qwen35-mtp"), checkpoints("tiny-qwen35-mtp"), layout=layout, out=tmp_path)
    assert check_block(open_model(made.sidecar or made.entry), golden) >= 14


def test_metadata_equals_the_upstream_converters(checkpoints: Callable[[str], Path], tmp_path: Path) -> None:
    """Every key that the upstream bundle has is there with the same type and value, general.* names apart."""
    for stem in ("tiny-qwen35-mtp-q8_0", "qwen35moe-fused-bf16-bf16", "qwen3next-fused-bf16-bf16"):
        golden = load(stem)
        made = nextn.attach(
            trunk_of(golden["model"]), checkpoints(golden["model"]), layout="bundle", out=tmp_path / stem
        )
        header = open_model(made.entry).header
        for key, (kind, value, *_) in golden["bundled"]["kv"].items():
            arch_key = key.startswith(header.get("general.architecture"))
            if not arch_key or kind in ("str",) or not isinstance(value, int | bool):
                continue
            assert header.get(key) == value, key
            assert header.by_key[key].type.name == {"u32": "UINT32", "i32": "INT32", "bool": "BOOL"}[kind], key
