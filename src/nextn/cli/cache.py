"""`nextn cache`."""

from __future__ import annotations

import time
from pathlib import Path

import click

from ..report.text import columns, put, put_json, say
from ..schemas.base import plain
from ..units import size


@click.command(short_help="show and clear what is kept of remote models")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--sidecars", is_flag=True, help="Show what attach keeps for models in caches and read-only folders.")
@click.option("--clear", is_flag=True, help="Remove what is kept of NAME, or everything; what is in use stays.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON on standard output.")
def command(names: tuple[str, ...], sidecars: bool, clear: bool, as_json: bool) -> None:
    """Show what is kept of remote models, so that no byte is fetched twice.

    NAME is a part of what is shown, such as ORG/NAME. The folder is NEXTN_CACHE, or nextn in the user's cache folder;
    the Hub's own cache is never touched.

    With --sidecars: the sidecars in NEXTN_DATA, or nextn in the user's data folder, and notes of those that attach
    wrote elsewhere. --clear removes the former, and of the latter only the notes.
    """
    if sidecars:
        _sidecars(names, clear, as_json)
        return
    from ..remote import cache_entries
    from ..remote.cache import cache_root

    root = cache_root()
    found = [entry for entry in cache_entries.entries(root) if not names or any(name in entry.name for name in names)]
    freed, left = cache_entries.clear(found) if clear else (0, found)
    if as_json:
        from ..schemas.cache import Cache, KeptModel

        entries = [
            KeptModel(
                name=one.name, path=str(one.folder), size_bytes=one.size_bytes, used=_utc(one.used_s), model=None,
                stale=False,
            )
            for one in left
        ]  # fmt: skip
        put_json(plain(Cache(folder=str(root), freed_bytes=freed, entries=entries)))
        return
    if clear:
        say(f"freed {size(freed)} in {root}")
        for entry in left:
            say(f"left alone, since another run uses it: {entry.name}")
        return
    if not found:
        say(f"nothing is kept in {root}" + (" of that name" if names else ""))
        return
    put(columns([(f"{size(entry.size_bytes):>9}", entry.name) for entry in found]))
    say(f"{size(sum(entry.size_bytes for entry in found))} in {root}; 'nextn cache --clear' removes it")


def _sidecars(names: tuple[str, ...], clear: bool, as_json: bool) -> None:
    from ..discovery import kept
    from ..layouts.places import sidecars_root

    root = sidecars_root()
    shown = {str(each.sidecar): each for each in kept.all_kept()}
    chosen = {
        text: each for text, each in shown.items() if not names or any(name in f"{text} {each.model}" for name in names)
    }
    freed = kept.remove(chosen.values()) if clear else 0
    left = {} if clear else chosen
    if as_json:
        from ..schemas.cache import Cache, KeptModel

        entries = [
            KeptModel(
                name=text, path=text, size_bytes=one.size_bytes, used=_utc(one.used_s),
                model=None if one.model is None else str(one.model), stale=one.stale,
            )
            for text, one in left.items()
        ]  # fmt: skip
        put_json(plain(Cache(folder=str(root), freed_bytes=freed, entries=entries)))
        return
    if clear:
        say(f"freed {size(freed)} in {root}")
        return
    if not chosen:
        say(f"nothing is kept in {root}" + (" of that name" if names else ""))
        return
    rows = [
        (f"{size(each.size_bytes):>9}", text + (" (stale)" if each.stale else f", for {_for(each.model)}"))
        for text, each in chosen.items()
    ]
    put(columns(rows))
    total = sum(each.size_bytes for each in chosen.values())
    say(f"{size(total)} in {root}; 'nextn cache --sidecars --clear' removes it")


def _for(model: Path | None) -> str:
    return "a model that is not known" if model is None else str(model)


def _utc(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
