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


_WITHOUT_PAGE = "xllamacpp"  # whose server has no page of its own


def show(report: UpReport, *, quiet: bool = False) -> None:
    """One line per step, notes, the command; `quiet`: only the address, or what the program needs."""
    if not quiet:
        width = max((len(each.step) for each in report.steps), default=0)
        for each in report.steps:
            state = "next" if each.state == "planned" and not report.dry_run else each.state
            say(f"{each.step:<{width}}  {state:<7}  {printable(each.what, 2000)}{_figures(each)}")
        for note in report.notes:
            if note in report.needs:  # standard output has it
                continue
            say(f"note: {printable(note, 2000)}")
        if report.dry_run:
            say(f"in all: {_total(report.steps)}; nothing was written or started")
        elif report.serving is not None:
            show_command(report.serving, print_only=False)
            page = "" if report.serving.engine == _WITHOUT_PAGE else f", a browser {report.address}"
            say(f"it starts now: programs that speak OpenAI's API use {report.address}/v1{page}; Ctrl-C stops it")
    for line in report.needs:
        print(line)
    if report.address is not None and report.failed is None and (quiet or not report.dry_run):
        put_path(report.address)


def _figures(step: StepTaken) -> str:
    is_ahead = step.state == "planned"
    words = _amounts(step.fetch_bytes, step.read_bytes, step.write_bytes, is_ahead=is_ahead)
    if step.seconds is not None:
        words.append(_about(step.seconds) if is_ahead else duration(step.seconds))
    return f" ({', '.join(words)})" if words else ""


def _amounts(fetch: int, read: int, write: int, *, is_ahead: bool = True) -> list[str]:
    words = ("to fetch", "to read", "to write") if is_ahead else ("fetched", "read", "written")
    return [f"{size(n)} {what}" for n, what in zip((fetch, read, write), words, strict=True) if n]


def _total(steps: list[StepTaken]) -> str:
    fetch, read, write = (sum(getattr(each, f"{name}_bytes") for each in steps) for name in ("fetch", "read", "write"))
    seconds = sum(each.seconds or 0 for each in steps)
    return ", ".join([*_amounts(fetch, read, write), _about(seconds)])


def _about(seconds: float) -> str:
    return duration(seconds) if seconds < 1 else f"about {duration(seconds)}"
