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
    byte. Without a journal beside the file there is nothing to do. In a folder, a journal that cannot be dealt with is
    named at the end and does not keep the others from being dealt with.
    """
    from ..printable import one_line
    from ..report.recover import show
    from ..report.text import put_result, say
    from ..verbs.recover import recover

    done = recover(path, dry_run=dry_run)
    put_result(done, show, as_json=as_json, quiet=quiet)
    for failed in done.failed:
        say(one_line(f"nextn: {failed.error}"))
    if done.failed:
        raise click.exceptions.Exit(done.failed[0].error.exit_code)
