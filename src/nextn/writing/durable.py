"""The one module that makes bytes permanent: temporary file, fsync, publish, fsync of the folder.

Guarantees: a file appears under its final name only when it is complete and on disk; nothing that exists is ever
overwritten, except for the texts of a packed folder that nextn itself wrote (`renew_files`); whatever stops the run
(an error, Ctrl-C, SIGKILL, power loss), the inputs are untouched, and what a killed run leaves (hidden `.*.nextn-tmp`
files and, if it died while publishing a set, its job note) is recognised by the next run in the same folder and
removed. The file published is exactly the file written: every name is given relative to a descriptor of the folder,
and a temporary file that was replaced, or changed after it was complete, is noticed.

Limits: on file systems without hard links, files are published by rename after a check, so two processes that write
the same name at the same moment can collide. A disk that lies about fsync voids the guarantee. Another program of the
same user that writes into a temporary file before it is complete is not noticed.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import astuple, dataclass, field
from pathlib import Path

from .. import oscalls
from ..errors import StorageError
from ..workfile import At, Folder, NotOurs, Stamp, changed, replaced
from .leftovers import JOB_SUFFIX, SUFFIX, Mark, clean
from .system import NO_HARD_LINKS, System, explain, explained, other_length, sync_folder, sync_open_folder, write_all

FEW_FILES = 16  # fewer than this are synced one after the other
_SYNC_THREADS = 16


@dataclass
class Workspace:
    """Temporary files of one run in one folder, and their publication.

    Use it as a context manager: leaving it by an exception removes everything the run has made. Every path is
    noted before the call that creates it, since an interrupt can arrive between a call and its return.
    """

    folder: Path
    system: System = field(default_factory=System)
    _fds: list[int] = field(default_factory=list)  # they hold the locks until the end
    _temps: dict[Path, int] = field(default_factory=dict)  # path -> descriptor, until the file has its final name
    _synced: dict[Path, Stamp] = field(default_factory=dict)  # path -> the file's state when it was complete
    _made: list[At] = field(default_factory=list)  # temporary files that may exist
    _published: dict[At, Mark] = field(default_factory=dict)
    _made_folders: list[Path] = field(default_factory=list)
    _job: At | None = None
    _home: Folder = field(init=False)

    def __enter__(self) -> Workspace:
        try:
            with explained(self.folder, "create or clean the folder"):
                self._make_folder(self.folder)
                self._home = Folder.chosen(self.folder)
            with explained(self.folder, "clean the folder"):
                clean(self.folder, self.system)
        except BaseException:
            self._roll_back()
            self._close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is not None:
                self._roll_back()
            self._remove(self._made)
        finally:
            self._close()

    def _close(self) -> None:
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()
        if hasattr(self, "_home"):
            self._home.close()

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

    def _create(self, stem: str, suffix: str) -> tuple[At, int]:
        """A locked new file. Tries again if another run, looking for leftovers, removed it before it was locked."""
        while True:
            at = At(self._home, f".{stem}{secrets.token_hex(4)}{suffix}")
            self._made.append(at)
            try:
                fd = self.system.open_new(at)
            except OSError as error:
                self._made.remove(at)
                raise explain(error, at.path, "create a file in the folder") from error
            self._fds.append(fd)
            try:
                oscalls.lock(fd)
            except BlockingIOError:
                continue
            except OSError:  # no locks on this file system, so other runs leave the file alone as well
                return at, fd
            with contextlib.suppress(OSError, NotOurs):
                self._home.check_same(at.name, fd)
                return at, fd

    def new_file(self, name: str) -> tuple[Path, int]:
        """A temporary file that will become `name`: its path and a descriptor, locked while the run lives."""
        short = os.fsdecode(os.fsencode(name)[-200:])  # room for what is added: most file systems allow 255 bytes
        at, fd = self._create(f"{short}.", SUFFIX)
        self._temps[at.path] = fd
        return at.path, fd

    def sync(self, paths: Collection[Path]) -> None:
        """fsync temporary files; returns when all of them are on disk.

        Many are synced by several threads: a file system commits what it is asked for at the same time together. One
        call for the whole file system (syncfs) would also wait for what other programs write.
        """
        if len(paths) < FEW_FILES:
            for path in paths:
                self._sync(path)
            return
        from concurrent.futures import ThreadPoolExecutor

        pool = ThreadPoolExecutor(_SYNC_THREADS, "fsync")
        try:
            deque(pool.map(self._sync, paths), maxlen=0)
        finally:
            pool.shutdown(cancel_futures=True)

    def _sync(self, path: Path) -> None:
        fd = self._temps[path]
        with explained(path, "write it to disk"):
            self.system.fsync(fd)
            self._synced[path] = Stamp.of(os.fstat(fd))

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
        write_all(self.system, fd, data, 0, self._job.path)
        with explained(self._job.path, "write it to disk"):
            self.system.fsync(fd)
        self.settle()

    def settle(self) -> None:
        """fsync the folder, so that the names so far are on disk before the next one."""
        with explained(self.folder, "write it to disk"):
            sync_open_folder(self._home, self.system)

    def publish(self, temp: Path, name: str, size_bytes: int) -> None:
        """Give a synced temporary file of `size_bytes` its final name.

        Raises OutputExists when the name is taken, and StorageError also when `temp` was replaced or changed since.
        """
        source, target = At(self._home, temp.name), At(self._home, name)
        fd = self._temps[temp]
        with explained(target.path, "give it its name"):
            self._check_written(source, fd, size_bytes)
            now = Stamp.of(os.fstat(fd))
            if now != self._synced.get(temp, now):
                raise changed(source.path)
            self._published[target] = Mark.of(os.fstat(fd))
            try:
                self.system.link(source, target)
            except OSError as error:
                if error.errno not in NO_HARD_LINKS - {errno.EXDEV}:
                    raise
                if self._is_taken(name):
                    raise FileExistsError(errno.EEXIST, "exists", str(target)) from error
                self.system.rename(source, target)
            else:
                self._check_named(target, fd, size_bytes)
                self.system.unlink(source)
            self._check_named(target, fd, size_bytes)
        del self._temps[temp]
        self._made.remove(source)

    def replace(self, temp: Path, name: str, size_bytes: int) -> None:
        """Give a synced temporary file the name of one that may exist, which it replaces. Raises StorageError."""
        source, target = At(self._home, temp.name), At(self._home, name)
        with explained(target.path, "give it its name"):
            self._check_written(source, self._temps[temp], size_bytes)
            self.system.rename(source, target)
        del self._temps[temp]
        self._made.remove(source)

    def _check_written(self, at: At, fd: int, size_bytes: int) -> None:
        """Raise StorageError when `at` is not the file that was written, or no longer has its length."""
        at.folder.check_same(at.name, fd)
        if os.fstat(fd).st_size != size_bytes:
            raise other_length(at.path)

    def _check_named(self, target: At, fd: int, size_bytes: int) -> None:
        """Take back a name that was given to anything other than the file that was written."""
        try:
            self._check_written(target, fd, size_bytes)
        except StorageError:
            del self._published[target]
            self._remove([target])
            raise

    def _is_taken(self, name: str) -> bool:
        try:
            self._home.lstat(name)
        except FileNotFoundError:
            return False
        return True

    def add_link(self, source: Path, name: str, stamp: Stamp | None, *, hard: bool, symbolic: bool) -> str:
        """A hard link to `source` under `name`, or a symlink where that is allowed and a hard link is impossible.

        `stamp`: of the file when it was examined. Returns "hard" or "symlink". Raises OutputExists, StorageError.
        """
        target = At(self._home, name)
        real = source.resolve()
        try:
            if self._is_taken(name):
                raise FileExistsError(errno.EEXIST, "exists", str(target))
            found = real.stat()
            if stamp is not None and Stamp.of(found) != stamp:
                raise replaced(real)
            self._published[target] = Mark.of(found, real)
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
            raise explain(error, target.path, f"link it to {real}") from error
        return "symlink"

    def adopt(self, source: Path, name: str, stamp: Stamp) -> str:
        """Give a complete, synced file of ours on this file system another name; its old one stays where possible.

        `stamp` is that of the file when it was checked. Returns "hard", or "moved" where there are no hard links:
        rolling back then leaves it, since it is the only name. Raises OutputExists, StorageError.
        """
        target = At(self._home, name)
        with explained(target.path, "give it its name"), Folder.chosen(source.parent) as folder:
            at, how = At(folder, source.name), "hard"
            if Stamp.of(folder.lstat(source.name)) != stamp:
                raise replaced(source)
            self._published[target] = Mark(stamp.inode, stamp.size_bytes, stamp.mtime_ns, str(source.resolve()))
            try:
                self.system.link(at, target)
            except OSError as error:
                del self._published[target]
                if error.errno not in NO_HARD_LINKS - {errno.EXDEV}:
                    raise
                if self._is_taken(name):
                    raise FileExistsError(errno.EEXIST, "exists", str(target)) from error
                self.system.rename(at, target)
                how = "moved"
            if Stamp.of(self._home.lstat(name)) != stamp:
                self._remove([target])
                raise replaced(source)
        return how

    def finish(self) -> None:
        """Make the new names permanent. After this the run is complete and nothing is rolled back."""
        if not self._home.is_in_place():
            raise StorageError(
                f"{self.folder}: this folder was moved or replaced while it was written to, so nothing was published; "
                "run it again."
            )
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

    def _remove(self, some: list[At]) -> list[At]:
        """Remove those of `some` that exist; returns those that the system did not let us remove."""
        left = []
        for at in some:
            try:
                self.system.unlink(at)
            except OSError as error:
                left += [at] if error.errno != errno.ENOENT else []
        return left

    def _roll_back(self) -> None:
        """Remove everything, the entry's name first; the note stays as long as any name does, for the next run."""
        names = [at for at, mark in reversed(self._published.items()) if mark.fits(at, exactly=False)]
        if not self._remove(names):
            self._published.clear()
            if names:
                with contextlib.suppress(OSError):
                    sync_open_folder(self._home, self.system)
            self._drop_job()
        self._made = self._remove([at for at in self._made if at != self._job])
        for folder in reversed(self._made_folders):
            with contextlib.suppress(OSError):
                self.system.rmdir(folder)
        self._made_folders.clear()


def renew_files(folder: Path, files: Mapping[str, bytes], system: System | None = None) -> None:
    """Give our own text files in `folder` new content, one after the other, each complete and on disk when it appears.

    The only function that replaces files: the caller has checked that they are as we wrote them. Raises NoSpace,
    StorageError.
    """
    with Workspace(folder, system or System()) as space:
        temps = {}
        for name, data in files.items():
            temps[name], fd = space.new_file(name)
            write_all(space.system, fd, data, 0, temps[name])
        space.sync(temps.values())
        for name, temp in temps.items():
            space.replace(temp, name, len(files[name]))
            space.settle()


def write_file(path: Path, data: bytes, system: System | None = None) -> None:
    """A new file with `data`, complete and on disk when it appears. Raises OutputExists, NoSpace, StorageError."""
    system = system or System()
    if os.path.lexists(path):
        raise explain(FileExistsError(errno.EEXIST, "exists", str(path)), path, "write it")
    with Workspace(path.parent, system) as space:
        temp, fd = space.new_file(path.name)
        write_all(system, fd, data, 0, temp)
        space.sync([temp])
        space.publish(temp, path.name, len(data))
        space.finish()
