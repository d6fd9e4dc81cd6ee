"""`nextn doctor`."""

from __future__ import annotations

import click

from ..errors import EXIT_PROBLEMS, EngineFailed
from ..report.text import say
from .common import (
    donor_option,
    engine_option,
    examples,
    limit_option,
    link_option,
    threads_option,
    writing_options,
)


@click.command(epilog=examples("nextn doctor model.gguf", "nextn doctor model.gguf --fix --from ORG/NAME"))
@click.argument("model")
@click.option("--fix", is_flag=True, help="Write a fixed model beside MODEL, which is left unchanged.")
@donor_option(
    "The base model's checkpoint or a GGUF with the block, as in attach: it shows what MODEL alone cannot, and "
    "supplies what is missing."
)
@click.option("--trunk", metavar="FILE", help="The model that MODEL, a sidecar, belongs to.")
@engine_option("It is asked whether the halves of eh_proj are swapped. Default: no engine is asked.")
@threads_option
@link_option
@limit_option
@writing_options
def command(
    model: str,
    fix: bool,
    donor: str | None,
    trunk: str | None,
    engine: str | None,
    threads: int | None,
    link: str,
    limit_rate: float | None,
    out: str | None,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Look for what is wrong with MODEL: its keys, counts, block, norms, file names, shards.

    MODEL is a GGUF, any shard, a folder, a checkpoint, or an address, of which only headers are downloaded. Exits with
    status 5 if problems are found (with --fix: if any remain). docs/doctor.md explains every finding.
    """
    from functools import partial

    from ..report.doctor import show
    from ..report.progress import byte_progress
    from ..report.text import put_result
    from ..verbs.doctor import doctor

    with byte_progress("fixing", fix and not (quiet or dry_run)) as progress:
        done = doctor(
            model, fix=fix, donor=donor, trunk=trunk, engine=engine, threads=threads, out=out, link=link,
            limit_rate=limit_rate, dry_run=dry_run, progress=progress, say=None if quiet else say,
        )  # fmt: skip
    put_result(done, partial(show, fix=fix), as_json=as_json, quiet=quiet)
    if done.remaining:
        raise click.exceptions.Exit(EXIT_PROBLEMS)
    if done.engine_died:
        raise click.exceptions.Exit(EngineFailed.exit_code)
