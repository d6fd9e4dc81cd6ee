"""A GGUF header as an object, and its bytes from one; `nextn.gguf.parser` goes the other way.

Layout (GGUF specification v2/v3, little-endian): magic "GGUF", u32 version, u64 tensor count, u64 KV count,
the KV pairs, the tensor infos (name, u32 n_dims, u64 ne[n_dims], u32 type, u64 offset), zero padding up to
`general.alignment`, tensor data. Offsets of tensors are relative to the start of the data section.
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ..brief import Brief
from ..errors import FormatError
from ..printable import printable
from .known import Misfit, Reading, read_known
from .kv import INTEGER_TYPES, KV
from .kv_table import KVTable
from .names import Buffer, OnDemand
from .strangers import cut_short
from .tensors import TensorInfo, TensorTable

MAGIC = b"GGUF"
UNREADABLE = b"NXTN"  # replaces MAGIC while a file is changed in place, so that no reader accepts the file
DEFAULT_ALIGNMENT = 32
FIXED_BYTES = 24


def pad_to(n: int, alignment: int) -> int:
    """`n` rounded up to a multiple of `alignment`."""
    return -(-n // alignment) * alignment


@dataclass(frozen=True)
class Header(Brief):
    """Everything before the tensor data."""

    version: int
    kvs: KVTable
    tensors: TensorTable
    header_end: int  # first byte after the tensor table
    data_offset: int  # absolute start of the data section
    alignment: int = DEFAULT_ALIGNMENT
    path: Path | None = field(default=None, compare=False)  # for messages
    # All tensors of the file where `tensors` are only some: their offsets show the sizes of types without known layout.
    all_tensors: TensorTable | None = field(default=None, compare=False, repr=False)

    @classmethod
    def blank(cls, version: int = 3, alignment: int = DEFAULT_ALIGNMENT) -> Header:
        """A header of nothing, for the two properties of files that are not the source's."""
        return cls(version, KVTable.of(()), TensorTable.of(()), 0, 0, alignment)

    @cached_property
    def known(self) -> Reading:
        """The pairs, with those that are not what they have to be kept apart (see `nextn.gguf.known`)."""
        return read_known(self.kvs)

    @property
    def by_key(self) -> Mapping[str, KV]:
        """KV pairs by key; known ones only if they are of the required kind."""
        return self.known.by_key

    @property
    def misfits(self) -> tuple[Misfit, ...]:
        """Keys that are not what they have to be."""
        return self.known.misfits

    @property
    def by_name(self) -> Mapping[str, TensorInfo]:
        """Tensor infos by name."""
        table = self.tensors
        return OnDemand(len(table), table.names, table.find, table.__iter__)

    def get(self, key: str, default: Any = None) -> Any:
        """The decoded value of `key`, or `default`."""
        kv = self.by_key.get(key)
        return default if kv is None else kv.value

    def integer(self, key: str) -> int | None:
        """An integer value, or None when it is missing or something else."""
        kv = self.by_key.get(key)
        return int(kv.value) if kv is not None and kv.type in INTEGER_TYPES else None

    def stored_size(self, info: TensorInfo) -> int | None:
        """Stored bytes of a tensor without padding.

        For a type whose layout is not known: up to the next tensor's offset, padding included; None for
        the last one, whose end only the file's size shows.
        """
        size = info.computed_size_bytes
        if size is not None:
            return size
        after = bisect_right(self._sorted_offsets, info.offset)
        return self._sorted_offsets[after] - info.offset if after < len(self._sorted_offsets) else None

    def room(self, offset: int, file_size: int) -> int:
        """Bytes from the start of the tensor data there to the next tensor, or to the end of the file."""
        after = bisect_right(self._sorted_offsets, offset)
        end = self._sorted_offsets[after] if after < len(self._sorted_offsets) else file_size - self.data_offset
        return end - offset

    @cached_property
    def _sorted_offsets(self) -> array[int]:
        return array("Q", sorted((self.all_tensors or self.tensors).offsets))

    def data_range(self, info: TensorInfo, file_size: int) -> tuple[int, int]:
        """Absolute `start, end` of a tensor's stored bytes in a file of `file_size` bytes.

        Raises FormatError when the file ends before the tensor does, naming the tensor.
        """
        start = self.data_offset + info.offset
        size = self.stored_size(info)
        end = file_size if size is None else start + size
        if end > file_size or start > file_size:
            whole = max(start, end, self.data_end or 0)
            name = "" if self.path is None else self.path.name
            raise FormatError(cut_short(file_size, whole, f"tensor '{printable(info.name)}'", name), path=self.path)
        return start, end

    @property
    def data_end(self) -> int | None:
        """Absolute end of the last tensor's bytes, or None when its type is not known."""
        offsets = self.tensors.offsets
        if not offsets:
            return self.data_offset
        last = self.tensors[offsets.index(max(offsets))]
        size = self.stored_size(last)
        return None if size is None else self.data_offset + last.offset + size


def place(infos: Iterable[tuple[TensorInfo, int]], alignment: int, end: int = 0) -> tuple[TensorTable, int]:
    """Give tensors contiguous offsets in their order, from `end` on; `infos` are pairs of (info, stored bytes).

    Returns the placed tensors and the length of the data section, its last padding included.
    """

    def placed() -> Iterator[TensorInfo]:
        nonlocal end
        for info, size in infos:
            yield info.at(end)
            end += pad_to(size, alignment)

    table = TensorTable.of(placed())
    return table, end


def build_header(
    kvs: Iterable[KV], tensors: Iterable[TensorInfo], *, version: int = 3, alignment: int = DEFAULT_ALIGNMENT
) -> bytes:
    """The bytes of a header, zero padding up to the data section included."""
    return header_of(KVTable.of(kvs), [TensorTable.of(tensors)], version=version, alignment=alignment)


def header_of(kvs: KVTable, tables: Sequence[TensorTable], *, version: int, alignment: int) -> bytes:
    """The same for tensors that are in several tables."""
    parts: list[Buffer] = [MAGIC, struct.pack("<IQQ", version, sum(map(len, tables)), len(kvs))]
    parts += kvs.pieces()
    for table in tables:
        parts += table.pieces()
    size = sum(map(len, parts))
    parts.append(bytes(pad_to(size, alignment) - size))
    return b"".join(parts)


def header_size(kvs: Iterable[KV], tensors: Iterable[TensorInfo]) -> int:
    """Bytes of a header up to the end of its tensor table, padding not included."""
    return FIXED_BYTES + KVTable.of(kvs).size_bytes + TensorTable.of(tensors).size_bytes
