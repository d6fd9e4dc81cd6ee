"""Header key-value pairs: known ones are decoded on demand, and all are carried byte for byte.

Encoding (GGUF v2 and v3, little-endian): key as u64 length + bytes, value type as u32, value. A STRING is a
u64 length + bytes; an ARRAY is an item type (u32), a count (u64) and the items without type tags.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from enum import IntEnum
from typing import Any, NamedTuple

from ..errors import FormatError
from ..printable import printable
from .names import Buffer


class KVType(IntEnum):
    """The value types of GGUF, with their numbers in the file."""

    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12


SCALAR_FORMAT = {
    KVType.UINT8: "B",
    KVType.INT8: "b",
    KVType.UINT16: "H",
    KVType.INT16: "h",
    KVType.UINT32: "I",
    KVType.INT32: "i",
    KVType.FLOAT32: "f",
    KVType.BOOL: "?",
    KVType.UINT64: "Q",
    KVType.INT64: "q",
    KVType.FLOAT64: "d",
}
SCALAR_SIZE = {kv_type: struct.calcsize("<" + code) for kv_type, code in SCALAR_FORMAT.items()}
INTEGER_TYPES = frozenset(
    {
        KVType.UINT8,
        KVType.INT8,
        KVType.UINT16,
        KVType.INT16,
        KVType.UINT32,
        KVType.INT32,
        KVType.UINT64,
        KVType.INT64,
    }
)


def encode_text(text: str) -> bytes:
    """u64 length + bytes. Bytes that were not UTF-8 in the file come back as they were."""
    data = text.encode("utf-8", "surrogateescape")
    return struct.pack("<Q", len(data)) + data


class KV(NamedTuple):
    """One key-value pair, a view of the header's bytes.

    `buffer[start:end]` is the whole pair as stored, `buffer[value_start:end]` its value without the type tag
    (for an array: without item type and count).
    """

    key: str
    type: KVType
    item_type: KVType | None  # for arrays
    n_items: int | None  # for arrays: the outer count
    buffer: Buffer
    start: int
    value_start: int
    end: int

    def __repr__(self) -> str:
        return f"KV({self.key!r}, {self.type.name}, {self.size_bytes:,} bytes)"

    @property
    def raw(self) -> memoryview:
        """The stored bytes of the whole pair."""
        return memoryview(self.buffer)[self.start : self.end]

    @property
    def size_bytes(self) -> int:
        """Bytes that the pair takes in the header."""
        return self.end - self.start

    @property
    def value(self) -> Any:
        """The decoded value: int, float, bool, str, or a list of them (nested for arrays of arrays)."""
        if self.type is KVType.ARRAY:
            assert self.item_type is not None and self.n_items is not None
            value, _ = _decode_items(self.buffer, self.value_start, self.item_type, self.n_items)
            return value
        value, _ = _decode_scalar(self.buffer, self.value_start, self.type)
        return value

    def same_as(self, other: KV) -> bool:
        """Whether both pairs are equal byte for byte, key and types included."""
        return self.raw == other.raw

    @classmethod
    def make(cls, key: str, kv_type: KVType, value: Any, item_type: KVType | None = None) -> KV:
        """Encode a new pair. `value` is a list when `kv_type` is ARRAY.

        Raises FormatError for a value that the type cannot hold.
        """
        head = encode_text(key) + struct.pack("<I", kv_type)
        n_items: int | None = None
        if kv_type is KVType.ARRAY:
            if item_type is None:
                raise TypeError(f"an array needs an item type: {key}")
            n_items = len(value)
            head += struct.pack("<IQ", item_type, n_items)
        else:
            item_type = None
        try:
            body = _encode_scalar(kv_type, value) if item_type is None else _encode_items(item_type, value)
        except (struct.error, OverflowError, AttributeError) as error:
            what = f"{printable(repr(value), 40)} does not fit its type, {(item_type or kv_type).name.lower()}"
            raise FormatError(f"'{printable(key)}' cannot be written: {what}") from error
        data = head + body
        return cls(key, kv_type, item_type, n_items, data, 0, len(head), len(data))

    def with_value(self, value: Any) -> KV:
        """The same key and exactly the same types with another value."""
        return KV.make(self.key, self.type, value, self.item_type)

    def renamed(self, key: str) -> KV:
        """The same value bytes under another key."""
        old_key = len(encode_text(self.key))
        data = encode_text(key) + bytes(self.raw[old_key:])
        shift = len(data) - self.size_bytes
        return self._replace(
            key=key,
            buffer=data,
            start=0,
            value_start=self.value_start - self.start + shift,
            end=len(data),
        )


def _encode_scalar(kv_type: KVType, value: Any) -> bytes:
    if kv_type is KVType.STRING:
        return encode_text(value)
    return struct.pack("<" + SCALAR_FORMAT[kv_type], value)


def _encode_items(item_type: KVType, items: Sequence[Any]) -> bytes:
    if item_type is KVType.ARRAY:
        raise TypeError("nested arrays are carried, not written")
    if item_type is KVType.STRING:
        return b"".join(encode_text(item) for item in items)
    return struct.pack(f"<{len(items)}{SCALAR_FORMAT[item_type]}", *items)


def _decode_scalar(buffer: Buffer, pos: int, kv_type: KVType) -> tuple[Any, int]:
    if kv_type is KVType.STRING:
        (length,) = struct.unpack_from("<Q", buffer, pos)
        end = pos + 8 + length
        return bytes(buffer[pos + 8 : end]).decode("utf-8", "surrogateescape"), end
    (value,) = struct.unpack_from("<" + SCALAR_FORMAT[kv_type], buffer, pos)
    return value, pos + SCALAR_SIZE[kv_type]


def _decode_items(buffer: Buffer, pos: int, item_type: KVType, n_items: int) -> tuple[list[Any], int]:
    if item_type is KVType.STRING:
        view = memoryview(buffer)
        unpack = struct.Struct("<Q").unpack_from
        texts = []
        for _ in range(n_items):
            (length,) = unpack(buffer, pos)
            pos += 8
            texts.append(str(view[pos : pos + length], "utf-8", "surrogateescape"))
            pos += length
        return texts, pos
    if item_type is KVType.ARRAY:
        lists = []
        for _ in range(n_items):
            inner, count = struct.unpack_from("<IQ", buffer, pos)
            value, pos = _decode_items(buffer, pos + 12, KVType(inner), count)
            lists.append(value)
        return lists, pos
    values = list(struct.unpack_from(f"<{n_items}{SCALAR_FORMAT[item_type]}", buffer, pos))
    return values, pos + n_items * SCALAR_SIZE[item_type]
