"""`nextn bench`."""

from __future__ import annotations

from pathlib import Path

import click

from ..errors import EXIT_CANNOT_TELL, OutputExists, UsageError
from .common import (
    context_option,
    donor_option,
    embd_type_option,
    engine_argument,
    examples,
    json_option,
    listed,
    names,
    prompt_options,
    sidecar_option,
    slots_option,
    threads_option,
    timing_options,
    whole_numbers,
)


@click.command(
    epilog=examples("nextn bench model-MTP.gguf --n-max 1,2,4", "nextn bench model.gguf --types q8_0,q4_0 --from DONOR")
)
@click.argument("model")
@engine_argument
@sidecar_option
@click.option("--against", metavar="OTHER", help="Another model, timed in the same passes.")
@click.option("--against-sidecar", metavar="FILE", help="The sidecar that belongs to OTHER.")
@click.option("--n-max", metavar="N,...", help="Maximum tokens drafted at a time. Default: 1,2,3; with --types: 2.")
@click.option(
    "--p-min", type=click.FloatRange(0, 1, max_open=True), default=0.0, show_default=True, metavar="P",
    help="Minimum draft probability for drafting to continue.",
)  # fmt: skip
@click.option("--types", metavar="T,...", help="Compare the block in these types, such as q8_0,q4_0.")
@donor_option("Only with --types. Default: MODEL itself.")
@embd_type_option("With --types: type of the temporary sidecars' embeddings and output head.")
@prompt_options
@click.option(
    "--repeats", type=click.IntRange(1), metavar="N",
    help="Interleaved passes. Default: 3, or as many as the test needs.",
)  # fmt: skip
@click.option(
    "--n-predict", type=click.IntRange(8), default=96, show_default=True, metavar="N", help="Tokens of each answer."
)
@click.option("--sampled", is_flag=True, help="Sample at temperature 0.8 instead of greedily.")
@click.option("--temperature", type=click.FloatRange(min=0), metavar="T", help="Sample at this temperature; 0: greedy.")
@threads_option
@context_option
@slots_option
@timing_options(patience_s=120.0)
@click.option(
    "--by-tensor", metavar="FILE",
    help="With --types: no timing, but acceptance with each tensor of the block in each type, as CSV. Can be resumed.",
)  # fmt: skip
@click.option("--csv", "csv_path", metavar="FILE", help="Also write the figures as CSV, one row per setup or type.")
@json_option
@click.option("-q", "--quiet", is_flag=True, help="Print only the verdict.")
def command(
    model: str,
    engine_args: tuple[str, ...],
    sidecar: str | None,
    against: str | None,
    against_sidecar: str | None,
    n_max: str | None,
    p_min: float,
    types: str | None,
    donor: str | None,
    embd_type: str,
    tasks: str | None,
    prompts: str | None,
    repeats: int | None,
    n_predict: int,
    sampled: bool,
    temperature: float | None,
    threads: int | None,
    n_ctx: int | None,
    slots: int,
    patience: float,
    one_at_a_time: bool,
    engine: str | None,
    by_tensor: str | None,
    csv_path: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Time MODEL with and without MTP: speed, acceptance by position, prompt speed, memory, and a verdict.

    Setups take turns, prompt by prompt. Runs that other work on the machine disturbed are recognised, repeated and
    never averaged in; on a machine that never gets idle there is no figure, and the exit status is 4. Arguments
    after -- go to the engine.
    """
    from ..measure.bench_setup import SAMPLED_TEMPERATURE
    from ..report.bench import show
    from ..report.progress import step_progress
    from ..report.text import put_result
    from ..verbs.bench import bench
    from ..writing.durable import write_file

    if by_tensor is not None:
        lengths = [2] if n_max is None else whole_numbers(n_max, "--n-max")
        refused = {
            "--against": against, "--against-sidecar": against_sidecar, "--csv": csv_path, "--repeats": repeats,
            "--sampled": sampled, "--temperature": temperature, "--p-min": p_min, "more than one --n-max": lengths[1:],
            "--slots": slots > 1,
        }  # fmt: skip
        given = next((name for name, value in refused.items() if value), None)
        if given is not None:
            raise UsageError(f"--by-tensor only counts accepted drafts, greedily, so {given} has no use; leave it out.")
        from ..report.tensors import show as show_tensors
        from ..verbs.bench_tensors import bench_tensors

        with step_progress(not quiet) as say:
            found = bench_tensors(
                model, types=names(types or ""), out=by_tensor, sidecar=sidecar, donor=donor, n_max=lengths[0],
                tasks=listed(tasks), prompts=prompts, n_predict=n_predict, threads=threads, engine=engine,
                engine_args=engine_args, n_ctx=n_ctx, say=say,
            )  # fmt: skip
        put_result(found, show_tensors, as_json=as_json, quiet=quiet)
        return
    if csv_path is not None and Path(csv_path).exists():
        raise OutputExists(f"{csv_path}: this file already exists; choose another name for --csv.")
    if temperature is None:
        temperature = SAMPLED_TEMPERATURE if sampled else 0.0
    with step_progress(not quiet) as say:
        report = bench(
            model, sidecar=sidecar, against=against, against_sidecar=against_sidecar,
            n_max=None if n_max is None else whole_numbers(n_max, "--n-max"), p_min=p_min, tasks=listed(tasks),
            prompts=prompts, repeats=repeats, n_predict=n_predict, temperature=temperature, threads=threads,
            types=names(types or ""), donor=donor, embd_type=embd_type, engine=engine, engine_args=engine_args,
            n_ctx=n_ctx, slots=slots, patience_s=patience, side_by_side=not one_at_a_time, say=say,
        )  # fmt: skip
    if csv_path is not None:
        write_file(Path(csv_path), report.to_csv().encode("utf-8"))
    put_result(report, show, as_json=as_json, quiet=quiet)
    if report.verdict is not None and report.verdict.result.word == "machine_busy":
        raise click.exceptions.Exit(EXIT_CANNOT_TELL)
