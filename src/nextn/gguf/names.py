"""Names that lie in a header's bytes: looked up and compared there, without a string for each."""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_left
from collections.abc import Callable, ItemsView, Iterable, Iterator, Mapping, ValuesView
from functools import cached_property
from itertools import compress, count, islice, repeat
from operator import eq, methodcaller
from typing import TypeAlias, TypeVar

Buffer: TypeAlias = "bytes | bytearray | memoryview"
Item = TypeVar("Item")
LARGE = 20_000  # entries from which on tables are read a column at a time, see `bulk`
MOST_DIGITS = 18  # of a layer's number in a tensor's name: it fits into 64 bits
_U64 = struct.Struct("<Q")
_DECODE = methodcaller("decode", "utf-8", "surrogateescape")


def name_at(buffer: Buffer, start: int) -> bytes:
    """The bytes of a text whose length (u64) is at `start`."""
    (length,) = _U64.unpack_from(buffer, start)
    return bytes(buffer[start + 8 : start + 8 + length])


def decoded(name: bytes) -> str:
    """A name as text; `encoded` gives back the same bytes, UTF-8 or not."""
    return name.decode("utf-8", "surrogateescape")


def all_decoded(names: Iterable[bytes]) -> Iterator[str]:
    """The same for many."""
    return map(_DECODE, names)


def encoded(name: str) -> bytes | None:
    """A name's bytes; None for a text that no bytes decode to."""
    try:
        return name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return None


def sorted_rows(keys: array[int]) -> tuple[array[int], array[int]]:
    """The rows in the order of their keys, equal ones in their own; and the keys in that order."""
    if len(keys) >= LARGE:
        from . import bulk  # loads numpy

        return bulk.sorted_rows(keys)
    rows = array("I", sorted(range(len(keys)), key=keys.__getitem__))
    return rows, array(keys.typecode, map(keys.__getitem__, rows))


class NameIndex:
    """Rows by name: the hashes of all names in order, with the rows to which they belong, 12 bytes per row.

    Python's hash of bytes is keyed at random, so that no file can be made whose names have the same.
    """

    def __init__(self, names: Iterable[bytes], name_of: Callable[[int], bytes]) -> None:
        """`names` are the rows' names in order, and `name_of` gives one of them again."""
        self._name_of = name_of
        self._rows, self._hashes = sorted_rows(array("q", map(hash, names)))
        again = compress(count(1), map(eq, self._hashes, islice(self._hashes, 1, None)))
        rows = map(self._rows.__getitem__, again)
        self.twice = min(filter(self._is_again, rows), default=None)  # the first row with the name of an earlier one

    def _is_again(self, row: int) -> bool:
        return self._find(self._name_of(row)) != row

    def find(self, name: str) -> int | None:
        """The row with this name (the first of several), or None."""
        wanted = encoded(name)
        return None if wanted is None else self._find(wanted)

    def _find(self, wanted: bytes) -> int | None:
        key, hashes = hash(wanted), self._hashes
        for at in range(bisect_left(hashes, key), len(hashes)):
            if hashes[at] != key:
                break
            if self._name_of(self._rows[at]) == wanted:
                return self._rows[at]
        return None


class StoredNames:
    """The names of a header's entries, each of which begins with its name."""

    def __init__(self, buffer: Buffer, starts: array[int]) -> None:
        """`starts` are the entries' first bytes in `buffer`."""
        self.buffer, self.starts = buffer, starts  # ascending, if `starting_with` is to be asked
        self._starting: dict[bytes, array[int]] = {}

    @cached_property
    def index(self) -> NameIndex:
        """For lookups by name."""
        return NameIndex(iter(self), self.name_of)

    def name_of(self, row: int) -> bytes:
        """The name of one entry."""
        return name_at(self.buffer, self.starts[row])

    def starting_with(self, prefix: bytes) -> array[int]:
        """The rows whose names start with `prefix`, in order: the bytes are searched, not name by name."""
        known = self._starting.get(prefix)
        if known is None:
            if len(self.starts) >= LARGE:
                from . import bulk  # loads numpy

                known = bulk.rows_starting_with(self.buffer, self.starts, prefix)
            else:
                known = array("I", self._searched(prefix))
            self._starting[prefix] = known
        return known

    def _searched(self, prefix: bytes) -> Iterator[int]:
        buffer, starts = self.buffer, self.starts
        if isinstance(buffer, memoryview) or not prefix:
            yield from (row for row, name in enumerate(self) if name.startswith(prefix))
            return
        at = buffer.find(prefix)
        while at >= 0:
            row = bisect_left(starts, at - 8) if at >= 8 else len(starts)
            if row < len(starts) and starts[row] == at - 8 and self.name_of(row).startswith(prefix):
                yield row
            at = buffer.find(prefix, at + 1)

    def ending_with(self, suffix: bytes) -> Iterator[bytes]:
        """The names that end with `suffix`, in order."""
        if len(self.starts) < LARGE:
            return (name for name in self if name.endswith(suffix))
        from . import bulk  # loads numpy

        return map(self.name_of, bulk.rows_ending_with(self.buffer, self.starts, suffix))

    def longer_than(self, n_bytes: int) -> Iterator[bytes]:
        """The names that have more bytes, in order."""
        if len(self.starts) < LARGE:
            return (name for name in self if len(name) > n_bytes)
        from . import bulk  # loads numpy

        return map(self.name_of, bulk.rows_longer_than(self.buffer, self.starts, n_bytes))

    def __iter__(self) -> Iterator[bytes]:
        if len(self.starts) >= LARGE:
            from . import bulk  # loads numpy

            return bulk.names_at(self.buffer, self.starts)
        return map(name_at, repeat(self.buffer), self.starts)


class OnDemand(Mapping[str, Item]):
    """A mapping whose values are made when they are asked for, one at a time."""

    def __init__(
        self,
        n: int,
        names: Callable[[], Iterator[str]],
        find: Callable[[str], Item | None],
        each: Callable[[], Iterator[Item]],
    ) -> None:
        """`names` and `each` iterate over the same `n` items in the same order."""
        self._n, self._names, self._find, self._each = n, names, find, each

    def __len__(self) -> int:
        return self._n

    def __iter__(self) -> Iterator[str]:
        return self._names()

    def __getitem__(self, name: str) -> Item:
        found = self._find(name)
        if found is None:
            raise KeyError(name)
        return found

    def __repr__(self) -> str:
        return f"OnDemand({self._n:,} items)"

    def values(self) -> ValuesView[Item]:
        """The values in order."""
        return _Values(self)

    def items(self) -> ItemsView[str, Item]:
        """The names with their values, in order."""
        return _Items(self)


class _Values(ValuesView[Item]):
    _mapping: OnDemand[Item]

    def __iter__(self) -> Iterator[Item]:
        return self._mapping._each()


class _Items(ItemsView[str, Item]):
    _mapping: OnDemand[Item]

    def __iter__(self) -> Iterator[tuple[str, Item]]:
        return zip(self._mapping._names(), self._mapping._each(), strict=True)
