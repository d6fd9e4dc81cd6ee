"""`nextn attach`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ..writing.result import Result

from .common import (
    aim_option,
    confirmed,
    duplicates_option,
    expect_option,
    finish,
    in_place_options,
    limit_option,
    link_option,
    qkv_option,
    settled,
    writing_options,
)


@click.command(short_help="put an MTP block onto a quant you already have")
@click.argument("trunk")
@click.option(
    "--from",
    "donor",
    metavar="DONOR",
    help="Checkpoint folder, bundled GGUF, sidecar, donor file; or org/repo, hf:org/repo@revision:file.gguf, https://..."
    "  Default: what lies beside TRUNK and fits, else the repository that TRUNK's metadata point to.",
)
@click.option(
    "--layout",
    type=click.Choice(["shards", "sidecar", "bundle", "in-place"]),
    help="Default: shards for a shard set, sidecar for a single file. in-place appends the block to TRUNK itself.",
)
@click.option(
    "--type",
    "type_name",
    metavar="TYPE",
    help="Type of the block's matrices. Default: q8_0 from a checkpoint, as it is from a GGUF.",
)
@click.option("--draft-head", metavar="TYPE", help="Add a low-bit copy of the trunk's LM head for drafting, e.g. q4_0.")
@click.option(
    "--embd-type",
    metavar="TYPE",
    default="q4_0",
    show_default=True,
    help="A sidecar's embeddings and head; 'as-is' carries the trunk's.",
)
@qkv_option(
    "split", "fused", "as-trunk",
    text="Attention's q, k and v in the block, in a bundle the trunk's too: three tensors, one, or as in the trunk.",
)
@aim_option
@duplicates_option
@link_option
@expect_option
@limit_option
@in_place_options
@writing_options
def command(
    trunk: str,
    donor: str | None,
    layout: str | None,
    type_name: str | None,
    draft_head: str | None,
    embd_type: str,
    qkv: str | None,
    for_engine: str | None,
    duplicates: str,
    link: str,
    expect: str | None,
    limit_rate: float | None,
    yes: bool,
    all_links: bool,
    out: str | None,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Put an MTP block onto TRUNK, a GGUF file, any shard of a set, or a folder with one set.

    Nothing of TRUNK is modified, except with --layout in-place, which asks first. As shards, no trunk data is read or
    written: its shards get new names by links.
    Without --from the donor is found, confirmed by headers, and named with the reason.

    A sidecar goes beside TRUNK. For a model in a cache or in a read-only folder it goes into NEXTN_DATA, or nextn in
    the user's data folder, where every command finds it.
    """
    from ..report.progress import byte_progress
    from ..report.text import say
    from ..verbs.attach import attach

    def run(donor: str | None) -> Result:
        with byte_progress("attaching", not (quiet or dry_run)) as progress:
            return attach(
                trunk,
                donor,
                layout=layout,
                type=type_name,
                draft_head=draft_head,
                embd_type=embd_type,
                qkv=qkv,
                for_engine=for_engine,
                duplicates=duplicates,
                out=out,
                link=link,
                expect=expect,
                limit_rate=limit_rate,
                all_links=all_links,
                confirm=confirmed(yes),
                dry_run=dry_run,
                progress=progress,
                say=None if quiet else say,
            )

    finish(settled(run, donor), as_json, quiet)
