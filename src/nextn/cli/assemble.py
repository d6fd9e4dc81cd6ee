"""`nextn assemble`."""

from __future__ import annotations

import click

from .common import examples, link_option, writing_options


@click.command(
    epilog=examples(
        "nextn assemble tensors/ -o model.gguf", "nextn assemble q4/ --pick 'blk[.]0[.].*=q8/' -o mixed/"
    )
)
@click.argument("pieces", nargs=-1)
@click.option(
    "--pick", "picks", multiple=True, metavar="REGEX=DIR",
    help="Take tensors whose full names match from another set of the same model; may be repeated.",
)
@click.option("--recipe", metavar="FILE", help="Repeat the recipe that an earlier run wrote.")
@link_option
@writing_options
def command(
    pieces: tuple[str, ...],
    picks: tuple[str, ...],
    recipe: str | None,
    link: str,
    out: str | None,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Put PIECES together: a folder of shards, or the files that are named.

    With -o FILE.gguf they become one file, with -o FOLDER a set of the same shards, linked where a shard is used
    unchanged. With --pick a recipe is written beside the model.
    """
    from ..report.assemble import show
    from ..report.progress import byte_progress
    from ..report.text import put_result
    from ..verbs.assemble import assemble

    with byte_progress("assembling", not (quiet or dry_run)) as progress:
        result = assemble(pieces, picks=picks, recipe=recipe, out=out, link=link, dry_run=dry_run, progress=progress)
    put_result(result, show, as_json=as_json, quiet=quiet)
