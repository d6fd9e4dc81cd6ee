"""`nextn worth`."""

from __future__ import annotations

import re

import click

from ..errors import EXIT_CANNOT_TELL, UsageError
from .common import (
    engine_argument,
    examples,
    json_option,
    names,
    sidecar_option,
    slots_option,
    threads_option,
    timing_options,
)


def depths(text: str) -> tuple[int, ...]:
    """Tokens from `0,4k,16k`. Raises UsageError."""
    out = []
    for part in names(text):
        match = re.fullmatch(r"(\d{1,9})(k?)", part.lower())
        if match is None:
            raise UsageError(f"--ctx-depths takes numbers of tokens such as 0,4k,16k, and '{part}' is not one.")
        out.append(int(match[1]) * (1024 if match[2] else 1))
    return tuple(out)


@click.command(
    epilog=examples("nextn worth model.gguf", "nextn worth model.gguf --ctx-depths 0,4k,16k --engine llama-server")
)
@click.argument("model")
@engine_argument
@sidecar_option
@click.option(
    "--ctx-depths", "depths_text", default="0", show_default=True, metavar="N,...",
    help="Tokens of context in front of the batches, such as 0,4k,16k. The answer is for the first.",
)  # fmt: skip
@slots_option
@threads_option
@timing_options(patience_s=120.0)
@click.option("--no-draft", is_flag=True, help="Estimate the cost of the draft, even if there is a block.")
@json_option
@click.option("-q", "--quiet", is_flag=True, help="Print only the answer.")
def command(
    model: str,
    engine_args: tuple[str, ...],
    sidecar: str | None,
    depths_text: str,
    slots: int,
    threads: int | None,
    patience: float,
    one_at_a_time: bool,
    engine: str | None,
    no_draft: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Show whether drafting can be faster with MODEL on this machine, with a block or without.

    Times what batches of 1 to 16 tokens cost and computes how many drafts must be accepted, and the most that a draft
    can win. Works with any GGUF. If the machine stays busy there is no answer, and the exit status is 4.
    Arguments after -- go to the engine.
    """
    from ..report.progress import step_progress
    from ..report.text import put_result
    from ..report.worth import show
    from ..verbs.worth import worth

    with step_progress(not quiet) as say:
        report = worth(
            model, sidecar=sidecar, depths=depths(depths_text), slots=slots, threads=threads, engine=engine,
            engine_args=engine_args, patience_s=patience, side_by_side=not one_at_a_time, time_draft=not no_draft,
            say=say,
        )  # fmt: skip
    put_result(report, show, as_json=as_json, quiet=quiet)
    if report.word == "machine_busy":
        raise click.exceptions.Exit(EXIT_CANNOT_TELL)
