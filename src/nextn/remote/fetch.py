"""Ranges of a remote file: which are here, which are missing, and how to get those in few requests."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from ..gguf.parser import HeaderParser
from ..partial import Range, merged
from ..sources.safetensors import MAX_HEADER_BYTES
from .cache import PartialFile

if TYPE_CHECKING:
    from .http import Fetcher
    from .target import Target

FIRST_READ_BYTES = 1 << 16  # of a GGUF
SHARD_READ_BYTES = 1 << 14  # of a GGUF shard after the first one, whose header is short
LENGTH_BYTES = 8  # the length field that precedes a safetensors header
GROWTH_BYTES = 4 << 20  # a GGUF header is overshot by at most this much
JOIN_BYTES = 1 << 18  # gaps up to this size may be read too,
JOIN_SHARE = 0.01  # as long as all of them together stay below this share


class RangeSink:
    """Writes a range into a partial file and notes what is good."""

    def __init__(self, file: PartialFile, moved: Callable[[int], None] = lambda n: None) -> None:
        self.file, self.moved = file, moved
        self.pos = self._start = self._crc = 0

    def write(self, data: bytes) -> None:
        self.file.write(self.pos, data)
        self._crc = zlib.crc32(data, self._crc)
        self.pos += len(data)
        self.moved(len(data))

    def commit(self) -> None:
        if self.pos > self._start:
            self.file.note(self._start, self.pos, self._crc)
        self._start, self._crc = self.pos, 0

    def discard(self, to: int | None = None) -> None:
        self.moved(self._start - self.pos)
        self.pos, self._crc = self._start, 0
        if to is not None:
            self.pos = self._start = to


@dataclass
class RemoteFile:
    """A remote file and what has been fetched of it."""

    target: Target
    here: PartialFile
    fetcher: Fetcher

    def ensure(self, start: int, end: int) -> None:
        """Make sure this range is here. Raises RemoteError, StorageError."""
        for low, high in self.here.missing(start, end):
            self.fetcher.read(self.target, low, high, RangeSink(self.here))

    def read(self, start: int, end: int) -> bytes:
        """Bytes of the range, from disk or from the server."""
        self.ensure(start, end)
        return self.here.read(start, end)


def joined(missing: Sequence[Range], limit: float) -> list[Range]:
    """Ranges with the smallest gaps between them closed, at most `limit` bytes of gaps in all."""
    ranges = merged(missing)
    between = sorted((after[0] - before[1], before[1], after[0]) for before, after in pairwise(ranges))
    closed: list[Range] = []
    for size, start, end in between:
        limit -= size
        if limit < 0 or size > JOIN_BYTES:
            break
        closed.append((start, end))
    return merged([*ranges, *closed])


def fetch_safetensors_header(file: RemoteFile, size: int) -> None:
    """Exactly the header: its length, which comes first, then the rest."""
    head = file.read(0, min(LENGTH_BYTES, size))
    if len(head) >= LENGTH_BYTES:
        (length,) = struct.unpack_from("<Q", head)
        if length <= min(size - LENGTH_BYTES, MAX_HEADER_BYTES):
            file.ensure(0, LENGTH_BYTES + length)


def fetch_gguf_header(file: RemoteFile, size: int, first_read: int = FIRST_READ_BYTES) -> None:
    """The header in growing steps, the first of `first_read` bytes. Raises FormatError for what is not a GGUF."""
    parser = HeaderParser(size, file.here.path)
    buffer = bytearray()
    want = first_read
    while True:
        want = min(want, size)
        buffer += file.read(len(buffer), want)
        if parser.feed(buffer) is not None:
            return
        want = parser.guess + min(len(buffer), GROWTH_BYTES)
