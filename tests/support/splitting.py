"""Splits a GGUF file into shards as llama.cpp's tools do, with gguf-py as the reader.

Checked byte for byte against sets that the upstream converter wrote (test_fixtures.py).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import gguf

SPLIT_KEYS = {"split.no": (2, "<H"), "split.count": (2, "<H"), "split.tensors.count": (5, "<i")}


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _split_kv(no: int, count: int, n_tensors: int) -> list[bytes]:
    values = dict(zip(SPLIT_KEYS, (no, count, n_tensors), strict=True))
    return [
        _string(key) + struct.pack("<I", kind) + struct.pack(form, values[key])
        for key, (kind, form) in SPLIT_KEYS.items()
    ]


def _pad(data: bytes, alignment: int) -> bytes:
    return data + bytes(-len(data) % alignment)


def _shard(kv: Sequence[bytes], tensors: Sequence[gguf.ReaderTensor], alignment: int) -> bytes:
    infos, blobs, offset = [], [], 0
    for tensor in tensors:
        ne = [int(n) for n in tensor.shape]
        infos.append(
            _string(tensor.name) + struct.pack(f"<I{len(ne)}QIQ", len(ne), *ne, int(tensor.tensor_type), offset)
        )
        blobs.append(_pad(tensor.data.tobytes(), alignment))
        offset += len(blobs[-1])
    header = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(kv)) + b"".join(kv) + b"".join(infos)
    return _pad(header, alignment) + b"".join(blobs)


def even_counts(n_tensors: int, n_shards: int, tensors_first: bool = True) -> list[int]:
    """How many tensors each shard gets: the same number, but for the last."""
    n_with = n_shards if tensors_first else n_shards - 1
    each = -(-n_tensors // n_with)
    counts = [max(0, min(each, n_tensors - i * each)) for i in range(n_with)]
    return counts if tensors_first else [0, *counts]


def split_gguf(
    source: Path,
    folder: Path,
    n_shards: int = 3,
    *,
    tensors_first: bool = True,
    counts: Sequence[int] | None = None,
    stale_count: int | None = None,
    stem: str | None = None,
) -> list[Path]:
    """Writes `source` as `n_shards` shards into `folder` and returns their paths, first shard first.

    `tensors_first=False` leaves the first shard to the metadata alone. `counts` says how many tensors each
    shard gets (and overrides `n_shards`). `stale_count` stands as `split.count` in all shards but the first,
    which is how a set looks after a shard was added without touching the old ones. `stem` names the files.
    """
    reader = gguf.GGUFReader(source)
    tensors = list(reader.tensors)
    counts = list(counts) if counts is not None else even_counts(len(tensors), n_shards, tensors_first)
    if sum(counts) != len(tensors):
        raise ValueError(f"{sum(counts)} tensors dealt out, {source.name} has {len(tensors)}")
    own_kv = [
        b"".join(part.tobytes() for part in field.parts)
        for name, field in reader.fields.items()
        if not name.startswith("GGUF.") and name not in SPLIT_KEYS
    ]
    folder.mkdir(parents=True, exist_ok=True)
    paths, start = [], 0
    for no, n in enumerate(counts):
        count = len(counts) if no == 0 or stale_count is None else stale_count
        kv = [*(own_kv if no == 0 else ()), *_split_kv(no, count, len(tensors))]
        path = folder / f"{stem or source.stem}-{no + 1:05d}-of-{len(counts):05d}.gguf"
        path.write_bytes(_shard(kv, tensors[start : start + n], reader.alignment))
        paths.append(path)
        start += n
    return paths
