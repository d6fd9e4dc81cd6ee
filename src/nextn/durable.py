"""The one module that makes bytes permanent: temporary file, fsync, publish, fsync of the folder.

Guarantees: a file appears under its final name only when it is whole and on disk; nothing that exists is ever
overwritten; whatever stops the run (an error, Ctrl-C, SIGKILL, power), the inputs are untouched, and what a
killed run leaves behind (hidden `.*.nextn-tmp` files and, if it died while publishing a set, its job note) is
recognised by the next run in the same folder and removed.

Limits: file systems without hard links publish by rename after a check, so two processes that write the same
name at the same moment can collide there. A disk that lies about fsync voids the guarantee.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import NextnError, NoSpace, OutputExists, StorageError

SUFFIX = ".nextn-tmp"
JOB_SUFFIX = ".nextn-tmp-job"


class System:
    """The operating system's calls that change a disk; tests pass one that fails after k of them."""

    def open_new(self, path: Path) -> int:
        """A new file for reading and writing."""
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o666)

    def pwrite(self, fd: int, data: bytes | memoryview, offset: int) -> int:
        """os.pwrite."""
        return os.pwrite(fd, data, offset)

    def copy_range(self, src: int, dst: int, count: int, src_offset: int, dst_offset: int) -> int:
        """Bytes moved by the kernel; reflinked where the file system can."""
        return os.copy_file_range(src, dst, count, src_offset, dst_offset)

    def fsync(self, fd: int) -> None:
        """os.fsync."""
        os.fsync(fd)

    def link(self, source: Path, target: Path) -> None:
        """os.link: fails when the target exists."""
        os.link(source, target)

    def symlink(self, source: Path, target: Path) -> None:
        """os.symlink: fails when the target exists."""
        os.symlink(source, target)  # noqa: PTH211 - one place for all calls

    def rename(self, source: Path, target: Path) -> None:
        """os.rename."""
        os.rename(source, target)  # noqa: PTH104

    def unlink(self, path: Path) -> None:
        """os.unlink."""
        os.unlink(path)  # noqa: PTH108

    def mkdir(self, path: Path) -> None:
        """os.mkdir."""
        os.mkdir(path)  # noqa: PTH102


def explain(error: OSError, path: Path, doing: str) -> NextnError:
    """An OSError as one sentence of the right kind."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace(f"{path}: the disk is full (or a quota is reached) while trying to {doing}; free some room.")
    if error.errno == errno.EEXIST:
        return OutputExists(f"{path}: this file is already there, and nextn never overwrites; choose another -o.")
    if error.errno == errno.EROFS:
        return StorageError(f"{path}: cannot {doing}: the file system is read-only; choose another -o.")
    if error.errno in (errno.EACCES, errno.EPERM):
        return StorageError(f"{path}: cannot {doing}: permission denied; choose another -o.")
    return StorageError(f"{path}: cannot {doing}: {error.strerror or error}.")


@dataclass
class Workspace:
    """Temporary files of one run in one folder, and their publication.

    Use it as a context manager: leaving it by an exception removes everything the run has made.
    """

    folder: Path
    system: System = field(default_factory=System)
    _temps: dict[Path, int] = field(default_factory=dict)  # path -> descriptor that holds its lock
    _published: list[Path] = field(default_factory=list)
    _made_folders: list[Path] = field(default_factory=list)
    _job: tuple[Path, int] | None = None
    _tag: str = field(default_factory=lambda: secrets.token_hex(4))

    def __enter__(self) -> Workspace:
        try:
            self._make_folder(self.folder)
            clean(self.folder, self.system)
        except OSError as error:
            self._roll_back()
            raise explain(error, self.folder, "create the folder") from error
        except BaseException:
            self._roll_back()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._roll_back()
        for fd in self._temps.values():
            os.close(fd)
        self._temps.clear()

    def _make_folder(self, folder: Path) -> None:
        missing = []
        while not folder.exists():
            missing.append(folder)
            folder = folder.parent
        for path in reversed(missing):
            self.system.mkdir(path)
            self._made_folders.append(path)

    def new_file(self, name: str) -> tuple[Path, int]:
        """A temporary file that will become `name`: its path and a descriptor, locked while the run lives."""
        path = self.folder / f".{_shortened(name)}.{self._tag}{SUFFIX}"
        try:
            fd = self.system.open_new(path)
        except OSError as error:
            raise explain(error, path, "create a file in the folder") from error
        self._temps[path] = fd
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return path, fd

    def sync(self, path: Path) -> None:
        """fsync a temporary file."""
        try:
            self.system.fsync(self._temps[path])
        except OSError as error:
            raise explain(error, path, "write it to disk") from error

    def announce(self, names: list[str]) -> None:
        """Note on disk which names will be published, so that a killed run's half set can be cleared.

        Only needed when several files are published; the last one is the entry.
        """
        path = self.folder / f".{self._tag}{JOB_SUFFIX}"
        inodes = {}
        for temp in self._temps:
            inodes[temp.name] = os.fstat(self._temps[temp]).st_ino
        data = json.dumps({"version": 1, "names": names, "inodes": inodes}).encode()
        try:
            fd = self.system.open_new(path)
            self._job = (path, fd)
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.system.pwrite(fd, data, 0)
            self.system.fsync(fd)
        except OSError as error:
            raise explain(error, path, "write it") from error

    def publish(self, temp: Path, name: str) -> None:
        """Give a synced temporary file its final name; fails when the name is taken."""
        target = self.folder / name
        try:
            try:
                self.system.link(temp, target)
                self._published.append(target)
                self.system.unlink(temp)
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS):
                    raise
                if os.path.lexists(target):
                    raise FileExistsError(errno.EEXIST, "exists", str(target)) from error
                self.system.rename(temp, target)
                self._published.append(target)
        except OSError as error:
            raise explain(error, target, "give it its name") from error
        os.close(self._temps.pop(temp))

    def add_link(self, source: Path, name: str, *, hard: bool, symbolic: bool) -> str:
        """A hard link to `source` under `name`, or a symlink where that is allowed and the other cannot be.

        Returns "hard" or "symlink". Raises OutputExists, StorageError.
        """
        target = self.folder / name
        real = source.resolve()
        if hard:
            try:
                self.system.link(real, target)
                self._published.append(target)
                return "hard"
            except OSError as error:
                no_link = error.errno in (errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS)
                if not (symbolic and no_link):
                    if no_link:
                        raise StorageError(
                            f"{target}: a hard link to {real} cannot be made ({error.strerror}); use --link symlink."
                        ) from error
                    raise explain(error, target, f"link it to {real}") from error
        try:
            self.system.symlink(real, target)
        except OSError as error:
            raise explain(error, target, f"link it to {real}") from error
        self._published.append(target)
        return "symlink"

    def finish(self) -> None:
        """Make the new names permanent. After this the run is done and nothing is rolled back."""
        try:
            sync_folder(self.folder, self.system)
            for made in self._made_folders:
                sync_folder(made.parent, self.system)
        except OSError as error:
            raise explain(error, self.folder, "write it to disk") from error
        self._published.clear()
        self._made_folders.clear()
        self._drop_job()

    def _drop_job(self) -> None:
        if self._job is not None:
            path, fd = self._job
            self._job = None
            with contextlib.suppress(OSError):
                self.system.unlink(path)
            os.close(fd)

    def _roll_back(self) -> None:
        for path in reversed(self._published):
            with contextlib.suppress(OSError):
                self.system.unlink(path)
        self._published.clear()
        for path in self._temps:
            with contextlib.suppress(OSError):
                self.system.unlink(path)
        self._drop_job()
        for folder in reversed(self._made_folders):
            with contextlib.suppress(OSError):
                folder.rmdir()
        self._made_folders.clear()


def _shortened(name: str) -> str:
    """A name that leaves room for what is added to it: most file systems take 255 bytes."""
    return name if len(name.encode()) <= 200 else name.encode()[-200:].decode("utf-8", "ignore")


def sync_folder(folder: Path, system: System) -> None:
    """fsync a folder, so that names in it survive a power cut."""
    fd = os.open(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    try:
        system.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems cannot
            raise
    finally:
        os.close(fd)


@contextlib.contextmanager
def _if_dead(path: Path) -> Iterator[bool]:
    """Whether the run that made `path` is gone (its lock is free); the lock is held meanwhile."""
    try:
        fd = os.open(path, os.O_RDWR | getattr(os, "O_CLOEXEC", 0))
    except OSError:
        yield False
        return
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True
    finally:
        os.close(fd)


def clean(folder: Path, system: System | None = None) -> list[Path]:
    """Remove what killed runs left in `folder`; what a living run holds is left alone. Returns what went."""
    system = system or System()
    gone: list[Path] = []
    try:
        names = [entry.name for entry in os.scandir(folder) if entry.name.startswith(".")]
    except OSError:
        return gone
    for path in (folder / name for name in sorted(names) if name.endswith(JOB_SUFFIX)):
        with _if_dead(path) as dead:
            if dead:
                gone += _clear_half_set(folder, path, system)
                system.unlink(path)
                gone.append(path)
    for path in (folder / name for name in sorted(names) if name.endswith(SUFFIX)):
        with _if_dead(path) as dead:
            if dead:
                with contextlib.suppress(FileNotFoundError):
                    system.unlink(path)
                    gone.append(path)
    return gone


def _clear_half_set(folder: Path, job: Path, system: System) -> list[Path]:
    """Remove the files that a run killed while publishing had already named, unless its entry is there.

    Only files whose inode the note names go, and links that lead to another file: never a last name of data.
    """
    try:
        note: dict[str, Any] = json.loads(job.read_bytes())
        names = [str(name) for name in note["names"]]
        inodes = set(note["inodes"].values())
    except (ValueError, KeyError, TypeError, AttributeError, OSError):
        return []
    if not names or os.path.lexists(folder / names[-1]) or any("/" in name for name in names):
        return []
    gone = []
    for name in names:
        path = folder / name
        try:
            stat = os.lstat(path)
        except OSError:
            continue
        if path.is_symlink() or stat.st_ino in inodes or stat.st_nlink > 1:
            system.unlink(path)
            gone.append(path)
    return gone


WriteCall = Callable[[int, memoryview, int], int]


def write_all(system: System, fd: int, data: bytes | bytearray | memoryview, offset: int, path: Path) -> None:
    """pwrite everything; short writes go on, errors become sentences."""
    view = memoryview(data).cast("B")
    try:
        while view:
            n = system.pwrite(fd, view, offset)
            view = view[n:]
            offset += n
    except OSError as error:
        raise explain(error, path, "write it") from error


def free_bytes(folder: Path) -> int:
    """Bytes that this user may still write to the file system of `folder` (or of its nearest parent)."""
    while not folder.exists():
        folder = folder.parent
    stat = os.statvfs(folder)
    return stat.f_bavail * stat.f_frsize
