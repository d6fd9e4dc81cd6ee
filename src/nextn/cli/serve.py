"""`nextn serve`."""

from __future__ import annotations

import sys

import click

from ..printable import shell_line
from ..report.text import put, put_json, put_path, say


@click.command(short_help="start an engine on a model with the flags that its block needs")
@click.argument("model")
@click.argument("engine_args", nargs=-1, type=click.UNPROCESSED)
@click.option("--sidecar", metavar="FILE", help="Draft with this sidecar. Default: the one that fits MODEL best.")
@click.option(
    "--engine",
    type=click.Choice(["llama-server", "xllamacpp", "ik"]),
    help="Default: a llama-server of your own ($NEXTN_LLAMA_SERVER, PATH), else the xllamacpp wheel. "
    "ik: the llama-server of ik_llama.cpp in $NEXTN_IK_SERVER.",
)
@click.option("--llama-server", metavar="PATH", help="Run this llama-server, of llama.cpp or of ik_llama.cpp.")
@click.option(
    "--n-max", type=click.IntRange(0), help="Tokens drafted at a time; 0: without MTP. Default: the engine's."
)
@click.option(
    "--p-min", type=click.FloatRange(0, 1), help="Least probability to go on drafting. Default: the engine's."
)
@click.option("--threads", type=click.IntRange(1), help="CPU threads. Default: the engine's.")
@click.option("--tuned", metavar="FILE", help="Settings that 'nextn tune' found. Default: NAME.tune.json beside MODEL.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(1, 65535), default=8080, show_default=True, help="Port to listen on.")
@click.option(
    "--preset",
    metavar="FILE",
    help="Start nothing: write the settings as a preset for llama.cpp's router (llama-server --models-preset FILE).",
)
@click.option("--print", "print_only", is_flag=True, help="Print the command, or the preset; start and write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print what was chosen as JSON; start and write nothing.")
def command(
    model: str,
    engine_args: tuple[str, ...],
    sidecar: str | None,
    engine: str | None,
    llama_server: str | None,
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

    SIGINT, SIGTERM and SIGHUP go on to the server, and its exit code is nextn's. Arguments after -- go to the
    engine (GPU placement, --rpc host:port, context size).
    """
    from ..engines.deaths import explained, signal_of
    from ..engines.foreground import PASSED_ON
    from ..verbs import serve

    choice = serve.choose(
        model,
        sidecar=sidecar,
        engine=engine,
        llama_server=llama_server,
        n_max=n_max,
        p_min=p_min,
        threads=threads,
        tuned=tuned,
        host=host,
        port=port,
        engine_args=engine_args,
    )
    if as_json:
        put_json(choice.to_json())
        return
    for note in choice.notes:
        say(f"note: {note}")
    if preset is not None:
        from ..verbs.preset import preset_text, write_preset

        if print_only:
            put(preset_text(choice), end="")
            return
        say(f"start the router with: {shell_line(['llama-server', '--models-preset', preset])}")
        put_path(write_preset(choice, preset))
        return
    if print_only:
        put(choice.shell)
        return
    say(f"engine: {choice.engine} {choice.engine_version}")
    say(choice.shell)
    sys.stdout.flush()
    if code := serve.run(choice):
        number = signal_of(code)
        if number is not None and number not in PASSED_ON:  # those are how a server is stopped
            say(f"{choice.model}: {choice.engine} died of {explained(number)}")
        raise click.exceptions.Exit(code)
