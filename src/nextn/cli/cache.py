"""`nextn cache`."""

from __future__ import annotations

import click

from .common import examples, json_option


@click.command(epilog=examples("nextn cache", "nextn cache ORG/NAME --clear"))
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option(
    "--sidecars", is_flag=True, help="Show the sidecars that attach keeps for models in caches and read-only folders."
)
@click.option("--clear", is_flag=True, help="Remove entries that match NAME, or everything; entries in use stay.")
@json_option
def command(names: tuple[str, ...], sidecars: bool, clear: bool, as_json: bool) -> None:
    """Show the cache of remote models, which keeps any byte from being downloaded twice.

    NAME is a part of what is shown, such as ORG/NAME. The folder is $NEXTN_CACHE, or nextn in the user's cache folder;
    the Hub's own cache is never touched.

    With --sidecars: the sidecars in $NEXTN_DATA, or nextn in the user's data folder, and notes of those that attach
    wrote elsewhere. --clear removes those sidecars, and only the notes of the others.
    """
    from ..report.cache import show
    from ..report.text import put_result
    from ..verbs.cache import cache

    put_result(cache(names, sidecars=sidecars, clear=clear), show, as_json=as_json)
