"""`nextn doctor`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from ..errors import EXIT_PROBLEMS, EngineFailed
from ..report.text import put, put_json, put_path, say
from .common import limit_option, link_option, say_outputs, threads_option, writing_options

if TYPE_CHECKING:
    from ..verbs.doctor import Treatment


@click.command(short_help="what is wrong with a model's block, header or names, and what mends it")
@click.argument("model")
@click.option("--fix", is_flag=True, help="Write a mended model beside MODEL, which stays as it is.")
@click.option(
    "--from", "donor", metavar="DONOR",
    help="The base's checkpoint or a GGUF with the block, as in attach: it tells what MODEL alone cannot, and supplies "
    "what is lost.",
)  # fmt: skip
@click.option("--trunk", metavar="FILE", help="The model that MODEL, a sidecar, belongs to.")
@click.option(
    "--engine", metavar="ENGINE",
    help="Ask an engine whether eh_proj's halves are swapped: 'xllamacpp', or a llama-server's path.",
)  # fmt: skip
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

    MODEL is a GGUF, any shard, a folder, a checkpoint, or an address, of which headers alone are fetched. Exits with 5
    when problems are there (with --fix: left). Every finding is explained in docs/doctor.md.
    """
    from ..report.progress import byte_progress
    from ..verbs.doctor import doctor

    with byte_progress("mending", fix and not (quiet or dry_run)) as progress:
        done = doctor(
            model, fix=fix, donor=donor, trunk=trunk, engine=engine, threads=threads, out=out, link=link,
            limit_rate=limit_rate, dry_run=dry_run, progress=progress, say=None if quiet else say,
        )  # fmt: skip
    if as_json:
        put_json(done.to_json())
    else:
        _print(done, fix=fix, quiet=quiet)
    if done.remaining:
        sys.stdout.flush()
        raise click.exceptions.Exit(EXIT_PROBLEMS)
    if done.engine_died:
        sys.stdout.flush()
        raise click.exceptions.Exit(EngineFailed.exit_code)


def _print(done: Treatment, *, fix: bool, quiet: bool) -> None:
    if not fix:  # the findings are the result
        if not quiet:
            for line in lines(done):
                put(line)
        return
    if not quiet:
        for line in lines(done):
            say(line)
    plan = done.plan
    if plan is None:
        if done.before.problems and not quiet:
            say("nothing of this can be mended with what was given; nothing was written")
        return
    if not quiet:
        say_outputs(plan, done=done.outcome is not None)
        left = [finding.id for finding in done.remaining]
        say("left: " + ", ".join(left) if left else "nothing is left to mend")
    put_path(plan.sidecar or plan.entry)


def lines(done: Treatment) -> list[str]:
    """The diagnosis as text."""
    before = done.before
    n = len(before.problems)
    head = f"{before.name}: {before.shape}" + (f", {before.architecture}" if before.architecture else "")
    out = [f"{head}: " + (f"{n} problem{'s' if n > 1 else ''}" if n else "no problems")]
    for finding in before.findings:
        entry = finding.entry
        out += ["", f"{entry.severity}: {entry.id}", f"  {entry.what}", f"  where   {entry.where}"]
        if entry.engine:
            out.append(f"  effect  {entry.engine}")
        out.append(f"  mend    {entry.mend}")
    out += [f"note: {note}" for note in before.notes]
    out += [f"not checked: {check}: {why}" for check, why in before.skipped]
    return out
