"""A GGUF header as an object, and its bytes from one; `nextn.gguf.parser` goes the other way.

Layout (GGUF specification v2/v3, little-endian): magic "GGUF", u32 version, u64 tensor count, u64 KV count,
the KV pairs, the tensor infos (name, u32 n_dims, u64 ne[n_dims], u32 type, u64 offset), zero padding up to
`general.alignment`, tensor data. Offsets of tensors are relative to the start of the data section.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ..brief import Brief
from ..errors import FormatError
from ..printable import printable
from .known import Misfit, Reading, read_known
from .kv import KV, encode_text
from .strangers import cut_short
from .types import TensorType, tensor_size, tensor_type

MAGIC = b"GGUF"
UNREADABLE = b"NXTN"  # replaces MAGIC while a file is changed in place, so that no reader accepts the file
DEFAULT_ALIGNMENT = 32
FIXED_BYTES = 24


def pad_to(n: int, alignment: int) -> int:
    """`n` rounded up to a multiple of `alignment`."""
    return -(-n // alignment) * alignment


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One entry of the tensor table."""

    name: str
    ne: tuple[int, ...]  # ggml order, fastest axis first
    type_id: int
    offset: int  # relative to the data section

    @property
    def type(self) -> TensorType | None:
        """The tensor type, or None when its number is not known."""
        return tensor_type(self.type_id)

    @property
    def type_name(self) -> str:
        """The type's name, `type 1234` when it is not known."""
        known = self.type
        return known.name if known else f"type {self.type_id}"

    @property
    def shape(self) -> tuple[int, ...]:
        """numpy's order, slowest axis first."""
        return self.ne[::-1]

    @property
    def n_elements(self) -> int:
        """Product of `ne`."""
        return math.prod(self.ne)

    @property
    def computed_size_bytes(self) -> int | None:
        """Bytes of data from type and shape, or None when the type's layout is not known."""
        return tensor_size(self.type_id, self.ne)

    def at(self, offset: int) -> TensorInfo:
        """The same tensor at another offset."""
        return TensorInfo(self.name, self.ne, self.type_id, offset)

    def encode(self) -> bytes:
        """The bytes of the table entry. Raises FormatError for sizes that no file can have."""
        n_dims = len(self.ne)
        try:
            tail = struct.pack(f"<I{n_dims}QIQ", n_dims, *self.ne, self.type_id, self.offset)
        except struct.error as error:
            what = f"tensor '{printable(self.name)}' would have {' x '.join(map(str, self.ne))} values"
            raise FormatError(f"{what}, which no file can hold; the model's sizes are absurd") from error
        return encode_text(self.name) + tail


@dataclass(frozen=True)
class Header(Brief):
    """Everything before the tensor data."""

    version: int
    kvs: tuple[KV, ...]
    tensors: tuple[TensorInfo, ...]
    header_end: int  # first byte after the tensor table
    data_offset: int  # absolute start of the data section
    alignment: int = DEFAULT_ALIGNMENT
    path: Path | None = field(default=None, compare=False)  # for messages
    # Stored bytes of tensors, for when `tensors` are not all that the file has and sizes cannot be derived from them.
    known_sizes: Mapping[str, int | None] | None = field(default=None, compare=False, repr=False)

    @cached_property
    def known(self) -> Reading:
        """The pairs, with those that are not what they have to be kept apart (see `nextn.gguf.known`)."""
        return read_known(self.kvs)

    @property
    def by_key(self) -> dict[str, KV]:
        """KV pairs by key; known ones only if they are of the required kind."""
        return self.known.by_key

    @property
    def misfits(self) -> tuple[Misfit, ...]:
        """Keys that are not what they have to be."""
        return self.known.misfits

    @cached_property
    def by_name(self) -> dict[str, TensorInfo]:
        """Tensor infos by name."""
        return {info.name: info for info in self.tensors}

    def get(self, key: str, default: Any = None) -> Any:
        """The decoded value of `key`, or `default`."""
        kv = self.by_key.get(key)
        return default if kv is None else kv.value

    @cached_property
    def stored_sizes(self) -> dict[str, int | None]:
        """Stored bytes of every tensor without padding.

        For a type whose layout is not known: up to the next tensor's offset, padding included; None for
        the last one, whose end only the file's size shows.
        """
        if self.known_sizes is not None:
            return dict(self.known_sizes)
        order = sorted(self.tensors, key=lambda info: info.offset)
        sizes: dict[str, int | None] = {}
        for info, after in zip(order, (*order[1:], None), strict=False):
            size = info.computed_size_bytes
            if size is None and after is not None:
                size = after.offset - info.offset
            sizes[info.name] = size
        return sizes

    def data_range(self, info: TensorInfo, file_size: int) -> tuple[int, int]:
        """Absolute `start, end` of a tensor's stored bytes in a file of `file_size` bytes.

        Raises FormatError when the file ends before the tensor does, naming the tensor.
        """
        start = self.data_offset + info.offset
        size = self.stored_sizes[info.name]
        end = file_size if size is None else start + size
        if end > file_size or start > file_size:
            whole = max(start, end, self.data_end or 0)
            name = "" if self.path is None else self.path.name
            raise FormatError(cut_short(file_size, whole, f"tensor '{printable(info.name)}'", name), path=self.path)
        return start, end

    @property
    def data_end(self) -> int | None:
        """Absolute end of the last tensor's bytes, or None when its type is not known."""
        if not self.tensors:
            return self.data_offset
        last = max(self.tensors, key=lambda info: info.offset)
        size = self.stored_sizes[last.name]
        return None if size is None else self.data_offset + last.offset + size


def place(infos: Iterable[tuple[TensorInfo, int]], alignment: int) -> tuple[list[TensorInfo], int]:
    """Give tensors contiguous offsets in their order; `infos` are pairs of (info, stored bytes).

    Returns the placed infos and the length of the data section, its last padding included.
    """
    placed = []
    offset = 0
    for info, size in infos:
        placed.append(info.at(offset))
        offset += pad_to(size, alignment)
    return placed, offset


def build_header(
    kvs: Sequence[KV], tensors: Sequence[TensorInfo], *, version: int = 3, alignment: int = DEFAULT_ALIGNMENT
) -> bytes:
    """The bytes of a header, zero padding up to the data section included."""
    parts: list[bytes | memoryview] = [MAGIC, struct.pack("<IQQ", version, len(tensors), len(kvs))]
    parts += [kv.raw for kv in kvs]
    parts += [info.encode() for info in tensors]
    size = sum(len(part) for part in parts)
    parts.append(bytes(pad_to(size, alignment) - size))
    return b"".join(parts)


def header_size(kvs: Sequence[KV], tensors: Sequence[TensorInfo]) -> int:
    """Bytes of a header up to the end of its tensor table, padding not included."""
    return FIXED_BYTES + sum(kv.size_bytes for kv in kvs) + sum(len(info.encode()) for info in tensors)
