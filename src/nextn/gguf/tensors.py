"""The tensor table of a GGUF header: an entry as an object, and all entries as columns."""

from __future__ import annotations

import math
import struct
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, chain, compress, islice, pairwise, repeat
from operator import add, eq, getitem, le, lt, sub
from typing import Any, overload
from zlib import crc32

from ..errors import FormatError
from ..printable import printable
from .kv import encode_text
from .names import LARGE, Buffer, StoredNames, all_decoded, decoded, name_at
from .types import TensorType, tensor_size, tensor_type

MAX_DIMS = 4  # GGML_MAX_DIMS
TENSOR_TAILS = [struct.Struct(f"<{n_dims}QIQ") for n_dims in range(MAX_DIMS + 1)]  # ne, type, offset
UNKNOWN = -1  # in a column of sizes
LARGEST = (1 << 63) - 1  # a size that no file holds: larger ones are as good as this
_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")


def column_size(type_id: int, ne: Sequence[int]) -> int:
    """A tensor's bytes by type and shape as they are kept in a column: UNKNOWN, or at most LARGEST."""
    size = tensor_size(type_id, ne)
    return UNKNOWN if size is None else size if size < LARGEST else LARGEST


class TensorColumns:
    """What is kept of each entry of a tensor table."""

    def __init__(self) -> None:
        self.starts = array("I")  # first byte in the header
        self.ends = array("I")  # the byte after the last
        self.offsets = array("Q")
        self.sizes = array("q")
        self.type_ids = array("I")

    def add(self, start: int, end: int, offset: int, size: int, type_id: int) -> None:
        """Append an entry."""
        self.starts.append(start)
        self.ends.append(end)
        self.offsets.append(offset)
        self.sizes.append(size)
        self.type_ids.append(type_id)

    def picked(self, rows: array[int]) -> TensorColumns:
        """Those of some rows."""
        out, pick = TensorColumns(), picked
        out.starts, out.ends, out.offsets = pick(self.starts, rows), pick(self.ends, rows), pick(self.offsets, rows)
        out.sizes, out.type_ids = pick(self.sizes, rows), pick(self.type_ids, rows)
        return out


def picked(column: array[int], rows: array[int]) -> array[int]:
    """The items of some rows."""
    if len(rows) >= LARGE:
        from . import bulk  # loads numpy

        return bulk.picked(column, rows)
    return array(column.typecode, map(column.__getitem__, rows))


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


class TensorTable(Sequence[TensorInfo]):
    """The tensor table in order; an info is made from the header's bytes when it is asked for.

    A tensor takes 28 bytes here, and 16 to 32 more for its name. What a check of all tensors needs
    is in columns, one item per tensor.
    """

    def __init__(self, buffer: Buffer, columns: TensorColumns, *, moved: StoredNames | None = None) -> None:
        """`moved`: the same tensors' names in a table with other offsets, which those of `columns` replace."""
        self._base = StoredNames(buffer, columns.starts) if moved is None else moved
        self._is_moved = moved is not None
        self._all: TensorTable | None = None  # these are rows of it, in its order: names are looked up there
        self._columns = columns
        self.offsets: Sequence[int] = columns.offsets  # relative to the data section
        self.sizes: Sequence[int] = columns.sizes  # bytes by type and shape, UNKNOWN for a type without known layout
        self.type_ids: Sequence[int] = columns.type_ids

    @classmethod
    def of(cls, infos: Iterable[TensorInfo]) -> TensorTable:
        """A table of infos that were made one by one. Raises FormatError for sizes that no file can have."""
        if isinstance(infos, TensorTable):
            return infos
        buffer, columns = bytearray(), TensorColumns()
        for info in infos:
            start = len(buffer)
            buffer += info.encode()
            columns.add(start, len(buffer), info.offset, column_size(info.type_id, info.ne), info.type_id)
        return cls(buffer, columns)

    def __len__(self) -> int:
        return len(self._columns.starts)

    @overload
    def __getitem__(self, index: int) -> TensorInfo: ...
    @overload
    def __getitem__(self, index: slice) -> TensorTable: ...
    def __getitem__(self, index: int | slice) -> TensorInfo | TensorTable:
        if isinstance(index, slice):
            return self.rows(range(len(self))[index])
        return self._info(self._columns.starts[index], self._columns.offsets[index])

    def __iter__(self) -> Iterator[TensorInfo]:
        return map(self._info, self._columns.starts, self._columns.offsets)

    def _info(self, start: int, offset: int) -> TensorInfo:
        buffer = self._base.buffer
        name = name_at(buffer, start)
        at = start + 8 + len(name)
        (n_dims,) = _U32.unpack_from(buffer, at)
        *ne, type_id, _ = TENSOR_TAILS[n_dims].unpack_from(buffer, at + 4)
        return TensorInfo(decoded(name), tuple(ne), type_id, offset)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, TensorTable):
            return self is other or b"".join(self.pieces()) == b"".join(other.pieces())
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"TensorTable({len(self):,} tensors)"

    def rows(self, rows: Iterable[int]) -> TensorTable:
        """A table of some of the tensors, in the order of `rows`."""
        rows = array("I", rows)
        chosen = self._columns.picked(rows)
        names = StoredNames(self._base.buffer, chosen.starts) if self._is_moved else None
        table = TensorTable(self._base.buffer, chosen, moved=names)
        if all(map(lt, rows, islice(rows, 1, None))) and self._is_in_order:
            table._all = self
        return table

    @cached_property
    def _is_in_order(self) -> bool:
        """Whether the entries are in the order of their bytes."""
        starts = self._columns.starts
        return all(map(lt, starts, islice(starts, 1, None)))

    def rows_of(self, some: TensorTable) -> Iterator[int]:
        """The rows that a table made with `rows` consists of."""
        starts = self._columns.starts
        if self._is_in_order:
            if len(some) >= LARGE:
                from . import bulk  # loads numpy

                return bulk.places(some._columns.starts, starts)
            return (bisect_left(starts, start) for start in some._columns.starts)
        places = {start: row for row, start in enumerate(starts)}
        return map(places.__getitem__, some._columns.starts)

    def moved(self, offsets: array[int]) -> TensorTable:
        """The same tensors at other offsets; everything else is shared."""
        columns, own = TensorColumns(), self._columns
        columns.starts, columns.ends, columns.sizes, columns.type_ids = own.starts, own.ends, own.sizes, own.type_ids
        columns.offsets = offsets
        table = TensorTable(self._base.buffer, columns, moved=self._base)
        table._all = self._all
        return table

    def named(self, keep: Callable[[str], bool]) -> TensorTable:
        """A table of the tensors whose names `keep` takes; the same one if it takes all."""
        kept = array("I", (i for i, name in enumerate(self.names()) if keep(name)))
        return self if len(kept) == len(self) else self.rows(kept)

    def plus(self, infos: Iterable[TensorInfo]) -> TensorTable:
        """With further tensors at the end."""
        more = TensorTable.of(infos)
        columns, both = TensorColumns(), (self._columns, more._columns)
        n_bytes = chain.from_iterable(map(sub, own.ends, own.starts) for own in both)
        columns.starts = array("I", accumulate(n_bytes, initial=0))
        columns.ends = columns.starts[1:]
        columns.starts.pop()
        for own in both:
            columns.offsets += own.offsets
            columns.sizes += own.sizes
            columns.type_ids += own.type_ids
        return TensorTable(b"".join((*self.pieces(), *more.pieces())), columns)

    def by_offset(self) -> TensorTable:
        """The same tensors in the order of their data."""
        offsets = self._columns.offsets
        if all(map(le, offsets, islice(offsets, 1, None))):
            return self
        return self.rows(sorted(range(len(self)), key=offsets.__getitem__))

    @property
    def stored_names(self) -> StoredNames:
        """The names where they lie in the bytes."""
        return StoredNames(self._base.buffer, self._columns.starts)

    def names(self) -> Iterator[str]:
        """The names in order."""
        return all_decoded(self._base)

    def raw_names(self) -> Iterator[bytes]:
        """The names as they are stored, in order."""
        return iter(self._base)

    def raw_name(self, row: int) -> bytes:
        """One of them."""
        return self._base.name_of(row)

    def find(self, name: str) -> TensorInfo | None:
        """The tensor with this name, or None."""
        row = self.row(name)
        return None if row is None else self[row]

    def row(self, name: str) -> int | None:
        """The place of the tensor with this name, or None."""
        if self._all is None:
            return self._base.index.find(name)
        of_all = self._all.row(name)
        if of_all is None:
            return None
        start, starts = self._all._columns.starts[of_all], self._columns.starts
        at = bisect_left(starts, start)
        return at if at < len(starts) and starts[at] == start else None

    @property
    def twice(self) -> int | None:
        """The first row with the name of an earlier one, or None."""
        return self._base.index.twice

    def pieces(self) -> Iterator[Buffer]:
        """The stored bytes of all entries, in as few pieces as there are."""
        buffer, starts, ends = memoryview(self._base.buffer), self._columns.starts, self._columns.ends
        follows = map(eq, ends, islice(starts, 1, None))
        breaks = [i for i, is_next in enumerate(follows, 1) if not is_next]
        for first, after in pairwise((0, *breaks, len(starts)) if starts else ()):
            piece: Buffer = buffer[starts[first] : ends[after - 1]]
            yield self._with_offsets(piece, first, after) if self._is_moved else piece

    def _with_offsets(self, piece: Buffer, first: int, after: int) -> bytearray:
        """The entries from row `first` to `after` with their new offsets, which are an entry's last 8 bytes."""
        own, data, put = self._columns, bytearray(piece), _U64.pack_into
        shift = own.starts[first] + 8
        for end, offset in zip(own.ends[first:after], own.offsets[first:after], strict=True):
            put(data, end - shift, offset)
        return data

    def checksums(self) -> Iterator[int]:
        """A CRC-32 of each tensor's name, shape and type."""
        places = map(slice, self._columns.starts, map(sub, self._columns.ends, repeat(_U64.size)))  # without offsets
        entries: Iterator[Any] = map(getitem, repeat(self._base.buffer), places)
        return map(crc32, entries)

    def is_within(self, n_bytes: int) -> bool:
        """Whether all sizes are known and all tensors end within the first `n_bytes` of the data section."""
        if len(self) >= LARGE:
            from . import bulk  # loads numpy

            if bulk.are_within(self._columns.offsets, self._columns.sizes, n_bytes):
                return True  # else sizes near what 64 bits hold are added up exactly
        return min(self.sizes, default=0) >= 0 and max(map(add, self.offsets, self.sizes), default=0) <= n_bytes

    def is_contiguous(self, alignment: int, n_bytes: int) -> bool:
        """Whether tensors are within the first `n_bytes` and all follow one another; False for small tables too.

        What is wrong with those for which it is False has to be looked for one by one, which is quick for small ones.
        """
        if len(self) < LARGE:
            return False
        from . import bulk  # loads numpy

        own = self._columns
        return bulk.are_within(own.offsets, own.sizes, n_bytes) and bulk.are_contiguous(
            own.offsets, own.sizes, alignment
        )

    def runs(self, alignment: int) -> Iterator[tuple[int, int]]:
        """First row and the row after the last of tensors that follow one another; small tables are not looked at.

        There, and where sizes are not known or near what 64 bits hold, each tensor is a run of its own.
        """
        own = self._columns
        if len(self) >= LARGE:
            from . import bulk  # loads numpy

            if bulk.are_within(own.offsets, own.sizes, LARGEST):
                return pairwise(bulk.run_begins(own.offsets, own.sizes, alignment))
        return pairwise(range(len(self) + 1))

    def bytes_by_type(self, n_bytes: int) -> dict[int, int] | None:
        """Type number -> bytes, in the order of the data; None where not all is within the first `n_bytes`, or small.

        For large tables only: others are added up one by one.
        """
        if len(self) < LARGE or n_bytes * len(self) >= 1 << 63:
            return None  # few, or overlapping ones could sum up to more than 64 bits hold
        from . import bulk  # loads numpy

        own = self._columns
        if not bulk.are_within(own.offsets, own.sizes, n_bytes):
            return None
        found = sorted(bulk.grouped(own.type_ids, own.offsets, own.sizes), key=lambda each: each[2])
        return {type_id: size for type_id, size, _, _ in found}

    def bytes_of(self, chosen: array[int]) -> int:
        """Bytes of the rows whose item in `chosen` is not 0; all sizes are known."""
        return sum(compress(self.sizes, chosen))

    @property
    def n_elements(self) -> int:
        """Elements of all tensors."""
        if len(self) < LARGE:
            return sum(info.n_elements for info in self)
        from . import bulk  # loads numpy

        return sum(bulk.n_elements(self._base.buffer, self._base.starts))

    @property
    def entry_sizes(self) -> array[int]:
        """Bytes of each entry in a header."""
        return array("I", map(sub, self._columns.ends, self._columns.starts))

    @property
    def size_bytes(self) -> int:
        """Bytes that the table takes in a header."""
        return sum(self._columns.ends) - sum(self._columns.starts)
