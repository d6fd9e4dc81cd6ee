"""Whole files on their way into a folder: hidden in it until all of their bytes are there and right.

`FOLDER/.nextn-pull/COMMIT/` lies on the folder's own file system, so the last step is a name and never a copy. Its
files are those of `sources.cache`: what a killed run left counts only as far as its checksums say so.
"""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import RemoteError
from ..progress import Progress
from ..remote.cache import Identity, bytes_left, remove_partial
from ..writing.durable import explained
from . import sums
from .listing import Listed

if TYPE_CHECKING:
    from ..remote.http import Fetcher
    from ..remote.hub import HubRepo

FOLDER = ".nextn-pull"


def mismatch(repo: HubRepo, file: Listed, path: Path, hasher: sums.Hasher) -> str | None:
    """How `path` differs from what the Hub says of the file; None: it does not. Reads all of it."""
    if file.sha256 is None:
        return repo.check(file.path, path)
    digest = hasher.digest(path)
    return None if digest == file.sha256 else f"its sha256 is {digest[:12]}..., and the Hub says {file.sha256[:12]}..."


class Staging:
    """The hidden folder of one repository's commit. A context manager while files are fetched and named."""

    def __init__(self, repo: HubRepo, fetcher: Fetcher, folder: Path) -> None:
        from ..remote.model import Remote

        self.repo, self.folder = repo, folder
        self.home = folder.absolute() / FOLDER
        place = copy.copy(repo)
        place.folder = self.home / str(repo.revision)
        self._place = place
        self._remote = Remote(place, fetcher)

    def __enter__(self) -> Staging:
        return self

    def __exit__(self, *error: object) -> None:
        self._remote.__exit__(*error)

    def _path(self, file: Listed) -> Path:
        return self._place.folder / file.path

    def missing_bytes(self, file: Listed) -> int:
        """What is still to be fetched, as far as the note of earlier runs tells."""
        target = self.repo.target(file.path)
        assert target is not None
        identity = Identity(f"{self.repo.origin}:{file.path}", target.size_bytes, target.etag)
        return bytes_left(self._path(file), identity)

    def fetch(self, files: Sequence[Listed], progress: Progress | None) -> int:
        """Have all bytes of these files; returns how many were moved. Raises RemoteError, NoSpace, StorageError."""
        if files:
            with explained(self.folder, "create the folder"):
                self._place.folder.mkdir(parents=True, exist_ok=True)
        return self._remote.fetch([self._remote.whole(file.path) for file in files], progress, check=False)

    def whole(self, file: Listed, hasher: sums.Hasher) -> Path:
        """A fetched file, compared with its hash and synced: only its name is missing.

        Raises RemoteError when it is not what the Hub says; its bytes are dropped then, so another run fetches them
        anew.
        """
        path = self._remote.publish(file.path)
        why = mismatch(self.repo, file, path, hasher)
        if why is not None:
            self._remote.drop(file.path)
            raise RemoteError(
                f"{self.repo.origin}:{file.path}: what arrived is not the file: {why}; it was thrown away, so run it "
                "again."
            )
        with explained(path, "write it to disk"):
            fd = os.open(path, os.O_RDONLY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        return path

    def clear(self, paths: Iterable[str]) -> None:
        """Remove what is left of these files of the repository, now that they have their names.

        Parts of other files stay, for the run that goes on with them. Never fails: it is only room.
        """
        with contextlib.suppress(OSError):
            for commit in list(self.home.iterdir()):
                for path in paths:
                    remove_partial(commit / path)
                for folder in sorted((each for each in commit.rglob("*") if each.is_dir()), reverse=True):
                    _remove_empty(folder)
                _remove_empty(commit)
            _remove_empty(self.home)


def _remove_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()
