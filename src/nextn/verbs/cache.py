"""`nextn cache`: what is kept of remote models, and the sidecars kept for models elsewhere; shown or cleared."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..schemas.base import Documented
from ..schemas.cache import CacheDocument, KeptModel


@dataclass(frozen=True)
class CacheResult(Documented):
    """What is kept."""

    folder: Path
    entries: tuple[KeptModel, ...]  # what is kept; after clearing, what another run is using
    names: tuple[str, ...] = ()  # what was asked for; empty: everything
    sidecars: bool = False
    cleared: bool = False
    freed_bytes: int = 0

    @property
    def when_unprinted(self) -> str:
        """Whether anything was removed."""
        return f"{self.freed_bytes:,} bytes were freed" if self.cleared else "nothing was changed"

    @property
    def document(self) -> CacheDocument:
        """What --json prints."""
        return CacheDocument(folder=str(self.folder), freed_bytes=self.freed_bytes, entries=list(self.entries))


def cache(names: Sequence[str] = (), *, sidecars: bool = False, clear: bool = False) -> CacheResult:
    """What nextn keeps of remote models in its own cache, largest first; `clear` removes it.

    `names`: parts of names, such as ORG/NAME; none means everything. What another run is using is left alone.
    The folder is $NEXTN_CACHE, else nextn in the user's cache folder; the Hub's own cache is never touched.
    `sidecars`: instead, the sidecars in $NEXTN_DATA, else nextn in the user's data folder, and notes of those that
    attach wrote elsewhere; of the latter, only the notes are removed.

    Raises StorageError.
    """
    return (_sidecars if sidecars else _models)(tuple(names), clear)


def _models(names: tuple[str, ...], clear: bool) -> CacheResult:
    from ..remote import cache_entries
    from ..remote.cache import cache_root

    root = cache_root()
    found = [entry for entry in cache_entries.entries(root) if not names or any(name in entry.name for name in names)]
    freed, left = cache_entries.clear(found) if clear else (0, found)
    entries = tuple(
        KeptModel(entry.name, str(entry.folder), entry.size_bytes, _utc(entry.used_s), None, False) for entry in left
    )
    return CacheResult(root, entries, names, False, clear, freed)


def _sidecars(names: tuple[str, ...], clear: bool) -> CacheResult:
    from ..discovery import kept
    from ..layouts.places import sidecars_root

    found = [
        one for one in kept.all_kept() if not names or any(name in f"{one.sidecar} {one.model}" for name in names)
    ]
    freed = kept.remove(found) if clear else 0
    entries = tuple(
        KeptModel(
            str(one.sidecar), str(one.sidecar), one.size_bytes, _utc(one.used_s),
            None if one.model is None else str(one.model), one.stale,
        )
        for one in (() if clear else found)
    )  # fmt: skip
    return CacheResult(sidecars_root(), entries, names, True, clear, freed)


def _utc(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
