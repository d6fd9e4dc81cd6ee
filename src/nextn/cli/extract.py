"""`nextn extract`."""

from __future__ import annotations

import click

from .common import aim_option, duplicates_option, expect_option, finish, limit_option, qkv_option, writing_options


@click.command(short_help="write the block to a file of its own")
@click.argument("donor")
@click.option("--donor", "donor_file", is_flag=True, help="Nothing but the block: the smallest thing to share.")
@click.option(
    "--type",
    "type_name",
    metavar="TYPE",
    help="Type of the block's matrices. Default: q8_0 from a checkpoint, as it is from a GGUF.",
)
@click.option(
    "--embd-type",
    metavar="TYPE",
    default="q4_0",
    show_default=True,
    help="The sidecar's embeddings and head; 'as-is' carries them.",
)
@qkv_option(
    "split", "fused", "as-trunk",
    text="Attention's q, k and v in the block: three tensors, one, or what a GGUF donor's trunk has.",
)
@aim_option
@duplicates_option
@expect_option
@limit_option
@writing_options
def command(
    donor: str,
    donor_file: bool,
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
    """Write the MTP block of DONOR as a runnable sidecar, `mtp-NAME-TYPE.gguf`.

    DONOR is a checkpoint folder, a bundled GGUF or set, or a sidecar; or org/repo, hf:org/repo@revision:file.gguf,
    https://... , of which just the block's bytes are fetched.
    """
    from ..report.progress import byte_progress
    from ..verbs.extract import extract

    with byte_progress("extracting", not (quiet or dry_run)) as progress:
        result = extract(
            donor,
            out=out,
            donor_file=donor_file,
            type=type_name,
            embd_type=embd_type,
            qkv=qkv,
            for_engine=for_engine,
            duplicates=duplicates,
            expect=expect,
            limit_rate=limit_rate,
            dry_run=dry_run,
            progress=progress,
        )
    finish(result, as_json, quiet)
