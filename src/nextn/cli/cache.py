"""`nextn cache`."""

from __future__ import annotations

import time

import click

from ..report.text import columns, put_json, say
from ..units import size


@click.command(short_help="show and clear what is kept of remote models")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--clear", is_flag=True, help="Remove what is kept of NAME, or everything; what is in use stays.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON on standard output.")
def command(names: tuple[str, ...], clear: bool, as_json: bool) -> None:
    """Show what is kept of remote models, so that no byte is fetched twice.

    NAME is a part of what is shown, such as ORG/NAME. The folder is NEXTN_CACHE, or nextn in the user's cache folder;
    the Hub's own cache is never touched.
    """
    from ..remote import cache_entries
    from ..remote.cache import cache_root

    root = cache_root()
    found = [entry for entry in cache_entries.entries(root) if not names or any(name in entry.name for name in names)]
    freed, left = cache_entries.clear(found) if clear else (0, found)
    if as_json:
        put_json(
            {
                "version": 1,
                "folder": str(root),
                "freed_bytes": freed,
                "entries": [
                    {
                        "name": entry.name,
                        "path": str(entry.folder),
                        "size_bytes": entry.size_bytes,
                        "used": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(entry.used_s)),
                    }
                    for entry in left
                ],
            }
        )
        return
    if clear:
        say(f"freed {size(freed)} in {root}")
        for entry in left:
            say(f"left alone, since another run uses it: {entry.name}")
        return
    if not found:
        say(f"nothing is kept in {root}" + (" of that name" if names else ""))
        return
    click.echo(columns([(f"{size(entry.size_bytes):>9}", entry.name) for entry in found]))
    say(f"{size(sum(entry.size_bytes for entry in found))} in {root}; 'nextn cache --clear' removes it")
