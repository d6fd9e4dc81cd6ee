"""Sections as tables on a terminal."""

from __future__ import annotations

import sys

from ..printable import printable
from ..units import counted
from ..verbs.report import ReportResult
from .outlet import console as console_of
from .text import put_path, say

_MOST_NAMED = 10  # files of a folder that are left out


def show(result: ReportResult, *, quiet: bool = False) -> None:
    """What was left out, then the tables; with a page, its path, or in a dry run its size."""
    for sentence in result.left_out[:_MOST_NAMED]:
        say(f"left out: {sentence}")
    if (more := len(result.left_out) - _MOST_NAMED) > 0:
        say(f"left out: {counted(more, 'more file')}")
    if result.page_path is not None:
        if result.dry_run:
            say(f"would write {counted(len(result.page), 'byte')}")
        put_path(result.page_path)
        return
    from rich.markup import escape
    from rich.table import Table

    console = console_of(width=None if sys.stdout.isatty() else 110, highlight=False, markup=True)
    for section in result.sections:
        console.print(f"[bold]{escape(printable(section.title, 200))}[/bold]")
        for line in (*section.summary, *section.commands):
            console.print(escape(printable(line, 1000)), soft_wrap=True)
        for one in section.tables:
            table = Table(title=escape(one.caption), title_justify="left")
            for head in one.head:
                table.add_column(escape(head), overflow="fold")  # names differ at their end
            for row in one.rows:
                table.add_row(*(escape(printable(cell, 1000)) for cell in row))
            console.print(table)
