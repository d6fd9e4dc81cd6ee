"""Working files: what nextn keeps on disk for itself, opened so that nobody else can choose what is opened.

Partial downloads and their notes, job notes, temporary files, locks and cache entries are in folders that others may
have filled (an unpacked archive, a shared folder), some under predictable names. So each is opened relative
to a descriptor of its folder and never through a link, and it is used only if it is a regular file of this user
that has no other name. Private folders (the cache, downloads in progress) are entered the same way, level by level from
the folder that the user chose; they belong to this user and have mode 0700.

Limits: systems without folder descriptors (`HAS_DESCRIPTORS` is false) use paths instead, so a folder
that another program replaces at the same moment can mislead nextn. File systems without owners or modes are accepted
as they are: what counts is the owner that they give to a new file.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import oscalls
from .errors import StorageError

HAS_DESCRIPTORS = oscalls.has_folder_descriptors()
PRIVATE_MODE = 0o700
_FLAGS = oscalls.CLOEXEC | oscalls.NOFOLLOW | oscalls.NONBLOCK | oscalls.BINARY
_DIRECTORY = oscalls.DIRECTORY | oscalls.CLOEXEC
_NOT_ONE_FILE = frozenset({errno.ELOOP, errno.EMLINK, errno.EISDIR, errno.ENXIO})  # a link, a folder, a socket


class NotOurs(StorageError):
    """A name of nextn's own is taken by something that nextn did not put there."""


def _not_ours(path: Path, what: str) -> NotOurs:
    return NotOurs(
        f"{path}: this is {what}, and nextn needs this name for a working file or folder of its own; remove it and "
        "run it again."
    )


def _kind(mode: int) -> str:
    names = ((stat.S_ISLNK, "a symbolic link"), (stat.S_ISDIR, "a folder"), (stat.S_ISREG, "a regular file"))
    return next((name for test, name in names if test(mode)), "a pipe, a socket or a device")


@dataclass(frozen=True)
class Stamp:
    """Which file is under a name, and in which state: a different file, or a later state, has a different stamp."""

    device: int
    inode: int
    size_bytes: int
    mtime_ns: int
    is_regular: bool = True

    @classmethod
    def of(cls, found: os.stat_result) -> Stamp:
        """The stamp for this `stat` result."""
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, stat.S_ISREG(found.st_mode))

    def is_of_same_file(self, other: Stamp) -> bool:
        """Whether it is the same file with the same size, whatever its time stamps."""
        return (self.device, self.inode, self.size_bytes) == (other.device, other.inode, other.size_bytes)


def replaced(path: Path) -> StorageError:
    """The error for a file that has changed."""
    return StorageError(
        f"{path}: this file was changed or replaced while it was read, so nothing was published; make sure that "
        "nothing writes to it, and run it again."
    )


def changed(path: Path) -> StorageError:
    """The error for a temporary file that something else wrote to."""
    return StorageError(
        f"{path}: another program wrote to this temporary file, so it was not published; make sure that nothing "
        "writes to the folder, and run it again."
    )


@dataclass(frozen=True)
class At:
    """A name in an open folder."""

    folder: Folder
    name: str

    @property
    def path(self) -> Path:
        """The path, for messages."""
        return self.folder.path / self.name

    def __str__(self) -> str:
        return str(self.path)


class Folder:
    """An open folder; a context manager that closes it. Methods raise OSError, and NotOurs where stated."""

    def __init__(self, path: Path, fd: int | None) -> None:
        """Use `chosen` or `private`."""
        self.path = path
        self._fd = fd

    @classmethod
    def chosen(cls, path: Path) -> Folder:
        """A folder that the user named: links in its path are the user's and are followed."""
        if HAS_DESCRIPTORS:
            return cls(path, os.open(path, os.O_RDONLY | _DIRECTORY))
        os.scandir(path).close()  # raises for what is not a folder
        return cls(path, None)

    @classmethod
    def private(cls, root: Path, parts: Sequence[str], *, make: bool) -> Folder:
        """The folder `parts` below `root`, which the user chose; no level below `root` may be a link.

        With `make`, missing levels are created. Raises NotOurs for a level that is a link or belongs to another user.
        """
        if make and not os.path.lexists(root):
            root.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                os.mkdir(root, PRIVATE_MODE)  # noqa: PTH102 - the mode is the point
        found = cls.chosen(root)
        for part in parts:
            with found as outer:
                found = outer.inner(part, make=make)
        return found

    def __enter__(self) -> Folder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close it; safe to call twice."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)

    # -- names --------------------------------------------------------------------------------------------------------

    def _at(self, name: str) -> str | Path:
        """What to call a name in system calls that also get `dir_fd`."""
        if oscalls.is_no_name(name):
            raise OSError(errno.EINVAL, "not a file name", str(self.path / name.replace("\0", "?")))
        return name if self._fd is not None else self.path / name

    def lstat(self, name: str) -> os.stat_result:
        """os.lstat."""
        return os.stat(self._at(name), dir_fd=self._fd, follow_symlinks=False)

    def is_file(self, name: str) -> bool:
        """Whether the name exists and is a regular file, not a link to one."""
        try:
            return stat.S_ISREG(self.lstat(name).st_mode)
        except OSError:
            return False

    def names(self) -> list[str]:
        """Everything in the folder, sorted."""
        return sorted(os.listdir(self.path if self._fd is None else self._fd))  # noqa: PTH208 - by descriptor

    def readlink(self, name: str) -> str | None:
        """Where a symlink leads; None for anything else."""
        try:
            return os.readlink(self._at(name), dir_fd=self._fd)
        except OSError:
            return None

    def unlink(self, name: str, *, missing_ok: bool = False) -> None:
        """os.unlink."""
        with contextlib.suppress(*([FileNotFoundError] if missing_ok else [])):
            os.unlink(self._at(name), dir_fd=self._fd)

    def rename(self, name: str, target: At) -> None:
        """os.replace."""
        there = target.folder
        os.replace(self._at(name), there._at(target.name), src_dir_fd=self._fd, dst_dir_fd=there._fd)

    def link(self, name: str, target: At) -> None:
        """os.link; a symlink itself is linked, not its target."""
        oscalls.link_itself(
            self._at(name), target.folder._at(target.name), src_dir_fd=self._fd, dst_dir_fd=target.folder._fd
        )

    def link_here(self, source: Path, name: str) -> None:
        """os.link of a file elsewhere, under `name`."""
        os.link(source, self._at(name), dst_dir_fd=self._fd)

    def symlink(self, source: Path, name: str) -> None:
        """os.symlink."""
        os.symlink(source, self._at(name), dir_fd=self._fd)

    def rmdir(self, name: str) -> None:
        """os.rmdir: fails unless it is empty."""
        os.rmdir(self._at(name), dir_fd=self._fd)

    def remove_tree(self, name: str) -> None:
        """Remove a folder and everything in it; links in it are removed, not followed (on Windows: by path)."""
        oscalls.remove_tree(self._at(name), dir_fd=self._fd)

    def descriptor(self) -> int:
        """A descriptor of the folder, to fsync or lock it; to be closed."""
        return os.dup(self._fd) if self._fd is not None else os.open(self.path, os.O_RDONLY | _DIRECTORY)

    def is_in_place(self) -> bool:
        """Whether the folder's path still leads to it."""
        if self._fd is None:
            return self.path.is_dir()
        try:
            return os.path.samestat(os.stat(self.path), os.fstat(self._fd))  # noqa: PTH116 - links are the user's
        except OSError:
            return False

    # -- opening ------------------------------------------------------------------------------------------------------

    def inner(self, name: str, *, make: bool) -> Folder:
        """A private folder in this one. Raises NotOurs when the name is a link, a file, or another user's folder."""
        path, new = self.path / name, False
        if make:
            with contextlib.suppress(FileExistsError):
                os.mkdir(self._at(name), PRIVATE_MODE, dir_fd=self._fd)
                new = True
        found = self.lstat(name)
        if not stat.S_ISDIR(found.st_mode):
            raise _not_ours(path, _kind(found.st_mode))
        if self._fd is None:
            return Folder(path, None)
        fd = os.open(self._at(name), os.O_RDONLY | _DIRECTORY | _FLAGS, dir_fd=self._fd)
        try:
            found = os.fstat(fd)
            if not new and not self._is_ours(found):
                raise _not_ours(path, "a folder of another user")
            if stat.S_IMODE(found.st_mode) != PRIVATE_MODE:
                with contextlib.suppress(OSError):  # a file system without modes
                    oscalls.set_mode(fd, PRIVATE_MODE)
        except BaseException:
            os.close(fd)
            raise
        return Folder(path, fd)

    def _is_ours(self, found: os.stat_result) -> bool:
        """Whether something in this folder belongs to this user, or to whomever new files here belong to."""
        return not hasattr(os, "geteuid") or found.st_uid == os.geteuid() or found.st_uid == self._owner_given()

    def _owner_given(self) -> int | None:
        """The owner that the file system gives to a new file: not this user on some network file systems."""
        try:
            name, fd = self.create_unguessable("owner", ".nextn-tmp")
        except OSError:
            return None
        try:
            return os.fstat(fd).st_uid
        finally:
            os.close(fd)
            self.unlink(name)

    def create(self, name: str, mode: int = 0o666) -> int:
        """A new file for reading and writing; fails when the name is taken."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | _FLAGS
        return oscalls.open_file(self._at(name), flags, mode, dir_fd=self._fd)

    def create_unguessable(self, stem: str, suffix: str, mode: int = 0o600) -> tuple[str, int]:
        """A new hidden file with an unpredictable name: the name and a descriptor."""
        name = f".{stem}.{secrets.token_hex(8)}{suffix}"
        return name, self.create(name, mode)

    def open(self, name: str, flags: int = os.O_RDWR, *, one_name: bool = True, owner: bool = True) -> int:
        """An existing working file.

        Raises NotOurs for what is not a regular file, has another name (with `one_name`), or belongs to another user
        (with `owner`).
        """
        path = self.path / name
        try:
            if not oscalls.NOFOLLOW and stat.S_ISLNK(self.lstat(name).st_mode):
                raise OSError(errno.ELOOP, "a link")
            fd = oscalls.open_file(self._at(name), flags | _FLAGS, dir_fd=self._fd)
        except OSError as error:
            if error.errno in _NOT_ONE_FILE:
                with contextlib.suppress(OSError):
                    raise _not_ours(path, _kind(self.lstat(name).st_mode)) from error
            raise
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise _not_ours(path, _kind(found.st_mode))
            if one_name and found.st_nlink > 1:
                raise _not_ours(path, f"a file with {found.st_nlink} names (hard links)")
            if owner and not self._is_ours(found):
                raise _not_ours(path, "a file of another user")
        except BaseException:
            os.close(fd)
            raise
        return fd

    def open_or_create(self, name: str, flags: int = os.O_RDWR) -> int:
        """A working file, created if missing. Raises NotOurs."""
        while True:
            try:
                return self.open(name, flags)
            except FileNotFoundError:
                pass
            with contextlib.suppress(FileExistsError):
                os.close(self.create(name))

    def read(self, name: str, limit: int, *, owner: bool = True) -> bytes:
        """All of a small working file. Raises NotOurs, also if it has more than `limit` bytes."""
        fd = self.open(name, os.O_RDONLY, owner=owner)
        try:
            return _read(fd, self.path / name, limit)
        finally:
            os.close(fd)

    def write(self, name: str, data: bytes) -> None:
        """Give `name` this content atomically, whatever had the name before."""
        temp, fd = self.create_unguessable(name[:100], ".nextn-tmp")
        try:
            try:
                view = memoryview(data)
                while view:
                    view = view[os.write(fd, view) :]
                self.check_same(temp, fd)
            finally:
                os.close(fd)
            self.rename(temp, At(self, name))
        except BaseException:
            self.unlink(temp, missing_ok=True)
            raise

    def check_same(self, name: str, fd: int) -> None:
        """Raise NotOurs when `name` is not the file that `fd` is open on."""
        try:
            same = os.path.samestat(self.lstat(name), os.fstat(fd))
        except FileNotFoundError:
            same = False
        if not same:
            raise NotOurs(
                f"{self.path / name}: this working file was removed or replaced while it was written, so nothing was "
                "published; see what else writes to this folder, and run it again."
            )


def _read(fd: int, path: Path, limit: int) -> bytes:
    size = os.fstat(fd).st_size
    if size > limit:
        raise _not_ours(path, f"a file of {size:,} bytes, more than the maximum of {limit:,}")
    out = bytearray()
    while len(out) < size and (piece := oscalls.pread(fd, size - len(out), len(out))):
        out += piece
    return bytes(out)


@contextlib.contextmanager
def private_folder(root: Path, parts: Sequence[str]) -> Iterator[Folder | None]:
    """The existing private folder `parts` below `root`, or None if there is none. Raises NotOurs."""
    try:
        folder = Folder.private(root, parts, make=False)
    except (FileNotFoundError, NotADirectoryError):
        yield None
        return
    with folder:
        yield folder


def read_beside(path: Path, limit: int) -> bytes:
    """A small file of nextn's in a folder that may belong to anyone, whoever owns the file. Raises OSError, NotOurs."""
    with Folder.chosen(path.parent) as folder:
        return folder.read(path.name, limit, owner=False)
