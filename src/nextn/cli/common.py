"""Options that commands share, each defined once, so that the same thing has the same name everywhere."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..absent import is_address, quoted_home
from ..errors import UsageError
from ..report.text import say
from ..units import counted

if TYPE_CHECKING:
    from ..donors.infer import Doubt
    from ..writing.plan import Plan

R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])
Decorator = Callable[[F], F]

ANY_DONOR = (
    "A checkpoint folder, a GGUF with the block, a sidecar or a donor file; or ORG/NAME, hf:ORG/NAME@REVISION:FILE, "
    "or an address that starts with https://"
)


def examples(*commands: str) -> str:
    """A command's examples, shown at the end of its help."""
    return "\b\nExamples:\n" + "\n".join(f"  {command}" for command in commands)


def together(*options: Decorator[Any]) -> Decorator[Any]:
    """Several options as one decorator, shown in this order."""

    def with_options(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return with_options


# -- where a block comes from -----------------------------------------------------------------------------------------


def donor_option(default: str) -> Decorator[Any]:
    """`--from`: the donor, in every command."""
    return click.option("--from", "donor", metavar="DONOR", help=f"Where the block comes from. {default}")


sidecar_option = click.option(
    "--sidecar", metavar="FILE", help="The sidecar that belongs to MODEL. Default: the one that fits best."
)
expect_option = click.option(
    "--expect", metavar="SHA256",
    help="The hash that the donor's block must have, checked before anything is written. 'nextn inspect --block-hash "
    "DONOR' prints it.",
)  # fmt: skip


class _Rate(click.ParamType[float]):
    """Bytes per second, with a unit or without: 5M, 5MB/s, 512KiB, 5000000."""

    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number. Raises UsageError."""
        plain = re.fullmatch(r"\d+(\.\d*)?([eE]\d{1,3})?", str(value).strip())
        if plain is not None and float(plain[0]) > 0:
            return float(plain[0])
        try:
            return float(size_in_bytes(re.sub(r"(?i)(/s|ps)$", "", str(value).strip()), "--limit-rate"))
        except UsageError:
            raise UsageError(f"--limit-rate: '{value}' is not a rate; write 5M, 512K or bytes per second.") from None


limit_option = click.option(
    "--limit-rate", type=_Rate(), metavar="RATE", help="Maximum download rate in bytes per second, such as 5M."
)
duplicates_option = click.option(
    "--duplicates",
    type=click.Choice(["keep", "drop"]),
    default="keep",
    show_default=True,
    help="The block's embeddings and output head where they equal the model's (DeepSeek-V3, GLM-4.5): 'drop' compares "
    "them and leaves them out, which saves 2 GB for DeepSeek-V3 at q8_0.",
)

# -- what is written --------------------------------------------------------------------------------------------------

type_option = click.option(
    "--type", "type_name", metavar="TYPE",
    help="Type of the block's matrices. Default: q8_0 from a checkpoint, unchanged from a GGUF.",
)  # fmt: skip
draft_head_option = click.option(
    "--draft-head", metavar="TYPE", help="Add a low-bit copy of the output head for drafting, for example q4_0."
)


def embd_type_option(of: str) -> Decorator[Any]:
    """`--embd-type`: the type of a sidecar's embeddings and output head."""
    return click.option("--embd-type", metavar="TYPE", default="q4_0", show_default=True, help=of)


def qkv_option(*forms: str, text: str) -> Decorator[Any]:
    """`--qkv` for commands that may rewrite attention."""
    return click.option("--qkv", type=click.Choice(forms), help=text)


for_option = click.option(
    "--for", "for_engine", type=click.Choice(["llama.cpp", "ik", "both", "lmstudio", "ollama"]),
    help="Engines, or the program, that the file must work in. If that is impossible, nextn says why.",
)  # fmt: skip
link_option = click.option(
    "--link",
    type=click.Choice(["auto", "hard", "symlink"]),
    default="auto",
    show_default=True,
    help="How unchanged files get their new names: auto is hard links where possible, else symlinks.",
)


def new_path(context: click.Context, option: click.Parameter, out: str | None) -> str | None:
    """Raises UsageError for `-`, which elsewhere means standard output, and for a tilde that the shell left."""
    if out is not None and (why := quoted_home(out)) is not None:
        raise UsageError(f"{out}: {why}.")
    if out is not None and is_address(out):
        raise UsageError(f"{out}: nothing is written to an address; name a local path with {option.opts[0]}.")
    if out == "-":
        raise UsageError(
            f"{option.opts[0]} -: nothing is written to standard output; name a file or a folder, such as ./- for one "
            "of that name."
        )
    return out


def place_option(metavar: str, help: str, *, required: bool = False) -> Decorator[Any]:
    """`-o`: where the files go, in every command."""
    return click.option("-o", "--out", metavar=metavar, required=required, callback=new_path, help=help)


out_option = place_option("OUT", "A file (ends in .gguf) or a folder. Existing files are never replaced.")
dry_run_option = click.option(
    "--dry-run", is_flag=True, help="Print what would be read, written and linked; write nothing."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on standard output.")
writing_options = together(
    out_option, dry_run_option, json_option,
    click.option("-q", "--quiet", is_flag=True, help="Print only the path to load."),
)  # fmt: skip

in_place_options = together(
    click.option("--yes", is_flag=True, help="In place: change the file without asking."),
    click.option("--all-links", is_flag=True, help="In place: also change a file that has several names."),
)

# -- running an engine ------------------------------------------------------------------------------------------------


def engine_option(default: str) -> Decorator[Any]:
    """`--engine`: the engine, in every command."""
    return click.option(
        "--engine", metavar="ENGINE", help=f"xllamacpp, llama-server, ik, or the path of a llama-server. {default}"
    )


def _for_the_engine(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    if value and not value[0].startswith("-") and "=" not in value[0]:  # no engine's option: likely a second file
        from .mistakes import not_for_the_engine

        raise not_for_the_engine(value[0], ctx)
    return value


engine_argument = click.argument("engine_args", nargs=-1, type=click.UNPROCESSED, callback=_for_the_engine)
usual_engine_option = engine_option("Default: xllamacpp.")
context_option = click.option(
    "--ctx", "n_ctx", type=click.IntRange(64), metavar="N", help="Context in tokens. Default: what the prompts need."
)
threads_option = click.option(
    "--threads", type=click.IntRange(1), metavar="N", help="CPU threads. Default: the engine's choice."
)
slots_option = click.option(
    "--slots", type=click.IntRange(1), default=1, show_default=True, metavar="N",
    help="Answer N prompts at the same time, like a server with N slots (llama-server's default is 4).",
)  # fmt: skip
prompts_option = click.option(
    "--prompts", metavar="FILE", help="Your own prompts, separated by lines that hold only ---."
)
prompt_options = together(
    click.option("--tasks", metavar="T,...", help="Which shipped prompts: code, extract, story. Default: all."),
    prompts_option,
)


def timing_options(*, patience_s: float) -> Decorator[Any]:
    """`--patience`, `--one-at-a-time`, `--engine` for commands that time answers."""
    return together(
        click.option(
            "--patience", type=click.FloatRange(min=0), default=patience_s, show_default=True, metavar="SECONDS",
            help="Total time to spend repeating disturbed runs and waiting for an idle machine.",
        ),
        click.option("--one-at-a-time", is_flag=True, help="Never keep two models loaded."),
        usual_engine_option,
    )  # fmt: skip


host_option = click.option(
    "--host", default="127.0.0.1", show_default=True, metavar="HOST", help="Address to listen on."
)
port_option = click.option(
    "--port", type=click.IntRange(1, 65535), default=8080, show_default=True, metavar="N", help="Port to listen on."
)
gpu_memory_option = click.option(
    "--gpu-memory", metavar="SIZE", help="The GPU's memory, such as 24G or 24GiB, to see what fits."
)

# -- values -----------------------------------------------------------------------------------------------------------


def names(text: str) -> tuple[str, ...]:
    """Names separated by commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


_BYTES = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12,
          "KI": 1 << 10, "MI": 1 << 20, "GI": 1 << 30, "TI": 1 << 40}  # fmt: skip


_LEAST_PLAIN = 1024  # a smaller number without a unit is meant in gigabytes


def size_in_bytes(text: str, option: str) -> int:
    """Bytes from a number with a unit, such as 24G or 512 MiB. Raises UsageError."""
    number = text.strip().upper().removesuffix("B")
    unit = number.lstrip("0123456789.")
    try:
        found = int(float(number.removesuffix(unit)) * _BYTES[unit.strip()])
    except (KeyError, ValueError, OverflowError):
        raise UsageError(f"{option}: '{text}' is not a size; write 24G, 24GiB or a number of bytes.") from None
    if found < 1:
        raise UsageError(f"{option}: '{text}' is less than one byte.")
    if not unit and found < _LEAST_PLAIN:
        raise UsageError(f"{option}: '{text}' is {counted(found, 'byte')}; write {number}G for gigabytes.")
    return found


_UNITS = {"s": 1, "m": 60, "h": 3600}
_TIME = re.compile(r"(\d{1,9}(?:\.\d{1,9})?) ?((?:second|minute|hour|sec|min|hr)s?|[smh])")


def seconds(text: str, option: str, *, plain: bool = True) -> float:
    """Seconds from `15m`, `1.5h`, `1h30m` or `90 minutes`, and from `90` unless `plain` is false. Raises UsageError."""
    given = text.strip().lower()
    number = re.fullmatch(r"\d{1,9}(\.\d{1,9})?", given)
    if number and not plain:
        raise UsageError(f"{option}: '{text}' is a number without a unit; write {given}m for minutes or {given}s.")
    parts = _TIME.findall(given)
    rest = _TIME.sub("", given).strip()
    found = float(given) if number else sum(float(n) * _UNITS[unit[0]] for n, unit in parts)
    if not number and (not parts or rest):
        raise UsageError(f"{option}: '{text}' is not a time; write 90m, 1.5h, 1h30m or 45s.")
    if not found:
        raise UsageError(f"{option}: '{text}' is no time at all; write 90m, 1.5h, 1h30m or 45s.")
    return found


def whole_numbers(text: str, option: str) -> tuple[int, ...]:
    """Whole numbers separated by commas. Raises UsageError."""
    try:
        return tuple(map(int, names(text)))
    except ValueError:
        raise UsageError(
            f"{option}: '{text}' is not a list of whole numbers separated by commas, such as 1,2,3."
        ) from None


# -- questions --------------------------------------------------------------------------------------------------------


class Declined(click.exceptions.Abort):
    """A question was answered with no."""


def _ask(question: str) -> None:
    """Raises Declined, Abort."""
    if not click.confirm(question, default=False, err=True):
        raise Declined


def ask_which(doubt: Doubt) -> str:
    """On a terminal, ask the user to choose between donors; elsewhere, raise the doubt as an error."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise doubt
    say(str(doubt).partition(":")[0] + ": which donor?")
    for number, (source, why) in enumerate(doubt.candidates, start=1):
        say(f"  {number}  {source}: {why}")
    choice = click.prompt("number", type=click.IntRange(1, len(doubt.candidates)), err=True)
    return doubt.candidates[int(choice) - 1][0]


def settled(run: Callable[[str | None], R], donor: str | None) -> R:
    """`run(donor)`; if the donor is in doubt, run again with the one the user chooses."""
    from ..donors.infer import Doubt

    try:
        return run(donor)
    except Doubt as doubt:
        return run(ask_which(doubt))


def confirmed(yes: bool) -> Callable[[Plan], None]:
    """Asks on a terminal before a plan changes a file in place; elsewhere `--yes` is required."""

    def confirm(plan: Plan) -> None:
        if yes:
            return
        from ..report.written import say_outputs

        path = plan.changes[-1].path
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise UsageError(
                f"{path}: this changes the file itself, and there is no terminal to ask on, so --yes is needed; "
                "--dry-run shows what would be done."
            )
        say_outputs(plan, done=False)
        say(f"{path}: this file itself is changed, and no copy is made; 'nextn detach --in-place' undoes an attach.")
        _ask("change it?")

    return confirm


def agreed(yes: bool) -> Callable[[str], None]:
    """Asks a question on a terminal; elsewhere `--yes` is required."""

    def agree(question: str) -> None:
        if yes:
            return
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise UsageError(
                f"{question.rstrip('?')}: that is a question, and there is no terminal to ask on, so --yes is needed; "
                "--dry-run shows each step."
            )
        _ask(question)

    return agree


def listed(text: str | None) -> Sequence[str] | None:
    """Names separated by commas; None if the option was not given."""
    return None if text is None else names(text)
