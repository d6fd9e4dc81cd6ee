"""`nextn train`."""

from __future__ import annotations

import re

import click

from ..errors import EXIT_CANNOT_TELL, UsageError
from .common import (
    dry_run_option,
    examples,
    json_option,
    out_option,
    size_in_bytes,
    threads_option,
    usual_engine_option,
)

_SECONDS = {"s": 1, "m": 60, "h": 3600}


def duration(text: str) -> float:
    """Seconds from `90m`, `1h30m` or `45s`. Raises UsageError."""
    parts = re.findall(r"(\d{1,6})([smh])", text.strip().lower())
    if not parts or "".join(map("".join, parts)) != text.strip().lower():
        raise UsageError(f"--budget: '{text}' is not a time; write 90m, 1h30m or 45s.")
    return float(sum(int(number) * _SECONDS[unit] for number, unit in parts))


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
    help="Time for all stages and all runs together, such as 90m or 1h30m.",
)
@click.option(
    "--work", metavar="DIR", help="Folder of states, fit and candidates, to resume from. Default: NAME.train here."
)
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
    "--export", metavar="DIR", help="Write what speculators trains from on many GPUs, and fit nothing here."
)
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
    pip install '.[train]'.
    """
    from ..report.progress import step_progress
    from ..report.text import put_result
    from ..report.train import show
    from ..verbs.train import train

    seconds, most = duration(budget), size_in_bytes(max_disk, "--max-disk")
    with step_progress(not (quiet or dry_run)) as say:
        result = train(
            trunk, kind=kind, donor=donor, budget_s=seconds, work=work, prompts=prompts, chats=chats,
            max_disk_bytes=most, stage=stage, export=export, layout=layout, seed=seed, threads=threads, engine=engine,
            out=out, dry_run=dry_run, say=say,
        )  # fmt: skip
    put_result(result, show, as_json=as_json, quiet=quiet)
    if result.outcome == "not_better":
        raise click.exceptions.Exit(EXIT_CANNOT_TELL)
