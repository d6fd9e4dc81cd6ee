"""What our cache keeps of remote models: shown, and cleared."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..gguf.files import os_error
from .cache import NOTE_SUFFIX, cache_root, read_note


@dataclass(frozen=True)
class CacheEntry:
    """Parts of one version of one remote source."""

    name: str  # hf:ORG/NAME@COMMIT, or the address
    folder: Path
    size_bytes: int  # what it takes on disk
    used_s: float  # when it was last written to, seconds since 1970


def _files(folder: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(folder):
        for name in names:
            yield Path(parent) / name


def entries(root: Path | None = None) -> list[CacheEntry]:
    """Everything that is kept, the largest first."""
    root = root or cache_root()
    out = []
    folders = [*root.glob("hub/models--*/*"), *root.glob("http/*")]
    for folder in (path for path in folders if path.is_dir() and path.name != "refs"):
        name, size, used = "", 0, 0.0
        for path in _files(folder):
            with contextlib.suppress(OSError):
                found = path.lstat()
                size += found.st_blocks * 512
                used = max(used, found.st_mtime)
                if not name and path.name.endswith(NOTE_SUFFIX):
                    identity, _ = read_note(path.read_bytes())
                    name = identity.origin if identity else ""
        if folder.parent.parent.name == "hub":
            name = f"hf:{folder.parent.name.removeprefix('models--').replace('--', '/')}@{folder.name}"
        out.append(CacheEntry(name or str(folder), folder, size, used))
    return sorted(out, key=lambda entry: (-entry.size_bytes, entry.name))


def clear(chosen: Iterable[CacheEntry]) -> tuple[int, list[CacheEntry]]:
    """Remove entries; returns the bytes set free, and what is in use by another run and was left alone."""
    freed, left = 0, []
    for entry in chosen:
        held: list[int] = []
        try:
            for note in entry.folder.rglob(f".*{NOTE_SUFFIX}"):
                held.append(os.open(note, os.O_RDONLY | os.O_CLOEXEC))
                fcntl.flock(held[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(entry.folder)
            freed += entry.size_bytes
        except BlockingIOError:
            left.append(entry)
        except OSError as error:
            raise os_error(error, entry.folder, "clear it") from error
        finally:
            for fd in held:
                os.close(fd)
        with contextlib.suppress(OSError):
            parent = entry.folder.parent
            if parent.parent.name == "hub" and not [path for path in parent.iterdir() if path.name != "refs"]:
                shutil.rmtree(parent)
    return freed, left
