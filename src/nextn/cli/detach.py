"""`nextn detach`."""

from __future__ import annotations

import click

from .common import aim_option, finish, link_option, qkv_option, writing_options


@click.command(short_help="take the MTP block off again")
@click.argument("model")
@qkv_option(
    "split", "fused",
    text="Write the model anew as one file, attention's q, k and v as three tensors or as one; needs no block.",
)
@aim_option
@link_option
@writing_options
def command(
    model: str,
    qkv: str | None,
    for_engine: str | None,
    link: str,
    out: str | None,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Make a trunk-only model of MODEL beside it, for engines that refuse a block or load it unasked.

    What nextn attached is undone byte for byte.
    """
    from ..report.progress import byte_progress
    from ..verbs.detach import detach

    with byte_progress("detaching", not (quiet or dry_run)) as progress:
        result = detach(model, out=out, link=link, qkv=qkv, for_engine=for_engine, dry_run=dry_run, progress=progress)
    finish(result, as_json, quiet)
