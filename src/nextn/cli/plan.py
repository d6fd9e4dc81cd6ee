"""`nextn plan`."""

from __future__ import annotations

import click

from ..errors import EngineFailed, UsageError
from .common import donor_option, examples, for_option, gpu_memory_option, json_option, sidecar_option, size_in_bytes


@click.command(
    epilog=examples(
        "nextn plan model.gguf --from ORG/NAME --ctx 32768",
        "nextn plan model-MTP.gguf --gpu-memory 24GiB --json",
    )
)
@click.argument("model")
@donor_option("As in attach. Default: none; the block's size is the usual one of its family.")
@sidecar_option
@click.option(
    "--ctx", "n_ctx", type=click.IntRange(1), metavar="N",
    help="Context in tokens. Default: 8192, or the trained length if that is shorter.",
)  # fmt: skip
@click.option("--kv-type", default="f16", show_default=True, metavar="TYPE[,TYPE]", help="KV cache: keys[,values].")
@click.option(
    "--gpu-layers", type=click.IntRange(0), metavar="N", help="Layers on the GPU. Default: the engine's choice."
)
@gpu_memory_option
@click.option(
    "--parallel", type=click.IntRange(1), default=1, show_default=True, metavar="N",
    help="Sequences that share the context.",
)  # fmt: skip
@click.option(
    "--n-max", type=click.IntRange(1), default=3, show_default=True, metavar="N",
    help="Maximum tokens drafted at a time.",
)  # fmt: skip
@click.option("--measure", is_flag=True, help="Also run every setup that can be run, and show what it used.")
@click.option("--header-only", is_flag=True, help="Ask no engine: take the figures from headers.")
@for_option
@json_option
def command(
    model: str,
    donor: str | None,
    sidecar: str | None,
    n_ctx: int | None,
    kv_type: str,
    gpu_layers: int | None,
    gpu_memory: str | None,
    parallel: int,
    n_max: int,
    measure: bool,
    header_only: bool,
    for_engine: str | None,
    as_json: bool,
) -> None:
    """Show what MODEL needs without MTP, bundled with MTP off and on, with a sidecar, and as shards.

    Figures are llama.cpp's own memory report, obtained without loading the weights, or come from headers. Nothing is
    written.
    """
    from ..report.plan import show
    from ..report.progress import step_progress
    from ..report.text import put_result
    from ..verbs.plan import plan

    if measure and header_only:
        raise UsageError("--measure needs an engine and --header-only uses none; leave one of them out.")
    with step_progress() as say:
        found = plan(
            model, donor=donor, sidecar=sidecar, n_ctx=n_ctx, kv_type=kv_type, n_gpu_layers=gpu_layers,
            n_parallel=parallel, n_max=n_max,
            gpu_memory_bytes=None if gpu_memory is None else size_in_bytes(gpu_memory, "--gpu-memory"),
            measure=measure, header_only=header_only, for_engine=for_engine, say=say,
        )  # fmt: skip
    put_result(found, show, as_json=as_json)
    if found.engine_died:
        raise click.exceptions.Exit(EngineFailed.exit_code)
