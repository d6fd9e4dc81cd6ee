"""How a page opens: the answer, and where, when and with what it was found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

from ..version import __version__
from .section import Section, Tone


@dataclass(frozen=True)
class Answer:
    """The first lines of a page."""

    badge: str
    tone: Tone
    line: str  # one sentence
    facts: tuple[tuple[str, str], ...]  # date, versions, machine


def answer_of(sections: Sequence[Section]) -> Answer:
    """The heaviest verdict; of equals the worst, then the first. Without a verdict the first section's summary."""
    judged = [section for section in sections if section.badge]
    order = ("bad", "unclear", "good", "plain")
    first = min(judged, key=lambda one: (-one.weight, order.index(one.tone)), default=None)
    chosen = first or (sections[0] if sections else None)
    line = "" if chosen is None else ": ".join((chosen.title, *chosen.summary[:1]))
    if first is not None and first.summary[:1] == (first.badge,):  # the badge says it already
        line = ": ".join((first.title, *first.summary[1:2]))
    badge, tone = ("RESULTS", "plain") if first is None else (first.badge, first.tone)
    facts = [("date", _dates(sections)), ("nextn", __version__)]
    facts += [("engine", ", ".join(dict.fromkeys(one.engine for one in sections if one.engine)))]
    facts += [("machine", "; ".join(dict.fromkeys(one.machine for one in sections if one.machine)))]
    return Answer(badge, tone, line, tuple((name, value) for name, value in facts if value))  # type: ignore[arg-type]


def _dates(sections: Sequence[Section]) -> str:
    """The days on which the documents were written, UTC."""
    days = sorted(
        datetime.fromtimestamp(one.made, timezone.utc).strftime("%Y-%m-%d")
        for one in sections
        if one.made is not None
    )
    return "" if not days else days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}"
