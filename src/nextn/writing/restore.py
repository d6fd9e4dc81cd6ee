"""Back to the bare file: how a stopped change in place ends, however far it had got."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path

from .. import oscalls
from ..errors import StorageError
from ..gguf.header import MAGIC, UNREADABLE
from .execute import COPY_BYTES
from .journal import FULL, NONE, SHIFTING, Bare, Journal, State
from .ranges import data_map, where_shifted
from .system import System, explained, write_all


def restore(record: Journal, fds: Sequence[int], system: System) -> None:
    """Bring every file of a journal to its state without the block. May be called again after any interruption.

    Raises StorageError, NoSpace.
    """
    files = record.files
    if len(files) > 1 and not _has_head(fds[-1], files[-1].head):  # engines enter a set by this file
        make_unreadable(fds[-1], system, record.folder / files[-1].name)
    for index in range(len(files)):
        _restore(record, index, fds[index], system)


def _restore(record: Journal, index: int, fd: int, system: System) -> None:
    bare, path = record.files[index], record.folder / record.files[index].name
    sync(fd, system, path)
    if record.states[index].room == FULL:
        make_unreadable(fd, system, path)
        with explained(path, "clear the space for the header"):
            system.punch_hole(fd, 0, bare.room)
        sync(fd, system, path)
        spans = tuple((start - bare.room, end - bare.room) for start, end in data_map(fd))
        if spans and spans[0][0] < 0:
            raise StorageError(
                f"{path}: the space at its start could not be cleared; is another program writing to it?"
            )
        size = os.fstat(fd).st_size - bare.room
        record.note(index, State(SHIFTING, record.states[index].tail_saved, size, spans), system)
    if record.states[index].room == SHIFTING:
        _take_room_out(record.states[index], bare, fd, system, path)
        record.note(index, State(NONE, record.states[index].tail_saved), system)
    size, tail = os.fstat(fd).st_size, bare.tail
    if size < bare.size_bytes:
        raise StorageError(
            f"{path}: the file has {size:,} bytes, fewer than the {bare.size_bytes:,} of its journal: it was truncated "
            "by another program, and is left as it is."
        )
    if not _has_head(fd, bare.head):
        make_unreadable(fd, system, path)
    if tail is not None and record.states[index].tail_saved and size >= tail.block_at + tail.size_bytes:
        copy(fd, tail.block_at, tail.bare_at, tail.size_bytes, system, path)
        sync(fd, system, path)
    if size != bare.size_bytes:
        with explained(path, "truncate it to its size"):
            system.truncate(fd, bare.size_bytes)
        sync(fd, system, path)
    # Written even if it reads correctly: what was read may exist only in memory after an earlier, failed fsync.
    write_head(fd, bare.head, system, path)


def _take_room_out(state: State, bare: Bare, fd: int, system: System, path: Path) -> None:
    """Move back down what had moved up, however far that had got."""
    size = os.fstat(fd).st_size
    if size == state.size_bytes:
        return
    at = where_shifted(state.spans, data_map(fd), bare.room)
    if size != state.size_bytes + bare.room or at is None:
        raise StorageError(
            f"{path}: its size and holes do not match its journal: another program has written to it, "
            "and it is left as it is."
        )
    with explained(path, "remove the space for the header"):
        if at >= state.size_bytes:
            system.truncate(fd, state.size_bytes)
        else:
            system.collapse_range(fd, at, bare.room)
    sync(fd, system, path)


def _has_head(fd: int, head: bytes) -> bool:
    return oscalls.pread(fd, len(head), 0) == head


def make_unreadable(fd: int, system: System, path: Path) -> None:
    """From here on no engine loads the file."""
    if oscalls.pread(fd, len(UNREADABLE), 0) != UNREADABLE:
        write_all(system, fd, UNREADABLE, 0, path)
    sync(fd, system, path)


def write_head(fd: int, data: bytes, system: System, path: Path) -> None:
    """Write the header, and its first bytes only when the rest is on disk."""
    write_all(system, fd, data[len(MAGIC) :], len(MAGIC), path)
    sync(fd, system, path)
    write_all(system, fd, data[: len(MAGIC)], 0, path)
    sync(fd, system, path)


def sync(fd: int, system: System, path: Path) -> None:
    """fsync the file `path`."""
    with explained(path, "write it to disk"):
        system.fsync(fd)


def copy(fd: int, source: int, target: int, size: int, system: System, path: Path) -> None:
    """Copy bytes to another place in the same file, in the kernel; the ranges do not overlap."""
    end = source + size
    while source < end:
        n = 0
        with explained(path, "move the bytes after its tensors"):
            try:
                n = system.copy_range(fd, fd, min(COPY_BYTES, end - source), source, target)
            except OSError as error:
                if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                    raise
            if n == 0:  # the file system cannot copy ranges
                piece = oscalls.pread(fd, min(1 << 20, end - source), source)
                if not piece:
                    raise OSError(errno.EIO, "the file ends too early")
                write_all(system, fd, piece, target, path)
                n = len(piece)
        source += n
        target += n
