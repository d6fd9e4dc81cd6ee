"""The models on this machine, for the user: a table of at most 100 columns, then what to run for each."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from ..printable import printable
from ..units import counted, size
from .outlet import console as console_of
from .outlet import plain_lines

if TYPE_CHECKING:
    from ..verbs.offers import Offer
    from ..verbs.scan import ScanReport, ShelvedModel

_WIDEST = 100
_NARROWEST = 78  # columns in which the table breaks few words
_TITLES = {
    "hub": "the Hub's cache", "lmstudio": "LM Studio", "ollama": "ollama", "llama.cpp": "llama.cpp's cache",
    "folder": "folder",
}  # fmt: skip
_SHORT = {"ik_llama.cpp": "ik"}
_WORDS = (("drafts", "drafts in"), ("runs", "runs in"), ("fails", "fails in"), ("refuses", "not in"))
_OUTLOOK = {"can_pay": "yes (measured)", "cannot_pay": "no (measured)", "not_measured": "not measured"}


def show(report: ScanReport, *, quiet: bool = False) -> None:
    """One row per model, what to run for each, and files that are no models; `quiet`: only the commands."""
    commands = [each.command for each in report.models if each.command]
    if quiet:
        print("\n".join(commands), end="\n" if commands else "")
        return
    width = min(_WIDEST, shutil.get_terminal_size().columns) if sys.stdout.isatty() else _WIDEST
    found = console_of(width=width)
    line = plain_lines(found)
    for place, path in report.places:
        line(f"looked in {path}" + ("" if place == "folder" else f" ({_TITLES[place]})"))
    if not report.places:
        line("no folder of models was found; name one: nextn scan FOLDER")
    has_table = width >= _NARROWEST
    if report.models and has_table:
        _table(report, found)
    for number, model in enumerate(report.models, start=1):
        for text in (*(() if has_table else _row(model)), *_below(model)):
            line(f"{number:>3}  {text}")
    _rest(report, line)
    if not report.models and report.places:
        line("no model was found")


def _table(report: ScanReport, found: object) -> None:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("model", overflow="fold", ratio=28)
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("block", overflow="fold", ratio=9)
    table.add_column("as it is", overflow="fold", ratio=17)
    table.add_column("could get a block", overflow="fold", ratio=24)
    table.add_column("faster?", overflow="fold", ratio=17)
    for number, model in enumerate(report.models, start=1):
        table.add_row(
            str(number), _named(model), size(model.entry.size_bytes), model.block, _programs(model), _offer(model),
            _faster(model),
        )  # fmt: skip
    found.print(table, highlight=False, markup=False)  # type: ignore[attr-defined]  # a rich console


def _row(model: ShelvedModel) -> Iterable[str]:
    """A row of the table as lines."""
    name, _, where = _named(model).partition("\n")
    yield f"{name}, {size(model.entry.size_bytes)}" + (f", {where}" if where else "")
    for title, cell in (
        ("block", model.block), ("as it is", _programs(model)), ("could get a block", _offer(model)),
        ("faster?", _faster(model)),
    ):  # fmt: skip
        if cell != "-":
            yield f"{title}: {'; '.join(cell.splitlines())}"


def _named(model: ShelvedModel) -> str:
    entry = model.entry
    where = {"hub": entry.name.rpartition(":")[0], "lmstudio": str(Path(entry.name).parent)}.get(entry.place, "")
    name = entry.name if entry.place == "ollama" else model.path.name
    return printable(name, 400) + (f"\n{printable(where, 400)}" if where not in ("", ".") else "")


def _programs(model: ShelvedModel) -> str:
    lines = []
    for word, said in _WORDS:
        names = [_SHORT.get(name, name) for name, use in model.programs.items() if use.word == word]
        lines += [f"{said} {', '.join(names)}"] if names else []
    return "\n".join(lines) or "not known"


def _offer(model: ShelvedModel) -> str:
    offer = model.offer
    if offer is None:
        return "-"
    if not offer.is_there:
        return {"not_asked": "not known"}.get(offer.state, "no")
    source = printable(offer.source, 200) if offer.source is not None else "one of several"
    short = source.partition("@")[0] if source.startswith("hf:") else _short_path(Path(source))
    return "\n".join([short + (" (a guess)" if offer.state == "guess" else ""), *_costs(offer)])


def _short_path(donor: Path) -> str:
    """A donor's file or folder; of a snapshot in the Hub's cache, whose name is a hash, the repository."""
    from ..discovery.nearby import hub_name
    from ..layouts.places import hub_repository

    repository = hub_repository(donor)
    repo = None if repository is None or donor.parent != repository / "snapshots" else hub_name(repository)
    return donor.name if repo is None else f"hf:{repo}"


def _costs(offer: Offer) -> list[str]:
    costs = []
    if offer.fetch_bytes is not None:
        costs.append(f"{size(offer.fetch_bytes)} to fetch" if offer.fetch_bytes else "on this machine")
    if offer.memory_bytes is not None:
        costs.append(f"{size(offer.memory_bytes)} of memory")
    return costs


def _faster(model: ShelvedModel) -> str:
    if model.block == "none" and not (model.offer is not None and model.offer.is_there):
        return "-"
    known = model.prospect
    return _OUTLOOK.get(known.word, f"unlikely: {known.short}")


def _below(model: ShelvedModel) -> Iterable[str]:
    """Lines about a model: what to run, and what does not fit into a table."""
    if model.command is not None:
        yield model.command
    offer = model.offer
    if offer is not None and not offer.is_there:
        yield f"no block: {printable(offer.why, 1000)}"
    if offer is not None and offer.state == "doubt":
        yield f"{len(offer.candidates)} donors fit: {printable(', '.join(offer.candidates), 1000)}"
    if model.prospect.word in _OUTLOOK and _faster(model) != "-":
        measured = model.prospect.word != "not_measured"
        yield printable(model.prospect.why, 1000) if measured else f"to measure: {_worth(model)}"
    for problem in model.problems:
        yield f"problem: {printable(problem, 1000)}"
    for entry, how in model.same:
        where = entry.name if entry.place == "ollama" else str(entry.path)
        yield f"the same model ({how}): {printable(where, 1000)}"


def _worth(model: ShelvedModel) -> str:
    from ..shell import shell

    return shell("nextn", "worth", model.path)


def _rest(report: ScanReport, line: object) -> None:
    """Files that are no models, copies, notes."""
    assert callable(line)
    names = {model.path: number for number, model in enumerate(report.models, start=1)}
    for other in report.others:
        owners = ", ".join(str(names[path]) for path in other.models if path in names)
        whose = f"of {owners}" if owners else "of no model found here"
        line(f"{other.what} {whose}: {printable(str(other.entry.path), 1000)}")
    for each in report.spoilt:
        word = "unfinished" if each.unfinished else "not readable" if each.refused else "damaged"
        line(f"{word}: {printable(str(each.path), 1000)} ({size(each.size_bytes)}): {printable(each.what, 1000)}")
    if report.wasted_bytes:
        n = sum(how == "copy" for model in report.models for _, how in model.same)
        takes = "takes" if n == 1 else "take"
        line(f"{counted(n, 'copy', 'copies')} with the same header and size {takes} {size(report.wasted_bytes)}")
    for note in report.notes:
        line(f"note: {printable(note, 1000)}")
