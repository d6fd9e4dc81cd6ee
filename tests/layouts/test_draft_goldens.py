"""Published EAGLE-3, DFlash and DSpark drafts: header and tensors must be those of the upstream converter."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from described import described, stored_sha256

import nextn
from conftest import DATA, TRUNKS
from make_tiny_checkpoints import checkpoint_sha256
from nextn.archs.drafts import llama3_factors
from nextn.archs.hparams import Config
from nextn.gguf.files import open_model
from tiny_drafts import DRAFTS, make_draft

GOLDENS = DATA / "goldens" / "drafts"
TRUNK = TRUNKS / "tiny-qwen35-BF16.gguf"


def golden(kind: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((GOLDENS / f"{kind}.json").read_text())
    return found


def test_every_layout_has_a_golden() -> None:
    assert {path.stem for path in GOLDENS.glob("*.json")} == DRAFTS.keys()


@pytest.mark.parametrize("outtype", ["bf16", "q8_0", "f32"])
@pytest.mark.parametrize("kind", DRAFTS)
def test_like_the_converter(kind: str, outtype: str, tmp_path: Path) -> None:
    source = make_draft(kind, tmp_path / kind)
    assert checkpoint_sha256(source) == golden(kind)["checkpoint"]
    wanted = golden(kind)[outtype]
    result = nextn.extract(source, for_trunk=TRUNK, type=outtype, out=tmp_path / "out")
    made = open_model(result.plan.entry)
    assert made.architecture == wanted["arch"]
    starts = ("eagle3.", "dflash.", "tokenizer.ggml.mask")
    assert {kv.key: described(kv) for kv in made.kvs if kv.key.startswith(starts)} == wanted["kv"]
    tensors = {
        name: [info.type_name.upper(), list(info.ne), stored_sha256(made, name)]
        for name, (_, info) in made.tensors.items()
    }
    assert tensors == wanted["tensors"]


@pytest.mark.parametrize("kind", ["eagle3-specforge", "dspark"])
def test_the_tokenizer_is_the_trunks(kind: str, tmp_path: Path) -> None:
    source = make_draft(kind, tmp_path / kind)
    made = open_model(nextn.extract(source, for_trunk=TRUNK, out=tmp_path / "out").plan.entry)
    mine = {kv.key: kv.value for kv in open_model(TRUNK).kvs if kv.key.startswith("tokenizer.ggml.")}
    assert mine and {kv.key: kv.value for kv in made.kvs if kv.key in mine} == mine
    assert not any(kv.key.startswith("tokenizer.chat_template") for kv in made.kvs)


# sha256 of what conversion/llama.py computes with torch 2.13.0 on x86-64.
LLAMA3 = (
    (10000.0, 64, 8.0, "8da7ecb6eba3fe24"),
    (10000.0, 128, 8.0, "4b430609d36f4fdc"),
    (10000.0, 128, 32.0, "ca7bcff8af0acfc0"),
    (500000.0, 64, 8.0, "52d7c3ec87a87f6e"),
    (500000.0, 128, 8.0, "8b516af9cb5db26e"),
    (500000.0, 128, 32.0, "af00a6286e9cba87"),
    (1000000.0, 64, 8.0, "a8eeee86f7061370"),
    (1000000.0, 128, 8.0, "74d523506f61a3c9"),
    (1000000.0, 128, 32.0, "5a8ac5f506306792"),
    (5000000.0, 64, 8.0, "b46f87d64ef858b4"),
    (5000000.0, 128, 8.0, "29aaab7f41a4e7f0"),
    (5000000.0, 128, 32.0, "ab866966897a1fc9"),
)


@pytest.mark.parametrize(("base", "width", "factor", "sha256"), LLAMA3)
def test_llama3_factors(base: float, width: int, factor: float, sha256: str) -> None:
    scaling = {
        "rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }  # fmt: skip
    config = Config({"head_dim": width, "rope_theta": base, "rope_scaling": scaling}, Path("config.json"), 0)
    found = llama3_factors(config)
    assert found is not None
    assert hashlib.sha256(struct.pack(f"<{width // 2}f", *found)).hexdigest()[:16] == sha256
