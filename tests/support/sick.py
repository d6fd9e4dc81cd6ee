"""Makes a GGUF file sick: a real model rewritten with one thing wrong, everything else byte for byte."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from ggufmaker import KV, Tensor, pair

from nextn.gguf.files import Model, open_model
from nextn.gguf.header import build_header, place
from nextn.gguf.kv_table import edit
from nextn.gguf.tensors import TensorInfo
from nextn.layouts.metadata import parse_kv

Change = Callable[[bytes], bytes]


def rewrite(
    source: Path,
    target: Path,
    *,
    put: Sequence[KV] = (),
    drop: Sequence[str] = (),
    rename: Mapping[str, str] | None = None,
    lose: Callable[[str], bool] = lambda name: False,
    change: Mapping[str, Change] | None = None,
    add: Sequence[Tensor] = (),
) -> Path:
    """`source`, one file, as `target`: KV put and dropped, tensors renamed (by prefix), lost, changed, added."""
    file = open_model(source).files[0]
    header = file.header
    kvs = edit(header.kvs, put=[parse_kv(pair(*kv)) for kv in put], drop=drop)
    data = source.read_bytes()
    parts: list[tuple[TensorInfo, bytes]] = []
    for info in header.tensors:
        if lose(info.name):
            continue
        start, end = file.tensor_range(info)
        blob = (change or {}).get(info.name, bytes)(data[start:end])
        parts.append((TensorInfo(_renamed(info.name, rename or {}), info.ne, info.type_id, 0), blob))
    parts += [(TensorInfo(str(name), tuple(ne), type_id, 0), blob) for name, ne, type_id, blob in add]
    infos, _ = place([(info, len(blob)) for info, blob in parts], header.alignment)
    out = build_header(kvs, infos, version=header.version, alignment=header.alignment)
    body = b"".join(blob + bytes(-len(blob) % header.alignment) for _, blob in parts)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(out + body)
    return target


def _renamed(name: str, prefixes: Mapping[str, str]) -> str:
    for old, new in prefixes.items():
        if name.startswith(old):
            return new + name[len(old) :]
    return name


def plus(amount: float) -> Change:
    """Adds to every value of an F32 tensor, in float32."""
    return lambda data: (np.frombuffer(data, "<f4") + np.float32(amount)).astype("<f4").tobytes()


def halves_swapped(n_rows: int) -> Change:
    """Swaps the halves of every row, whole quantization blocks at a time."""

    def change(data: bytes) -> bytes:
        rows = np.frombuffer(data, np.uint8).reshape(n_rows, 2, -1)
        return rows[:, ::-1].tobytes()

    return change


def block_norms(model: Model, layer: int) -> list[str]:
    """The norms of an MTP block."""
    return [name for name in model.tensors if name.startswith(f"blk.{layer}.") and name.endswith("norm.weight")]
