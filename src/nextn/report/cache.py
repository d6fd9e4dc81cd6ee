"""What is kept, for the user."""

from __future__ import annotations

from ..schemas.cache import KeptModel
from ..shell import shell
from ..units import size
from ..verbs.cache import CacheResult
from .text import columns, say


def show(result: CacheResult, *, quiet: bool = False) -> None:
    """One line per entry on standard output, totals on standard error."""
    if result.cleared:
        say(f"freed {size(result.freed_bytes)} in {result.folder}")
        for note in result.notes:
            say(f"note: {note}")
        for entry in result.entries:
            say(f"kept, since another run is using it: {entry.name}")
        return
    if not result.entries:
        say(f"nothing is kept in {result.folder}" + (" of that name" if result.names else ""))
        return
    print(columns([(f"{size(entry.size_bytes):>9}", _named(entry, result.sidecars)) for entry in result.entries]))
    total = sum(entry.size_bytes for entry in result.entries)
    command = shell("nextn", "cache", *result.names, *["--sidecars"] * result.sidecars, "--clear")
    say(f"{size(total)} in {result.folder}; '{command}' removes it")


def _named(entry: KeptModel, is_sidecar: bool) -> str:
    if not is_sidecar:
        return entry.name
    return entry.name + (" (stale)" if entry.stale else f", for {entry.model or 'an unknown model'}")
