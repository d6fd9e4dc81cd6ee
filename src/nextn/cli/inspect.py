"""`nextn inspect`."""

from __future__ import annotations

import click

from ..errors import EXIT_PROBLEMS
from .common import examples, json_option, limit_option


@click.command(epilog=examples("nextn inspect model.gguf", "nextn inspect ORG/NAME --block-hash --json"))
@click.argument("model")
@click.option(
    "--block-hash", is_flag=True,
    help="Read the MTP block (of a remote MODEL: download it) and print its hash for attach --expect.",
)  # fmt: skip
@limit_option
@json_option
def command(model: str, block_hash: bool, limit_rate: float | None, as_json: bool) -> None:
    """Show what is in MODEL: only headers are read, nothing is written.

    MODEL is a GGUF, any shard, a folder with one set, or a checkpoint; or ORG/NAME, hf:ORG/NAME@REVISION:FILE,
    https://... of which config, index and headers are downloaded. Exits with status 5 if problems are found.
    """
    from ..report.inspect import show
    from ..report.progress import byte_progress
    from ..report.text import put_result
    from ..verbs.inspect import inspect

    with byte_progress("reading the block", block_hash) as progress:
        seen = inspect(model, block_hash=block_hash, limit_rate=limit_rate, progress=progress)
    put_result(seen, show, as_json=as_json)
    if seen.problems:
        raise click.exceptions.Exit(EXIT_PROBLEMS)
