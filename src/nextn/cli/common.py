"""Options and endings that verbs share."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..errors import StorageError
from ..report.text import put_json, say, size

if TYPE_CHECKING:
    from ..api import Result
    from ..sources.infer import Doubt

F = TypeVar("F", bound=Callable[..., Any])


def writing_options(command: F) -> F:
    """`-o`, `--dry-run`, `--json`, `-q` for verbs that write."""
    for option in (
        click.option("-q", "--quiet", is_flag=True, help="Print only the path to load."),
        click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on standard output."),
        click.option("--dry-run", is_flag=True, help="Print what would be read, written and linked; write nothing."),
        click.option(
            "-o", "--out", metavar="OUT", help="A file (ends in .gguf) or a folder. Existing files are never replaced."
        ),
    ):
        command = option(command)
    return command


def link_option(command: F) -> F:
    """`--link` for verbs that take files over whole."""
    return click.option(
        "--link",
        type=click.Choice(["auto", "hard", "symlink"]),
        default="auto",
        show_default=True,
        help="How unchanged shards get their new names: hard links, symlinks, or hard links where they can be.",
    )(command)


def qkv_option(*forms: str, text: str) -> Callable[[F], F]:
    """`--qkv` for verbs that may rewrite attention."""
    return click.option("--qkv", type=click.Choice(forms), help=text)


def aim_option(command: F) -> F:
    """`--for` for verbs that make files for engines."""
    return click.option(
        "--for", "aim", type=click.Choice(["llama.cpp", "ik", "both"]),
        help="The engines that have to take the file: names and types are chosen so, or it is refused with the reason.",
    )(command)  # fmt: skip


def sidecar_option(command: F) -> F:
    """`--sidecar` for verbs that run a model's block."""
    return click.option(
        "--sidecar", metavar="FILE", help="The sidecar that belongs to MODEL. Default: the only one beside it."
    )(command)


def context_option(command: F) -> F:
    """`--ctx` for verbs that run prompts."""
    return click.option(
        "--ctx", "n_ctx", type=click.IntRange(64), help="Context size in tokens. Default: what the prompts need."
    )(command)


def threads_option(command: F) -> F:
    """`--threads` for verbs that run an engine."""
    return click.option("--threads", type=click.IntRange(1), help="CPU threads. Default: the engine's.")(command)


def limit_option(command: F) -> F:
    """`--limit-rate` for verbs that may fetch."""
    return click.option(
        "--limit-rate", type=click.FloatRange(min=1), metavar="BYTES", help="Bytes per second from servers, in all."
    )(command)


def expect_option(command: F) -> F:
    """`--expect` for verbs that take a block from somewhere."""
    return click.option(
        "--expect", metavar="SHA256",
        help="The hash that the donor's block must have, compared before anything is written; 'nextn inspect "
        "--block-hash DONOR' prints it, and attach and extract do.",
    )(command)  # fmt: skip


def ask_which(doubt: Doubt) -> str:
    """Let people choose between donors on a terminal; elsewhere the doubt is the error."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise doubt
    say(str(doubt).partition(":")[0] + ": which donor?")
    for number, (source, why) in enumerate(doubt.candidates, start=1):
        say(f"  {number}  {source}: {why}")
    choice = click.prompt("number", type=click.IntRange(1, len(doubt.candidates)), err=True)
    return doubt.candidates[int(choice) - 1][0]


def finish(result: Result, as_json: bool, quiet: bool) -> None:
    """Print what was done: people read standard error, scripts the path or JSON on standard output."""
    try:
        _print(result, as_json, quiet)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        done = "nothing was written" if result.outcome is None else f"the files are complete, load {result.entry}"
        raise StorageError(f"standard output: the result could not be printed ({error.strerror}); {done}.") from error


def _print(result: Result, as_json: bool, quiet: bool) -> None:
    if as_json:
        put_json(result.to_json())
        return
    plan, done = result.plan, result.outcome
    if not quiet:
        for note in plan.notes:
            say(f"note: {note}")
        would = "would " if done is None else ""
        for out in plan.outputs:
            how = "link " if hasattr(out, "source") else "write"
            say(f"{would}{how} {size(out.size_bytes):>9}  {plan.folder / out.name}")
        say(
            f"read {size(result.bytes_read)}, {'would write' if done is None else 'wrote'} {size(result.bytes_written)}"
            f", linked {size(result.bytes_linked)}"
            + (f" in {done.wall_s:.2f} s" if done else f", memory up to {size(plan.peak_memory_bytes)}")
        )
        if result.donor is not None and result.donor.sha256 is not None:
            say(f"block from {result.donor.name}, sha256 {result.donor.sha256}")
        if result.bytes_downloaded:
            say(f"downloaded {size(result.bytes_downloaded)}, headers included")
        if plan.sidecar is not None and plan.sidecar != plan.entry:
            say(f"load it with: llama-server -m {plan.entry} -md {plan.sidecar} --spec-type draft-mtp")
        elif plan.layout in ("bundle", "shards"):
            say(f"load it with: llama-server -m {plan.entry} --spec-type draft-mtp")
    click.echo(str(plan.sidecar if plan.sidecar is not None and plan.verb == "extract" else plan.entry))
