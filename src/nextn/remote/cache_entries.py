"""List and clear what our cache keeps of remote models."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .. import oscalls
from ..gguf.files import os_error
from ..partial import MAX_NOTE_BYTES, NOTE_SUFFIX, read_note
from ..workfile import Folder, NotOurs, private_folder
from .cache import cache_root

HUB, WEB, REFS = "hub", "http", "refs"
DONORS = "donors"  # answers of the Hub about donors, which 'nextn scan' keeps


@dataclass(frozen=True)
class CacheEntry:
    """Parts of one version of one remote source."""

    name: str  # hf:ORG/NAME@COMMIT, or the address
    root: Path
    parts: tuple[str, ...]  # path components of its folder below `root`
    size_bytes: int  # disk space used
    used_s: float  # when it was last written to, seconds since 1970

    @property
    def folder(self) -> Path:
        """Its folder."""
        return self.root.joinpath(*self.parts)


def _inner(root: Path, parts: tuple[str, ...]) -> list[tuple[str, ...]]:
    """The folders in a private folder of the cache; what is not ours is skipped."""
    out = []
    with contextlib.suppress(OSError, NotOurs), private_folder(root, parts) as folder:
        for name in folder.names() if folder is not None else []:
            with contextlib.suppress(OSError, NotOurs), private_folder(root, (*parts, name)) as inner:
                out += [] if inner is None else [(*parts, name)]
    return out


def _folders(root: Path) -> list[tuple[str, ...]]:
    models = [parts for parts in _inner(root, (HUB,)) if parts[-1].startswith("models--")]
    commits = [parts for model in models for parts in _inner(root, model) if parts[-1] != REFS]
    return [*commits, *_inner(root, (WEB,)), *(parts for parts in _inner(root, ()) if parts == (DONORS,))]


def _files(folder: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(folder):
        for name in names:
            yield Path(parent) / name


def entries(root: Path | None = None) -> list[CacheEntry]:
    """Everything in the cache, largest first."""
    root = root or cache_root()
    out = []
    for parts in _folders(root):
        folder = root.joinpath(*parts)
        name, size, used = "", 0, 0.0
        for path in _files(folder):
            with contextlib.suppress(OSError, NotOurs):
                found = path.lstat()
                size += oscalls.disk_bytes(found)
                used = max(used, found.st_mtime)
                if not name and path.name.endswith(NOTE_SUFFIX):
                    with Folder.chosen(path.parent) as home:
                        identity, _ = read_note(home.read(path.name, MAX_NOTE_BYTES))
                    name = identity.origin if identity else ""
        if parts[0] == HUB:
            name = f"hf:{parts[1].removeprefix('models--').replace('--', '/')}@{parts[2]}"
        if parts == (DONORS,):
            name = "donors of scanned models"
        out.append(CacheEntry(name or str(folder), root, parts, size, used))
    return sorted(out, key=lambda entry: (-entry.size_bytes, entry.name))


def clear(chosen: Iterable[CacheEntry]) -> tuple[int, list[CacheEntry]]:
    """Remove entries; returns the bytes freed, and the entries left alone because another run is using them.

    Raises StorageError.
    """
    freed, left = 0, []
    for entry in chosen:
        try:
            if _remove(entry):
                freed += entry.size_bytes
            else:
                left.append(entry)
        except OSError as error:
            raise os_error(error, entry.folder, "clear it") from error
    return freed, left


def _remove(entry: CacheEntry) -> bool:
    """Remove the entry unless it is in use; whether it was removed."""
    held: list[int] = []
    try:
        with private_folder(entry.root, entry.parts[:-1]) as outer:
            if outer is None:
                return True
            for note in entry.folder.rglob(f".*{NOTE_SUFFIX}"):
                with Folder.chosen(note.parent) as home:
                    held.append(home.open(note.name, os.O_RDONLY, one_name=False))
                oscalls.lock(held[-1])
            _remove_tree(outer, entry.parts[-1])
            rest = outer.names()
        if entry.parts[0] == HUB and set(rest) <= {REFS}:
            with private_folder(entry.root, entry.parts[:-2]) as hub:
                if hub is not None:
                    _remove_tree(hub, entry.parts[-2])
    except BlockingIOError:
        return False
    finally:
        for fd in held:
            os.close(fd)
    return True


def _remove_tree(folder: Folder, name: str) -> None:
    folder.inner(name, make=False).close()  # raises for a link and for another user's folder
    folder.remove_tree(name)
