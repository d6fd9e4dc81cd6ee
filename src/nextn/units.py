"""Bytes and counts in words."""

from __future__ import annotations

UNITS = ("B", "KB", "MB", "GB", "TB")


def size(n: float) -> str:
    """Bytes in decimal units, as disks and the Hub count: `1.41 MB`."""
    value = float(n)
    for unit in UNITS:
        if abs(value) < 1000 or unit == UNITS[-1]:
            exact = unit == "B" or abs(value) >= 1000
            return f"{value:,.0f} {unit}" if exact else f"{value:,.3g} {unit}"
        value /= 1000
    raise AssertionError("unreachable")


def duration(seconds: float) -> str:
    """A time that need not be exact: `a moment`, `45 s`, `12 min`, `3.5 h`."""
    if seconds < 1:
        return "a moment"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 2 * 3600 else f"{seconds / 3600:.3g} h"


def counted(n: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun: `1 tensor`, `2 files`."""
    return f"{n:,} {noun if n == 1 else plural or noun + 's'}"


def are(n: int) -> str:
    """The verb of a sentence about `n` of several: `1 of 3 shards is missing`."""
    return "is" if n == 1 else "are"


def them(n: int) -> str:
    """The pronoun of `n` things."""
    return "it" if n == 1 else "them"
