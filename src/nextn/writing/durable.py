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
from collections.abc import Iterator
from dataclasses import astuple, dataclass, field
from pathlib import Path
from stat import S_ISLNK

from ..errors import NextnError, NoSpace, OutputExists, StorageError
from . import ranges

SUFFIX = ".nextn-tmp"
JOB_SUFFIX = ".nextn-tmp-job"
# What file systems answer that have no hard links, or none to this file.
NO_HARD_LINKS = frozenset({errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS})


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

    def truncate(self, fd: int, size: int) -> None:
        """os.ftruncate."""
        os.ftruncate(fd, size)

    def insert_range(self, fd: int, offset: int, size: int) -> None:
        """Room at `offset`: what follows moves up."""
        ranges.insert_range(fd, offset, size)

    def collapse_range(self, fd: int, offset: int, size: int) -> None:
        """A range taken out: what follows moves down."""
        ranges.collapse_range(fd, offset, size)

    def punch_hole(self, fd: int, offset: int, size: int) -> None:
        """A range emptied."""
        ranges.punch_hole(fd, offset, size)

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

    def rmdir(self, path: Path) -> None:
        """os.rmdir: fails when something is in it."""
        os.rmdir(path)  # noqa: PTH106


def explain(error: OSError, path: Path, doing: str) -> NextnError:
    """An OSError as one sentence of the right kind."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace(f"{path}: the disk is full (or a quota is reached) while trying to {doing}; free some room.")
    if error.errno == errno.EEXIST:
        return OutputExists(f"{path}: this file is already there, and nextn never overwrites; choose another -o.")
    why = {errno.EROFS: "the file system is read-only", errno.EACCES: "permission denied", errno.EPERM: "not permitted"}
    if error.errno in why:
        return StorageError(f"{path}: cannot {doing}: {why[error.errno]}; choose another -o.")
    return StorageError(f"{path}: cannot {doing}: {error.strerror or error}.")


@contextlib.contextmanager
def explained(path: Path, doing: str) -> Iterator[None]:
    """OSErrors of the body leave it as sentences."""
    try:
        yield
    except OSError as error:
        raise explain(error, path, doing) from error


@dataclass(frozen=True)
class Mark:
    """What tells a name that a run gave from any other file of that name."""

    inode: int
    size_bytes: int
    mtime_ns: int
    source: str | None  # for links: the real file, which a symlink names and a hard link shares its inode with

    @classmethod
    def of(cls, stat: os.stat_result, source: Path | None = None) -> Mark:
        """The mark of a file with this `stat`, or of a link to `source`."""
        return cls(stat.st_ino, stat.st_size, stat.st_mtime_ns, None if source is None else str(source))

    def fits(self, path: Path, *, exactly: bool) -> bool:
        """Whether `path` is that name; `exactly` when the run is dead and its inode may have been used again.

        Never true for the last name of a linked file: its data would go with it.
        """
        try:
            stat = os.lstat(path)
            if S_ISLNK(stat.st_mode):
                return self.source is not None and os.readlink(path) == self.source  # noqa: PTH115 - as it is stored
        except OSError:
            return False
        if stat.st_ino != self.inode or (self.source is not None and stat.st_nlink < 2):
            return False
        return not exactly or (stat.st_size, stat.st_mtime_ns) == (self.size_bytes, self.mtime_ns)


@dataclass
class Workspace:
    """Temporary files of one run in one folder, and their publication.

    Use it as a context manager: leaving it by an exception removes everything the run has made. Every path is
    noted before the call that makes it, since an interrupt can arrive between a call and its return.
    """

    folder: Path
    system: System = field(default_factory=System)
    _fds: list[int] = field(default_factory=list)  # hold the locks until the end
    _temps: dict[Path, int] = field(default_factory=dict)  # path -> descriptor, until it has its name
    _made: list[Path] = field(default_factory=list)  # temporary files that may be there
    _published: dict[Path, Mark] = field(default_factory=dict)
    _made_folders: list[Path] = field(default_factory=list)
    _job: Path | None = None

    def __enter__(self) -> Workspace:
        try:
            with explained(self.folder, "create or clean the folder"):
                self._make_folder(self.folder)
                clean(self.folder, self.system)
        except BaseException:
            self._roll_back()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is not None:
                self._roll_back()
            self._remove(self._made)
        finally:
            for fd in self._fds:
                os.close(fd)
            self._fds.clear()

    def _make_folder(self, folder: Path) -> None:
        missing = []
        while not os.path.lexists(folder):
            missing.append(folder)
            folder = folder.parent
        for path in reversed(missing):
            self._made_folders.append(path)
            try:
                self.system.mkdir(path)
            except OSError as error:
                self._made_folders.remove(path)
                if error.errno != errno.EEXIST or not path.is_dir():  # made by another run meanwhile
                    raise

    def _create(self, stem: str, suffix: str) -> tuple[Path, int]:
        """A locked new file. Another run that looks for leftovers may be faster than the lock: then once more."""
        while True:
            path = self.folder / f".{stem}{secrets.token_hex(4)}{suffix}"
            self._made.append(path)
            try:
                fd = self.system.open_new(path)
            except OSError as error:
                self._made.remove(path)
                raise explain(error, path, "create a file in the folder") from error
            self._fds.append(fd)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            except OSError:  # no locks on this file system: then other runs leave the file alone as well
                return path, fd
            with contextlib.suppress(OSError):
                if path.stat().st_ino == os.fstat(fd).st_ino:
                    return path, fd

    def new_file(self, name: str) -> tuple[Path, int]:
        """A temporary file that will become `name`: its path and a descriptor, locked while the run lives."""
        short = os.fsdecode(os.fsencode(name)[-200:])  # room for what is added: most file systems take 255 bytes
        path, fd = self._create(f"{short}.", SUFFIX)
        self._temps[path] = fd
        return path, fd

    def sync(self, path: Path) -> None:
        """fsync a temporary file."""
        with explained(path, "write it to disk"):
            self.system.fsync(self._temps[path])

    def announce(self, names: dict[str, Path]) -> None:
        """Note on disk which names will be published, so that a killed run's half set can be cleared.

        `names`: final name -> synced temporary file or source of a link; the last one is the entry. Only needed
        when several files are published.
        """
        note: dict[str, Mark] = {}
        for name, path in names.items():
            temp = self._temps.get(path)
            real = path.resolve()
            with explained(path, "link it"):
                note[name] = Mark.of(real.stat(), real) if temp is None else Mark.of(os.fstat(temp))
        data = json.dumps({"version": 1, "names": {name: astuple(mark) for name, mark in note.items()}}).encode()
        self._job, fd = self._create("", JOB_SUFFIX)
        write_all(self.system, fd, data, 0, self._job)
        with explained(self._job, "write it to disk"):
            self.system.fsync(fd)
        self.settle()

    def settle(self) -> None:
        """fsync the folder: the names so far are on disk before the next one is."""
        with explained(self.folder, "write it to disk"):
            sync_folder(self.folder, self.system)

    def publish(self, temp: Path, name: str) -> None:
        """Give a synced temporary file its final name; fails when the name is taken."""
        target = self.folder / name
        with explained(target, "give it its name"):
            self._published[target] = Mark.of(os.fstat(self._temps[temp]))
            try:
                self.system.link(temp, target)
            except OSError as error:
                if error.errno not in NO_HARD_LINKS - {errno.EXDEV}:
                    raise
                if os.path.lexists(target):
                    raise FileExistsError(errno.EEXIST, "exists", str(target)) from error
                self.system.rename(temp, target)
            else:
                self.system.unlink(temp)
        del self._temps[temp]
        self._made.remove(temp)

    def add_link(self, source: Path, name: str, *, hard: bool, symbolic: bool) -> str:
        """A hard link to `source` under `name`, or a symlink where that is allowed and the other cannot be.

        Returns "hard" or "symlink". Raises OutputExists, StorageError.
        """
        target = self.folder / name
        real = source.resolve()
        try:
            if os.path.lexists(target):
                raise FileExistsError(errno.EEXIST, "exists", str(target))
            self._published[target] = Mark.of(real.stat(), real)
            if hard:
                try:
                    self.system.link(real, target)
                    return "hard"
                except OSError as error:
                    if error.errno not in NO_HARD_LINKS:
                        raise
                    if not symbolic:
                        raise StorageError(
                            f"{target}: a hard link to {real} cannot be made ({error.strerror}); use --link symlink."
                        ) from error
            self.system.symlink(real, target)
        except OSError as error:
            if error.errno == errno.EEXIST:
                self._published.pop(target, None)
            raise explain(error, target, f"link it to {real}") from error
        return "symlink"

    def adopt(self, source: Path, name: str) -> str:
        """Give a whole, synced file of ours, on this file system, another name; its old one stays where it can.

        Returns "hard", or "moved" where there are no hard links: rolling back leaves it then, since it is the only
        name. Raises OutputExists, StorageError.
        """
        target = self.folder / name
        with explained(target, "give it its name"):
            try:
                self._published[target] = Mark.of(source.stat(), source.resolve())
                self.system.link(source, target)
                return "hard"
            except OSError as error:
                del self._published[target]
                if error.errno not in NO_HARD_LINKS - {errno.EXDEV}:
                    raise
                if os.path.lexists(target):
                    raise FileExistsError(errno.EEXIST, "exists", str(target)) from error
            self.system.rename(source, target)
        return "moved"

    def finish(self) -> None:
        """Make the new names permanent. After this the run is done and nothing is rolled back."""
        self.settle()
        with explained(self.folder, "write it to disk"):
            for made in self._made_folders:
                sync_folder(made.parent, self.system)
        self._published.clear()
        self._made_folders.clear()
        self._drop_job()

    def _drop_job(self) -> None:
        if self._job is not None and not self._remove([self._job]):
            self._made.remove(self._job)
            self._job = None

    def _remove(self, paths: list[Path]) -> list[Path]:
        """Remove what is there of `paths`; returns those that the system would not let go."""
        left = []
        for path in paths:
            try:
                self.system.unlink(path)
            except OSError as error:
                left += [path] if error.errno != errno.ENOENT else []
        return left

    def _roll_back(self) -> None:
        """Remove everything, the entry's name first; the note stays while a name does, for the next run."""
        names = [path for path, mark in reversed(self._published.items()) if mark.fits(path, exactly=False)]
        if not self._remove(names):
            self._published.clear()
            if names:
                with contextlib.suppress(OSError):
                    sync_folder(self.folder, self.system)
            self._drop_job()
        self._made = self._remove([path for path in self._made if path != self._job])
        for folder in reversed(self._made_folders):
            with contextlib.suppress(OSError):
                self.system.rmdir(folder)
        self._made_folders.clear()


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
    fd = None
    try:
        fd = os.open(path, os.O_RDWR | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0))
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        dead = True
    except OSError:
        dead = False
    try:
        yield dead
    finally:
        if fd is not None:
            os.close(fd)


def clean(folder: Path, system: System | None = None, *, remove: bool = True) -> list[Path]:
    """Remove what killed runs left in `folder`; what a living run holds is left alone. Returns what goes.

    Raises OSError. Without `remove` nothing is touched.
    """
    system = system or System()
    gone: list[Path] = []
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if entry.name.startswith("."))
    except OSError:
        return gone
    notes = [folder / name for name in names if name.endswith(JOB_SUFFIX)]
    for path in [*notes, *(folder / name for name in names if name.endswith(SUFFIX))]:
        with _if_dead(path) as dead:
            going = [*_half_set(folder, path), path] if dead and path in notes else [path] if dead else []
            for each in going:
                if remove:
                    with contextlib.suppress(FileNotFoundError):
                        system.unlink(each)
                gone.append(each)
    return gone


def _half_set(folder: Path, note: Path) -> list[Path]:
    """The files that a run killed while publishing had already named, unless its entry is there."""
    try:
        names = json.loads(note.read_bytes())["names"]
        marks = {str(name): Mark(*values) for name, values in names.items()}
    except (ValueError, KeyError, TypeError, AttributeError, OSError):
        return []
    if not marks or os.path.lexists(folder / list(marks)[-1]) or any("/" in name for name in marks):
        return []
    return [folder / name for name, mark in marks.items() if mark.fits(folder / name, exactly=True)]


def write_all(system: System, fd: int, data: bytes | bytearray | memoryview, offset: int, path: Path) -> None:
    """pwrite everything; short writes go on, errors become sentences."""
    view = memoryview(data).cast("B")
    with explained(path, "write it"):
        while view:
            n = system.pwrite(fd, view, offset)
            if n <= 0:
                raise OSError(errno.EIO, "the system wrote nothing")
            view = view[n:]
            offset += n


def free_bytes(folder: Path) -> int:
    """Bytes that this user may still write to the file system of `folder` (or of its nearest parent)."""
    while not os.path.lexists(folder):
        folder = folder.parent
    stat = os.statvfs(folder)
    return stat.f_bavail * stat.f_frsize


def write_file(path: Path, data: bytes, system: System | None = None) -> None:
    """A new file with `data`, whole and on disk when it appears. Raises OutputExists, NoSpace, StorageError."""
    system = system or System()
    if os.path.lexists(path):
        raise explain(FileExistsError(errno.EEXIST, "exists", str(path)), path, "write it")
    with Workspace(path.parent, system) as space:
        temp, fd = space.new_file(path.name)
        write_all(system, fd, data, 0, temp)
        space.sync(temp)
        space.publish(temp, path.name)
        space.finish()
