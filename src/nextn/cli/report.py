"""`nextn report`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from ..printable import printable
from ..report.text import put_path, say


@click.command(short_help="show results as tables, or as one page to look at")
@click.argument("results", nargs=-1, required=True)
@click.option("-o", "--out", metavar="PAGE", help="Write one self-contained HTML page; existing files stay.")
@click.option("--dry-run", is_flag=True, help="With -o: read the results and make the page, and write nothing.")
def command(results: tuple[str, ...], out: str | None, dry_run: bool) -> None:
    """Show RESULTS, files that other verbs' --json wrote: as tables, or with -o as a page that needs no network."""
    from ..report.results import read_results

    sections = read_results(results)
    if out is not None:
        from ..report.page import page
        from ..writing.durable import write_file

        made = page(sections)
        if dry_run:
            say(f"would write {len(made):,} bytes")
        else:
            write_file(Path(out), made)
        put_path(out)
        return
    from rich.markup import escape
    from rich.table import Table

    from ..report.outlet import console as on_stdout

    console = on_stdout(width=None if sys.stdout.isatty() else 110, highlight=False, markup=True)
    for section in sections:
        console.print(f"[bold]{escape(printable(section.title, 200))}[/bold]")
        for line in (*section.summary, *section.commands):
            console.print(escape(printable(line, 1000)), soft_wrap=True)
        for one in section.tables:
            table = Table(title=escape(one.caption), title_justify="left")
            for head in one.head:
                table.add_column(escape(head))
            for row in one.rows:
                table.add_row(*(escape(printable(cell, 1000)) for cell in row))
            console.print(table)
