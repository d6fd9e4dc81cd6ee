"""`nextn train`."""

from __future__ import annotations

import click

from ..errors import EXIT_CANNOT_TELL
from .common import (
    dry_run_option,
    examples,
    json_option,
    new_path,
    out_option,
    seconds,
    size_in_bytes,
    threads_option,
    usual_engine_option,
)


@click.command(
    epilog=examples(
        "nextn train model-Q4_K_M.gguf --budget 90m",
        "nextn train model-Q2_K.gguf --from mtp-model-Q8_0.gguf --budget 20m",
    )
)
@click.argument("trunk")
@click.option(
    "--kind", type=click.Choice(["auto", "eagle3", "native"]), default="auto", show_default=True,
    help="auto: an MTP block where llama.cpp has a graph for it, else an EAGLE-3 draft.",
)  # fmt: skip
@click.option(
    "--from", "donor", metavar="DONOR",
    help="The block or draft to start from, and to beat: a GGUF or a checkpoint folder. Default: TRUNK's own, or the "
    "one beside it; without either it starts from nothing.",
)  # fmt: skip
@click.option(
    "--budget", default="60m", show_default=True, metavar="TIME",
    help="Time for all stages and all runs together, such as 90m, 1.5h or 1h30m.",
)
@click.option(
    "--work", metavar="DIR", callback=new_path,
    help="Folder of states, fit and candidates, to resume from. Default: NAME.train here.",
)  # fmt: skip
@click.option("--prompts", metavar="FILE", help="Your own prompts instead of the shipped ones: a text or JSONL file.")
@click.option("--chats", metavar="FILE", help="Your own chats: JSONL of OpenAI messages.")
@click.option(
    "--max-disk", default="10G", show_default=True, metavar="SIZE", help="The most that the states may take on disk."
)
@click.option(
    "--stage", type=click.Choice(["states", "fit", "judge"]),
    help="Only this stage; it may use all that is left of the budget.",
)  # fmt: skip
@click.option(
    "--export", metavar="DIR", callback=new_path,
    help="Write what speculators trains from on many GPUs, and fit nothing here.",
)  # fmt: skip
@click.option(
    "--layout", type=click.Choice(["sidecar", "bundle"]), help="Where the result goes. Default: sidecar."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, metavar="N", help="Seed of everything.")
@threads_option
@usual_engine_option
@out_option
@dry_run_option
@json_option
@click.option("-q", "--quiet", is_flag=True, help="Print only the path to load.")
def command(
    trunk: str,
    kind: str,
    donor: str | None,
    budget: str,
    work: str | None,
    prompts: str | None,
    chats: str | None,
    max_disk: str,
    stage: str | None,
    export: str | None,
    layout: str | None,
    seed: int,
    threads: int | None,
    engine: str | None,
    out: str | None,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Train a draft for TRUNK, where nobody published one or the published one no longer fits.

    TRUNK itself answers prompts, and its states are kept (states); a draft is fitted to them (fit); the engine chooses
    the best candidate by the drafts it accepts on other prompts, and compares it with what was there (judge). Only a
    better draft is written; otherwise the exit status is 4. An interrupted run resumes. Fitting needs torch:
    pipx inject nextn torch safetensors.
    """
    from ..report.progress import step_progress
    from ..report.text import put_result
    from ..report.train import show
    from ..verbs.train import train

    budget_s, most = seconds(budget, "--budget", plain=False), size_in_bytes(max_disk, "--max-disk")
    with step_progress(not (quiet or dry_run)) as say:
        result = train(
            trunk, kind=kind, donor=donor, budget_s=budget_s, work=work, prompts=prompts, chats=chats,
            max_disk_bytes=most, stage=stage, export=export, layout=layout, seed=seed, threads=threads, engine=engine,
            out=out, dry_run=dry_run, say=say,
        )  # fmt: skip
    put_result(result, show, as_json=as_json, quiet=quiet)
    if result.outcome == "not_better":
        raise click.exceptions.Exit(EXIT_CANNOT_TELL)
