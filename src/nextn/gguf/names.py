"""Names that lie in a header's bytes: looked up and compared there, without a string for each."""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_left
from collections.abc import Callable, ItemsView, Iterable, Iterator, Mapping, ValuesView
from functools import cached_property
from itertools import repeat
from typing import TypeAlias, TypeVar

Buffer: TypeAlias = "bytes | bytearray | memoryview"
Item = TypeVar("Item")
_U64 = struct.Struct("<Q")


def name_at(buffer: Buffer, start: int) -> bytes:
    """The bytes of a text whose length (u64) is at `start`."""
    (length,) = _U64.unpack_from(buffer, start)
    return bytes(buffer[start + 8 : start + 8 + length])


def decoded(name: bytes) -> str:
    """A name as text; `encoded` gives back the same bytes, UTF-8 or not."""
    return name.decode("utf-8", "surrogateescape")


def encoded(name: str) -> bytes | None:
    """A name's bytes; None for a text that no bytes decode to."""
    try:
        return name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return None


class NameIndex:
    """Rows by name: an open hash table of row numbers, 16 to 32 bytes per row.

    Python's hash of bytes is keyed at random, so that no file can be made to fill one slot.
    """

    def __init__(self, names: Iterable[bytes], n: int, name_of: Callable[[int], bytes]) -> None:
        """`names` are the `n` rows' names in order, and `name_of` gives one of them again."""
        size = 8
        while size < 4 * n:
            size *= 2
        mask = self._mask = size - 1
        table = self._table = array("I", bytes(4 * size))  # row + 1; 0 is an empty slot
        self._name_of = name_of
        self.twice: int | None = None  # the first row with the name of an earlier one
        for number, name in enumerate(names, 1):
            at = hash(name) & mask
            while other := table[at]:
                if name_of(other - 1) == name:
                    self.twice = number - 1 if self.twice is None else self.twice
                    break
                at = (at + 1) & mask
            else:
                table[at] = number

    def find(self, name: str) -> int | None:
        """The row with this name (the first of several), or None."""
        wanted = encoded(name)
        if wanted is None:
            return None
        at = hash(wanted) & self._mask
        while other := self._table[at]:
            if self._name_of(other - 1) == wanted:
                return other - 1
            at = (at + 1) & self._mask
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
        return NameIndex(iter(self), len(self.starts), self.name_of)

    def name_of(self, row: int) -> bytes:
        """The name of one entry."""
        return name_at(self.buffer, self.starts[row])

    def starting_with(self, prefix: bytes) -> array[int]:
        """The rows whose names start with `prefix`, in order: the bytes are searched, not name by name."""
        known = self._starting.get(prefix)
        if known is None:
            known = self._starting[prefix] = array("I", self._searched(prefix))
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

    def __iter__(self) -> Iterator[bytes]:
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
