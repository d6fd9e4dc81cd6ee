"""Room inside a file without moving its data: ranges inserted, removed or emptied by the file system.

Linux only: fallocate(2) with FALLOC_FL_INSERT_RANGE and FALLOC_FL_COLLAPSE_RANGE (ext4 with extents, XFS) and
FALLOC_FL_PUNCH_HOLE. The first two need full blocks (on ext4 with bigalloc, full clusters) and change only the map
from a file's offsets to the disk, extent by extent, not all in one transaction: a power cut in between can leave a
file whose end has moved and whose start has not. `where_shifted` finds that boundary again.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from .. import oscalls

_KEEP_SIZE, _PUNCH_HOLE, _COLLAPSE_RANGE, _INSERT_RANGE = 0x01, 0x02, 0x08, 0x20  # linux/falloc.h
_CLUSTERS = (64 << 10, 1 << 20)  # what ext4 with bigalloc or a realtime XFS may require instead of blocks

Span = tuple[int, int]  # start, end


@cache
def _fallocate() -> ctypes._NamedFuncPointer | None:
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None, use_errno=True)
    found = getattr(library, "fallocate64", None) or getattr(library, "fallocate", None)
    if found is not None:
        found.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    return found


def _call(fd: int, mode: int, offset: int, size: int) -> None:
    function = _fallocate()
    if function is None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
    while function(fd, mode, offset, size):
        number = ctypes.get_errno()
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))


def insert_range(fd: int, offset: int, size: int) -> None:
    """Move everything from `offset` on up by `size` bytes; the inserted range reads as zeros."""
    _call(fd, _INSERT_RANGE, offset, size)


def collapse_range(fd: int, offset: int, size: int) -> None:
    """Remove `size` bytes at `offset`; the range must not reach the end of the file."""
    _call(fd, _COLLAPSE_RANGE, offset, size)


def punch_hole(fd: int, offset: int, size: int) -> None:
    """Free the range's blocks; it then reads as zeros, and the file keeps its size."""
    _call(fd, _PUNCH_HOLE | _KEEP_SIZE, offset, size)


def grain_of(folder: Path) -> int | None:
    """The number of bytes that ranges inserted into files of this folder must be a multiple of.

    None where none can be inserted. Found by trying on an unnamed file. Raises OSError for a folder that
    cannot be written to, and on a full disk.
    """
    if sys.platform != "linux" or _fallocate() is None:
        return None
    try:
        fd = os.open(folder, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):  # no unnamed files, so no ranges either
            return None
        raise
    try:
        for grain in sorted({os.fstatvfs(fd).f_frsize, *_CLUSTERS}):
            try:
                os.ftruncate(fd, 0)
                oscalls.pwrite(fd, b"x", 2 * grain)
                insert_range(fd, 0, grain)
                collapse_range(fd, 0, grain)
                return grain
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise
                if error.errno != errno.EINVAL:
                    return None
        return None
    finally:
        os.close(fd)


def data_map(fd: int) -> list[Span]:
    """The spans of a file that hold data, in order and disjoint, ends rounded up to whole blocks.

    The rest are holes. The file has to be synced first: blocks not yet written may count as either.
    """
    if sys.platform == "win32":  # nothing is inserted there, so nothing has to be found again
        return [(0, os.fstat(fd).st_size)]
    block = os.fstatvfs(fd).f_frsize
    out: list[Span] = []
    end, size = 0, os.fstat(fd).st_size
    while end < size:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # only a hole up to the end
                break
            raise
        end = -(-os.lseek(fd, start, os.SEEK_HOLE) // block) * block
        if out and out[-1][1] >= start:
            out[-1] = (out[-1][0], end)
        else:
            out.append((start, end))
    return out


def shifted(spans: Sequence[Span], at: int, by: int) -> list[Span]:
    """`spans` when everything from `at` on has moved up by `by` bytes."""
    out: list[Span] = []
    for start, end in spans:
        for piece, move in (((start, min(end, at)), 0), ((max(start, at), end), by)):
            if piece[0] < piece[1]:
                out.append((piece[0] + move, piece[1] + move))
    return out


def where_shifted(before: Sequence[Span], now: Sequence[Span], by: int) -> int | None:
    """The offset, in the file mapped by `before`, from which on everything has moved up by `by` bytes.

    `now` maps the file as it is, with no data in the `by` bytes at that offset. The end of `before` when nothing has
    moved; None when `now` does not map such a file.
    """
    end = before[-1][1] if before else 0
    at = end
    left = list(now)
    for start, stop in before:  # the first byte that had data and now has none
        while left and left[0][1] <= start:
            left.pop(0)
        if not left or left[0][0] > start:
            at = start
            break
        if left[0][1] < stop:
            at = left[0][1]
            break
    return at if shifted(before, at, by) == list(now) else None
