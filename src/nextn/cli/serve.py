"""`nextn serve`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from .common import engine_argument, engine_option, examples, host_option, port_option, threads_option

if TYPE_CHECKING:
    from ..verbs.serve import Serving


@click.command(
    epilog=examples("nextn serve model-MTP.gguf -- -c 32768", "nextn serve model.gguf --sidecar mtp-model.gguf --print")
)
@click.argument("model")
@engine_argument
@click.option("--sidecar", metavar="FILE", help="Draft with this sidecar. Default: the one that fits MODEL best.")
@engine_option(
    "Default: your own llama-server ($NEXTN_LLAMA_SERVER, PATH), else xllamacpp. ik is the llama-server of "
    "ik_llama.cpp that $NEXTN_IK_SERVER names."
)
@click.option(
    "--n-max", type=click.IntRange(0), metavar="N",
    help="Tokens drafted at a time; 0: without MTP. Default: the engine's.",
)  # fmt: skip
@click.option(
    "--p-min", type=click.FloatRange(0, 1), metavar="P",
    help="Minimum draft probability for drafting to continue. Default: the engine's.",
)  # fmt: skip
@threads_option
@click.option("--tuned", metavar="FILE", help="Settings that 'nextn tune' found. Default: NAME.tune.json beside MODEL.")
@host_option
@port_option
@click.option(
    "--preset", metavar="FILE",
    help="Start nothing: write the settings as a preset for llama.cpp's router (llama-server --models-preset FILE).",
)  # fmt: skip
@click.option("--print", "print_only", is_flag=True, help="Print the command, or the preset; start and write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print what was chosen as JSON; start and write nothing.")
def command(
    model: str,
    engine_args: tuple[str, ...],
    sidecar: str | None,
    engine: str | None,
    n_max: int | None,
    p_min: float | None,
    threads: int | None,
    tuned: str | None,
    host: str,
    port: int,
    preset: str | None,
    print_only: bool,
    as_json: bool,
) -> None:
    """Serve MODEL with the flags and the sidecar that its layout needs: the command is printed, then run.

    SIGINT, SIGTERM and SIGHUP are passed on to the server, and its exit status is nextn's. Arguments after -- go to
    the engine (GPU placement, --rpc host:port, context size).
    """
    from ..report.serve import show_command, show_notes, show_preset
    from ..report.text import put_json
    from ..verbs.serve import serve

    serving = serve(
        model, sidecar=sidecar, engine=engine, n_max=n_max, p_min=p_min, threads=threads, tuned=tuned, host=host,
        port=port, engine_args=engine_args,
    )  # fmt: skip
    if as_json:
        put_json(serving.document)
        return
    show_notes(serving)
    if preset is not None:
        show_preset(serving, preset, print_only=print_only)
        return
    show_command(serving, print_only=print_only)
    if print_only:
        return
    sys.stdout.flush()
    run_server(serving)


def run_server(serving: Serving) -> None:
    """Run it until it ends; its exit status is ours."""
    from ..engines.deaths import explained, signal_of
    from ..engines.foreground import PASSED_ON
    from ..report.text import say

    if code := serving.run():
        number = signal_of(code)
        if number is not None and number not in PASSED_ON:  # these are the usual ways to stop a server
            say(f"{serving.model}: {serving.engine} died of {explained(number)}")
        raise click.exceptions.Exit(code)
