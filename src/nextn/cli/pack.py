"""`nextn pack`."""

from __future__ import annotations

from pathlib import Path

import click

from ..report.text import put_json, put_path, say
from ..units import size
from .common import duplicates_option, limit_option, link_option, say_outputs, settled


@click.command(short_help="make a folder ready to publish, each quant with and without its block")
@click.argument("models", metavar="MODEL...", nargs=-1, required=True)
@click.option(
    "--from", "donor", metavar="DONOR",
    help="Checkpoint, bundled GGUF, sidecar or donor file, also remote. Default: the block that the MODELs carry, else "
    "the donor that attach would find.",
)  # fmt: skip
@click.option("--sidecar", metavar="FILE", help="Publish this sidecar as it is, for all MODELs.")
@click.option("-o", "--out", metavar="DIR", required=True, help="The folder. Existing files are never replaced.")
@click.option(
    "--layout",
    type=click.Choice(["shards", "sidecar"]),
    help="Of shard sets. Default: shards; single files get a sidecar.",
)
@click.option("--type", "type_name", metavar="TYPE", help="Type of the block's matrices, as in attach.")
@click.option("--draft-head", metavar="TYPE", help="Add a low-bit copy of the LM head for drafting, as in attach.")
@click.option(
    "--embd-type", metavar="TYPE", default="q4_0", show_default=True,
    help="The sidecar's embeddings and head; 'as-is' carries the trunk's.",
)  # fmt: skip
@duplicates_option
@click.option("--title", help="The model's name in the card. Default: general.name.")
@click.option("--repo", metavar="ORG/NAME", help="The repository it will be published as, for the card's commands.")
@click.option("--base-model", metavar="ORG/NAME", help="The checkpoint, for the card's metadata.")
@click.option(
    "--verified", metavar="JSON", multiple=True, help="What 'nextn verify --json' printed; may be given several times."
)
@link_option
@limit_option
@click.option("--dry-run", is_flag=True, help="Print what would be read, written and linked; write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on standard output.")
@click.option("-q", "--quiet", is_flag=True, help="Print only the folder.")
def command(
    models: tuple[str, ...],
    donor: str | None,
    sidecar: str | None,
    out: str,
    layout: str | None,
    type_name: str | None,
    draft_head: str | None,
    embd_type: str,
    duplicates: str,
    title: str | None,
    repo: str | None,
    base_model: str | None,
    verified: tuple[str, ...],
    link: str,
    limit_rate: float | None,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Make DIR ready for the Hub: each MODEL (a quant) with and without its MTP block, one set of bytes.

    Shard sets get a second first shard and a block shard, the others stand under two names by links; single files
    share one sidecar. A MODEL that carries its block is taken apart. With model card, SHA256SUMS (the files are read
    for it) and a manifest. MODELs stay as they are.
    """
    from ..publish.packing import PackResult
    from ..report.progress import byte_progress
    from ..verbs.pack import pack

    def run(donor: str | None) -> PackResult:
        with byte_progress("packing", not (quiet or dry_run)) as progress:
            return pack(
                models,
                donor=donor,
                sidecar=sidecar,
                out=out,
                layout=layout,
                type=type_name,
                draft_head=draft_head,
                embd_type=embd_type,
                duplicates=duplicates,
                title=title,
                repo=repo,
                base_model=base_model,
                verified=[Path(path) for path in verified],
                link=link,
                limit_rate=limit_rate,
                dry_run=dry_run,
                progress=progress,
                say=None if quiet else say,
            )

    result = settled(run, donor)
    if as_json:
        put_json(result.to_json())
        return
    plan = result.package.plan
    if not quiet:
        for note in plan.notes:
            say(f"note: {note}")
        would = "would " if dry_run else ""
        say_outputs(plan, done=not dry_run)
        say(
            f"{would}read {size(result.bytes_read)} ({size(result.bytes_hashed)} of it to hash), "
            f"{would}write {size(plan.bytes_written)}, link {size(plan.bytes_linked)}"
        )
        if not verified:
            say("note: nothing was verified, and the card says so; --verified takes what 'nextn verify --json' prints")
    put_path(plan.folder)
