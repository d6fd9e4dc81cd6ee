"""`nextn report`."""

from __future__ import annotations

import click

from .common import examples, json_option, place_option


@click.command(
    epilog=examples(
        "nextn report plan.json bench.json",
        "nextn report results/ -o page.html",
    )
)
@click.argument("results", nargs=-1, required=True)
@place_option("PAGE", "Write one self-contained HTML page. Existing files are kept.")
@click.option("--dry-run", is_flag=True, help="With -o: read the results and make the page, but write nothing.")
@json_option
def command(results: tuple[str, ...], out: str | None, dry_run: bool, as_json: bool) -> None:
    """Show RESULTS, files that --json of other commands wrote, or folders of them.

    They are shown as tables, or with -o as a page that needs no network.
    """
    from ..report.report import show
    from ..report.text import put_result
    from ..verbs.report import report

    put_result(report(results, out=out, dry_run=dry_run), show, as_json=as_json)
