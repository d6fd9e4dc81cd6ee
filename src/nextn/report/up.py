"""The steps of `nextn up`, for the user; on standard output what to open, or what a program needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..printable import printable
from ..units import duration, size
from .serve import show_command
from .text import put_path, say

if TYPE_CHECKING:
    from ..schemas.up import StepTaken
    from ..verbs.up_report import UpReport


def show(report: UpReport, *, quiet: bool = False) -> None:
    """One line per step, notes, the command; `quiet`: only the address, or what the program needs."""
    if not quiet:
        width = max((len(each.step) for each in report.steps), default=0)
        for each in report.steps:
            say(f"{each.step:<{width}}  {each.state:<7}  {printable(each.what, 2000)}{_figures(each)}")
        for note in report.notes:
            if note in report.needs:  # standard output has it
                continue
            say(f"note: {printable(note, 2000)}")
        if report.dry_run:
            say(f"in all: {_total(report.steps)}")
        elif report.serving is not None:
            show_command(report.serving, print_only=False)
    for line in report.needs:
        print(line)
    if report.address is not None and report.failed is None and (quiet or not report.dry_run):
        put_path(report.address)


def _figures(step: StepTaken) -> str:
    words = _amounts(step.fetch_bytes, step.read_bytes, step.write_bytes)
    if step.seconds is not None:
        words.append(_about(step.seconds) if step.state == "planned" else duration(step.seconds))
    return f" ({', '.join(words)})" if words else ""


def _amounts(fetch: int, read: int, write: int) -> list[str]:
    found = ((fetch, "to fetch"), (read, "to read"), (write, "to write"))
    return [f"{size(n)} {what}" for n, what in found if n]


def _total(steps: list[StepTaken]) -> str:
    fetch, read, write = (sum(getattr(each, f"{name}_bytes") for each in steps) for name in ("fetch", "read", "write"))
    seconds = sum(each.seconds or 0 for each in steps)
    return ", ".join([*_amounts(fetch, read, write), _about(seconds)])


def _about(seconds: float) -> str:
    return duration(seconds) if seconds < 1 else f"about {duration(seconds)}"
