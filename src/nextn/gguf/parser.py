"""From bytes to a GGUF header in one pass; what is only carried is not decoded (layout: `nextn.gguf.header`)."""

from __future__ import annotations

import math
import struct
from itertools import repeat
from operator import length_hint
from pathlib import Path

from ..errors import FormatError, UnsupportedFormat
from ..printable import printable
from .header import DEFAULT_ALIGNMENT, FIXED_BYTES, MAGIC, UNREADABLE, Header, TensorInfo, pad_to
from .kv import KV, SCALAR_SIZE, Buffer, KVType
from .strangers import MOST_BYTES, by_content

VERSIONS = (2, 3)
MAX_DIMS = 4  # GGML_MAX_DIMS
MAX_KEY_BYTES = 65_535  # the specification's limit
MAX_NAME_BYTES = 1_024  # engines take 63; longer ones are reported, absurdly long ones refused
MAX_ARRAY_DEPTH = 4
MAX_HEADER_BYTES = 1 << 28  # those of real models take about 10 MB; a damaged length can be anything
_MIN_KV_BYTES = 8 + 1 + 4 + 1
_MIN_TENSOR_BYTES = 8 + 1 + 4 + 4 + 8
_ARRAY_HEAD = struct.Struct("<IQ")
_ITEM_SIZES = {int(kv_type): size for kv_type, size in SCALAR_SIZE.items()}
_SCALARS = {int(kv_type): kv_type for kv_type in KVType if kv_type is not KVType.ARRAY}
_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")
_TENSOR_TAILS = [struct.Struct(f"<{n_dims}QIQ") for n_dims in range(MAX_DIMS + 1)]  # ne, type, offset


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

    def __init__(self, file_size: int, path: Path | None = None) -> None:
        self.file_size = file_size
        self.path = path
        self.need = self.guess = min(file_size, FIXED_BYTES)
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

        Raises FormatError (with offset, expected and found) for a file that is not a GGUF or is damaged,
        UnsupportedFormat for big-endian files and version 1.
        """
        self._buffer = buffer
        try:
            if self._n_kv < 0:
                self._fixed()
            while len(self._kvs) < self._n_kv:
                if not self._sound_kv():
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
        magic = bytes(self._buffer[:4])
        if magic == UNREADABLE:
            raise self._fail(
                "a change in place of this file was interrupted or is under way: end it with 'nextn recover'", 0
            )
        if magic != MAGIC:
            known = by_content(bytes(self._buffer[:MOST_BYTES]))
            if known is not None:
                raise FormatError(known, path=self.path)
            found = "an empty file" if not magic else repr(magic)
            raise self._fail("this is not a GGUF file", 0, "'GGUF'", found)
        self._want(FIXED_BYTES, "the first 24 bytes")
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
        room = self.file_size - FIXED_BYTES
        for count, least, what, offset in (
            (self._n_tensors, _MIN_TENSOR_BYTES, "tensors", 8),
            (n_kv, _MIN_KV_BYTES, "key-value pairs", 16),
        ):
            if count * least > room:
                raise self._fail(
                    f"the header promises more {what} than the file can hold: the download is incomplete, or the file "
                    "is damaged",
                    offset,
                    f"at most {room // least:,}",
                    f"{count:,}",
                )
        self._n_kv = n_kv
        self._pos = FIXED_BYTES

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
            raise self._fail(f"the key '{shown}' appears twice", start)
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

    def _sound_kv(self) -> bool:
        """Take the next pair if it is a complete number or string and not a duplicate: the hot loop of long headers."""
        buffer, start = self._buffer, self._pos
        size = len(buffer)
        if start + 12 > size:
            return False
        key_end = start + 8 + int(_U64.unpack_from(buffer, start)[0])
        value = key_end + 4
        if value + 8 > size or key_end - start > MAX_KEY_BYTES:
            return False
        key = bytes(buffer[start + 8 : key_end]).decode("utf-8", "surrogateescape")
        kv_type = _SCALARS.get(_U32.unpack_from(buffer, key_end)[0])
        if kv_type is None or key in self._keys or key == "general.alignment":
            return False
        if kv_type is KVType.STRING:
            end = value + 8 + int(_U64.unpack_from(buffer, value)[0])
        else:
            end = value + SCALAR_SIZE[kv_type]
        if end > size or end > MAX_HEADER_BYTES:
            return False
        self._keys.add(key)
        self._kvs.append(KV(key, kv_type, None, None, buffer, start, value, end))
        self._pos = end
        return True

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

    def _tensor(self) -> None:
        if not self._sound_tensor():
            self._doubtful_tensor()

    def _sound_tensor(self) -> bool:
        """Take the next tensor info when it is complete and nothing is wrong with it: the hot loop of large tables."""
        buffer, pos = self._buffer, self._pos
        if pos + 8 > len(buffer):
            return False
        end = pos + 8 + int(_U64.unpack_from(buffer, pos)[0])
        if end + 4 > len(buffer) or end - pos > MAX_NAME_BYTES:
            return False
        name = bytes(buffer[pos + 8 : end]).decode("utf-8", "surrogateescape")
        (n_dims,) = _U32.unpack_from(buffer, end)
        if n_dims > MAX_DIMS or name in self._names or end + 16 + n_dims * 8 > len(buffer):
            return False
        *ne, type_id, offset = _TENSOR_TAILS[n_dims].unpack_from(buffer, end + 4)
        n_elements = 1
        for n in ne:
            n_elements *= n or 1
        end += 16 + n_dims * 8
        fits = n_elements < 1 << 62 and not offset % self._alignment and self._is_placed(offset)
        if not fits or end > self.file_size or end > MAX_HEADER_BYTES:
            return False
        self._names.add(name)
        self._tensors.append(TensorInfo(name, tuple(ne), type_id, offset))
        self._pos = end
        return True

    def _is_placed(self, offset: int) -> bool:
        """Whether data lies inside the file, or, in a file that was cut short, right after the previous tensor."""
        if offset <= self.file_size:
            return True
        size = self._tensors[-1].computed_size_bytes if self._tensors else None
        return size is not None and offset == pad_to(self._tensors[-1].offset + size, self._alignment)

    def _doubtful_tensor(self) -> None:
        """The same, step by step: says what is wrong, or that more bytes are needed."""
        start = self._pos
        name, pos = self._text(start, MAX_NAME_BYTES, f"the name of tensor {len(self._tensors)}")
        shown = printable(name)
        if name in self._names:
            raise self._fail(f"tensor '{shown}' appears twice: the file is damaged", start)
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
        if info.offset % self._alignment or not self._is_placed(info.offset):
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
