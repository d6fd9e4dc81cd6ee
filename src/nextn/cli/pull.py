"""`nextn pull`."""

from __future__ import annotations

import click

from .common import examples, json_option, limit_option, link_option, place_option


@click.command(
    epilog=examples(
        "nextn pull ORG/NAME --quant Q4_K_M -o folder", "nextn pull ORG/NAME --variant plain -o folder --dry-run"
    )
)
@click.argument("repo")
@click.option(
    "--variant", type=click.Choice(["mtp", "plain"]), default="mtp", show_default=True,
    help="With the MTP block, or without.",
)  # fmt: skip
@click.option("--quant", metavar="QUANT", help="For example Q4_K_M; not needed where there is only one.")
@place_option("DIR", "The folder. Existing files are never replaced.", required=True)
@link_option
@limit_option
@click.option("--dry-run", is_flag=True, help="Print what would be downloaded; headers are read, nothing is written.")
@json_option
@click.option("-q", "--quiet", is_flag=True, help="Print only the path to load.")
def command(
    repo: str,
    variant: str,
    quant: str | None,
    out: str,
    link: str,
    limit_rate: float | None,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Download from REPO (ORG/NAME on the Hub) exactly the files that one variant of one quant needs.

    What DIR or the Hub cache already has is not downloaded again, so pulling the other variant later downloads only
    what is missing. An interrupted run resumes where it stopped (parts are in DIR/.nextn-pull). In repositories
    without a manifest, names and headers decide.
    """
    from ..report.progress import byte_progress
    from ..report.pull import show
    from ..report.text import put_result
    from ..verbs.pull import pull

    with byte_progress("pulling", not (quiet or dry_run)) as progress:
        result = pull(
            repo, out=out, variant=variant, quant=quant, link=link, limit_rate=limit_rate, dry_run=dry_run,
            progress=progress,
        )  # fmt: skip
    put_result(result, show, as_json=as_json, quiet=quiet)
