"""Makes the man pages in man/ from the command line itself: one for nextn, one per command."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

import click

from nextn.cli import VERBS, cli
from nextn.errors import EXIT_CODES
from nextn.version import __version__

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "man"


def pages() -> dict[str, str]:
    """File name -> text in man(7)."""
    group = click.Context(cli, info_name="nextn")
    short = "multi-token prediction for the GGUF models you already have"
    out = {"nextn.1": _page(cli, group, "nextn", short, list(VERBS))}
    for verb, short in VERBS.items():
        command = cli.get_command(group, verb)
        assert command is not None
        context = click.Context(command, parent=group, info_name=verb)
        out[f"nextn-{verb}.1"] = _page(command, context, f"nextn-{verb}", short, [])
    return out


def _page(command: click.Command, context: click.Context, name: str, short: str, verbs: list[str]) -> str:
    usage = " ".join(command.collect_usage_pieces(context))
    lines = [
        f'.TH {_text(name.upper())} 1 "" "nextn {__version__}" "nextn"',
        ".SH NAME",
        f"{_text(name)} \\- {_text(short)}",
        ".SH SYNOPSIS",
        f".B {_text(context.command_path)}",
        _text(usage),
        ".SH DESCRIPTION",
        *_paragraphs(command.help or ""),
    ]
    options = [
        record
        for param in command.params  # click adds --help on first use, under the names of whatever context comes first
        if isinstance(param, click.Option) and (record := param.get_help_record(context))
    ]
    options.append(("-h, --help", "Show this message and exit."))
    lines += [".SH OPTIONS", *_list(options)]
    if verbs:
        lines += [".SH COMMANDS", *_list([(f"nextn-{verb}(1)", VERBS[verb]) for verb in verbs])]
    if command.epilog:
        lines += [".SH EXAMPLES", *_paragraphs(command.epilog.replace("Examples:\n", ""))]
    lines += [".SH EXIT STATUS", *_list([(str(code), text) for code, text in EXIT_CODES.items()])]
    others = verbs or ["", *VERBS]
    names = [f"nextn-{verb}" if verb else "nextn" for verb in others if f"nextn-{verb}" != name]
    lines += [".SH SEE ALSO", ",\n".join(f".BR {_text(each)} (1)" for each in names).replace(",\n", "\n")]
    return "\n".join(lines) + "\n"


def _paragraphs(text: str) -> list[str]:
    """Paragraphs of a help text; those that click leaves as they are (after a line with \\b) keep their lines."""
    out: list[str] = []
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        kept = paragraph.startswith("\b")
        body = [_text(line) for line in paragraph.strip("\b\n").splitlines()]
        out += [".PP", *([".nf", *body, ".fi"] if kept else [line.lstrip() for line in body])]
    return out[1:] if out[:1] == [".PP"] else out


def _list(records: list[tuple[str, str]]) -> list[str]:
    return [line for first, text in records for line in (".TP", f".B {_text(first)}", _text(text))]


def _text(text: str) -> str:
    """Escaped for roff: backslashes, dashes, and dots and quotes that begin a line."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return "\\&" + text if text[:1] in (".", "'") else text


def main() -> None:
    """Write the pages, and remove those of commands that are gone."""
    FOLDER.mkdir(exist_ok=True)
    made = pages()
    for path in FOLDER.glob("*.1"):
        if path.name not in made:
            path.unlink()
    for name, text in made.items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    print(f"{len(made)} pages in {FOLDER}", file=sys.stderr)


if __name__ == "__main__":
    main()
