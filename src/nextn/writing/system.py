"""The operating system's calls that change a disk, wrapped in one class, and their errors as sentences."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from .. import oscalls
from ..errors import NextnError, NoSpace, OutputExists, StorageError
from ..workfile import At, Folder
from . import ranges

# Errors from file systems that have no hard links, or cannot make one to this file.
NO_HARD_LINKS = frozenset({errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS})


class System:
    """The operating system's calls that change a disk; tests pass one that fails after k of them."""

    def open_new(self, at: At) -> int:
        """A new file for reading and writing."""
        return at.folder.create(at.name)

    def pwrite(self, fd: int, data: bytes | memoryview, offset: int) -> int:
        """os.pwrite."""
        return oscalls.pwrite(fd, data, offset)

    def copy_range(self, src: int, dst: int, count: int, src_offset: int, dst_offset: int) -> int:
        """Bytes moved by the kernel, reflinked where the file system supports it."""
        return oscalls.copy_range(src, dst, count, src_offset, dst_offset)

    def truncate(self, fd: int, size: int) -> None:
        """os.ftruncate."""
        os.ftruncate(fd, size)

    def insert_range(self, fd: int, offset: int, size: int) -> None:
        """Insert room at `offset`: what follows moves up."""
        ranges.insert_range(fd, offset, size)

    def collapse_range(self, fd: int, offset: int, size: int) -> None:
        """Remove a range: what follows moves down."""
        ranges.collapse_range(fd, offset, size)

    def punch_hole(self, fd: int, offset: int, size: int) -> None:
        """Empty a range."""
        ranges.punch_hole(fd, offset, size)

    def fsync(self, fd: int) -> None:
        """os.fsync."""
        oscalls.fsync(fd)

    def link(self, source: At | Path, target: At) -> None:
        """os.link: fails when the target exists. A name in a folder is linked as it is; a path's links are followed."""
        if isinstance(source, At):
            source.folder.link(source.name, target)
        else:
            target.folder.link_here(source, target.name)

    def symlink(self, source: Path, target: At) -> None:
        """os.symlink: fails when the target exists."""
        target.folder.symlink(source, target.name)

    def rename(self, source: At, target: At) -> None:
        """os.rename."""
        source.folder.rename(source.name, target)

    def unlink(self, at: At) -> None:
        """os.unlink."""
        at.folder.unlink(at.name)

    def mkdir(self, path: Path) -> None:
        """os.mkdir."""
        os.mkdir(path)  # noqa: PTH102

    def rmdir(self, path: Path) -> None:
        """os.rmdir: fails when something is in it."""
        os.rmdir(path)  # noqa: PTH106

_OTHER_OPEN_FILES = 128  # standard streams, libraries, a log


def explain(error: OSError, path: Path, doing: str) -> NextnError:
    """An OSError as one sentence of the right kind."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace(f"{path}: the disk is full (or a quota is reached) while trying to {doing}; free some room.")
    if error.errno == errno.EEXIST:
        return OutputExists(f"{path}: this file already exists, and nextn never overwrites; choose another -o.")
    why = {errno.EROFS: "the file system is read-only", errno.EACCES: "permission denied", errno.EPERM: "not permitted"}
    if error.errno in why:
        return StorageError(f"{path}: cannot {doing}: {why[error.errno]}; choose another -o.")
    return StorageError(f"{path}: cannot {doing}: {error.strerror or error}.")


@contextlib.contextmanager
def explained(path: Path, doing: str) -> Iterator[None]:
    """Turns OSErrors raised in the body into sentences."""
    try:
        yield
    except OSError as error:
        raise explain(error, path, doing) from error


def sync_folder(path: Path, system: System) -> None:
    """fsync a folder, so that its names survive a power cut."""
    with Folder.chosen(path) as folder:
        sync_open_folder(folder, system)


def sync_open_folder(folder: Folder, system: System) -> None:
    """fsync an open folder; nothing where folders cannot be opened."""
    if not oscalls.DIRECTORY:
        return
    fd = folder.descriptor()
    try:
        system.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems cannot
            raise
    finally:
        os.close(fd)


def write_all(system: System, fd: int, data: bytes | bytearray | memoryview, offset: int, path: Path) -> None:
    """pwrite everything; short writes are continued, errors become sentences."""
    view = memoryview(data).cast("B")
    with explained(path, "write it"):
        while view:
            n = system.pwrite(fd, view, offset)
            if n <= 0:
                raise OSError(errno.EIO, "the system wrote nothing")
            view = view[n:]
            offset += n


def check_reaches(fd: int, end: int, path: Path) -> None:
    """Raise StorageError when a file being written has lost bytes before `end`: the next write would hide that."""
    if os.fstat(fd).st_size < end:
        raise other_length(path)


def other_length(path: Path) -> StorageError:
    """The error for a working file that another program has truncated or extended."""
    return StorageError(
        f"{path}: this working file was truncated or extended while it was written, so nothing was published; "
        "see what else writes to this folder, and run it again."
    )


def free_bytes(folder: Path) -> int:
    """Bytes that this user may still write to the file system of `folder` (or of its nearest parent)."""
    while not os.path.lexists(folder):
        folder = folder.parent
    return oscalls.free_bytes(folder)


def allow_open_files(n: int, where: Path) -> None:
    """Let this process keep `n` more files open: each file of a set is held, and locked, until all are published.

    Raises StorageError where the system allows fewer. On systems without such a limit nothing is done.
    """
    hard = oscalls.allow_open_files(n + _OTHER_OPEN_FILES)
    if hard is not None:
        raise StorageError(
            f"{where}: {n:,} files must be open at once, but this system allows {hard:,} per process; allow more "
            "per shard, or raise the limit ('ulimit -Hn')."
        )
