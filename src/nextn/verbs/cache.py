"""`nextn cache`: what is kept of remote models, shown and cleared."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..remote import cache_entries
from ..remote.cache import cache_root
from ..remote.cache_entries import CacheEntry
from ..schemas.base import Documented, filled
from ..schemas.cache import CacheDocument, KeptModel


@dataclass(frozen=True)
class CacheResult(Documented):
    """What the cache keeps."""

    folder: Path
    entries: tuple[CacheEntry, ...]  # what is kept; after clearing, what another run uses
    names: tuple[str, ...] = ()  # what was asked for; empty: everything
    cleared: bool = False
    freed_bytes: int = 0

    @property
    def document(self) -> CacheDocument:
        """What --json prints."""
        return filled(CacheDocument, self, entries=[_kept(entry) for entry in self.entries])


def _kept(entry: CacheEntry) -> KeptModel:
    used = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(entry.used_s))
    return filled(KeptModel, entry, path=entry.folder, used=used)


def cache(names: Sequence[str] = (), *, clear: bool = False) -> CacheResult:
    """What nextn keeps of remote models in its own cache, the largest first; with `clear` it is removed.

    `names`: parts of names, such as ORG/NAME; without any it is everything. What another run uses is left alone.
    The folder is $NEXTN_CACHE, else nextn in the user's cache folder; the Hub's own cache is never touched.

    Raises StorageError.
    """
    root = cache_root()
    found = [entry for entry in cache_entries.entries(root) if not names or any(name in entry.name for name in names)]
    freed, left = cache_entries.clear(found) if clear else (0, found)
    return CacheResult(root, tuple(left), tuple(names), clear, freed)
