"""`nextn up`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from .common import (
    agreed,
    donor_option,
    engine_argument,
    engine_option,
    examples,
    host_option,
    place_option,
    port_option,
    seconds,
    settled,
    sidecar_option,
)

if TYPE_CHECKING:
    from ..verbs.up_report import UpReport


@click.command(epilog=examples("nextn up model-Q4_K_M.gguf", "nextn up ORG/NAME --quant Q4_K_M --tune 5m --dry-run"))
@click.argument("model")
@engine_argument
@donor_option("As in attach. Default: the one that attach would find.")
@sidecar_option
@click.option("--quant", metavar="QUANT", help="Of a MODEL on the Hub, for example Q4_K_M.")
@place_option("DIR", "The folder for new files. Default: as in attach; for a MODEL from the Hub, its name, here.")
@click.option(
    "--for", "for_engine", type=click.Choice(["lmstudio", "ollama", "llama.cpp", "ik"]),
    help="Serve nothing: prepare the files for this program and print what it needs.",
)  # fmt: skip
@click.option("--no-worth", is_flag=True, help="Do not measure whether drafting can be faster here.")
@click.option("--no-verify", is_flag=True, help="Do not prove on the engine that the text stays the same.")
@click.option("--tune", "tune_time", metavar="TIME", help="Find fast settings first, for about this long: 90, 5m, 1h.")
@engine_option("Default: your own llama-server ($NEXTN_LLAMA_SERVER, PATH), else xllamacpp.")
@host_option
@port_option
@click.option("--yes", is_flag=True, help="Do not ask: download, take a guess, go on where drafting cannot be faster.")
@click.option("--dry-run", is_flag=True, help="Print each step with its bytes and about its time; do nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON; the server is not started.")
@click.option("-q", "--quiet", is_flag=True, help="Print only the address, or what the program needs.")
def command(
    model: str,
    engine_args: tuple[str, ...],
    donor: str | None,
    sidecar: str | None,
    quant: str | None,
    out: str | None,
    for_engine: str | None,
    no_worth: bool,
    no_verify: bool,
    tune_time: str | None,
    engine: str | None,
    host: str,
    port: int,
    yes: bool,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Get MODEL running with drafts: find the block, attach it, verify it briefly, serve it.

    Says whether drafting can be faster on this machine: as 'nextn worth' found, or measured now if that takes seconds.

    MODEL is a path, a name in LM Studio (PUBLISHER/REPOSITORY) or ollama (NAME:TAG), or ORG/NAME on the Hub. What
    exists and is right is kept, so the same command again only serves. With doubt about the donor it asks on a
    terminal. If a step fails, the message says what is left and how to go on. Arguments after -- go to the server.
    """
    from ..report.progress import byte_progress
    from ..report.text import put_result, say
    from ..report.up import show
    from ..verbs.up import up

    def run(donor: str | None) -> UpReport:
        with byte_progress("moving", not (quiet or dry_run)) as progress:
            return up(
                model, donor=donor, sidecar=sidecar, quant=quant, out=out, for_program=for_engine, worth=not no_worth,
                verify=not no_verify,
                tune_s=None if tune_time is None else seconds(tune_time, "--tune"), engine=engine,
                engine_args=engine_args, host=host, port=port, agree=agreed(yes), starts=not as_json, dry_run=dry_run,
                progress=progress,
                say=None if quiet else say,
            )  # fmt: skip

    report = settled(run, donor)
    put_result(report, show, as_json=as_json, quiet=quiet)
    if report.failed is not None:
        say(f"nextn: {report.failed}")
        raise click.exceptions.Exit(report.exit_code)
    if as_json or dry_run or report.serving is None:
        return
    from .serve import run_server

    sys.stdout.flush()
    run_server(report.serving)
