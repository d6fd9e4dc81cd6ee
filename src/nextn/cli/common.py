"""Options and endings that verbs share."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..errors import StorageError, UsageError
from ..printable import shell_line
from ..report.text import put_json, put_path, say
from ..units import size

if TYPE_CHECKING:
    from ..donors.infer import Doubt
    from ..writing.plan import Plan
    from ..writing.result import Result

R = TypeVar("R")
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
        "--for", "for_engine", type=click.Choice(["llama.cpp", "ik", "both"]),
        help="The engines that have to take the file: names and types are chosen so, or it is refused with the reason.",
    )(command)  # fmt: skip


def duplicates_option(command: F) -> F:
    """--duplicates."""
    return click.option(
        "--duplicates",
        type=click.Choice(["keep", "drop"]),
        default="keep",
        show_default=True,
        help="Embeddings and head that the block brings although they are the model's own (DeepSeek-V3, GLM-4.5): drop "
        "leaves them out after comparing, 2 GB of DeepSeek-V3's at q8_0; engines draft with the trunk's.",
    )(command)


def sidecar_option(command: F) -> F:
    """`--sidecar` for verbs that run a model's block."""
    return click.option(
        "--sidecar", metavar="FILE", help="The sidecar that belongs to MODEL. Default: the one that fits best."
    )(command)


def context_option(command: F) -> F:
    """`--ctx` for verbs that run prompts."""
    return click.option(
        "--ctx", "n_ctx", type=click.IntRange(64), help="Context size in tokens. Default: what the prompts need."
    )(command)


def threads_option(command: F) -> F:
    """`--threads` for verbs that run an engine."""
    return click.option("--threads", type=click.IntRange(1), help="CPU threads. Default: the engine's.")(command)


def prompt_options(command: F) -> F:
    """`--tasks` and `--prompts` for verbs that time answers."""
    for option in (
        click.option(
            "--prompts", metavar="FILE", help="Prompts of your own instead, separated by lines that hold only ---."
        ),
        click.option("--tasks", metavar="T,...", help="Which shipped prompts: code, extract, story. Default: all."),
    ):
        command = option(command)
    return command


def timing_options(*, patience_s: float) -> Callable[[F], F]:
    """`--patience`, `--one-at-a-time`, `--llama-server` for verbs that time answers."""

    def with_options(command: F) -> F:
        for option in (
            click.option(
                "--llama-server", metavar="PATH", help="Use this llama-server instead of the xllamacpp wheel."
            ),
            click.option("--one-at-a-time", is_flag=True, help="Never keep two models loaded."),
            click.option(
                "--patience", type=click.FloatRange(min=0), default=patience_s, show_default=True, metavar="SECONDS",
                help="What disturbed runs and waiting for a quiet machine may cost in all.",
            ),
        ):  # fmt: skip
            command = option(command)
        return command

    return with_options


def names(text: str) -> tuple[str, ...]:
    """Names separated by commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def whole_numbers(text: str, option: str) -> tuple[int, ...]:
    """Whole numbers separated by commas. Raises UsageError."""
    try:
        return tuple(map(int, names(text)))
    except ValueError:
        raise UsageError(
            f"{option} takes whole numbers separated by commas, such as 1,2,3, and '{text}' is not."
        ) from None


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


def settled(run: Callable[[str | None], R], donor: str | None) -> R:
    """`run(donor)`; where the donor is in doubt, again with the one that is chosen."""
    from ..donors.infer import Doubt

    try:
        return run(donor)
    except Doubt as doubt:
        return run(ask_which(doubt))


def say_outputs(plan: Plan, *, done: bool) -> None:
    """What each file of a plan is, or would be, to people."""
    would = "" if done else "would "
    for out in plan.outputs:
        how = "link " if hasattr(out, "source") else "write"
        say(f"{would}{how} {size(out.size_bytes):>9}  {plan.folder / out.name}")


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
        say_outputs(plan, done=done is not None)
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
            beside = ["-md", str(plan.sidecar), "--spec-type", "draft-mtp"]
            say(f"load it with: {shell_line(['llama-server', '-m', str(plan.entry), *beside])}")
        elif plan.layout in ("bundle", "shards"):
            say(f"load it with: {shell_line(['llama-server', '-m', str(plan.entry), '--spec-type', 'draft-mtp'])}")
    put_path(plan.sidecar if plan.sidecar is not None and plan.verb == "extract" else plan.entry)
