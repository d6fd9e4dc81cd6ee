"""Published EAGLE-3, DFlash and DSpark drafts: header and tensors must be those of the upstream converter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from described import described, stored_sha256

import nextn
from conftest import DATA, TRUNKS
from make_tiny_checkpoints import checkpoint_sha256
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
    made = open_model(nextn.extract(make_draft(kind, tmp_path / kind), for_trunk=TRUNK, out=tmp_path / "out").plan.entry)
    mine = {kv.key: kv.value for kv in open_model(TRUNK).kvs if kv.key.startswith("tokenizer.ggml.")}
    assert mine and {kv.key: kv.value for kv in made.kvs if kv.key in mine} == mine
    assert not any(kv.key.startswith("tokenizer.chat_template") for kv in made.kvs)
