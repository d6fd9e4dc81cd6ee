"""What recover did, for the user."""

from __future__ import annotations

from ..printable import printable
from ..verbs.recover import Recovery
from .text import say


def show(result: Recovery, *, quiet: bool = False) -> None:
    """One line per journal; nothing on standard output."""
    if quiet:
        return
    was = "would be" if result.dry_run else "was"
    for each in result.journals:
        names = ", ".join(file.name for file in each.files) or "no file had been changed"
        say(printable(f"{each.journal}: the interrupted {each.verb or 'change'} {was} {each.what} ({names})", 2000))
    if not result.journals and not result.failed:
        say(printable(f"{result.path}: no change in place was interrupted here.", 2000))
