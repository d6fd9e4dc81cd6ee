"""What the cache keeps, for people."""

from __future__ import annotations

from ..units import size
from ..verbs.cache import CacheResult
from .text import columns, say


def show(result: CacheResult, *, quiet: bool = False) -> None:
    """A line per model on standard output, totals on standard error."""
    if result.cleared:
        say(f"freed {size(result.freed_bytes)} in {result.folder}")
        for entry in result.entries:
            say(f"left alone, since another run uses it: {entry.name}")
        return
    if not result.entries:
        say(f"nothing is kept in {result.folder}" + (" of that name" if result.names else ""))
        return
    print(columns([(f"{size(entry.size_bytes):>9}", entry.name) for entry in result.entries]))
    total = sum(entry.size_bytes for entry in result.entries)
    say(f"{size(total)} in {result.folder}; 'nextn cache --clear' removes it")
