"""`nextn demo`."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from ..errors import EXIT_VERIFY_CANNOT_TELL, EXIT_VERIFY_FAILED


@click.command(short_help="the whole way on a small shipped model")
@click.option("-o", "--out", metavar="FOLDER", help="Keep the files here. Default: a temporary folder that is removed.")
@click.option("--llama-server", metavar="PATH", help="Judge with this llama-server instead of the xllamacpp wheel.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON on standard output.")
def command(out: str | None, llama_server: str | None, as_json: bool) -> None:
    """Take a shipped trunk-only quant, watch the engine refuse to draft, attach the block in all three layouts,
    verify each on the engine, and print one table.
    """
    from ..engines import find_engine
    from ..report.demo import show
    from ..report.progress import step_progress
    from ..report.text import put_json
    from ..verbs.demo import run_demo

    engine = find_engine(llama_server)
    with tempfile.TemporaryDirectory(prefix="nextn-demo-") as scratch, step_progress() as say:
        result = run_demo(Path(out) if out else Path(scratch), engine, say)
    if as_json:
        put_json(result.to_json())
    else:
        show(result)
    if not result.passed:
        raise click.exceptions.Exit(EXIT_VERIFY_FAILED if result.failed else EXIT_VERIFY_CANNOT_TELL)
