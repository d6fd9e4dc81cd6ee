"""Kimi-K2's shape: no block in the checkpoint, and native blocks of third parties in the layer behind the last."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from families import trunk_of

import nextn
from conftest import stored
from nextn.errors import NoBlock
from nextn.gguf.files import open_model

KIMI = "KimiK25ForConditionalGeneration"
BLOCK = "model.layers.2."


def part(source: Path, out: Path, keep: Callable[[str], bool], rename: Callable[[str], str] = str) -> None:
    """A safetensors file with some of another one's tensors."""
    raw = source.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header: dict[str, Any] = json.loads(raw[8 : 8 + size])
    kept, data = {}, b""
    for name, entry in header.items():
        if name != "__metadata__" and keep(name):
            start, end = entry["data_offsets"]
            kept[rename(name)] = {**entry, "data_offsets": [len(data), len(data) + end - start]}
            data += raw[8 + size + start : 8 + size + end]
    text = json.dumps(kept).encode()
    out.write_bytes(len(text).to_bytes(8, "little") + text + data)


@pytest.fixture
def deepseek(family: Callable[[str], Path]) -> Path:
    return family("deepseek3")


def kimi_config(deepseek: Path, folder: Path) -> None:
    """Kimi wraps the language model in another one, and promises no block."""
    inner = json.loads((deepseek / "config.json").read_text())
    inner = {key: value for key, value in inner.items() if key not in ("architectures", "num_nextn_predict_layers")}
    whole = {"architectures": [KIMI], "model_type": "kimi_k25", "text_config": {**inner, "num_nextn_predict_layers": 0}}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(whole))


def test_the_checkpoint_itself_has_none_and_says_so(deepseek: Path, tmp_path: Path) -> None:
    folder = tmp_path / "Kimi-K2.5"
    kimi_config(deepseek, folder)
    part(deepseek / "model.safetensors", folder / "model.safetensors", lambda name: not name.startswith(BLOCK))
    with pytest.raises(NoBlock):
        nextn.attach(trunk_of("deepseek3"), folder, layout="bundle", out=tmp_path)
    (note,) = nextn.doctor(folder).before.findings
    assert note.id == "no-block-published" and "third parties" in note.what.lower()


@pytest.mark.parametrize("prefix", ["model.", "language_model.model."])
@pytest.mark.parametrize("indexed", [True, False])
def test_a_native_block_of_a_third_party_is_attached(
    prefix: str, indexed: bool, deepseek: Path, tmp_path: Path
) -> None:
    """As a donor of the block alone, and as a file that was laid beside the checkpoint's, unknown to its index."""
    folder = tmp_path / "Kimi-K2.5-MTP"
    kimi_config(deepseek, folder)

    def named(name: str) -> str:
        return name.replace("model.", prefix, 1)

    part(deepseek / "model.safetensors", folder / "mtp.safetensors", lambda name: name.startswith(BLOCK), named)
    if not indexed:
        rest = folder / "model-00001-of-00001.safetensors"
        part(deepseek / "model.safetensors", rest, lambda name: not name.startswith(BLOCK), named)
        size = int.from_bytes(rest.read_bytes()[:8], "little")
        names = json.loads(rest.read_bytes()[8 : 8 + size])
        index = {"weight_map": dict.fromkeys(names, rest.name)}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    made = nextn.attach(trunk_of("deepseek3"), folder, layout="bundle", out=tmp_path / "kimi")
    wanted = nextn.attach(trunk_of("deepseek3"), deepseek, layout="bundle", out=tmp_path / "deepseek")
    ours, theirs = open_model(made.entry), open_model(wanted.entry)
    block = [name for name in theirs.tensors if name.startswith("blk.2.")]
    assert block and sorted(ours.tensors) == sorted(theirs.tensors)
    assert all(stored(ours, name) == stored(theirs, name) for name in block)
