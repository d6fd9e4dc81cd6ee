"""`nextn recover`."""

from __future__ import annotations

import click

from .common import examples, json_option


@click.command(epilog=examples("nextn recover model.gguf", "nextn recover --dry-run models/"))
@click.argument("path")
@click.option("--dry-run", is_flag=True, help="Print what would be done; change nothing.")
@json_option
@click.option("-q", "--quiet", is_flag=True, help="Print nothing.")
def command(path: str, dry_run: bool, as_json: bool, quiet: bool) -> None:
    """Finish or undo an interrupted 'attach --layout in-place' or 'detach --in-place' of PATH, a file or a folder.

    An interrupted attach is undone, an interrupted detach finished: both give the model without its block, byte for
    byte. Without a journal beside the file there is nothing to do.
    """
    from ..report.recover import show
    from ..report.text import put_result
    from ..verbs.recover import recover

    put_result(recover(path, dry_run=dry_run), show, as_json=as_json, quiet=quiet)
