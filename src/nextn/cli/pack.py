"""`nextn pack`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..report.text import say
from .common import (
    donor_option,
    draft_head_option,
    dry_run_option,
    duplicates_option,
    embd_type_option,
    examples,
    json_option,
    limit_option,
    link_option,
    place_option,
    settled,
    type_option,
)

if TYPE_CHECKING:
    from ..publish.packing import PackResult


@click.command(
    epilog=examples(
        "nextn pack model-Q4_K_M.gguf model-Q8_0.gguf --from ORG/NAME -o folder",
        "nextn pack models/ --sidecar mtp-model.gguf -o folder --skip-existing",
    )
)
@click.argument("models", metavar="MODEL...", nargs=-1, required=True)
@donor_option("As in attach. Default: the block that the MODELs carry, else the donor that attach would find.")
@click.option("--sidecar", metavar="FILE", help="Publish this sidecar or draft as it is, for all MODELs.")
@place_option("DIR", "The folder. Existing files are not replaced.", required=True)
@click.option(
    "--layout",
    type=click.Choice(["shards", "sidecar"]),
    help="Layout of shard sets. Default: shards; single files get a sidecar.",
)
@type_option
@draft_head_option
@embd_type_option("Type of the sidecar's embeddings and output head; 'as-is' keeps the trunk's.")
@duplicates_option
@click.option("--title", metavar="NAME", help="The model's name in the card. Default: general.name.")
@click.option("--repo", metavar="ORG/NAME", help="The repository it will be published as, for the card's commands.")
@click.option("--base-model", metavar="ORG/NAME", help="The checkpoint, for the card's metadata.")
@click.option(
    "--verified", metavar="FILE", multiple=True, help="Output of 'nextn verify --json'; may be repeated."
)
@click.option("--fragment", is_flag=True, help="Write card-sections.md for a card of your own, not README.md.")
@click.option(
    "--skip-existing", is_flag=True,
    help="Add to a packed DIR: quants in it with the same SHA-256 are kept, its card is renewed.",
)  # fmt: skip
@link_option
@limit_option
@dry_run_option
@json_option
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
    fragment: bool,
    skip_existing: bool,
    link: str,
    limit_rate: float | None,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Make DIR ready for the Hub: each MODEL (a quant) with and without its MTP block, from one set of bytes.

    A folder as MODEL stands for all models in it. An EAGLE-3, DFlash or DSpark draft or a Gemma 4 assistant beside the
    models, or named with --sidecar, takes the block's place.

    Shard sets get a second first shard and a block shard, the others are linked under two names; single files share
    one sidecar. A MODEL that carries its block is split. The folder gets a model card, SHA256SUMS (all
    files are read for it) and a manifest. MODELs stay as they are.
    """
    from ..report.pack import show
    from ..report.progress import byte_progress
    from ..report.text import put_result
    from ..verbs.pack import pack

    def run(donor: str | None) -> PackResult:
        with byte_progress("packing", not (quiet or dry_run)) as progress:
            return pack(
                models, donor=donor, sidecar=sidecar, out=out, layout=layout, type=type_name, draft_head=draft_head,
                embd_type=embd_type, duplicates=duplicates, title=title, repo=repo, base_model=base_model,
                verified=[Path(path) for path in verified], fragment=fragment, skip_existing=skip_existing, link=link,
                limit_rate=limit_rate, dry_run=dry_run, progress=progress, say=None if quiet else say,
            )  # fmt: skip

    put_result(settled(run, donor), show, as_json=as_json, quiet=quiet)
