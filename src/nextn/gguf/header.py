"""A GGUF header as an object: parsed from bytes, built into bytes, nothing decoded that is only carried.

Layout (GGUF specification v2/v3, little-endian): magic "GGUF", u32 version, u64 tensor count, u64 KV count,
the KV pairs, the tensor infos (name, u32 n_dims, u64 ne[n_dims], u32 type, u64 offset), zero padding up to
`general.alignment`, tensor data. Offsets of tensors are relative to the start of the data section.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import repeat
from operator import length_hint
from pathlib import Path
from typing import Any

from ..errors import FormatError, UnsupportedFormat
from .kv import KV, SCALAR_SIZE, Buffer, KVType, encode_text, printable
from .types import TensorType, tensor_size, tensor_type

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
MAX_DIMS = 4  # GGML_MAX_DIMS
MAX_KEY_BYTES = 65_535  # the specification's limit
MAX_NAME_BYTES = 1_024  # engines take 63; longer ones are reported, absurd ones refused
MAX_ARRAY_DEPTH = 4
MAX_HEADER_BYTES = 1 << 28  # those of real models take about 10 MB; a damaged length may say anything
_MIN_KV_BYTES = 8 + 1 + 4 + 1
_MIN_TENSOR_BYTES = 8 + 1 + 4 + 4 + 8
_FIXED_BYTES = 24
_U64 = struct.Struct("<Q")


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
        """The bytes of the table entry."""
        n_dims = len(self.ne)
        return encode_text(self.name) + struct.pack(
            f"<I{n_dims}QIQ", n_dims, *self.ne, self.type_id, self.offset
        )


@dataclass(frozen=True)
class Header:
    """Everything before the tensor data."""

    version: int
    kvs: tuple[KV, ...]
    tensors: tuple[TensorInfo, ...]
    header_end: int  # first byte behind the tensor table
    data_offset: int  # absolute start of the data section
    alignment: int = DEFAULT_ALIGNMENT
    path: Path | None = field(default=None, compare=False)  # for messages

    @cached_property
    def by_key(self) -> dict[str, KV]:
        """KV pairs by key."""
        return {kv.key: kv for kv in self.kvs}

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
        the last one, whose end only the file's size tells.
        """
        order = sorted(self.tensors, key=lambda info: info.offset)
        sizes: dict[str, int | None] = {}
        for info, after in zip(order, [*order[1:], None], strict=True):
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
            raise FormatError(
                f"the file ends inside tensor '{printable(info.name)}': it is truncated, get it again",
                path=self.path,
                offset=start,
                expected=f"{end:,} bytes",
                found=f"{file_size:,}",
            )
        return start, end

    @property
    def data_end(self) -> int | None:
        """Absolute end of the last tensor's bytes, or None when its type is not known."""
        if not self.tensors:
            return self.data_offset
        last = max(self.tensors, key=lambda info: info.offset)
        size = self.stored_sizes[last.name]
        return None if size is None else self.data_offset + last.offset + size


class _Short(Exception):
    """The buffer ends before the element does; `need` bytes are wanted, and probably `guess`."""

    def __init__(self, need: int, guess: int = 0) -> None:
        self.need = need
        self.guess = max(need, guess)


class HeaderParser:
    """Parses a header from a buffer that may still grow: nothing is walked twice.

    Feed it the file's first bytes; when it answers None, `need` says how many bytes it wants at least, and
    `guess` how many the element that it stands in will probably take. Bounds are checked against `file_size`
    before anything is allocated.
    """

    def __init__(self, file_size: int, path: Path | None = None) -> None:
        self.file_size = file_size
        self.path = path
        self.need = self.guess = min(file_size, _FIXED_BYTES)
        self._buffer: Buffer = b""
        self._pos = 0
        self._kvs: list[KV] = []
        self._tensors: list[TensorInfo] = []
        self._n_kv = self._n_tensors = -1
        self._version = 0
        self._alignment = DEFAULT_ALIGNMENT
        self._keys: set[str] = set()
        self._names: set[str] = set()
        # A long string array is walked in pieces: (array's first item, position reached, items left).
        self._walk: tuple[int, int, int] | None = None

    def feed(self, buffer: Buffer) -> Header | None:
        """Parse on with `buffer`, which starts at the file's first byte and is at least as long as before.

        Raises FormatError (with offset, expected and found) for a file that is no GGUF or is damaged,
        UnsupportedFormat for big-endian files and version 1.
        """
        self._buffer = buffer
        try:
            if self._n_kv < 0:
                self._fixed()
            while len(self._kvs) < self._n_kv:
                self._kv()
            while len(self._tensors) < self._n_tensors:
                self._tensor()
            return self._finish()
        except _Short as short:
            self.need, self.guess = short.need, min(short.guess, self.file_size)
            return None

    def _fail(self, what: str, offset: int, expected: str | None = None, found: str | None = None) -> FormatError:
        return FormatError(what, path=self.path, offset=offset, expected=expected, found=found)

    def _want(self, end: int, what: str, guess: int = 0) -> None:
        if end > self.file_size:
            raise self._fail(
                f"the header ends inside {what}: the file is truncated or damaged, get it again",
                self._pos,
                f"{end:,} bytes",
                f"{self.file_size:,}",
            )
        if end > MAX_HEADER_BYTES:
            raise self._fail(
                f"the header does not end with {what}: it is absurdly long",
                self._pos,
                f"at most {MAX_HEADER_BYTES:,} bytes",
                f"at least {end:,}",
            )
        if end > len(self._buffer):
            raise _Short(end, guess)

    def _fixed(self) -> None:
        self._want(min(4, self.file_size), "the magic number")
        magic = bytes(self._buffer[:4])
        if magic != MAGIC:
            found = "an empty file" if not magic else repr(magic)
            raise self._fail("this is not a GGUF file", 0, "'GGUF'", found)
        self._want(_FIXED_BYTES, "the first 24 bytes")
        self._version, self._n_tensors, n_kv = struct.unpack_from("<IQQ", self._buffer, 4)
        if self._version == 1:
            raise UnsupportedFormat(
                "GGUF version 1 is not supported: convert the model again with a current converter",
                path=self.path,
                offset=4,
            )
        if self._version and self._version & 0xFFFF == 0:
            raise UnsupportedFormat(
                "big-endian GGUF is not supported: use a little-endian copy of the model",
                path=self.path,
                offset=4,
            )
        if self._version not in VERSIONS:
            raise UnsupportedFormat(
                "unknown GGUF version", path=self.path, offset=4, expected="2 or 3", found=str(self._version)
            )
        room = self.file_size - _FIXED_BYTES
        for count, least, what, offset in (
            (self._n_tensors, _MIN_TENSOR_BYTES, "tensors", 8),
            (n_kv, _MIN_KV_BYTES, "key-value pairs", 16),
        ):
            if count * least > room:
                raise self._fail(
                    f"the header promises more {what} than the file can hold",
                    offset,
                    f"at most {room // least:,}",
                    f"{count:,}",
                )
        self._n_kv = n_kv
        self._pos = _FIXED_BYTES

    def _text(self, pos: int, limit: int, what: str) -> tuple[str, int]:
        self._want(pos + 8, what)
        (length,) = _U64.unpack_from(self._buffer, pos)
        if length > limit:
            raise self._fail(f"the length of {what} is absurd", pos, f"at most {limit:,}", f"{length:,}")
        end = pos + 8 + length
        self._want(end, what)
        return bytes(self._buffer[pos + 8 : end]).decode("utf-8", "surrogateescape"), end

    def _type(self, number: int, pos: int, key: str) -> KVType:
        try:
            return KVType(number)
        except ValueError:
            raise self._fail(
                f"the value of '{key}' has an unknown type", pos, "0 to 12", str(number)
            ) from None

    def _kv(self) -> None:
        start = self._pos
        key, pos = self._text(start, MAX_KEY_BYTES, f"key {len(self._kvs)}")
        shown = printable(key)
        if key in self._keys:
            raise self._fail(f"the key '{shown}' is there twice", start)
        self._want(pos + 4, f"the type of '{shown}'")
        kv_type = self._type(struct.unpack_from("<I", self._buffer, pos)[0], pos, shown)
        pos += 4
        item_type: KVType | None = None
        n_items: int | None = None
        value_start = pos
        if kv_type is KVType.ARRAY:
            item_type, n_items, value_start = self._array_head(pos, shown)
            end = self._skip_items(value_start, item_type, n_items, shown, 1)
        else:
            end = self._skip_scalar(pos, kv_type, shown)
        kv = KV(key, kv_type, item_type, n_items, self._buffer, start, value_start, end)
        if key == "general.alignment":
            self._alignment = self._alignment_of(kv)
        self._keys.add(key)
        self._kvs.append(kv)
        self._walk = None
        self._pos = end

    def _array_head(self, pos: int, key: str) -> tuple[KVType, int, int]:
        self._want(pos + 12, f"the array '{key}'")
        number, n_items = struct.unpack_from("<IQ", self._buffer, pos)
        item_type = self._type(number, pos, key)
        least = 8 if item_type is KVType.STRING else 12 if item_type is KVType.ARRAY else SCALAR_SIZE[item_type]
        room = self.file_size - pos - 12
        if n_items * least > room:
            raise self._fail(
                f"the array '{key}' promises more items than the file can hold",
                pos + 4,
                f"at most {room // least:,}",
                f"{n_items:,}",
            )
        return item_type, n_items, pos + 12

    def _skip_scalar(self, pos: int, kv_type: KVType, key: str) -> int:
        if kv_type is KVType.STRING:
            self._want(pos + 8, f"'{key}'")
            end = int(pos + 8 + _U64.unpack_from(self._buffer, pos)[0])
        else:
            end = pos + SCALAR_SIZE[kv_type]
        self._want(end, f"'{key}'")
        return end

    def _skip_items(self, pos: int, item_type: KVType, n_items: int, key: str, depth: int) -> int:
        if item_type is KVType.STRING:
            return self._skip_strings(pos, n_items, key, resumable=depth == 1)
        if item_type is KVType.ARRAY:
            if depth >= MAX_ARRAY_DEPTH:
                raise self._fail(
                    f"the array '{key}' is nested too deeply", pos, f"at most {MAX_ARRAY_DEPTH}", "more"
                )
            for _ in range(n_items):
                inner, count, pos = self._array_head(pos, key)
                pos = self._skip_items(pos, inner, count, key, depth + 1)
            return pos
        end = pos + n_items * SCALAR_SIZE[item_type]
        self._want(end, f"the array '{key}'")
        return end

    def _skip_strings(self, first: int, n_items: int, key: str, resumable: bool) -> int:
        """Walk over `n_items` strings without making one: the only loop that sees every token."""
        pos, left = first, n_items
        if resumable and self._walk is not None and self._walk[0] == first:
            _, pos, left = self._walk
        buffer = self._buffer
        unpack = _U64.unpack_from
        items = repeat(None, left)
        try:
            for _ in items:
                (length,) = unpack(buffer, pos)
                pos += length + 8
            left = 0
        except (struct.error, OverflowError):  # the length lies past the buffer, or past any address
            left = length_hint(items) + 1
        if resumable:
            self._walk = (first, pos, left)
        done = n_items - left
        self._want(
            pos + 8 * left,  # no item takes less than its length
            f"item {done - 1 if done else 0} of the array '{key}'",
            pos + (left + (left >> 4) + 1) * (pos - first) // done if done else 0,
        )
        return pos

    def _tensor(self) -> None:
        start = self._pos
        name, pos = self._text(start, MAX_NAME_BYTES, f"the name of tensor {len(self._tensors)}")
        shown = printable(name)
        if name in self._names:
            raise self._fail(f"tensor '{shown}' is there twice: the file is damaged", start)
        self._want(pos + 4, f"tensor '{shown}'")
        (n_dims,) = struct.unpack_from("<I", self._buffer, pos)
        if n_dims > MAX_DIMS:
            raise self._fail(f"tensor '{shown}' has too many axes", pos, f"at most {MAX_DIMS}", f"{n_dims:,}")
        end = pos + 4 + n_dims * 8 + 12
        self._want(end, f"tensor '{shown}'")
        fields = struct.unpack_from(f"<{n_dims}QIQ", self._buffer, pos + 4)
        info = TensorInfo(name, fields[:n_dims], fields[-2], fields[-1])
        if math.prod(max(n, 1) for n in info.ne) >= 1 << 62:
            raise self._fail(
                f"the shape of tensor '{shown}' is absurd", pos + 4, "fewer than 2^62 elements", str(info.ne)
            )
        if info.offset % self._alignment or info.offset > self.file_size:
            raise self._fail(
                f"the offset of tensor '{shown}' is wrong",
                end - 8,
                f"a multiple of {self._alignment} inside the file",
                f"{info.offset:,}",
            )
        self._names.add(name)
        self._tensors.append(info)
        self._pos = end

    def _finish(self) -> Header:
        # Earlier pairs point at shorter states of a growing buffer: give all of them the final one.
        kvs = tuple(
            kv
            if kv.buffer is self._buffer
            else KV(kv.key, kv.type, kv.item_type, kv.n_items, self._buffer, kv.start, kv.value_start, kv.end)
            for kv in self._kvs
        )
        return Header(
            self._version,
            kvs,
            tuple(self._tensors),
            self._pos,
            pad_to(self._pos, self._alignment),
            self._alignment,
            self.path,
        )

    def _alignment_of(self, kv: KV) -> int:
        if kv.type is not KVType.UINT32:
            raise self._fail("'general.alignment' has the wrong type", kv.start, "UINT32", kv.type.name)
        value = int(kv.value)
        if value < 8 or value & (value - 1) or value > 1 << 20:
            raise self._fail(
                "'general.alignment' is wrong", kv.start, "a power of two from 8 to 1,048,576", f"{value:,}"
            )
        return value


def parse_header(buffer: Buffer, file_size: int | None = None, path: Path | None = None) -> Header:
    """Parse a header that lies wholly in `buffer` (see HeaderParser for one that still arrives)."""
    header = HeaderParser(len(buffer) if file_size is None else file_size, path).feed(buffer)
    if header is None:
        raise FormatError("the buffer ends inside the header", path=path, offset=len(buffer))
    return header


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
    return _FIXED_BYTES + sum(kv.size_bytes for kv in kvs) + sum(len(info.encode()) for info in tensors)
