"""A command line that cannot be parsed: what is wrong and what to write instead, in one sentence."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import click

from ..shell import Command

# Names that other programs give to what an option here means.
_ALSO_KNOWN_AS = {
    "--donor": "--from", "--source": "--from", "--output": "--out", "--outfile": "--out", "--outdir": "--out",
    "--outtype": "--type", "--quant-type": "--type", "--ctx-size": "--ctx", "-c": "--ctx", "--context": "--ctx",
    "-t": "--threads", "--n-threads": "--threads", "--draft-max": "--n-max", "--draft": "--n-max",
    "--spec-draft-n-max": "--n-max", "-md": "--sidecar", "--model-draft": "--sidecar", "--force": "--yes",
    "--overwrite": "--out", "--dryrun": "--dry-run", "-n": "--n-predict", "--predict": "--n-predict",
    "-np": "--slots", "--parallel": "--slots", "-ngl": "--gpu-layers", "--n-gpu-layers": "--gpu-layers",
    "--vram": "--gpu-memory", "--rate-limit": "--limit-rate", "--revision": "--from",
}  # fmt: skip


def sentence(error: click.UsageError, argv: Sequence[str]) -> str:
    """What to print for a usage error, after the name of the command."""
    command = None if error.ctx is None else error.ctx.command
    if error.ctx is None or command is None:
        return _ended(error.format_message())
    if isinstance(error, click.NoSuchOption):
        return _no_option(error, error.ctx, argv)
    if isinstance(error, click.MissingParameter) and isinstance(error.param, click.Argument):
        return f"name {error.param.make_metavar(error.ctx)}: {_usage(error.ctx)}; {_help(error.ctx)}."
    if isinstance(error, click.MissingParameter) and isinstance(error.param, click.Option):
        option = next((name for name in error.param.opts if name.startswith("--")), error.param.opts[0])
        return f"name {option} {error.param.metavar or ''}".rstrip() + f"; {_help(error.ctx)}."
    if isinstance(error, click.BadParameter) and error.param is not None:
        return _ended(_bad_value(error, error.param))
    extra = _extra(error.ctx, argv) if "unexpected extra argument" in error.message else []
    if extra:
        return _too_many(error.ctx, argv, extra)
    return _ended(error.format_message())


def _ended(text: str) -> str:
    return text if text.endswith("?") else text.rstrip(".") + "."


def _help(ctx: click.Context) -> str:
    return f"'{ctx.command_path} --help' shows how it is used"


def _usage(ctx: click.Context) -> str:
    words = [param.make_metavar(ctx) for param in ctx.command.params if isinstance(param, click.Argument)]
    return " ".join([ctx.command_path, *words])


def _options(ctx: click.Context) -> list[str]:
    return [name for param in ctx.command.params if isinstance(param, click.Option) for name in param.opts]


def _no_option(error: click.NoSuchOption, ctx: click.Context, argv: Sequence[str]) -> str:
    names = _options(ctx)
    wanted = next((word.partition("=")[0] for word in argv if word.startswith(error.option_name)), error.option_name)
    meant = _ALSO_KNOWN_AS.get(wanted)
    if meant in names:
        return f"there is no option '{wanted}'; did you mean {meant}?"
    takes_engines = any(param.name == "engine_args" for param in ctx.command.params)
    near = difflib.get_close_matches(wanted, names, 2, 0.8 if takes_engines else 0.7)  # engines have many options
    if near:
        return f"there is no option '{wanted}'; did you mean {' or '.join(near)}?"
    if takes_engines:
        command = _after_dashes(wanted, argv)
        return f"there is no option '{wanted}'; if the engine has it, write it after --: {command!s}"
    return f"there is no option '{wanted}'; {_help(ctx)}."


def _after_dashes(option: str, argv: Sequence[str]) -> Command:
    """The same command with an option, and what looks like its value, moved after `--`."""
    words = list(argv)
    own, theirs = words, list[str]()
    if "--" in words:
        own, theirs = words[: words.index("--")], words[words.index("--") + 1 :]
    start = next((i for i, word in enumerate(own) if word.partition("=")[0] == option), len(own))
    end = start + 1
    if end < len(own) and "=" not in own[start] and not own[end].startswith("-"):
        end += 1
    return Command.of("nextn", *own[:start], *own[end:], "--", *own[start:end], *theirs)


def _bad_value(error: click.BadParameter, param: click.Parameter) -> str:
    name = param.opts[0] if isinstance(param, click.Option) else str(param.make_metavar(error.ctx or click.Context(
        click.Command("nextn"))))  # fmt: skip
    name = next((each for each in param.opts if each.startswith("--")), name)
    given = re.match(r"'(.*?)' is not", error.message)
    if given and isinstance(param.type, click.Choice):
        choices = list(map(str, param.type.choices))
        near = difflib.get_close_matches(given[1].lower(), choices, 1, 0.75)
        hint = f"did you mean {near[0]}?" if near else f"choose {', '.join(choices[:-1])} or {choices[-1]}"
        return f"{name}: '{given[1]}' is not one of its values; {hint}"
    if given and isinstance(param.type, click.IntRange):
        thousands = re.fullmatch(r"(\d+)[kK]", given[1])
        hint = f"write {int(thousands[1]) * 1024}" if thousands else f"write one such as {param.type.min or 0}"
        return f"{name}: '{given[1]}' is not a whole number; {hint}"
    if isinstance(param.type, click.IntRange | click.FloatRange) and not given:
        least, most = param.type.min, param.type.max
        parts = [f"at least {least:g}" if least is not None else "", f"at most {most:g}" if most is not None else ""]
        return f"{name}: {error.message.split(' ')[0]} is out of range; it must be {' and '.join(filter(None, parts))}"
    if given and isinstance(param.type, click.FloatRange):
        return f"{name}: '{given[1]}' is not a number; write one such as {param.type.min or 0:g}"
    return f"{name}: {error.message}"


def _extra(ctx: click.Context, argv: Sequence[str]) -> list[str]:
    """The words that no argument of the command takes."""
    words = list(argv)
    if ctx.info_name in words:
        words = words[words.index(ctx.info_name) + 1 :]
    _, extra, _ = ctx.command.make_parser(ctx).parse_args(words)
    return list(extra)


def _as_option(word: str, ctx: click.Context) -> str | None:
    """The option that a word without its dashes is, or nearly is; None for a file, and for words that are none."""
    if os.path.lexists(word) or len(word) < _SHORTEST:
        return None
    return next(iter(difflib.get_close_matches(f"--{word.lower()}", _options(ctx), 1, 0.85)), None)


def _too_many(ctx: click.Context, argv: Sequence[str], extra: list[str]) -> str:
    takes = " ".join(param.make_metavar(ctx) for param in ctx.command.params if isinstance(param, click.Argument))
    if (option := _as_option(extra[0], ctx)) is not None:
        return f"{extra[0]}: did you mean {option}?"
    words = [word for word in argv if word not in extra]
    if "--from" in _options(ctx) and "--from" not in words and len(extra) == 1:
        command = Command.of("nextn", *words, "--from", extra[0])
        return f"{extra[0]}: a donor is named with --from: {command!s}"
    more = ", ".join(extra)
    only = f"one {takes} at a time" if takes else "only options"
    return f"{more}: {ctx.command_path} takes {only}; {_help(ctx)}."


_SHORTEST = 3  # letters of a word that is likened to options
_NAMED = ("DIR", "DONOR", "ENGINE", "FILE", "OTHER", "OUT")  # options whose values name something


def empty_name(ctx: click.Context, values: Mapping[str, Any]) -> click.UsageError | None:
    """For an empty word in the place of a name: most often a shell variable that is not set."""
    for param in ctx.command.params:
        is_option = isinstance(param, click.Option)
        value = values.get(param.name or "")
        given = value if isinstance(value, tuple) else (value,)
        if "" not in given or param.name == "engine_args" or (is_option and param.metavar not in _NAMED):
            continue
        what = next((name for name in param.opts if name.startswith("--")), param.opts[0])
        what = what if is_option else param.make_metavar(ctx).strip("[].")
        return click.UsageError(f"{what} is empty, perhaps from a shell variable that is not set; {_help(ctx)}.", ctx)
    return None


def not_for_the_engine(argument: str, ctx: click.Context) -> click.UsageError:
    """For a word in the place of an engine's options that cannot be one."""
    names = _options(ctx)
    if (option := _as_option(argument, ctx)) is not None:
        return click.UsageError(f"{argument}: did you mean {option}?", ctx)
    hint = "name a sidecar with --sidecar" if "--sidecar" in names else _help(ctx)
    return click.UsageError(f"{argument}: one MODEL is taken, and options of the engine come after --; {hint}.", ctx)
