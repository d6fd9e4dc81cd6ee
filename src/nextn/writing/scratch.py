"""Folders for a run's own temporary files: private, removed when it ends or, after a kill, by the next run.

Each holds a lock while its run is alive, so an unlocked one is a leftover. Only folders of this user that contain
such a lock are ever removed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .. import oscalls
from ..errors import StorageError
from ..workfile import At, Folder, NotOurs

PREFIX = "nextn-"
LOCK = ".nextn-lock"


@contextlib.contextmanager
def scratch_folder(kind: str, parent: Path | None = None) -> Iterator[Path]:
    """A new private folder in `parent` (None: TMPDIR), removed with everything in it; first, what killed runs left.

    Raises StorageError when none can be made.
    """
    where = "set TMPDIR to another one" if parent is None else "choose another folder"
    parent = Path(tempfile.gettempdir()) if parent is None else parent
    remove_left(parent)
    try:
        path = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{kind}-", dir=parent))
        fd = _locked(path)
    except OSError as error:
        raise StorageError(
            f"{parent}: cannot make a folder for temporary files: {error.strerror or error}; {where}."
        ) from error
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(fd)


def _locked(path: Path) -> int:
    """A descriptor that holds the folder's lock; no other run ever sees the lock file unlocked."""
    with Folder.chosen(path) as folder:
        name, fd = folder.create_unguessable("lock", ".new")
        with contextlib.suppress(OSError):  # a file system without locks: other runs leave the folder alone
            oscalls.lock(fd)
        folder.rename(name, At(folder, LOCK))
    return fd


def remove_left(parent: Path) -> list[Path]:
    """Remove the folders in `parent` that killed runs of this user left; returns them. Never fails."""
    gone: list[Path] = []
    with contextlib.suppress(OSError), Folder.chosen(parent) as folder:
        for name in folder.names():
            if name.startswith(PREFIX):
                with contextlib.suppress(OSError, NotOurs):
                    gone += [parent / name] if _remove_dead(folder, name) else []
    return gone


def _remove_dead(folder: Folder, name: str) -> bool:
    with folder.inner(name, make=False) as inner:
        fd = inner.open(LOCK)
        try:
            oscalls.lock(fd)
            folder.remove_tree(name)
        finally:
            os.close(fd)
    return True
