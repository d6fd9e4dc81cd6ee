"""`nextn cache`."""

from __future__ import annotations

import click

from .common import examples, json_option


@click.command(epilog=examples("nextn cache", "nextn cache ORG/NAME --clear"))
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--clear", is_flag=True, help="Remove what is kept of NAME, or everything; what is in use stays.")
@json_option
def command(names: tuple[str, ...], clear: bool, as_json: bool) -> None:
    """Show what is kept of remote models, so that no byte is downloaded twice.

    NAME is a part of what is shown, such as ORG/NAME. The folder is $NEXTN_CACHE, or nextn in the user's cache folder;
    the Hub's own cache is never touched.
    """
    from ..report.cache import show
    from ..report.text import put_result
    from ..verbs.cache import cache

    put_result(cache(names, clear=clear), show, as_json=as_json)
