"""`nextn tune`."""

from __future__ import annotations

import click

from ..errors import EXIT_VERIFY_CANNOT_TELL, UsageError
from .bench import names, whole_numbers
from .common import sidecar_option


def numbers(text: str, option: str) -> tuple[float, ...]:
    """Numbers separated by commas. Raises UsageError."""
    try:
        return tuple(map(float, names(text)))
    except ValueError:
        raise UsageError(f"{option} takes numbers separated by commas, such as 0,0.5, and '{text}' is not.") from None


@click.command(short_help="find the fastest setting of the block on this machine, or that it does not pay")
@click.argument("model")
@click.argument("engine_args", nargs=-1, type=click.UNPROCESSED)
@sidecar_option
@click.option("--from", "donor", metavar="DONOR", help="Where blocks of other types are made from. Default: MODEL's.")
@click.option("--n-max", metavar="N,...", default="1,2,3,4,6", show_default=True, help="Draft lengths to try.")
@click.option("--p-min", metavar="P,...", default="0,0.5,0.75", show_default=True, help="Least probabilities to try.")
@click.option("--types", metavar="T,...", default="as-is,q4_0", show_default=True, help="Types of the block to try.")
@click.option("--draft-heads", metavar="T,...", default="none,q4_0", show_default=True,
              help="Types of an extra head for drafting to try.")  # fmt: skip
@click.option("--embd-types", metavar="T,...", default="as-is", show_default=True,
              help="Types of a sidecar's embeddings and head to try.")  # fmt: skip
@click.option("--threads", metavar="N,...", help="CPU threads to try. Default: all cores, and half of them.")
@click.option("--tasks", metavar="T,...", help="Which shipped prompts: code, extract, story. Default: all.")
@click.option("--prompts", metavar="FILE", help="Prompts of your own instead, separated by lines that hold only ---.")
@click.option("--n-predict", type=click.IntRange(8), default=64, show_default=True, help="Tokens of each answer.")
@click.option("--temperature", type=click.FloatRange(min=0), default=0.0, show_default=True, help="0 is greedy.")
@click.option("--budget", type=click.FloatRange(min=0, min_open=True), metavar="MINUTES",
              help="What the races may take; the last comparison with MTP off is made in any case.")  # fmt: skip
@click.option("--patience", type=click.FloatRange(min=0), default=120.0, show_default=True, metavar="SECONDS",
              help="What disturbed runs and waiting for a quiet machine may cost in all.")  # fmt: skip
@click.option("--one-at-a-time", is_flag=True, help="Never keep two models loaded.")
@click.option("--llama-server", metavar="PATH", help="Use this llama-server instead of the xllamacpp wheel.")
@click.option("-o", "--out", metavar="DIR", help="Where the winning sidecar and NAME.tune.json go. Default: beside it.")
@click.option("--dry-run", is_flag=True, help="Print what would be tried; run and write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON on standard output, raw runs included.")
@click.option("-q", "--quiet", is_flag=True, help="Print only the decision.")
def command(
    model: str,
    engine_args: tuple[str, ...],
    sidecar: str | None,
    donor: str | None,
    n_max: str,
    p_min: str,
    types: str,
    draft_heads: str,
    embd_types: str,
    threads: str | None,
    tasks: str | None,
    prompts: str | None,
    n_predict: int,
    temperature: float,
    budget: float | None,
    patience: float,
    one_at_a_time: bool,
    llama_server: str | None,
    out: str | None,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Race draft lengths, least probabilities, types of the block and threads for MODEL on this machine.

    Slow ones are stopped early; the best is compared with MTP off by a paired test, which it has to win. Writes
    NAME.tune.json, which 'nextn serve' takes by itself, and the winning block where it is a new one. Exits with 4 when
    the machine was too busy to tell. Arguments after -- go to the engine.
    """
    from ..measure.tune import tune
    from ..measure.tune_space import Space
    from ..report.progress import step_progress
    from ..report.text import put_json
    from ..report.tune import show

    space = Space(
        whole_numbers(n_max, "--n-max"),
        numbers(p_min, "--p-min"),
        names(types),
        names(draft_heads),
        names(embd_types),
        () if threads is None else whole_numbers(threads, "--threads"),
    )
    with step_progress(not quiet) as say:
        report = tune(
            model,
            sidecar=sidecar,
            donor=donor,
            space=space,
            tasks=None if tasks is None else names(tasks),
            prompts=prompts,
            n_predict=n_predict,
            temperature=temperature,
            budget_s=None if budget is None else 60 * budget,
            out=out,
            dry_run=dry_run,
            llama_server=llama_server,
            engine_args=engine_args,
            patience_s=patience,
            side_by_side=not one_at_a_time,
            progress=say,
        )
    if as_json:
        put_json(report.to_json())
    elif quiet:
        click.echo(report.sentence)
    else:
        show(report)
    if report.decision == "cannot_tell":
        raise click.exceptions.Exit(EXIT_VERIFY_CANNOT_TELL)
