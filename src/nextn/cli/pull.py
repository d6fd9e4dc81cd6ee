"""`nextn pull`."""

from __future__ import annotations

import click

from ..printable import shell_line
from ..report.text import put_json, put_path, say
from ..units import size
from .common import limit_option, link_option


@click.command(short_help="download just the files that a model with, or without, its block needs")
@click.argument("repo")
@click.option(
    "--variant", type=click.Choice(["mtp", "plain"]), default="mtp", show_default=True,
    help="With the MTP block, or without.",
)  # fmt: skip
@click.option("--quant", metavar="QUANT", help="For instance Q4_K_M; may be left out where there is just one.")
@click.option("-o", "--out", metavar="DIR", required=True, help="The folder. Existing files are never replaced.")
@link_option
@limit_option
@click.option("--dry-run", is_flag=True, help="Print what would be downloaded; headers are read, nothing is written.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on standard output.")
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
    """Download from REPO (ORG/NAME on the Hub) exactly what one variant of one quant needs.

    What DIR or the Hub cache has already is not moved again, so asked for the other variant later, only what is missing
    is. A run that was killed goes on where it was (parts lie in DIR/.nextn-pull). Repositories without a manifest are
    understood by names and headers.
    """
    from ..report.progress import byte_progress
    from ..verbs.pull import pull

    with byte_progress("pulling", not (quiet or dry_run)) as progress:
        result = pull(
            repo,
            out=out,
            variant=variant,
            quant=quant,
            link=link,
            limit_rate=limit_rate,
            dry_run=dry_run,
            progress=progress,
        )
    if as_json:
        put_json(result.to_json())
        return
    if not quiet:
        say(f"{result.repo} at {result.commit[:12]}: {result.chosen.why}")
        for step in result.steps:
            say(f"{step.state:<8} {size(step.file.size_bytes):>9}  {result.folder / step.name}")
        say(f"{'would download' if result.dry_run else 'downloaded'} {size(result.bytes_downloaded)}")
        beside = ["-md", result.sidecar] if result.sidecar else []
        draft = ["--spec-type", "draft-mtp"] if variant == "mtp" else []
        say(f"load it with: {shell_line(['llama-server', '-m', result.entry, *beside, *draft])}")
    put_path(result.entry)
