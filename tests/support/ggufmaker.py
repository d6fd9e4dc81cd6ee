"""GGUF bytes from plain descriptions, with `struct` alone: the tests' own writer, which shares nothing with nextn.

A KV pair is `(key, type, value)`. The type is `"u8"`, ... `"str"`, or `"[u32]"`, `"[str]"` for an array; of an
array of arrays (`"[[]]"`) the value is a list of `(item type, items)`. Keys, names and strings may be `bytes`.
A tensor is `(name, ne, type number, data bytes)`.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CODES = {"u8": 0, "i8": 1, "u16": 2, "i16": 3, "u32": 4, "i32": 5, "f32": 6, "bool": 7, "str": 8, "[]": 9,
         "u64": 10, "i64": 11, "f64": 12}  # fmt: skip
FORMS = {"u8": "B", "i8": "b", "u16": "H", "i16": "h", "u32": "I", "i32": "i", "f32": "f", "bool": "?", "u64": "Q",
         "i64": "q", "f64": "d"}  # fmt: skip
F32, F16, Q8_0, Q4_0, Q4_K, IQ4_KS = 0, 1, 8, 2, 12, 144

KV = tuple[str | bytes, str, Any]
Tensor = tuple[str | bytes, Sequence[int], int, bytes]


def text(value: str | bytes) -> bytes:
    data = value if isinstance(value, bytes) else value.encode("utf-8", "surrogateescape")
    return struct.pack("<Q", len(data)) + data


def items(kind: str, values: Sequence[Any]) -> bytes:
    """Item type, count, items."""
    if kind == "[]":
        body = b"".join(items(inner, list(some)) for inner, some in values)
    else:
        body = b"".join(scalar(kind, value) for value in values)
    return struct.pack("<IQ", CODES[kind], len(values)) + body


def scalar(kind: str, value: Any) -> bytes:
    return text(value) if kind == "str" else struct.pack("<" + FORMS[kind], value)


def pair(key: str | bytes, kind: str, value: Any) -> bytes:
    if kind.startswith("["):
        return text(key) + struct.pack("<I", CODES["[]"]) + items(kind[1:-1], value)
    return text(key) + struct.pack("<I", CODES[kind]) + scalar(kind, value)


def info(name: str | bytes, ne: Sequence[int], type_id: int, offset: int) -> bytes:
    return text(name) + struct.pack(f"<I{len(ne)}QIQ", len(ne), *ne, type_id, offset)


def start(version: int, n_tensors: int, n_kv: int) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, n_tensors, n_kv)


def pad(data: bytes, alignment: int) -> bytes:
    return data + bytes(-len(data) % alignment)


@dataclass(frozen=True)
class Made:
    """A whole file and its parts."""

    header: bytes  # padding included
    data: bytes
    table_end: int

    @property
    def whole(self) -> bytes:
        return self.header + self.data


def make(
    kvs: Sequence[KV] = (),
    tensors: Sequence[Tensor] = (),
    *,
    version: int = 3,
    alignment: int = 32,
    offsets: Sequence[int] | None = None,
) -> Made:
    """A file; `alignment` is written as a key only by the caller. `offsets` overrules those that are right."""
    head = bytearray(start(version, len(tensors), len(kvs)) + b"".join(pair(*kv) for kv in kvs))
    data = bytearray()
    for i, (name, ne, type_id, blob) in enumerate(tensors):
        head += info(name, ne, type_id, len(data) if offsets is None else offsets[i])
        data += pad(blob, alignment)
    return Made(pad(bytes(head), alignment), bytes(data), len(head))


def f32(name: str, *ne: int, fill: float = 1.0) -> Tensor:
    """A tensor of one value."""
    n = 1
    for axis in ne:
        n *= axis
    return name, ne, F32, struct.pack("<f", fill) * n


# -- models that pass for language models --------------------------------------------------------------------

BLOCK = ("nextn.eh_proj.weight", "nextn.enorm.weight", "nextn.hnorm.weight", "attn_norm.weight",
         "post_attention_norm.weight", "attn_q.weight", "attn_k.weight", "attn_v.weight", "attn_output.weight",
         "attn_q_norm.weight", "attn_k_norm.weight", "ffn_gate.weight", "ffn_up.weight",
         "ffn_down.weight")  # fmt: skip


def arch_kvs(n_layer: int, nextn: int | None = None, arch: str = "qwen35", hidden: int = 8) -> list[KV]:
    """The metadata of a tiny model; `n_layer` counts MTP blocks too."""
    kvs: list[KV] = [
        ("general.architecture", "str", arch),
        (f"{arch}.block_count", "u32", n_layer),
        (f"{arch}.embedding_length", "u32", hidden),
        ("tokenizer.ggml.tokens", "[str]", ["a", "b", "c"]),
    ]
    if nextn is not None:
        kvs.append((f"{arch}.nextn_predict_layers", "u32", nextn))
    return kvs


def trunk_tensors(n_layer: int, hidden: int = 8, first: int = 0) -> list[Tensor]:
    """Layers `first` to `n_layer`, two tensors each."""
    return [
        tensor
        for i in range(first, n_layer)
        for tensor in (f32(f"blk.{i}.attn_norm.weight", hidden), f32(f"blk.{i}.ffn_norm.weight", hidden))
    ]


def root_tensors(hidden: int = 8) -> list[Tensor]:
    return [f32("token_embd.weight", hidden, 3), f32("output_norm.weight", hidden), f32("output.weight", hidden, 3)]


def block_tensors(layer: int, hidden: int = 8) -> list[Tensor]:
    """An MTP block by name; its shapes are of no matter here."""
    return [f32(f"blk.{layer}.{suffix}", hidden) for suffix in BLOCK]


def split_kvs(no: int, count: int, total: int) -> list[KV]:
    return [("split.no", "u16", no), ("split.count", "u16", count), ("split.tensors.count", "i32", total)]


def write_set(
    folder: Path, prefix: str, shards: Sequence[tuple[Sequence[KV], Sequence[Tensor]]], total: int | None = None
) -> list[Path]:
    """A shard set; KV of the first entry go to the first shard, and so on, split keys are added."""
    count = len(shards)
    n_tensors = sum(len(tensors) for _, tensors in shards) if total is None else total
    paths = []
    for i, (kvs, tensors) in enumerate(shards):
        path = folder / f"{prefix}-{i + 1:05d}-of-{count:05d}.gguf"
        path.write_bytes(make([*kvs, *split_kvs(i, count, n_tensors)], tensors).whole)
        paths.append(path)
    return paths
