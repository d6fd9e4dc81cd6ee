"""From bytes to a GGUF header in one pass; what is only carried is not decoded (layout: `nextn.gguf.header`)."""

from __future__ import annotations

import math
import struct
from array import array
from itertools import repeat
from operator import length_hint
from pathlib import Path

from ..errors import FormatError
from ..printable import printable
from .header import DEFAULT_ALIGNMENT, FIXED_BYTES, Header, pad_to
from .kv import SCALAR_SIZE, KVType
from .kv_table import KVTable
from .names import LARGE, Buffer, decoded, name_at
from .preamble import check_magic, read_counts
from .strangers import MOST_BYTES
from .tensors import LARGEST, MAX_DIMS, TENSOR_TAILS, TensorColumns, TensorTable, column_size

MAX_KEY_BYTES = 65_535  # the specification's limit
MAX_NAME_BYTES = 1_024  # engines take 63; longer ones are reported, absurdly long ones refused
MAX_ARRAY_DEPTH = 4
MAX_HEADER_BYTES = 1 << 28  # those of real models take about 10 MB; a damaged length can be anything
_LONG_BYTES = 1 << 20  # from which on copying a header takes longer than reading few names from a bytearray, not bytes
_ARRAY_HEAD = struct.Struct("<IQ")
_ITEM_SIZES = {int(kv_type): size for kv_type, size in SCALAR_SIZE.items()}
_STRING, _ARRAY = int(KVType.STRING), int(KVType.ARRAY)
_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")
_ALIGNMENT = b"general.alignment"


class _Short(Exception):
    """The buffer ends before the element does; `need` bytes are required, and probably `guess`."""

    def __init__(self, need: int, guess: int = 0) -> None:
        self.need = need
        self.guess = max(need, guess)


class HeaderParser:
    """Parses a header from a buffer that may still grow: nothing is walked twice.

    Feed it the file's first bytes; when it answers None, `need` says how many bytes it wants at least, and
    `guess` how many the element that it is in will probably take. Bounds are checked against `file_size`
    before anything is allocated.
    """

    def __init__(self, file_size: int, path: Path | None = None, *, takes_buffer: bool = False) -> None:
        """With `takes_buffer`, the bytearray that was fed last becomes the header's own, or is emptied."""
        self.file_size = file_size
        self.path = path
        self._takes_buffer = takes_buffer
        self.need = self.guess = min(file_size, FIXED_BYTES)
        self._buffer: Buffer = b""
        self._pos = 0
        self._kvs = array("I")  # first byte of each pair
        self._tensors = TensorColumns()
        self._n_kv = self._n_tensors = -1
        self._version = 0
        self._alignment = DEFAULT_ALIGNMENT
        # A long string array is walked in pieces: (array's first item, position reached, items left).
        self._walk: tuple[int, int, int] | None = None

    def feed(self, buffer: Buffer) -> Header | None:
        """Parse on with `buffer`, which starts at the file's first byte and is at least as long as before.

        Raises FormatError (with offset, expected and found) for a file that is not a GGUF or is damaged,
        UnsupportedFormat for big-endian files and version 1.
        """
        self._buffer = buffer
        try:
            if self._n_kv < 0:
                self._fixed()
            while len(self._kvs) < self._n_kv:
                self._sound_kvs()
                if len(self._kvs) < self._n_kv:
                    self._kv()
            if self._n_tensors >= LARGE:
                self._many_tensors()
            while len(self._tensors.starts) < self._n_tensors:
                self._sound_tensors()
                if len(self._tensors.starts) < self._n_tensors:
                    self._doubtful_tensor()
        except _Short as short:
            self.need, self.guess = short.need, min(short.guess, self.file_size)
            return None
        except FormatError:
            self._check_twice()  # then that is what is wrong
            raise
        return self._finish()

    def _fail(self, what: str, offset: int, expected: str | None = None, found: str | None = None) -> FormatError:
        return FormatError(what, path=self.path, offset=offset, expected=expected, found=found)

    def _want(self, end: int, what: str, guess: int = 0) -> None:
        if end > self.file_size:
            raise self._fail(
                f"the header ends inside {what}: the file ends at byte {self.file_size:,} of at least {end:,}: the "
                "download is incomplete, or the file is damaged; resume the download, or get the file again",
                self._pos,
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
        check_magic(bytes(self._buffer[:MOST_BYTES]), self.path)
        self._want(FIXED_BYTES, "the first 24 bytes")
        self._version, self._n_tensors, self._n_kv = read_counts(self._buffer, self.file_size, self.path)
        self._pos = FIXED_BYTES

    def _text(self, pos: int, limit: int, what: str) -> tuple[bytes, int]:
        self._want(pos + 8, what)
        (length,) = _U64.unpack_from(self._buffer, pos)
        if length > limit:
            raise self._fail(f"the length of {what} is absurd", pos, f"at most {limit:,}", f"{length:,}")
        end = pos + 8 + length
        self._want(end, what)
        return bytes(self._buffer[pos + 8 : end]), end

    def _type(self, number: int, pos: int, key: str) -> KVType:
        try:
            return KVType(number)
        except ValueError:
            raise self._fail(
                f"the value of '{key}' has an unknown type", pos, "0 to 12", str(number)
            ) from None

    def _kv(self) -> None:
        """The next pair, step by step: says what is wrong, or that more bytes are needed."""
        start = self._pos
        key, pos = self._text(start, MAX_KEY_BYTES, f"key {len(self._kvs)}")
        shown = printable(decoded(key))
        self._want(pos + 4, f"the type of '{shown}'")
        kv_type = self._type(struct.unpack_from("<I", self._buffer, pos)[0], pos, shown)
        pos += 4
        if kv_type is KVType.ARRAY:
            item_type, n_items, first = self._array_head(pos, shown)
            end = self._skip_items(first, item_type, n_items, shown, 1)
        else:
            end = self._skip_scalar(pos, kv_type, shown)
        if key == _ALIGNMENT:
            self._alignment = self._alignment_of(kv_type, start, pos)
        self._kvs.append(start)
        self._walk = None
        self._pos = end

    def _sound_kvs(self) -> None:
        """Walk over pairs as long as they are complete and plain: numbers, strings, arrays of numbers."""
        buffer, pos, add = self._buffer, self._pos, self._kvs.append
        most = min(len(buffer), self.file_size, MAX_HEADER_BYTES)
        u32, u64, array_head, sizes = _U32.unpack_from, _U64.unpack_from, _ARRAY_HEAD.unpack_from, _ITEM_SIZES
        try:
            for _ in repeat(None, self._n_kv - len(self._kvs)):
                (length,) = u64(buffer, pos)
                at = pos + 8 + length
                (kv_type,) = u32(buffer, at)
                if kv_type in sizes:
                    end = at + 4 + sizes[kv_type]
                elif kv_type == _STRING:
                    end = at + 12 + u64(buffer, at + 4)[0]
                elif kv_type == _ARRAY:
                    item_type, n_items = array_head(buffer, at + 4)
                    if item_type not in sizes:
                        break
                    end = at + 16 + n_items * sizes[item_type]
                else:
                    break
                if end > most or length > MAX_KEY_BYTES:
                    break
                if length == len(_ALIGNMENT) and buffer[pos + 8 : at] == _ALIGNMENT:
                    break
                add(pos)
                pos = end
        except (struct.error, OverflowError):  # past the buffer, or past any address
            pass
        self._pos = pos

    def _array_head(self, pos: int, key: str) -> tuple[KVType, int, int]:
        self._want(pos + 12, f"the array '{key}'")
        number, n_items = struct.unpack_from("<IQ", self._buffer, pos)
        item_type = self._type(number, pos, key)
        least = 8 if item_type is KVType.STRING else 12 if item_type is KVType.ARRAY else SCALAR_SIZE[item_type]
        room = self.file_size - pos - 12
        if n_items * least > room:
            raise self._fail(
                f"the array '{key}' promises more items than the file can hold: the download is incomplete, or the "
                "file is damaged",
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
            return self._skip_arrays(pos, n_items, key, depth)
        end = pos + n_items * SCALAR_SIZE[item_type]
        self._want(end, f"the array '{key}'")
        return end

    def _skip_arrays(self, first: int, n_items: int, key: str, depth: int) -> int:
        """Walk over `n_items` arrays; at the first level each is walked once, however often more bytes are needed."""
        if depth >= MAX_ARRAY_DEPTH:
            raise self._fail(f"the array '{key}' is nested too deeply", first, f"at most {MAX_ARRAY_DEPTH}", "more")
        pos, left = first, n_items
        if depth == 1 and self._walk is not None and self._walk[0] == first:
            _, pos, left = self._walk
        buffer, end, unpack, sizes = self._buffer, len(self._buffer), _ARRAY_HEAD.unpack_from, _ITEM_SIZES
        try:
            while left:
                after = pos + 12
                if after <= end:
                    number, count = unpack(buffer, pos)
                    if number in sizes and (after := after + count * sizes[number]) <= end:
                        pos, left = after, left - 1
                        continue
                inner, count, after = self._array_head(pos, key)  # strings, arrays, whatever is wrong or not read yet
                pos, left = self._skip_items(after, inner, count, key, depth + 1), left - 1
        except _Short as short:
            if depth == 1:
                self._walk = (first, pos, left)
            raise _Short(short.need, max(short.guess, end + end // 2)) from None
        return pos

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

    def _many_tensors(self) -> None:
        """The same as `_sound_tensors`, faster for very many."""
        from . import bulk  # loads numpy

        self._pos = bulk.read_tensors(
            self._buffer, self._pos, self._n_tensors - len(self._tensors.starts),
            min(len(self._buffer), self.file_size, MAX_HEADER_BYTES), self._tensors, most_name=MAX_NAME_BYTES,
            file_size=self.file_size, alignment=self._alignment,
        )  # fmt: skip

    def _sound_tensors(self) -> None:
        """Walk over tensor infos as long as they are complete and nothing is wrong with them."""
        buffer, pos, known = self._buffer, self._pos, self._tensors
        starts, ends, offsets, sizes, types = known.starts, known.ends, known.offsets, known.sizes, known.type_ids
        most = min(len(buffer), self.file_size, MAX_HEADER_BYTES)
        u32, u64, tails, alignment = _U32.unpack_from, _U64.unpack_from, TENSOR_TAILS, self._alignment
        try:
            for _ in repeat(None, self._n_tensors - len(starts)):
                (length,) = u64(buffer, pos)
                at = pos + 8 + length
                (n_dims,) = u32(buffer, at)
                end = at + 16 + n_dims * 8
                if n_dims > MAX_DIMS or end > most or length > MAX_NAME_BYTES:
                    break
                *ne, type_id, offset = tails[n_dims].unpack_from(buffer, at + 4)
                if offset % alignment or not self._is_placed(offset) or _is_absurd(ne):
                    break
                starts.append(pos)
                ends.append(end)
                offsets.append(offset)
                sizes.append(column_size(type_id, ne))
                types.append(type_id)
                pos = end
        except (struct.error, OverflowError):
            pass
        self._pos = pos

    def _is_placed(self, offset: int) -> bool:
        """Whether data lies inside the file, or, in a file that was cut short, right after the previous tensor."""
        if offset <= self.file_size:
            return True
        offsets, sizes = self._tensors.offsets, self._tensors.sizes
        known = bool(sizes) and 0 <= sizes[-1] < LARGEST
        return known and offset == pad_to(offsets[-1] + sizes[-1], self._alignment)

    def _doubtful_tensor(self) -> None:
        """The next tensor info, step by step: says what is wrong, or that more bytes are needed."""
        start = self._pos
        name, pos = self._text(start, MAX_NAME_BYTES, f"the name of tensor {len(self._tensors.starts)}")
        shown = printable(decoded(name))
        self._want(pos + 4, f"tensor '{shown}'")
        (n_dims,) = struct.unpack_from("<I", self._buffer, pos)
        if n_dims > MAX_DIMS:
            raise self._fail(f"tensor '{shown}' has too many axes", pos, f"at most {MAX_DIMS}", f"{n_dims:,}")
        end = pos + 4 + n_dims * 8 + 12
        self._want(end, f"tensor '{shown}'")
        *ne, type_id, offset = TENSOR_TAILS[n_dims].unpack_from(self._buffer, pos + 4)
        if _is_absurd(ne):
            raise self._fail(
                f"the shape of tensor '{shown}' is absurd", pos + 4, "fewer than 2^62 elements", str(tuple(ne))
            )
        if offset % self._alignment or not self._is_placed(offset):
            raise self._fail(
                f"the offset of tensor '{shown}' is wrong",
                end - 8,
                f"a multiple of {self._alignment} inside the file",
                f"{offset:,}",
            )
        self._tensors.add(start, end, offset, column_size(type_id, ne), type_id)
        self._pos = end

    def _tables(self) -> tuple[KVTable, TensorTable]:
        """What was read so far. Raises FormatError for a name that is there twice."""
        first = self._tensors.starts[0] if self._tensors.starts else self._pos
        kvs, tensors = KVTable(self._buffer, self._kvs, first), TensorTable(self._buffer, self._tensors)
        if (start := kvs.twice) is not None:
            raise self._is_twice("key", start)
        if (row := tensors.twice) is not None:
            raise self._is_twice("tensor", self._tensors.starts[row])
        return kvs, tensors

    def _check_twice(self) -> None:
        """Raise FormatError if a name is there twice, that of the entry which is being read included."""
        kvs, tensors = self._tables()
        of_tensor = 0 <= self._n_kv <= len(kvs)
        try:
            name = decoded(name_at(self._buffer, self._pos))
        except (struct.error, OverflowError):
            return
        if tensors.find(name) is not None if of_tensor else kvs.find(name) is not None:
            raise self._is_twice("tensor" if of_tensor else "key", self._pos)

    def _is_twice(self, what: str, start: int) -> FormatError:
        shown = printable(decoded(name_at(self._buffer, start)))
        if what == "key":
            return self._fail(f"the key '{shown}' appears twice", start)
        return self._fail(f"tensor '{shown}' appears twice: the file is damaged", start)

    def _finish(self) -> Header:
        data_offset = pad_to(self._pos, self._alignment)
        buffer = self._buffer
        own = buffer if self._takes_buffer and isinstance(buffer, bytearray) else None
        if own is not None and data_offset > _LONG_BYTES and self._n_kv + self._n_tensors < LARGE:
            del own[data_offset:]
        else:
            self._buffer = bytes(memoryview(buffer)[:data_offset])
            if own is not None:
                own.clear()
        kvs, tensors = self._tables()
        return Header(self._version, kvs, tensors, self._pos, data_offset, self._alignment, self.path)

    def _alignment_of(self, kv_type: KVType, start: int, value_start: int) -> int:
        if kv_type is not KVType.UINT32:
            raise self._fail("'general.alignment' has the wrong type", start, "UINT32", kv_type.name)
        value = int(_U32.unpack_from(self._buffer, value_start)[0])
        if value < 8 or value & (value - 1) or value > 1 << 20:
            raise self._fail("'general.alignment' is wrong", start, "a power of two from 8 to 1,048,576", f"{value:,}")
        return value


def _is_absurd(ne: list[int]) -> bool:
    """Whether a shape has more elements than any file; an axis of 0 counts as 1."""
    return math.prod(ne if 0 not in ne else [n or 1 for n in ne]) >= 1 << 62
