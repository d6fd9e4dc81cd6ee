"""Headers of open files, read in growing steps, and once for as long as somebody holds them."""

from __future__ import annotations

import os
import time
from pathlib import Path
from weakref import WeakValueDictionary

from .. import oscalls
from ..errors import FormatError
from .header import Header
from .parser import HeaderParser

_FIRST_READ = 1 << 16
_GROWTH = 1 << 20
SETTLED_NS = 2_000_000_000  # a file that was written to later may change again under the same time stamp

# By path and state: a large model that a command opens more than once is neither read nor kept twice.
_held: WeakValueDictionary[tuple[object, ...], Header] = WeakValueDictionary()


def header_at(fd: int, found: os.stat_result, path: Path) -> Header:
    """The header of an open file. Raises FormatError, UnsupportedFormat, OSError."""
    state = (path, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    header = _held.get(state)
    if header is None:
        header = _read(fd, found.st_size, path)
        if max(found.st_mtime_ns, found.st_ctime_ns) < time.time_ns() - SETTLED_NS:
            _held[state] = header
    return header


def _read(fd: int, size: int, path: Path) -> Header:
    """Read and parse, and read little past the header."""
    parser, buffer, want = HeaderParser(size, path, takes_buffer=True), bytearray(), _FIRST_READ
    piece = memoryview(bytearray(_FIRST_READ))  # one for all: each page of a new one would be cleared again
    while True:
        while len(buffer) < min(want, size):
            n = oscalls.pread_into(fd, piece[: min(want, size) - len(buffer)], len(buffer))
            if not n:
                raise FormatError("the file shrank while it was read", path=path, offset=len(buffer))
            buffer += piece[:n]
        header = parser.feed(buffer)
        if header is not None:
            return header
        want = parser.guess + min(len(buffer), _GROWTH)
