"""The command line: one file per verb, imported only when it is called. Parses and calls; decides nothing."""

from __future__ import annotations

import gc
import importlib
import io
import os
import signal
import sys
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import Any

import click

from ..errors import EXIT_CODES
from ..report.outlet import outlets
from ..shell import quoted
from ..version import __version__
from .common import examples
from .failures import Failure
from .streams import take_over

VERBS = {
    "scan": "find the models on this machine and show what could be done for each",
    "up": "get a model running with drafts, in one command",
    "inspect": "show what is in a model and what would run it",
    "doctor": "find what is wrong with a model's block, header or names, and fix it",
    "attach": "put an MTP block onto a quant you already have",
    "detach": "take the MTP block off again",
    "recover": "finish or undo an interrupted in-place attach or detach",
    "extract": "write the block to a separate file",
    "explode": "split a model into shards, down to one tensor per file",
    "assemble": "put shards together, with tensors from other quants",
    "verify": "prove on an engine that it works and the text is unchanged",
    "worth": "show whether drafting can be faster on this machine",
    "plan": "show how much memory and disk space each setup needs",
    "bench": "time it with and without MTP",
    "tune": "find the fastest settings on this machine",
    "train": "make a draft where nobody published one that fits",
    "serve": "start an engine with the flags that the block needs",
    "report": "show results as tables or as one page",
    "pack": "make a folder to publish, with and without the block",
    "pull": "download only the files that one variant needs",
    "cache": "show and clear the cache of remote models",
    "demo": "run everything once on a small shipped model",
}


# What other programs call it.
_MEANT = {
    "help": "--help", "version": "--version", "run": "up", "start": "up", "chat": "up", "list": "scan", "ls": "scan",
    "find": "scan", "download": "pull", "get": "pull", "show": "inspect", "info": "inspect", "check": "doctor",
    "fix": "doctor", "repair": "doctor", "server": "serve", "add": "attach", "remove": "detach", "rm": "detach",
    "split": "explode", "merge": "assemble", "join": "assemble", "benchmark": "bench", "push": "pack", "upload": "pack",
}  # fmt: skip

COMPLETING = "_NEXTN_COMPLETE"  # set by the shell when the tab key is pressed


class _Formatter(click.HelpFormatter):
    """Breaks lines only at spaces, so that hyphenated options and names are not split."""

    whole = "\N{NON-BREAKING HYPHEN}"

    def write_text(self, text: str) -> None:
        super().write_text(text.replace("-", self.whole))

    def write_dl(self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
        whole = [(first.replace("-", self.whole), text.replace("-", self.whole)) for first, text in rows]
        super().write_dl(whole, col_max, col_spacing)

    def getvalue(self) -> str:
        return super().getvalue().replace(self.whole, "-")


class _Context(click.Context):
    formatter_class = _Formatter

    def invoke(self, callback: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Refuse empty names, which would stand for the current folder, or for everything that is kept."""
        from .mistakes import empty_name

        if callback is self.command.callback and (error := empty_name(self, kwargs)) is not None:
            raise error
        return super().invoke(callback, *args, **kwargs)


class _Verbs(click.Group):
    """A group that knows its verbs' names and help lines without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        module = importlib.import_module(f".{cmd_name}", __name__)
        command: click.Command = module.command
        command.context_class = _Context
        if COMPLETING in os.environ:
            from .completion import add_completion

            add_completion(command, ctx)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(code), meaning) for code, meaning in EXIT_CODES.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            import difflib

            word = args[0].lower()
            near = [_MEANT[word]] if word in _MEANT else difflib.get_close_matches(word, VERBS, 1)
            hint = f" (did you mean '{near[0] if near[0] in VERBS else f'nextn {near[0]}'}'?)" if near else ""
            if os.path.exists(args[0]):  # noqa: PTH110 - never raises
                hint = f" but a file; a command comes first, such as: nextn inspect {quoted(args[0])}"
            raise click.UsageError(f"'{args[0]}' is not a command{hint}; the commands are {', '.join(VERBS)}.", ctx)
        return super().resolve_command(ctx, args)


EPILOG = examples("nextn inspect model.gguf", "nextn attach model.gguf --from ORG/NAME")


@click.group(cls=_Verbs, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="nextn")
def cli() -> None:
    """Multi-token prediction (MTP, NextN) for the GGUF models you already have.

    nextn moves only the bytes of a model's MTP block: it attaches the block to a quant, takes it off, and proves on
    a real engine that the text is unchanged and the drafts are accepted. Inputs are never modified,
    except by attach --layout in-place and detach --in-place, which ask first.
    """


cli.context_class = _Context


# A header of 200,000 tensors makes as many objects and no garbage: a collection every 700 objects doubles the time.
_MANY_OBJECTS = 200_000


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code; errors become one sentence on standard error."""
    for stream in ("stdout", "stderr"):  # closed by the caller: nobody is listening
        if getattr(sys, stream) is None:
            setattr(sys, stream, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - lives as long as we
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), _interrupt)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # file names that are not UTF-8 go out unchanged
    before = gc.get_threshold()
    gc.set_threshold(_MANY_OBJECTS)
    try:
        with outlets():
            return _main(argv)
    finally:
        gc.set_threshold(*before)


def _main(argv: list[str] | None) -> int:
    words = sys.argv[1:] if argv is None else argv
    try:
        code = _run(argv)
        sys.stdout.flush()
        return int(code or 0)
    except click.exceptions.Exit as done:
        return done.exit_code
    except (BrokenPipeError, SystemExit):  # click makes the second of the first
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (Exception, KeyboardInterrupt) as error:
        return Failure.of(error, words).put(words[0] if words and words[0] in VERBS else None, words)


def _run(argv: list[str] | None) -> Any:
    """What the command returns; the help, where nothing was given."""
    try:
        return cli.main(args=argv, prog_name="nextn", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message())
        return error.exit_code


def entry_point() -> None:
    """The entry point of the installed command."""
    take_over()
    sys.exit(main())
