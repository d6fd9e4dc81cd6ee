"""Drafts for the tiny Qwen3.5 beside their target, and changed copies of both."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from changes import tensors_of, write_model

import nextn
from conftest import TRUNKS
from make_tiny_checkpoints import safetensors_bytes
from nextn.gguf.files import open_model
from nextn.gguf.kv import KV, KVType
from nextn.gguf.kv_table import edit
from tiny_drafts import config_of, make_draft
from tiny_drafts import tensors_of as draft_tensors

TRUNK = TRUNKS / "tiny-qwen35-Q8_0.gguf"
NAME = "tiny-qwen35-Q8_0.gguf"


def target(folder: Path) -> Path:
    """The trunk in a folder of a test's own."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / NAME).symlink_to(TRUNK)
    return folder / NAME


def made(kind: str, folder: Path, **more: Any) -> Path:
    """The draft `kind` as a GGUF beside a trunk in `folder`, which is made if it is not there."""
    trunk = folder / NAME if (folder / NAME).exists() else target(folder)
    result = nextn.extract(make_draft(kind, folder / "published" / kind), for_trunk=trunk, **more)
    return result.entry


def changed_draft(
    kind: str,
    folder: Path,
    config: dict[str, Any] | None = None,
    change: Callable[[dict[str, np.ndarray[Any, Any]]], object] | None = None,
) -> Path:
    """A published draft with other settings, or with other tensors."""
    tensors = draft_tensors(kind)
    if change is not None:
        change(tensors)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_bytes(safetensors_bytes(tensors))
    settings = {**config_of(kind), **(config or {})}
    (folder / "config.json").write_text(json.dumps({key: x for key, x in settings.items() if x is not None}))
    return folder


def changed_gguf(
    source: Path, path: Path, put: Sequence[KV] = (), drop: Sequence[str] = (), without: Sequence[str] = ()
) -> Path:
    """A copy with other pairs, and without the tensors of `without`."""
    model = open_model(source)
    tensors = [(info, data) for info, data in tensors_of(model) if info.name not in without]
    return write_model(path, edit(model.kvs, put=list(put), drop=list(drop)), tensors)


def as_architecture(source: Path, path: Path, arch: str) -> Path:
    """A copy under another architecture's name, keys included."""
    model = open_model(source)
    old = model.architecture
    kvs = [
        KV.make(f"{arch}.{kv.key.removeprefix(f'{old}.')}", kv.type, kv.value, kv.item_type)
        if kv.key.startswith(f"{old}.")
        else kv
        for kv in model.kvs
    ]
    return write_model(path, edit(kvs, put=[text("general.architecture", arch)]), tensors_of(model))


def text(key: str, value: str) -> KV:
    return KV.make(key, KVType.STRING, value)


def number(key: str, value: int) -> KV:
    return KV.make(key, KVType.UINT32, value)


def layers(key: str, value: list[int]) -> KV:
    return KV.make(key, KVType.ARRAY, value, KVType.INT32)
