"""`nextn tune`."""

from __future__ import annotations

import click

from ..errors import EXIT_CANNOT_TELL, UsageError
from .common import (
    context_option,
    donor_option,
    engine_argument,
    examples,
    json_option,
    listed,
    names,
    place_option,
    prompt_options,
    seconds,
    sidecar_option,
    timing_options,
    whole_numbers,
)


def fractions(text: str, option: str) -> tuple[float, ...]:
    """Numbers separated by commas. Raises UsageError."""
    try:
        return tuple(map(float, names(text)))
    except ValueError:
        raise UsageError(f"{option}: '{text}' is not a list of numbers separated by commas, such as 0,0.5.") from None


@click.command(
    epilog=examples("nextn tune model-MTP.gguf --budget 15m", "nextn tune model.gguf --from DONOR --dry-run")
)
@click.argument("model")
@engine_argument
@sidecar_option
@donor_option("As in attach, for a MODEL without one.")
@click.option("--n-max", metavar="N,...", help="Draft lengths. Default: 1,2,3,4,6 and the neighbours of the best.")
@click.option("--p-min", metavar="P,...", help="Minimum draft probabilities besides 0. Default: 0.5,0.75.")
@click.option("--types", metavar="T,...", help="Types of the block; '' for none. Default: q8_0,q4_0.")
@click.option(
    "--head-types", metavar="T,...", help="Types of the head that drafts; '' for none. Default: q4_0,q8_0."
)
@click.option("--embd-types", metavar="T,...", help="Types of the embeddings that go with it. Default: q4_0,q8_0.")
@click.option(
    "--threads", metavar="N,...",
    help="CPU threads; the search uses the first number. Default: all physical cores, then half, then all usable CPUs.",
)  # fmt: skip
@prompt_options
@click.option(
    "--n-predict", type=click.IntRange(32), default=96, show_default=True, metavar="N",
    help="Tokens of each answer in the final; half as many in the races.",
)  # fmt: skip
@click.option(
    "--repeats", type=click.IntRange(1), metavar="N", help="Passes of the final. Default: as many as the test needs."
)
@click.option("--budget", metavar="TIME", help="Time limit for the races, such as 600, 15m or 1h. Default: no limit.")
@click.option("--race-all", is_flag=True, help="Race lengths that cannot win by the batch curve, too.")
@context_option
@timing_options(patience_s=300.0)
@place_option(
    "OUT",
    "A folder, or the name of the sidecar (ends in .gguf). Default: beside MODEL. Existing files are never replaced.",
)
@click.option("--dry-run", is_flag=True, help="List what would be tried and about how many runs; start nothing.")
@json_option
@click.option("-q", "--quiet", is_flag=True, help="Print only the command line.")
def command(
    model: str,
    engine_args: tuple[str, ...],
    sidecar: str | None,
    donor: str | None,
    n_max: str | None,
    p_min: str | None,
    types: str | None,
    head_types: str | None,
    embd_types: str | None,
    threads: str | None,
    tasks: str | None,
    prompts: str | None,
    n_predict: int,
    repeats: int | None,
    budget: str | None,
    race_all: bool,
    n_ctx: int | None,
    patience: float,
    one_at_a_time: bool,
    engine: str | None,
    out: str | None,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Race settings of MODEL against each other and the best against MTP off; keep the winner.

    The settings go to NAME.tune.json beside MODEL, where 'nextn serve' finds them, with a sidecar when another type of
    the block or of its head wins. MTP must be significantly faster than MTP off, or the answer is to leave it off.
    Runs that other work on the machine disturbed are repeated; on a machine that never gets idle nothing is
    written, and the exit status is 4. Arguments after -- go to the engine.
    """
    from ..report.progress import step_progress
    from ..report.text import put_result
    from ..report.tune import show
    from ..verbs.tune import tune

    with step_progress(not quiet) as say:
        report = tune(
            model, sidecar=sidecar, donor=donor, n_max=None if n_max is None else whole_numbers(n_max, "--n-max"),
            p_min=None if p_min is None else fractions(p_min, "--p-min"), types=listed(types),
            head_types=listed(head_types), embd_types=listed(embd_types),
            threads=None if threads is None else whole_numbers(threads, "--threads"), tasks=listed(tasks),
            prompts=prompts, n_predict=n_predict, repeats=repeats,
            budget_s=None if budget is None else seconds(budget, "--budget"),
            engine=engine, engine_args=engine_args, n_ctx=n_ctx,
            patience_s=patience, side_by_side=not one_at_a_time, out=out, from_curve=not race_all,
            dry_run=dry_run, say=say,
        )  # fmt: skip
    put_result(report, show, as_json=as_json, quiet=quiet)
    if report.word == "machine_busy":
        raise click.exceptions.Exit(EXIT_CANNOT_TELL)
