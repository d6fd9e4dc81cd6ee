"""Large tables a column at a time: what the plain loops do entry by entry, with numpy.

Only for tables of `LARGE` entries or more, since loading numpy takes longer than a small table.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Collection, Iterator, Sequence
from itertools import repeat
from operator import getitem
from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from .kv import KVType
from .names import MOST_DIGITS, Buffer
from .tensors import LARGEST, MAX_DIMS, UNKNOWN, TensorColumns
from .types import TENSOR_TYPES

Ints: TypeAlias = "npt.NDArray[np.int64]"
Sizes: TypeAlias = "npt.NDArray[np.uint64]"
_Number = TypeVar("_Number", bound=np.generic)
_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")
_ADDABLE = 1 << 62  # below it, an offset and a padded size can be added in 64 bits
_AT_ONCE = 4_096  # entries whose columns are in memory at the same time
_DOT, _ZERO, _NINE = b".09"
_TYPES = {type.id: type for type in TENSOR_TYPES if type.block_size is not None and type.type_size is not None}
_N_TYPES = max(_TYPES) + 1  # the last item of each list below is that of unknown types
_BLOCK, _BYTES, _META = (
    np.array([getattr(_TYPES.get(id), name, 0) or 0 for id in range(_N_TYPES + 1)], np.uint64)
    for name in ("block_size", "type_size", "row_meta_bytes")
)


def _anywhere(buffer: Buffer, kind: type[_Number]) -> npt.NDArray[_Number]:
    """What little-endian numbers of a kind there are from each byte of a buffer on."""
    size = np.dtype(kind).itemsize
    return np.ndarray((max(0, len(buffer) - size + 1),), np.dtype(kind).newbyteorder("<"), buffer, 0, (1,))


def _column(starts: array[int]) -> Ints:
    return np.frombuffer(starts, np.uint32).astype(np.int64)


def _as_array(code: str, values: npt.NDArray[Any]) -> array[int]:
    out = array(code)
    out.frombytes(np.ascontiguousarray(values, np.dtype(code)).tobytes())
    return out


def names_at(buffer: Buffer, starts: array[int]) -> Iterator[bytes]:
    """The texts whose lengths (u64) are at `starts`."""
    firsts = _column(starts) + 8
    ends = firsts + _anywhere(buffer, np.uint64)[firsts - 8].astype(np.int64)
    places = map(slice, _as_array("I", firsts), _as_array("I", ends))
    found: Iterator[Any] = map(getitem, repeat(buffer), places)
    return found if isinstance(buffer, bytes) else map(bytes, found)


def rows_starting_with(buffer: Buffer, starts: array[int], prefix: bytes) -> array[int]:
    """The rows whose names, with their lengths at `starts`, start with a prefix."""
    first, words, text = _column(starts) + 8, _anywhere(buffer, np.uint64), np.frombuffer(buffer, np.uint8)
    rows = np.flatnonzero(words[first - 8] >= np.uint64(len(prefix)))
    n_words = len(prefix) // 8 * 8
    for i in range(0, n_words, 8):
        rows = rows[words[first[rows] + i] == np.uint64(int.from_bytes(prefix[i : i + 8], "little"))]
    for i in range(n_words, len(prefix)):
        rows = rows[text[first[rows] + i] == prefix[i]]
    return _as_array("I", rows)


def rows_ending_with(buffer: Buffer, starts: array[int], suffix: bytes) -> array[int]:
    """The rows whose names, with their lengths at `starts`, end with a suffix."""
    first, words, text = _column(starts), _anywhere(buffer, np.uint64), np.frombuffer(buffer, np.uint8)
    sizes = words[first]
    rows = np.flatnonzero(sizes >= np.uint64(len(suffix)))
    ends = first[rows] + 8 + sizes[rows].astype(np.int64)
    for i, byte in enumerate(reversed(suffix), 1):
        same = text[ends - i] == byte
        rows, ends = rows[same], ends[same]
    return _as_array("I", rows)


def rows_longer_than(buffer: Buffer, starts: array[int], n_bytes: int) -> array[int]:
    """The rows whose names have more bytes."""
    return _as_array("I", np.flatnonzero(_anywhere(buffer, np.uint64)[_column(starts)] > np.uint64(n_bytes)))


def are_within(offsets: array[int], sizes: array[int], n_bytes: int) -> bool:
    """Whether all sizes are known, none is near what 64 bits hold, and all data ends within the first `n_bytes`."""
    at, size = np.frombuffer(offsets, np.uint64), np.frombuffer(sizes, np.int64)
    if int(size.min()) < 0 or int(size.max()) >= _ADDABLE or int(at.max()) >= _ADDABLE:
        return False
    return int((at + size.astype(np.uint64)).max()) <= n_bytes


def run_begins(offsets: array[int], sizes: array[int], alignment: int) -> array[int]:
    """The rows of tensors that do not begin where the one before them, padded, ends; and the number of rows.

    Call only after `are_within`.
    """
    at, size = np.frombuffer(offsets, np.uint64), np.frombuffer(sizes, np.int64).astype(np.uint64)
    unit = np.uint64(alignment)
    after = at + (size + np.uint64(alignment - 1)) // unit * unit
    begins = np.flatnonzero(after[:-1] != at[1:]) + 1
    return _as_array("I", np.concatenate(([0], begins, [len(at)])))


def are_contiguous(offsets: array[int], sizes: array[int], alignment: int) -> bool:
    """Whether each tensor begins where the one before it, padded, ends; call only after `are_within`."""
    return offsets[0] == 0 and len(run_begins(offsets, sizes, alignment)) == 2


def are_among(column: array[int], wanted: Collection[int]) -> array[int]:
    """Whether each item is one of those wanted."""
    possible = np.array([each for each in wanted if each < 1 << 63], np.int64)
    return _as_array("b", np.isin(np.frombuffer(column, np.int64), possible))


def not_stored_texts(
    buffer: Buffer, starts: array[int], places: array[int], rows: array[int], most_bytes: int
) -> array[int]:
    """Those of some places in a table of pairs where no stored string of at most that many bytes is.

    `rows` are the stored pairs at `places`, negative ones are not stored.
    """
    chosen, words = np.frombuffer(rows, np.dtype(rows.typecode)).astype(np.int64), _anywhere(buffer, np.uint64)
    wrong = np.ones(len(chosen), np.bool_)
    stored = np.flatnonzero(chosen >= 0)
    first = np.frombuffer(starts, np.uint32)[chosen[stored]].astype(np.int64)
    del chosen
    at = first + 8 + words[first].astype(np.int64)
    size = words[np.minimum(at + 4, len(words) - 1)]
    wrong[stored] = (_anywhere(buffer, np.uint32)[at] != KVType.STRING) | (size > np.uint64(most_bytes))
    return _as_array("I", np.frombuffer(places, np.uint32)[wrong])


def sorted_rows(keys: array[int]) -> tuple[array[int], array[int]]:
    """The rows in the order of their keys, equal ones in their own; and the keys in that order."""
    column = np.frombuffer(keys, np.dtype(keys.typecode))
    rows = np.argsort(column, kind="stable")
    return _as_array("I", rows), _as_array(keys.typecode, column[rows])


def scaled(column: array[int], most: int, instead: int, factor: int) -> array[int]:
    """Each item, at most `most` and `instead` of negative ones, times a factor."""
    found = np.frombuffer(column, np.int64)
    return _as_array("H", np.where(found < 0, instead, np.minimum(found, most)) * factor)


def rows_between(column: bytearray, least: int, most: int) -> array[int]:
    """The rows whose items are from `least` to `most`."""
    found = np.frombuffer(column, np.uint8)
    return _as_array("I", np.flatnonzero((found >= least) & (found <= most)))


def rows_among(column: array[int], wanted: Collection[int]) -> array[int]:
    """The rows whose items are among those wanted."""
    return _as_array("I", np.flatnonzero(np.frombuffer(are_among(column, wanted), np.int8)))


def picked(column: array[int], rows: array[int]) -> array[int]:
    """The items of some rows."""
    found = np.frombuffer(column, np.dtype(column.typecode))[np.frombuffer(rows, np.uint32)]
    return _as_array(column.typecode, found)


def breaks(rows: array[int]) -> array[int]:
    """The places of rows that are not the one after that before them."""
    column = np.frombuffer(rows, np.dtype(rows.typecode))
    return _as_array("I", np.flatnonzero(column[1:] - column[:-1] != 1) + 1)


def n_elements(buffer: Buffer, starts: array[int]) -> array[int]:
    """The elements of each tensor whose entry is at `starts`: fewer than 2^62."""
    first, words = _column(starts), _anywhere(buffer, np.uint64)
    at = first + 8 + words[first].astype(np.int64)
    n_axes = _anywhere(buffer, np.uint32)[at].astype(np.int64)
    product = np.ones(len(first), np.uint64)
    for d in range(MAX_DIMS):
        product *= np.where(n_axes > d, words[np.minimum(at + 4 + 8 * d, len(words) - 1)], np.uint64(1))
    return _as_array("Q", product)


def places(items: array[int], ascending: array[int]) -> Iterator[int]:
    """Where each of `items` is in a longer column that is in order."""
    return iter(_as_array("I", np.searchsorted(np.frombuffer(ascending, np.uint32), np.frombuffer(items, np.uint32))))


def grouped(codes: array[int], starts: Sequence[int], sizes: Sequence[int]) -> Iterator[tuple[int, int, int, int]]:
    """For each code: itself, the sum of the sizes, the first start and the last end of the rows that have it.

    Sums, starts and ends are below 2^63.
    """
    code, start, size = np.array(codes), np.array(starts, np.int64), np.array(sizes, np.int64)
    rows = np.argsort(code, kind="stable")
    code, start, size = code[rows], start[rows], size[rows]
    begins = np.flatnonzero(np.append(True, code[1:] != code[:-1]))
    ends = np.maximum.reduceat(start + size, begins)
    columns = code[begins], np.add.reduceat(size, begins), np.minimum.reduceat(start, begins), ends
    yield from zip(*(column.tolist() for column in columns), strict=True)


def read_tensors(
    buffer: Buffer, pos: int, n: int, most: int, known: TensorColumns, *, most_name: int, file_size: int, alignment: int
) -> int:
    """Add entries of a tensor table to `known`: at most `n` from `pos` on, as long as nothing is wrong with them.

    `most` is the end of what may be read of the buffer, `most_name` the most bytes of a name. Returns where the first
    entry starts that was not added. Where the plain loop would add one and this one does not, there is only more left
    for that: sizes within rounding of the largest possible ones.
    """
    n_read, n_more = len(known.starts), _AT_ONCE
    while n_more == _AT_ONCE:
        pos = _read_some(
            buffer, pos, min(n, _AT_ONCE), most, known, most_name=most_name, file_size=file_size, alignment=alignment
        )
        n_more, n_read = len(known.starts) - n_read, len(known.starts)
        n -= n_more
    return pos


def _read_some(
    buffer: Buffer, pos: int, n: int, most: int, known: TensorColumns, *, most_name: int, file_size: int, alignment: int
) -> int:
    starts = array("I")
    add, u32, u64 = starts.append, _U32.unpack_from, _U64.unpack_from
    try:
        for _ in repeat(None, n):
            (length,) = u64(buffer, pos)
            at = pos + 8 + length
            (n_dims,) = u32(buffer, at)
            end = at + 16 + n_dims * 8
            if n_dims > MAX_DIMS or end > most or length > most_name:
                break
            add(pos)
            pos = end
    except (struct.error, OverflowError):  # past the buffer, or past any address
        pass
    if not starts:
        return pos
    first, words = _column(starts), _anywhere(buffer, np.uint64)
    at = first + 8 + words[first].astype(np.int64)
    halves = _anywhere(buffer, np.uint32)
    n_axes = halves[at].astype(np.int64)
    tail = at + 4 + n_axes * 8
    one = np.uint64(1)
    ne = [np.where(n_axes > d, words[np.minimum(at + 4 + 8 * d, len(words) - 1)], one) for d in range(MAX_DIMS)]
    type_ids, offsets = halves[tail], words[tail + 4]
    sizes, is_sound = _sizes(type_ids, ne)
    is_sound &= (offsets % np.uint64(alignment) == 0) & _are_placed(offsets, sizes, known, file_size, alignment)
    n_sound = len(starts) if is_sound.all() else int(is_sound.argmin())
    ends = np.append(first[1:], pos)[:n_sound]
    known.starts.extend(starts[:n_sound])
    known.ends.extend(_as_array("I", ends))
    known.offsets.extend(_as_array("Q", offsets[:n_sound]))
    known.sizes.extend(_as_array("q", sizes[:n_sound]))
    known.type_ids.extend(_as_array("I", type_ids[:n_sound]))
    return pos if n_sound == len(starts) else starts[n_sound]


def _sizes(type_ids: npt.NDArray[np.uint32], ne: list[Sizes]) -> tuple[Ints, npt.NDArray[np.bool_]]:
    """Bytes of each tensor as `column_size` has them, and which of these and of the shapes are possible."""
    kinds = np.minimum(type_ids, _N_TYPES).astype(np.int64)
    block, n_rows, about_rows = _BLOCK[kinds], np.ones_like(ne[0]), np.ones(len(kinds))
    n_elements, about = np.maximum(ne[0], np.uint64(1)), np.maximum(ne[0].astype(np.float64), 1)
    for axis in ne[1:]:
        n_elements, about = n_elements * np.maximum(axis, np.uint64(1)), about * np.maximum(axis.astype(np.float64), 1)
        n_rows, about_rows = n_rows * axis, about_rows * axis.astype(np.float64)
    is_sound = (about < 2.0**63) & (n_elements < np.uint64(1 << 62))  # the product is exact where the first holds
    n_blocks, rest = np.divmod(ne[0], np.maximum(block, np.uint64(1)))
    row, about_row = _META[kinds] + n_blocks * _BYTES[kinds], _META[kinds] + n_blocks.astype(np.float64) * _BYTES[kinds]
    about_size = about_row * about_rows
    sizes = np.where(about_size < 2.0**63, row * n_rows, np.uint64(LARGEST)).astype(np.int64)
    is_unknown = (block == 0) | (rest != 0)
    sizes[is_unknown] = UNKNOWN
    is_sound &= is_unknown | (np.abs(about_size - 2.0**63) > 2.0**63 * 1e-9)
    return sizes, is_sound


def _are_placed(
    offsets: Sizes, sizes: Ints, known: TensorColumns, file_size: int, alignment: int
) -> npt.NDArray[np.bool_]:
    """Whether data lies inside the file, or right after the previous tensor's: see `HeaderParser`."""
    is_inside = offsets <= np.uint64(file_size)
    if is_inside.all():
        return is_inside
    last = (known.offsets[-1], known.sizes[-1]) if known.offsets else (0, UNKNOWN)
    before = np.concatenate((np.array([last[0]], np.uint64), offsets[:-1]))
    size = np.concatenate((np.array([last[1]], np.int64), sizes[:-1]))
    is_known = (size >= 0) & (size < 1 << 62) & (before < np.uint64(1 << 62))
    ends = before + np.where(is_known, size, 0).astype(np.uint64)
    padded = (ends + np.uint64(alignment - 1)) // np.uint64(alignment) * np.uint64(alignment)
    follows: npt.NDArray[np.bool_] = is_known & (padded == offsets)
    return is_inside | follows


def n_axes_at(buffer: Buffer, starts: array[int], multiples: array[int]) -> bytearray:
    """Up to which axis the tensors at `starts` are longer than 1; 0 where the second is no multiple of a row's number.

    0 too for tensors with fewer than two axes, and where the number is 0.
    """
    first, words = _column(starts), _anywhere(buffer, np.uint64)
    at = first + 8 + words[first].astype(np.int64)
    n_axes = _anywhere(buffer, np.uint32)[at].astype(np.int64)
    multiple = np.frombuffer(multiples, np.dtype(multiples.typecode)).astype(np.uint64)
    last = np.ones(len(first), np.uint8)
    fits = (n_axes >= 2) & (multiple > 0)
    for d in range(MAX_DIMS):
        axis = np.where(n_axes > d, words[np.minimum(at + 4 + 8 * d, len(words) - 1)], np.uint64(1))
        last[axis > 1] = d + 1
        if d == 1:
            fits &= axis % np.maximum(multiple, np.uint64(1)) == 0
    return bytearray(np.where(fits, last, np.uint8(0)).tobytes())


def layers_at(buffer: Buffer, starts: array[int], mark: bytes) -> tuple[array[int], array[int]]:
    """The layers of the tensors whose names are at `starts`, -1 for none and those that `mark` follows in a name."""
    first = _column(starts) + 8
    sizes = _anywhere(buffer, np.uint64)[first - 8].astype(np.int64)
    text = np.frombuffer(buffer, np.uint8)
    layers = np.full(len(first), -1, np.int64)
    rows = np.flatnonzero(_has(buffer, first, sizes, b"blk."))
    at, left = first[rows] + 4, sizes[rows] - 4
    marked = [np.zeros(0, np.int64)]
    numbers = np.zeros(len(rows), np.int64)
    for n_digits in range(MOST_DIGITS + 1):
        more = left > 1  # the character, and one of a suffix or a dot after it
        rows, at, left, numbers = rows[more], at[more], left[more], numbers[more]
        char = text[at]
        at, left = at + 1, left - 1
        if n_digits:
            ends = char == _DOT
            layers[rows[ends]] = numbers[ends]
            marked.append(numbers[ends][_has(buffer, at[ends], left[ends], mark)])
        goes_on = (char >= _ZERO) & (char <= _NINE)
        if n_digits == 1:
            goes_on &= numbers > 0  # no number starts with a zero but 0 itself
        if n_digits == MOST_DIGITS:
            break
        rows, at, left = rows[goes_on], at[goes_on], left[goes_on]
        numbers = numbers[goes_on] * 10 + (char[goes_on].astype(np.int64) - _ZERO)
    return _as_array("q", layers), _as_array("q", _distinct(np.concatenate(marked)))


def _distinct(numbers: Ints) -> Ints:
    """Each number once, in order; `np.unique` imports numpy's masked arrays, which takes longer than all else here."""
    numbers = np.sort(numbers)
    return numbers[np.append(True, numbers[1:] != numbers[:-1])] if len(numbers) else numbers


def _has(buffer: Buffer, at: Ints, left: Ints, prefix: bytes) -> npt.NDArray[np.bool_]:
    """Where the texts of `left` bytes at `at` start with a prefix."""
    text = np.frombuffer(buffer, np.uint8)
    found: npt.NDArray[np.bool_] = left >= len(prefix)
    for i, byte in enumerate(prefix):
        found &= text[np.minimum(at + i, len(text) - 1)] == byte
    return found


def sorted_layers(of_rows: array[int]) -> tuple[array[int], array[int], array[int]]:
    """The layers in order, where the rows of each begin in the list of those that have one, and that list."""
    column = np.frombuffer(of_rows, np.dtype(of_rows.typecode))
    rows = np.flatnonzero(column >= 0)
    rows = rows[np.argsort(column[rows], kind="stable")]
    layers = column[rows]
    begins = np.flatnonzero(np.append(True, layers[1:] != layers[:-1])) if len(rows) else np.zeros(0, np.int64)
    return _as_array("q", layers[begins]), _as_array("I", begins), _as_array("I", rows)
