"""Files on their way into a folder: hidden in it until all of their bytes have arrived and are correct.

`FOLDER/.nextn-pull/COMMIT/` is on the folder's own file system, so the last step is a rename and never a copy. Its
files are those of `remote.cache`: what a killed run left counts only as far as its checksums match.
"""

from __future__ import annotations

import contextlib
import copy
import errno
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from .. import oscalls
from ..errors import FormatError, RemoteError
from ..partial import Identity
from ..progress import LOGGER, Progress
from ..remote.cache import bytes_left, remove_partial
from ..workfile import Folder, NotOurs, Stamp, private_folder
from ..writing.system import explained
from . import sums
from .listing import Listed

if TYPE_CHECKING:
    from ..remote.http import Fetcher
    from ..remote.hub import HubRepo

FOLDER = ".nextn-pull"


@contextlib.contextmanager
def one_at_a_time(root: Path, folder: Path) -> Iterator[None]:
    """Only one pull into `folder` at a time: others wait, then find its files. The lock is in the cache `root`.

    Raises StorageError.
    """
    with _locks(root) as locks:
        name = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:32]
        with explained(locks.path / name, "lock it"):
            fd = _lock(locks, name, folder)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                locks.unlink(name)
            os.close(fd)


def _locks(root: Path) -> Folder:
    with explained(root / "locks", "use the folder"):
        return Folder.private(root, ("locks",), make=True)


def _lock(locks: Folder, name: str, folder: Path) -> int:
    """A descriptor that holds the lock; its last holder removes the file, so a new one may be needed."""
    while True:
        fd = locks.open_or_create(name)
        try:
            try:
                oscalls.lock(fd)
            except BlockingIOError:
                LOGGER.warning("%s: another pull is running in this folder; waiting for it", folder)
                oscalls.lock(fd, wait=True)
        except OSError as error:
            if error.errno not in (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOLCK):
                os.close(fd)
                raise
        except BaseException:
            os.close(fd)
            raise
        if os.fstat(fd).st_nlink:
            return fd
        os.close(fd)


def mismatch(repo: HubRepo, file: Listed, path: Path, hasher: sums.Hasher) -> str | None:
    """How `path` differs from what the Hub says about the file; None: it does not. Reads all of it."""
    if file.sha256 is None:
        return repo.check(file.path, path)
    digest = hasher.digest(path)
    return None if digest == file.sha256 else f"its sha256 is {digest[:12]}..., and the Hub says {file.sha256[:12]}..."


class Staging:
    """The hidden folder of one repository's commit. A context manager while files are fetched and named."""

    def __init__(self, repo: HubRepo, fetcher: Fetcher, folder: Path) -> None:
        from ..remote.model import Remote

        self.repo, self.folder = repo, folder
        self.root = folder.absolute()
        place = copy.copy(repo)
        place.root, place.folder = self.root, self.root / FOLDER / str(repo.revision)
        self._place = place
        self._remote = Remote(place, fetcher)
        self._made = False  # whether the user's folder did not exist before

    def __enter__(self) -> Staging:
        return self

    def __exit__(self, *error: object) -> None:
        self._remote.__exit__(*error)

    def missing_bytes(self, file: Listed) -> int:
        """What is still to be fetched, according to the note of earlier runs."""
        target = self.repo.target(file.path)
        assert target is not None
        identity = Identity(f"{self.repo.origin}:{file.path}", target.size_bytes, target.etag)
        return bytes_left(self.root, (FOLDER, str(self.repo.revision), *PurePosixPath(file.path).parts), identity)

    def headers(self, files: Sequence[Listed]) -> dict[str, Path]:
        """Fetch the headers of these GGUF files; returns where each is, by its content.

        Raises FormatError for what is not a GGUF, RemoteError, StorageError.
        """
        if files:
            with explained(self.folder, "create the folder"):
                self._made = not os.path.lexists(self.root)
                self.root.mkdir(parents=True, exist_ok=True)
        self._remote.provide_all([file.path for file in files])
        return {file.content: self._place.folder / file.path for file in files}

    @contextlib.contextmanager
    def dropping(self, paths: Iterable[str]) -> Iterator[None]:
        """A FormatError from the body names addresses, and what was fetched of these files is dropped."""
        try:
            with self._remote.renaming():
                yield
        except FormatError:
            self._remote.__exit__()
            self.clear(paths)
            if self._made:
                with contextlib.suppress(OSError):
                    self.root.rmdir()
            raise

    def fetch(self, files: Sequence[Listed], progress: Progress | None) -> int:
        """Fetch all bytes of these files; returns the bytes moved. Raises RemoteError, NoSpace, StorageError."""
        return self._remote.fetch([self._remote.whole(file.path) for file in files], progress, check=False)

    def whole(self, file: Listed, hasher: sums.Hasher) -> tuple[Path, Stamp]:
        """A fetched file, compared with its hash and synced, and its stamp at that point: only its name is missing.

        Raises RemoteError when it is not what the Hub says; its bytes are then dropped, so another run fetches them
        anew.
        """
        path = self._remote.publish(file.path)
        with explained(path, "read it"):
            stamp = Stamp.of(path.lstat())
        why = mismatch(self.repo, file, path, hasher)
        if why is not None:
            self._remote.drop(file.path)
            raise RemoteError(
                f"{self.repo.origin}:{file.path}: what arrived is not the file: {why}; it was discarded, so run it "
                "again."
            )
        with explained(path, "write it to disk"):
            fd = os.open(path, os.O_RDONLY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        return path, stamp

    def clear(self, paths: Iterable[str]) -> None:
        """Remove what is left in staging of these files, now that they have their names.

        Parts of other files stay, for the run that resumes them. Never fails: only disk space is at stake.
        """
        with contextlib.suppress(OSError, NotOurs), private_folder(self.root, (FOLDER,)) as home:
            some = list(paths)
            for commit in [] if home is None else home.names():
                for path in some:
                    *parents, name = PurePosixPath(path).parts
                    with private_folder(self.root, (FOLDER, commit, *parents)) as folder:
                        if folder is not None:
                            remove_partial(folder, name)
        with contextlib.suppress(OSError, NotOurs), Folder.chosen(self.root) as root:
            _remove_empty(root, FOLDER)


def _remove_empty(outer: Folder, name: str) -> None:
    """Remove a private folder and those inside it, as far as they are empty."""
    with contextlib.suppress(OSError, NotOurs):
        with outer.inner(name, make=False) as folder:
            for each in folder.names():
                _remove_empty(folder, each)
        outer.rmdir(name)
