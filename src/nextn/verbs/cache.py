"""`nextn cache`: what is kept of remote models, and the sidecars kept for models elsewhere; shown or cleared."""

from __future__ import annotations

import difflib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import UsageError
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
    notes: tuple[str, ...] = ()  # on names that nothing has

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

    Raises UsageError for a name that nothing has, if it is nearly an option or, without `clear`, nearly the name of
    something; StorageError.
    """
    return (_sidecars if sidecars else _models)(tuple(names), clear)


_CLEAR = ("clear", "clean", "delete", "purge", "remove")


def _similar(names: Sequence[str], kept: Sequence[str], clear: bool) -> tuple[str, ...]:
    """Notes on names that nothing has. Raises UsageError."""
    notes = []
    for name in names:
        if any(name in each for each in kept):
            continue
        if not clear and difflib.get_close_matches(name.lower(), _CLEAR, 1, 0.75):
            raise UsageError(f"{name}: nothing of this name is kept; did you mean --clear?")
        if difflib.get_close_matches(name.lower(), ("sidecars",), 1, 0.75):
            raise UsageError(f"{name}: nothing of this name is kept; did you mean --sidecars?")
        short = list(dict.fromkeys(each.partition("@")[0].removeprefix("hf:") for each in kept))
        near = difflib.get_close_matches(name.removeprefix("hf:"), short, 1, 0.75)
        if near and not clear:
            raise UsageError(f"{name}: nothing of this name is kept; a similar name is {near[0]}.")
        notes += [f"nothing is kept of the name {name}; a similar name is {near[0]}"] if near else []
    return tuple(notes)


def _models(names: tuple[str, ...], clear: bool) -> CacheResult:
    from ..remote import cache_entries
    from ..remote.cache import cache_root

    root = cache_root()
    kept = cache_entries.entries(root)
    notes = _similar(names, [entry.name for entry in kept], clear)
    found = [entry for entry in kept if not names or any(name in entry.name for name in names)]
    freed, left = cache_entries.clear(found) if clear else (0, found)
    entries = tuple(
        KeptModel(entry.name, str(entry.folder), entry.size_bytes, _utc(entry.used_s), None, False) for entry in left
    )
    return CacheResult(root, entries, names, False, clear, freed, notes)


def _sidecars(names: tuple[str, ...], clear: bool) -> CacheResult:
    from ..discovery import kept
    from ..layouts.places import sidecars_root

    there = {f"{one.sidecar} {one.model}": one for one in kept.all_kept()}
    notes = _similar(names, list(there), clear)
    found = [one for text, one in there.items() if not names or any(name in text for name in names)]
    freed = kept.remove(found) if clear else 0
    entries = tuple(
        KeptModel(
            str(one.sidecar), str(one.sidecar), one.size_bytes, _utc(one.used_s),
            None if one.model is None else str(one.model), one.stale,
        )
        for one in (() if clear else found)
    )  # fmt: skip
    return CacheResult(sidecars_root(), entries, names, True, clear, freed, notes)


def _utc(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
