"""`nextn verify`."""

from __future__ import annotations

import click

from ..errors import EXIT_VERIFY_CANNOT_TELL, EXIT_VERIFY_FAILED
from .common import context_option, sidecar_option, threads_option


@click.command(short_help="prove on files and on the real engine that it works")
@click.argument("model")
@click.argument("engine_args", nargs=-1, type=click.UNPROCESSED)
@sidecar_option
@click.option("--trunk", metavar="ORIGINAL", help="The model it was made from: every trunk tensor is compared with it.")
@click.option("--llama-server", metavar="PATH", help="Judge with this llama-server instead of the xllamacpp wheel.")
@click.option("--prompts", metavar="FILE", help="Prompts of your own, separated by lines that hold only ---.")
@click.option("--n-predict", type=click.IntRange(8), default=64, show_default=True, help="Tokens of each answer.")
@context_option
@threads_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON on standard output.")
@click.option("-q", "--quiet", is_flag=True, help="Print only the verdict.")
def command(
    model: str,
    engine_args: tuple[str, ...],
    sidecar: str | None,
    trunk: str | None,
    llama_server: str | None,
    prompts: str | None,
    n_predict: int,
    n_ctx: int | None,
    threads: int | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Prove MODEL: trunk untouched, block as attached, drafts accepted, greedy text the same with and without MTP.

    A control with the block's weights shuffled must collapse, else the verdict is "cannot tell". Arguments
    after -- go to the engine.
    """
    from ..measure.tasks import read_task
    from ..report.progress import step_progress
    from ..report.text import put, put_json
    from ..report.verdict import show
    from ..verbs.verify import verify

    with step_progress(not quiet) as say:
        verdict = verify(
            model,
            sidecar=sidecar,
            trunk=trunk,
            llama_server=llama_server,
            prompts=None if prompts is None else read_task(prompts).prompts,
            n_predict=n_predict,
            n_ctx=n_ctx,
            threads=threads,
            engine_args=engine_args,
            say=say,
        )
    if as_json:
        put_json(verdict.to_json())
    elif quiet:
        put(verdict.verdict)
    else:
        put(show(verdict))
    code = {"passed": 0, "failed": EXIT_VERIFY_FAILED}.get(verdict.verdict, EXIT_VERIFY_CANNOT_TELL)
    if code:
        raise click.exceptions.Exit(code)
