"""`nextn detach`."""

from __future__ import annotations

import click

from .common import examples, for_option, link_option, qkv_option, writing_options


@click.command(epilog=examples("nextn detach model-MTP.gguf", "nextn detach model-MTP.gguf --for ik -o plain.gguf"))
@click.argument("model")
@qkv_option(
    "split", "fused",
    text="Write the model anew as one file with attention's q, k and v as three tensors or as one; needs no block.",
)
@for_option
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
    """Write MODEL without its MTP block, for engines that refuse a block or load it unasked.

    MODEL stays as it is. What nextn attached is undone byte for byte.
    """
    from ..report.detach import show
    from ..report.progress import byte_progress
    from ..report.text import put_result
    from ..verbs.detach import detach

    with byte_progress("detaching", not (quiet or dry_run)) as progress:
        result = detach(model, out=out, link=link, qkv=qkv, for_engine=for_engine, dry_run=dry_run, progress=progress)
    put_result(result, show, as_json=as_json, quiet=quiet)
