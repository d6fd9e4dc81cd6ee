"""Header key-value pairs: known ones are decoded on demand, and all are carried byte for byte.

Encoding (GGUF v2 and v3, little-endian): key as u64 length + bytes, value type as u32, value. A STRING is a
u64 length + bytes; an ARRAY is an item type (u32), a count (u64) and the items without type tags.
"""

from __future__ import annotations

import itertools
import struct
from array import array
from collections.abc import Iterable, Iterator, Sequence
from enum import IntEnum
from functools import cached_property
from typing import Any, NamedTuple, overload

from ..errors import FormatError
from ..printable import printable
from .names import Buffer, StoredNames, decoded, encoded, name_at

_U32, _ARRAY_HEAD = struct.Struct("<I"), struct.Struct("<IQ")


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


class KVTable(Sequence[KV]):
    """The pairs of a header in order, each made from the header's bytes when it is asked for.

    A pair takes 4 bytes here, and 8 to 16 more once one is looked for by its key. A table is never changed: `edited`
    and `plus` give others, which share the bytes.
    """

    def __init__(self, buffer: Buffer, starts: array[int], end: int) -> None:
        """`starts` are the pairs' first bytes in `buffer`; the last pair ends at `end`."""
        self._base, self._end = StoredNames(buffer, starts), end
        self._rows: array[int] | None = None  # base rows in order, or -1 - k for `_fresh[k]`; None: all of the base
        self._fresh: tuple[KV, ...] = ()

    @classmethod
    def of(cls, kvs: Iterable[KV]) -> KVTable:
        """A table of pairs that were made one by one."""
        if isinstance(kvs, KVTable):
            return kvs
        return cls(b"", array("I"), 0).plus(kvs)

    def _with(self, rows: array[int], fresh: tuple[KV, ...]) -> KVTable:
        table = KVTable.__new__(KVTable)
        table._base, table._end, table._rows, table._fresh = self._base, self._end, rows, fresh
        return table

    def __len__(self) -> int:
        return len(self._base.starts) if self._rows is None else len(self._rows)

    @overload
    def __getitem__(self, index: int) -> KV: ...
    @overload
    def __getitem__(self, index: slice) -> KVTable: ...
    def __getitem__(self, index: int | slice) -> KV | KVTable:
        rows = range(len(self)) if self._rows is None else self._rows
        if isinstance(index, slice):
            return self._with(array("i", rows[index]), self._fresh)
        return self._at(rows[index])

    def __iter__(self) -> Iterator[KV]:
        return map(self._at, range(len(self)) if self._rows is None else self._rows)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(
            mine is theirs or (isinstance(theirs, KV) and mine.same_as(theirs))
            for mine, theirs in zip(self, other, strict=True)
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"KVTable({len(self):,} pairs)"

    def _at(self, row: int) -> KV:
        if row < 0:
            return self._fresh[-1 - row]
        buffer, start = self._base.buffer, self._base.starts[row]
        name = name_at(buffer, start)
        at = start + 8 + len(name)
        kv_type = KVType(_U32.unpack_from(buffer, at)[0])
        if kv_type is not KVType.ARRAY:
            return KV(decoded(name), kv_type, None, None, buffer, start, at + 4, self._end_of(row))
        item_type, n_items = _ARRAY_HEAD.unpack_from(buffer, at + 4)
        return KV(decoded(name), kv_type, KVType(item_type), n_items, buffer, start, at + 16, self._end_of(row))

    def _end_of(self, row: int) -> int:
        starts = self._base.starts
        return starts[row + 1] if row + 1 < len(starts) else self._end

    @cached_property
    def _fresh_rows(self) -> dict[str, int]:
        return {kv.key: -1 - k for k, kv in enumerate(self._fresh)}

    def _row(self, key: str) -> int | None:
        """The row of a key, whether it is still there or not."""
        row = self._fresh_rows.get(key)
        return self._base.index.find(key) if row is None else row

    def position(self, key: str) -> int | None:
        """The place of the pair with this key, or None."""
        row = self._row(key)
        if row is None or self._rows is None:
            return row
        try:
            return self._rows.index(row)
        except ValueError:
            row = self._base.index.find(key) if row < 0 else None
            return self._rows.index(row) if row is not None and row in self._rows else None

    def positions(self, keys: Iterable[str]) -> list[int]:
        """The places of those of `keys` that are there."""
        return [at for key in keys if (at := self.position(key)) is not None]

    def find(self, key: str) -> KV | None:
        """The pair with this key, or None."""
        at = self.position(key)
        return None if at is None else self[at]

    def keys(self) -> Iterator[str]:
        """The keys in order."""
        return map(decoded, self._names())

    def _names(self) -> Iterator[bytes]:
        if self._rows is None:
            return iter(self._base)
        name_of, fresh = self._base.name_of, self._fresh
        return (name_of(row) if row >= 0 else encode_text(fresh[-1 - row].key)[8:] for row in self._rows)

    def starting_with(self, prefix: str) -> Iterator[tuple[int, KV]]:
        """The places and pairs of keys that start with `prefix`, in order."""
        wanted = encoded(prefix) or b""
        return ((i, self[i]) for i, name in enumerate(self._names()) if name.startswith(wanted))

    def edited(
        self, put: Sequence[KV] = (), drop: Iterable[str] = (), drop_prefixes: Sequence[str] = ()
    ) -> KVTable:
        """With pairs replaced in their place, new ones at the end, dropped ones gone; all else stays as it was."""
        rows = array("i", range(len(self)) if self._rows is None else self._rows)
        put = list({kv.key: kv for kv in put}.values())
        places = {kv.key: self.position(kv.key) for kv in put}
        for kv, row in zip(put, itertools.count(-1 - len(self._fresh), -1), strict=False):
            at = places[kv.key]
            if at is None:
                rows.append(row)
            else:
                rows[at] = row
        gone = set(self.positions({*drop} - places.keys()))
        if drop_prefixes:
            wanted, kept = tuple(prefix.encode() for prefix in drop_prefixes), {*places.values()}
            gone |= {i for i, name in enumerate(self._names()) if name.startswith(wanted) and i not in kept}
        if gone:
            rows = array("i", (row for i, row in enumerate(rows) if i not in gone))
        return self._with(rows, (*self._fresh, *put))

    def plus(self, kvs: Iterable[KV]) -> KVTable:
        """With further pairs at the end."""
        more, n = tuple(kvs), len(self._fresh)
        rows = array("i", range(len(self)) if self._rows is None else self._rows)
        rows.extend(range(-1 - n, -1 - n - len(more), -1))
        return self._with(rows, (*self._fresh, *more))

    def inserted(self, index: int, kv: KV) -> KVTable:
        """With a pair before the one at `index`."""
        table = self.plus([kv])
        assert table._rows is not None
        table._rows.insert(index, table._rows.pop())
        return table

    def pieces(self) -> Iterator[memoryview]:
        """The stored bytes of all pairs, in as few pieces as there are."""
        base, rows = self._base, range(len(self)) if self._rows is None else self._rows
        if isinstance(rows, range):
            if rows:
                yield memoryview(base.buffer)[base.starts[0] : self._end]
            return
        first = after = -1
        for row in rows:
            if row == after and row >= 0:
                after += 1
                continue
            if after > first:
                yield memoryview(base.buffer)[base.starts[first] : self._end_of(after - 1)]
            if row < 0:
                yield self._fresh[-1 - row].raw
                first = after = -1
            else:
                first, after = row, row + 1
        if after > first:
            yield memoryview(base.buffer)[base.starts[first] : self._end_of(after - 1)]

    @property
    def size_bytes(self) -> int:
        """Bytes that the pairs take in a header."""
        return sum(map(len, self.pieces()))

    @property
    def twice(self) -> int | None:
        """The first byte of the first stored pair whose key an earlier one has, or None."""
        row = self._base.index.twice
        return None if row is None else self._base.starts[row]


def edit(
    kvs: Iterable[KV], *, put: Sequence[KV] = (), drop: Iterable[str] = (), drop_prefixes: Sequence[str] = ()
) -> KVTable:
    """The pairs with some replaced in their place, new ones at the end, dropped ones gone.

    Order and bytes of everything else stay as they were.
    """
    return KVTable.of(kvs).edited(put, drop, drop_prefixes)
