"""What one document says, as text, tables and plots."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Tone = Literal["good", "bad", "unclear", "plain"]


@dataclass(frozen=True)
class TextTable:
    """A table of text cells, with a caption that says what it shows."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Section:
    """What one document says."""

    title: str
    summary: tuple[str, ...]
    tables: tuple[TextTable, ...] = ()
    plots: tuple[dict[str, Any], ...] = ()  # of the page: {"kind": "memory", "acceptance", "speed", "bytes" or "curve"}
    commands: tuple[str, ...] = field(default=())  # lines for a POSIX shell
    rank: int = 0  # position on the page: smallest first, ties in the order given
    badge: str = ""  # the verdict in a word or two; empty: the document judges nothing
    tone: Tone = "plain"
    weight: int = 0  # of several verdicts the page opens with the heaviest
    engine: str = ""  # name and version, where an engine was asked
    machine: str = ""  # where it was measured
    made: float | None = None  # when the document was written, seconds since 1970
