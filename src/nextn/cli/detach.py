"""`nextn detach`."""

from __future__ import annotations

import click

from .common import confirmed, examples, for_option, in_place_options, link_option, qkv_option, writing_options


@click.command(epilog=examples("nextn detach model-MTP.gguf", "nextn detach model-MTP.gguf --for ik -o plain.gguf"))
@click.argument("model")
@qkv_option(
    "split", "fused",
    text="Rewrite the model as one file with attention q, k and v as three tensors or as one; no block is needed.",
)
@for_option
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
    """Write MODEL without its MTP block, for engines that refuse a block or load it unasked.

    MODEL stays as it is, unless --in-place is given. What nextn attached is undone byte for byte.
    """
    from ..report.detach import show
    from ..report.progress import byte_progress
    from ..report.text import put_result, say
    from ..verbs.detach import detach

    with byte_progress("detaching", not (quiet or dry_run)) as progress:
        result = detach(
            model, out=out, link=link, qkv=qkv, for_engine=for_engine, in_place=in_place, all_links=all_links,
            confirm=confirmed(yes), dry_run=dry_run, progress=progress, say=None if quiet else say,
        )  # fmt: skip
    put_result(result, show, as_json=as_json, quiet=quiet)
