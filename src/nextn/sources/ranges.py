"""Byte ranges from files, counted and bounded.

A `Meter` counts what was read, to be compared with what a plan promised.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from .. import oscalls
from ..errors import FormatError
from ..gguf.files import GGUFFile, open_regular, os_error
from ..partial import Guard, guard_of
from ..workfile import Stamp, replaced

CHUNK_BYTES = 8 << 20


@dataclass
class Meter:
    """Counts bytes as they are read from inputs and written to outputs."""

    bytes_read: int = 0
    bytes_written: int = 0
    bytes_linked: int = 0


@dataclass(frozen=True)
class FileRange:
    """Bytes `start` to `end` (exclusive, absolute) of a local file."""

    path: Path
    start: int
    end: int
    stamp: Stamp | None = field(default=None, compare=False, repr=False)  # of the file for which the range was planned

    @classmethod
    def of(cls, file: GGUFFile, start: int, end: int) -> FileRange:
        """A range of a file whose header was read."""
        return cls(file.path, start, end, file.stamp)

    @property
    def size_bytes(self) -> int:
        """Length of the range."""
        return self.end - self.start

    def part(self, start: int, end: int) -> FileRange:
        """A range inside this one; `start` and `end` are relative to it."""
        return FileRange(self.path, self.start + start, self.start + end, self.stamp)


@dataclass
class Reader:
    """Reads ranges, keeps files open between reads, and counts into `meter`.

    Use it as a context manager. Raises StorageError, and FormatError when a file ends too early.
    """

    meter: Meter = field(default_factory=Meter)
    _open: dict[Path, int] = field(default_factory=dict)
    _stamps: dict[Path, Stamp] = field(default_factory=dict)  # when they were opened
    _guards: dict[Path, Guard] = field(default_factory=dict)

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        for fd in self._open.values():
            os.close(fd)
        self._open.clear()

    def fd(self, path: Path) -> int:
        """A read-only descriptor of `path`, closed with the reader; StorageError when it is not a regular file."""
        if path not in self._open:
            self._open[path], _ = open_regular(path)
            self._stamps[path] = Stamp.of(os.fstat(self._open[path]))
            guard = guard_of(path)
            if guard is not None:
                self._guards[path] = guard
        return self._open[path]

    def fd_for(self, where: FileRange) -> int:
        """A descriptor to read `where` from; a hole of a remote file's local copy is filled or refused first."""
        fd = self.fd(where.path)
        guard = self._guards.get(where.path)
        if where.stamp is not None and not self._same(where.path, where.stamp, self._stamps[where.path]):
            raise replaced(where.path)
        if guard is not None:
            guard.check(where.start, where.end)
        return fd

    def _same(self, path: Path, before: Stamp, after: Stamp) -> bool:
        """Whether nothing has changed; a remote file's local copy changes while it is filled."""
        return before.is_of_same_file(after) if path in self._guards else before == after

    def check_unchanged(self) -> None:
        """Raise StorageError when a file that was read has been replaced or written to.

        A file that was only removed is no error: what was read of it was intact.
        """
        for path, fd in self._open.items():
            try:
                now = [Stamp.of(os.fstat(fd))]
                with contextlib.suppress(FileNotFoundError):
                    now.append(Stamp.of(os.stat(path)))  # noqa: PTH116 - links are followed
            except OSError as error:
                raise os_error(error, path, "read it") from error
            if not all(self._same(path, self._stamps[path], stamp) for stamp in now):
                raise replaced(path)

    def read(self, where: FileRange) -> bytearray:
        """The complete range in one buffer."""
        fd = self.fd_for(where)
        buffer = bytearray(where.size_bytes)
        view = memoryview(buffer)
        done = 0
        while done < len(buffer):
            try:
                n = oscalls.pread_into(fd, view[done:], where.start + done)
            except OSError as error:
                raise os_error(error, where.path, "read it") from error
            if n == 0:
                raise FormatError(
                    "the file ends too early: it is truncated or was changed while it was read",
                    path=where.path,
                    offset=where.start + done,
                )
            done += n
        self.meter.bytes_read += len(buffer)
        return buffer

    def pieces(self, where: FileRange, chunk_bytes: int = CHUNK_BYTES) -> Iterator[bytearray]:
        """The range in pieces of at most `chunk_bytes`."""
        for start in range(0, where.size_bytes, chunk_bytes):
            yield self.read(where.part(start, min(start + chunk_bytes, where.size_bytes)))
