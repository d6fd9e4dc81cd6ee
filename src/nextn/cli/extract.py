"""`nextn extract`."""

from __future__ import annotations

import click

from .common import (
    duplicates_option,
    embd_type_option,
    examples,
    expect_option,
    for_option,
    limit_option,
    qkv_option,
    type_option,
    writing_options,
)


@click.command(
    epilog=examples("nextn extract model-MTP.gguf", "nextn extract ORG/NAME --block-only --type q8_0 -o block.gguf")
)
@click.argument("donor")
@click.option("--block-only", is_flag=True, help="Only the block: the smallest file to share, not runnable.")
@click.option(
    "--for-trunk", metavar="MODEL",
    help="Make an EAGLE-3, DFlash or DSpark checkpoint a sidecar of this GGUF, whose tokenizer it gets.",
)
@type_option
@embd_type_option("Type of the sidecar's embeddings and output head; 'as-is' keeps them.")
@qkv_option(
    "split", "fused", "as-trunk",
    text="Attention q, k and v in the block as three tensors, as one, or as in a GGUF donor's trunk.",
)
@for_option
@duplicates_option
@expect_option
@limit_option
@writing_options
def command(
    donor: str,
    block_only: bool,
    for_trunk: str | None,
    type_name: str | None,
    embd_type: str,
    qkv: str | None,
    for_engine: str | None,
    duplicates: str,
    expect: str | None,
    limit_rate: float | None,
    out: str | None,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Write the MTP block of DONOR to a sidecar, mtp-NAME-TYPE.gguf, that engines load beside the trunk.

    DONOR is a checkpoint folder, a GGUF or shard set with a block, or a sidecar; or ORG/NAME,
    hf:ORG/NAME@REVISION:FILE, https://... of which only the block's bytes are downloaded.
    """
    from ..report.extract import show
    from ..report.progress import byte_progress
    from ..report.text import put_result
    from ..verbs.extract import extract

    with byte_progress("extracting", not (quiet or dry_run)) as progress:
        result = extract(
            donor, out=out, block_only=block_only, type=type_name, embd_type=embd_type, qkv=qkv, for_engine=for_engine,
            duplicates=duplicates, expect=expect, for_trunk=for_trunk, limit_rate=limit_rate, dry_run=dry_run,
            progress=progress,
        )  # fmt: skip
    put_result(result, show, as_json=as_json, quiet=quiet)
