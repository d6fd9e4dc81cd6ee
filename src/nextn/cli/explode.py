"""`nextn explode`."""

from __future__ import annotations

import click

from .common import examples, link_option, size_in_bytes, writing_options


@click.command(
    epilog=examples("nextn explode model.gguf -o tensors/", "nextn explode model.gguf -o shards/ --max-size 50G")
)
@click.argument("model")
@click.option("--max-tensors", type=click.IntRange(1), metavar="N", help="Tensors per shard. Default: 1.")
@click.option("--max-size", metavar="SIZE", help="Tensor bytes per shard instead, such as 50G or 512M.")
@click.option("--metadata-first", is_flag=True, help="Put no tensor into the first shard.")
@link_option
@writing_options
def command(
    model: str,
    max_tensors: int | None,
    max_size: str | None,
    metadata_first: bool,
    link: str,
    out: str | None,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Write MODEL as a set of shards, down to one tensor per file.

    MODEL is a GGUF file, any shard of a set, or a folder with one set; it stays as it is. The sets are those of
    llama-gguf-split, and 'nextn assemble' puts them together again.
    """
    from ..report.explode import show
    from ..report.progress import byte_progress
    from ..report.text import put_result
    from ..verbs.explode import explode

    most = None if max_size is None else size_in_bytes(max_size, "--max-size")
    with byte_progress("exploding", not (quiet or dry_run)) as progress:
        result = explode(
            model, out=out, max_tensors=max_tensors, max_bytes=most, metadata_first=metadata_first, link=link,
            dry_run=dry_run, progress=progress,
        )  # fmt: skip
    put_result(result, show, as_json=as_json, quiet=quiet)
