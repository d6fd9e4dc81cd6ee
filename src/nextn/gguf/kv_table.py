"""The key-value pairs of a header as a table: compact as they were read, edited without touching the rest."""

from __future__ import annotations

import contextlib
import struct
from array import array
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import chain, compress, count, islice, pairwise, repeat
from operator import ne, sub
from typing import overload

from .kv import KV, KVType, encode_text
from .names import LARGE, Buffer, StoredNames, all_decoded, decoded, encoded, name_at

_NEAR = 64
_U32, _U64, _ARRAY_HEAD = struct.Struct("<I"), struct.Struct("<Q"), struct.Struct("<IQ")


class KVTable(Sequence[KV]):
    """The pairs of a header in order, each made from the header's bytes when it is asked for.

    A pair takes 4 bytes here, and 16 to 32 more for its key. A table is never changed: `edited`
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

    def position(self, key: str) -> int | None:
        """The place of the pair with this key, or None."""
        own = self._base.index.find(key)
        if self._rows is None:
            return own
        fresh = self._fresh_rows.get(key)
        if fresh is not None and (at := self._place_of(fresh, own)) is not None:
            return at
        return None if own is None else self._place_of(own, own)

    def _place_of(self, row: int, own: int | None) -> int | None:
        """The place of a row; `own`: the stored one with its key, in whose place a fresh one may be."""
        rows = self._rows
        assert rows is not None
        for near in (len(rows) if own is None else own, len(rows)):
            with contextlib.suppress(ValueError):
                return rows.index(row, max(0, near - _NEAR), near + _NEAR)
        if row >= 0 and self._most_moved <= _NEAR:
            return None
        try:
            return rows.index(row)
        except ValueError:
            return None

    @cached_property
    def _most_moved(self) -> int:
        """A bound on how far a stored pair is from its first place: by the pairs dropped and inserted before it."""
        return len(self._base.starts) - len(self) + 2 * len(self._fresh)

    def positions(self, keys: Iterable[str]) -> list[int]:
        """The places of those of `keys` that are there."""
        return [at for key in keys if (at := self.position(key)) is not None]

    def find(self, key: str) -> KV | None:
        """The pair with this key, or None."""
        at = self.position(key)
        return None if at is None else self[at]

    def keys(self) -> Iterator[str]:
        """The keys in order."""
        return all_decoded(self._names())

    def _names(self) -> Iterator[bytes]:
        if self._rows is None:
            return iter(self._base)
        name_of, fresh = self._base.name_of, self._fresh
        return (name_of(row) if row >= 0 else encode_text(fresh[-1 - row].key)[8:] for row in self._rows)

    def starting_with(self, *prefixes: str) -> Iterator[int]:
        """The places of keys that start with one of `prefixes`, in order."""
        stored = [self._base.starting_with(encoded(prefix) or b"") for prefix in prefixes]
        fresh = [row for key, row in self._fresh_rows.items() if key.startswith(prefixes)]
        if not fresh and not any(stored):
            return iter(())
        found = bytearray(len(self._base.starts) + len(self._fresh))  # of each row, those of fresh pairs from the end
        for row in chain(*stored, fresh):
            found[row] = True
        return compress(count(), found if self._rows is None else map(found.__getitem__, self._rows))

    def not_texts(self, places: array[int], most_bytes: int) -> Iterator[int]:
        """Those of some places where the value is not a string of at most that many bytes, in order."""
        if len(places) >= LARGE:
            from . import bulk  # loads numpy

            rows = places if self._rows is None else bulk.picked(self._rows, places)
            asked = bulk.not_stored_texts(self._base.buffer, self._base.starts, places, rows, most_bytes)
            if not self._fresh:
                return iter(asked)
            return (at for at in asked if not self._is_fresh_text(at, most_bytes))
        sizes = map(self.text_bytes, places)
        return (at for at, size in zip(places, sizes, strict=True) if size is None or size > most_bytes)

    def _is_fresh_text(self, index: int, most_bytes: int) -> bool:
        row = index if self._rows is None else self._rows[index]
        size = self.text_bytes(index) if row < 0 else None
        return size is not None and size <= most_bytes

    def text_bytes(self, index: int) -> int | None:
        """Bytes of the string value of a pair; None for a value of another type."""
        row = index if self._rows is None else self._rows[index]
        if row < 0:
            kv = self._fresh[-1 - row]
            return kv.end - kv.value_start - 8 if kv.type is KVType.STRING else None
        buffer, start = self._base.buffer, self._base.starts[row]
        at = start + 8 + int(_U64.unpack_from(buffer, start)[0])
        return self._end_of(row) - at - 12 if _U32.unpack_from(buffer, at)[0] == KVType.STRING else None

    def edited(
        self, put: Sequence[KV] = (), drop: Iterable[str] = (), drop_prefixes: Sequence[str] = ()
    ) -> KVTable:
        """With pairs replaced in their place, new ones at the end, dropped ones gone; all else stays as it was."""
        rows = array("i", range(len(self)) if self._rows is None else self._rows)
        put = list({kv.key: kv for kv in put}.values())
        places = {kv.key: self.position(kv.key) for kv in put}
        for kv, row in zip(put, count(-1 - len(self._fresh), -1), strict=False):
            at = places[kv.key]
            if at is None:
                rows.append(row)
            else:
                rows[at] = row
        gone = set(self.positions({*drop} - places.keys()))
        if drop_prefixes:
            gone |= {*self.starting_with(*drop_prefixes)} - {*places.values()}
        if len(gone) <= _NEAR:
            for i in sorted(gone, reverse=True):
                del rows[i]
        else:
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
        base, rows = self._base, self._rows
        if rows is None:
            if base.starts:
                yield memoryview(base.buffer)[base.starts[0] : self._end]
            return
        breaks = _breaks(rows)
        for first, after in pairwise((0, *breaks, len(rows))):
            while first < after and rows[first] < 0:  # -1 is before 0 too
                yield self._fresh[-1 - rows[first]].raw
                first += 1
            if first < after:
                yield memoryview(base.buffer)[base.starts[rows[first]] : self._end_of(rows[after - 1])]

    @cached_property
    def size_bytes(self) -> int:
        """Bytes that the pairs take in a header."""
        return sum(map(len, self.pieces()))

    @property
    def twice(self) -> int | None:
        """The first byte of the first stored pair whose key an earlier one has, or None."""
        row = self._base.index.twice
        return None if row is None else self._base.starts[row]


def _breaks(rows: array[int]) -> Iterable[int]:
    """Where a row does not follow the one before it."""
    if len(rows) >= LARGE:
        from . import bulk  # loads numpy

        return bulk.breaks(rows)
    return compress(count(1), map(ne, map(sub, islice(rows, 1, None), rows), repeat(1)))


def edit(
    kvs: Iterable[KV], *, put: Sequence[KV] = (), drop: Iterable[str] = (), drop_prefixes: Sequence[str] = ()
) -> KVTable:
    """The pairs with some replaced in their place, new ones at the end, dropped ones gone.

    Order and bytes of everything else stay as they were.
    """
    return KVTable.of(kvs).edited(put, drop, drop_prefixes)
