"""What killed runs leave in a folder: recognised by name, owner and a lock that nobody holds, and removed."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISLNK

from .. import oscalls
from ..workfile import At, Folder, NotOurs
from .system import System

SUFFIX = ".nextn-tmp"
JOB_SUFFIX = ".nextn-tmp-job"
MAX_NOTE_BYTES = 64 << 20  # size limit of a job note; a set of 10,000 shards needs 3 MB


@dataclass(frozen=True)
class Mark:
    """What distinguishes a name given by a run from any other file of that name."""

    inode: int
    size_bytes: int
    mtime_ns: int
    source: str | None  # for links: the real file, which a symlink names and a hard link shares its inode with

    @classmethod
    def of(cls, stat: os.stat_result, source: Path | None = None) -> Mark:
        """The mark of a file with this `stat`, or of a link to `source`."""
        return cls(stat.st_ino, stat.st_size, stat.st_mtime_ns, None if source is None else str(source))

    def fits(self, at: At, *, exactly: bool) -> bool:
        """Whether `at` is that name; `exactly` when the run is dead and its inode may have been reused.

        Never true for the last name of a linked file: its data would be lost.
        """
        try:
            stat = at.folder.lstat(at.name)
            if S_ISLNK(stat.st_mode):
                if self.source is None or at.folder.readlink(at.name) != self.source:
                    return False
                return not exactly or self._is(Path(self.source).stat())
        except (OSError, ValueError):
            return False
        if stat.st_ino != self.inode or (self.source is not None and stat.st_nlink < 2):
            return False
        return not exactly or self._is(stat)

    def _is(self, stat: os.stat_result) -> bool:
        return (stat.st_ino, stat.st_size, stat.st_mtime_ns) == (self.inode, self.size_bytes, self.mtime_ns)


@contextlib.contextmanager
def _if_dead(at: At) -> Iterator[bool]:
    """Whether `at` was made by a run of this user that has ended (its lock is free); the lock is held meanwhile."""
    fd = None
    try:
        fd = at.folder.open(at.name, one_name=False)  # after a kill while publishing, it has its final name as well
        oscalls.lock(fd)
        dead = True
    except (OSError, NotOurs):
        dead = False
    try:
        yield dead
    finally:
        if fd is not None:
            os.close(fd)


def clean(path: Path, system: System | None = None, *, remove: bool = True) -> list[Path]:
    """Remove what killed runs left in the folder `path`; what a running one holds is left alone. Returns what goes.

    Raises OSError. Without `remove` nothing is touched.
    """
    system = system or System()
    gone: list[Path] = []
    try:
        folder = Folder.chosen(path)
    except OSError:
        return gone
    with folder:
        names = [name for name in folder.names() if name.startswith(".")]
        notes = [name for name in names if name.endswith(JOB_SUFFIX)]
        for name in [*notes, *(name for name in names if name.endswith(SUFFIX))]:
            with _if_dead(At(folder, name)) as dead:
                going = [*_half_set(folder, name), name] if dead and name in notes else [name] if dead else []
                for each in going:
                    if remove:
                        with contextlib.suppress(FileNotFoundError):
                            system.unlink(At(folder, each))
                    gone.append(path / each)
    return gone


def _half_set(folder: Folder, note: str) -> list[str]:
    """The files that a run killed while publishing had already named, unless its entry exists."""
    try:
        marks = _read_note(folder.read(note, MAX_NOTE_BYTES))
        if not marks:
            return []
        try:
            folder.lstat(list(marks)[-1])
        except FileNotFoundError:
            return [name for name, mark in marks.items() if mark.fits(At(folder, name), exactly=True)]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError, NotOurs):
        pass  # torn, or not one of ours: it names nothing
    return []


def _read_note(data: bytes) -> dict[str, Mark]:
    """Final names and their files' marks, from a job note; names contain no path. Raises ValueError and others."""
    marks = {}
    for name, (inode, size, mtime, source) in json.loads(data)["names"].items():
        numbers = all(type(number) is int for number in (inode, size, mtime))
        if not numbers or not isinstance(source, str | None) or {"/", "\0"} & set(name) or name in ("", ".", ".."):
            raise ValueError(name)
        marks[name] = Mark(inode, size, mtime, source)
    return marks
