"""`nextn verify`."""

from __future__ import annotations

import click

from ..errors import EXIT_CANNOT_TELL, EXIT_FAILED
from .common import (
    context_option,
    engine_argument,
    examples,
    json_option,
    prompts_option,
    sidecar_option,
    slots_option,
    threads_option,
    usual_engine_option,
)


@click.command(
    epilog=examples(
        "nextn verify model-MTP.gguf --trunk model.gguf",
        "nextn verify model.gguf --sidecar mtp-model.gguf --engine llama-server",
    )
)
@click.argument("model")
@engine_argument
@sidecar_option
@click.option("--trunk", metavar="FILE", help="The model it was made from: every trunk tensor is compared with it.")
@usual_engine_option
@prompts_option
@click.option(
    "--n-predict", type=click.IntRange(8), default=64, show_default=True, metavar="N", help="Tokens of each answer."
)
@context_option
@threads_option
@slots_option
@json_option
@click.option("-q", "--quiet", is_flag=True, help="Print only the verdict.")
def command(
    model: str,
    engine_args: tuple[str, ...],
    sidecar: str | None,
    trunk: str | None,
    engine: str | None,
    prompts: str | None,
    n_predict: int,
    n_ctx: int | None,
    threads: int | None,
    slots: int,
    as_json: bool,
    quiet: bool,
) -> None:
    """Prove that MODEL works: trunk untouched, block as attached, drafts accepted, same text with and without MTP.

    A control with the block's weights shuffled must collapse, else the verdict is "cannot tell". Arguments after --
    go to the engine.
    """
    from ..measure.tasks import read_task
    from ..report.progress import step_progress
    from ..report.text import put_result
    from ..report.verify import show
    from ..verbs.verify import verify

    with step_progress(not quiet, every_step=True) as say:
        verdict = verify(
            model, sidecar=sidecar, trunk=trunk, engine=engine,
            prompts=None if prompts is None else read_task(prompts).prompts,
            n_predict=n_predict, n_ctx=n_ctx, threads=threads, engine_args=engine_args, slots=slots, say=say,
        )  # fmt: skip
    put_result(verdict, show, as_json=as_json, quiet=quiet)
    code = {"passed": 0, "failed": EXIT_FAILED}.get(verdict.verdict, EXIT_CANNOT_TELL)
    if code:
        raise click.exceptions.Exit(code)
