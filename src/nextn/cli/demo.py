"""`nextn demo`."""

from __future__ import annotations

import click

from ..errors import EXIT_CANNOT_TELL, EXIT_FAILED
from .common import examples, json_option, place_option, usual_engine_option


@click.command(epilog=examples("nextn demo", "nextn demo --engine llama-server -o demo"))
@place_option("DIR", "Keep the files here. Default: a temporary folder that is removed.")
@usual_engine_option
@json_option
def command(out: str | None, engine: str | None, as_json: bool) -> None:
    """Run everything once on a small trained model that ships with nextn.

    The engine refuses to draft with the trunk alone; the block is attached in all three layouts, and each is verified
    on the engine. The result is one table.
    """
    from ..report.demo import show
    from ..report.progress import step_progress
    from ..report.text import put_result
    from ..verbs.demo import demo

    with step_progress() as say:
        result = demo(out, engine=engine, say=say)
    put_result(result, show, as_json=as_json)
    if not result.passed:
        raise click.exceptions.Exit(EXIT_FAILED if result.failed else EXIT_CANNOT_TELL)
