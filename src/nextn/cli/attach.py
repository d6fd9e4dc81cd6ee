"""`nextn attach`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from .common import (
    ANY_DONOR,
    confirmed,
    donor_option,
    draft_head_option,
    duplicates_option,
    embd_type_option,
    examples,
    expect_option,
    for_option,
    in_place_options,
    limit_option,
    link_option,
    qkv_option,
    settled,
    type_option,
    writing_options,
)

if TYPE_CHECKING:
    from ..writing.result import Result


@click.command(
    epilog=examples(
        "nextn attach model-Q4_K_M.gguf",
        "nextn attach model-Q4_K_M.gguf --from ORG/NAME --layout bundle",
    )
)
@click.argument("trunk")
@donor_option(
    f"{ANY_DONOR}. Default: a file beside TRUNK that fits, else the repository named in TRUNK's metadata."
)
@click.option(
    "--layout",
    type=click.Choice(["shards", "sidecar", "bundle", "in-place"]),
    help="Default: shards for a shard set, sidecar for a single file. in-place appends the block to TRUNK itself.",
)
@type_option
@draft_head_option
@embd_type_option("Type of a sidecar's embeddings and output head; 'as-is' keeps the trunk's.")
@qkv_option(
    "split", "fused", "as-trunk",
    text="Attention q, k and v as three tensors, as one, or as in the trunk; in a bundle, the trunk's too.",
)
@for_option
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
    """Put an MTP block onto TRUNK, which stays as it is.

    TRUNK is a GGUF file, any shard of a set, or a folder with one set. As shards, no trunk data is read or written:
    its files get new names by links. Without --from the donor is found, checked by its header, and named with the
    reason. --layout in-place is the exception: it appends the block to TRUNK itself, and asks first.

    A sidecar goes beside TRUNK. For a model in a cache or in a read-only folder it goes into $NEXTN_DATA, or nextn in
    the user's data folder, where every command finds it.
    """
    from ..report.attach import show
    from ..report.progress import byte_progress
    from ..report.text import put_result, say
    from ..verbs.attach import attach

    def run(donor: str | None) -> Result:
        with byte_progress("attaching", not (quiet or dry_run)) as progress:
            return attach(
                trunk, donor, layout=layout, type=type_name, draft_head=draft_head, embd_type=embd_type, qkv=qkv,
                for_engine=for_engine, duplicates=duplicates, out=out, link=link, expect=expect, limit_rate=limit_rate,
                all_links=all_links, confirm=confirmed(yes), dry_run=dry_run, progress=progress,
                say=None if quiet else say,
            )  # fmt: skip

    put_result(settled(run, donor), show, as_json=as_json, quiet=quiet)
