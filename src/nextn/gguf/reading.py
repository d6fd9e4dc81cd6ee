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
_MOST_AT_ONCE = 4 << 20
_SETTLED_NS = 2_000_000_000  # a file that was written to later may change again under the same time stamp

# By path and state: a large model that a command opens more than once is neither read nor kept twice.
_held: WeakValueDictionary[tuple[object, ...], Header] = WeakValueDictionary()


def header_at(fd: int, found: os.stat_result, path: Path) -> Header:
    """The header of an open file. Raises FormatError, UnsupportedFormat, OSError."""
    state = (path, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    header = _held.get(state)
    if header is None:
        header = _read(fd, found.st_size, path)
        if max(found.st_mtime_ns, found.st_ctime_ns) < time.time_ns() - _SETTLED_NS:
            _held[state] = header
    return header


def _read(fd: int, size: int, path: Path) -> Header:
    """Read and parse, and read little past the header."""
    parser, buffer, want = HeaderParser(size, path, empties=True), bytearray(), _FIRST_READ
    while True:
        while len(buffer) < min(want, size):
            piece = oscalls.pread(fd, min(want - len(buffer), size - len(buffer), _MOST_AT_ONCE), len(buffer))
            if not piece:
                raise FormatError("the file shrank while it was read", path=path, offset=len(buffer))
            buffer += piece
        header = parser.feed(buffer)
        if header is not None:
            return header
        want = parser.guess + min(len(buffer), _GROWTH)
