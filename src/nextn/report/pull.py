"""What pull downloaded, for the user; the path to load on standard output."""

from __future__ import annotations

from ..printable import printable
from ..publish.pulling import PullResult
from ..units import size
from .text import put_path, say
from .written import say_how_to_load


def show(result: PullResult, *, quiet: bool = False) -> None:
    """One line per file, and how to load the model."""
    if not quiet:
        say(printable(f"{result.repo} at {result.commit[:12]}: {result.chosen.why}", 2000))
        for step in result.steps:
            where = printable(str(result.folder / step.name), 1000)
            say(f"{step.state:<8} {size(step.file.size_bytes):>9}  {where}")
        say(f"{'would download' if result.dry_run else 'downloaded'} {size(result.bytes_downloaded)}")
        say_how_to_load(result.entry, result.sidecar, drafting=result.chosen.variant == "mtp")
    put_path(result.entry)
