"""`nextn detach`."""

from __future__ import annotations

import click

from .common import aim_option, confirmed, finish, in_place_options, link_option, qkv_option, writing_options


@click.command(short_help="take the MTP block off again")
@click.argument("model")
@qkv_option(
    "split", "fused",
    text="Write the model anew as one file, attention's q, k and v as three tensors or as one; needs no block.",
)
@aim_option
@link_option
@click.option("--in-place", is_flag=True, help="Change MODEL itself instead of writing another file; asks first.")
@in_place_options
@writing_options
def command(
    model: str,
    qkv: str | None,
    for_engine: str | None,
    link: str,
    in_place: bool,
    yes: bool,
    all_links: bool,
    out: str | None,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Make a trunk-only model of MODEL beside it, for engines that refuse a block or load it unasked.

    What nextn attached is undone byte for byte, with --in-place what it attached in place.
    """
    from ..report.progress import byte_progress
    from ..report.text import say
    from ..verbs.detach import detach

    with byte_progress("detaching", not (quiet or dry_run)) as progress:
        result = detach(
            model,
            out=out,
            link=link,
            qkv=qkv,
            for_engine=for_engine,
            in_place=in_place,
            all_links=all_links,
            confirm=confirmed(yes),
            dry_run=dry_run,
            progress=progress,
            say=None if quiet else say,
        )
    finish(result, as_json, quiet)
