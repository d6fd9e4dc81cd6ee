"""`nextn recover`."""

from __future__ import annotations

import click

from ..report.text import put_json, say


@click.command(short_help="end an interrupted change in place")
@click.argument("path")
@click.option("--dry-run", is_flag=True, help="Print what would be done; change nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on standard output.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing.")
def command(path: str, dry_run: bool, as_json: bool, quiet: bool) -> None:
    """End what a stopped 'attach --layout in-place' or 'detach --in-place' has left of PATH, a file or a folder.

    A stopped attach is undone, a stopped detach finished: both give the model without its block, byte for byte.
    Without a journal beside the file there is nothing to do.

    \b
    nextn recover model.gguf
    nextn recover --dry-run /models
    """
    from ..verbs.recover import recover

    done = recover(path, dry_run=dry_run)
    if as_json:
        put_json(done.to_json())
    elif not quiet:
        was = "would be" if dry_run else "was"
        for each in done.journals:
            names = ", ".join(file.name for file in each.files) or "no file was changed yet"
            say(f"{each.journal}: the interrupted {each.verb or 'change'} {was} {each.what} ({names})")
        if not done.journals:
            say(f"{path}: no change in place was interrupted here.")
