"""`nextn scan`."""

from __future__ import annotations

import click

from .common import examples, gpu_memory_option, json_option, size_in_bytes


@click.command(epilog=examples("nextn scan", "nextn scan /data/models --only --json"))
@click.argument("folders", nargs=-1, metavar="[FOLDER]...")
@click.option("--only", is_flag=True, help="Look only in the folders named.")
@click.option("--offline", is_flag=True, help="Do not ask the Hub where blocks are.")
@gpu_memory_option
@json_option
@click.option("-q", "--quiet", is_flag=True, help="Print only the commands, one per line.")
def command(
    folders: tuple[str, ...], only: bool, offline: bool, gpu_memory: str | None, as_json: bool, quiet: bool
) -> None:
    """Find the models on this machine and show what could be done for each.

    Looks in the Hub's cache, in the folders of LM Studio, ollama and llama.cpp, and in each FOLDER and below. Shows
    whether a model has a block, which programs use it as it is, where it could get a block from, how much that fetches
    and adds to memory, whether it is likely to be faster, and the command to run. Only headers are read. The Hub is
    asked for at most 20 seconds in all, and its answers are kept for a week.
    """
    from ..report.progress import step_progress
    from ..report.scan import show
    from ..report.text import put_result
    from ..verbs.scan import scan

    with step_progress(not quiet) as say:
        report = scan(
            folders, only=only, offline=offline, say=say,
            gpu_memory_bytes=None if gpu_memory is None else size_in_bytes(gpu_memory, "--gpu-memory"),
        )  # fmt: skip
    put_result(report, show, as_json=as_json, quiet=quiet)
