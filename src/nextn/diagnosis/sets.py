"""Shard sets with gaps, wrong counts or foreign files: opened as far as possible, so that they can be fixed."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import FormatError, IncompleteModel, NextnError
from ..gguf.files import GGUFFile, Model, read_header, shard_name, split_shard_name
from ..gguf.sets import SPLIT_COUNT, SPLIT_NO, SPLIT_TENSORS_COUNT, check_one_model
from ..units import are, them
from .finding import Finding
from .patient import Patient, fix_command

_MOST_SHARDS = 99_999
_SHOWN = 4


@dataclass
class OpenedSet:
    """What could be opened, and what is wrong with it as a set."""

    model: Model | None = None
    findings: list[Finding] = field(default_factory=list)


def open_broken_set(path: Path, error: IncompleteModel) -> OpenedSet:
    """Examine a set that `open_model` refused with `error`."""
    parts = split_shard_name(path.name)
    if parts is None:
        return OpenedSet(findings=[_unnamed(path, error)])
    prefix, number, count = parts
    if not 1 <= number <= count <= _MOST_SHARDS:
        return OpenedSet(findings=[_unnamed(path, error)])
    there: dict[int, Path] = {}
    missing: list[str] = []
    for i in range(count):
        name = shard_name(prefix, i + 1, count)
        if os.path.exists(path.parent / name):  # noqa: PTH110 - never raises
            there[i] = path.parent / name
        else:
            missing.append(name)
    out = OpenedSet()
    files: dict[int, GGUFFile] = {}
    for i, place in there.items():
        try:
            files[i] = read_header(place)
        except NextnError as damage:
            out.findings.append(_damaged(place, damage))
    if missing:
        out.findings.append(_missing(path, missing, count))
    if len(files) != count:
        return out
    ordered = tuple(files[i] for i in range(count))
    out.findings += _strangers(ordered)
    if not out.findings:
        ordered = _renumbered(path, ordered, out.findings)
        out.model = Model(ordered)
        out.findings += _counts(ordered)
    return out


def _unnamed(path: Path, error: IncompleteModel) -> Finding:
    return Finding(
        "shards-renamed",
        "error",
        str(error).rstrip(".").removeprefix(f"{path}: ") + ".",
        path.name,
        "llama.cpp refuses to load it: it makes the other shards' names from the first one's ('invalid split file "
        "name')",
        "restore the shards' names, NAME-00001-of-0000N.gguf and so on",
    )


def _damaged(place: Path, damage: NextnError) -> Finding:
    return Finding(
        "shard-damaged",
        "error",
        f"shard {place.name} cannot be read: {str(damage).removeprefix(f'{place}').lstrip(',: ').rstrip('.')}.",
        place.name,
        "llama.cpp refuses to load the set",
        "get this shard again from the same place as the others",
    )


def _missing(path: Path, missing: list[str], count: int) -> Finding:
    shown = ", ".join(missing[:_SHOWN]) + (f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else "")
    other = _other_counts(path)
    more = f"; shards with a different total are there too ({other}), so the set may be mixed" if other else ""
    return Finding(
        "shards-missing",
        "error",
        f"{len(missing)} of {count} shards {are(len(missing))} missing: {shown}{more}.",
        os.fspath(path.parent),
        "llama.cpp refuses to load the set: 'failed to load GGUF split'",
        f"get {them(len(missing))} from the same place as the others",
    )


def _other_counts(path: Path) -> str:
    """Names of shards with the same prefix and another count."""
    own = split_shard_name(path.name)
    assert own is not None
    try:
        names = sorted(os.listdir(path.parent))  # noqa: PTH208
    except OSError:
        return ""
    found = [name for name in names if (parts := split_shard_name(name)) and parts[0] == own[0] and parts[2] != own[2]]
    return ", ".join(found[:_SHOWN]) + (f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else "")


def _strangers(files: tuple[GGUFFile, ...]) -> list[Finding]:
    """Shards of two models, which nothing can fix."""
    names = Counter(info.name for file in files for info in file.header.tensors)
    twice = [name for name, n in names.items() if n > 1]
    what = None
    if twice:
        holders = [file.path.name for file in files if twice[0] in file.header.by_name]
        what = f"tensor '{twice[0]}' is in {' and in '.join(holders[:2])}" + (
            f", and {len(twice) - 1} more are duplicated" if len(twice) > 1 else ""
        )
    else:
        try:
            check_one_model(files)
        except (IncompleteModel, FormatError) as error:
            what = str(error).partition(": ")[2].rstrip(".")
    if what is None:
        return []
    return [
        Finding(
            "shards-mixed",
            "error",
            f"the shards belong to two models: {what}.",
            os.fspath(files[0].path.parent),
            "llama.cpp refuses to load the set: 'invalid model: tensor ... is duplicated', or a wrong shape",
            "get the complete set again from one place, into an empty folder",
        )
    ]


def _renumbered(path: Path, files: tuple[GGUFFile, ...], findings: list[Finding]) -> tuple[GGUFFile, ...]:
    """The shards in the order of `split.no`, if that is a valid order and differs from that of the names."""
    numbers = [file.header.integer(SPLIT_NO) for file in files]
    if numbers == list(range(len(files))):
        return files
    known = [n for n in numbers if n is not None]
    ordered = files
    if sorted(known) == list(range(len(files))):
        ordered = tuple(file for _, file in sorted(zip(known, files, strict=True), key=lambda pair: pair[0]))
    wrong = next(i for i, n in enumerate(numbers) if n != i)
    findings.append(
        Finding(
            "shards-renumbered",
            "error",
            f"{files[wrong].path.name} is shard {wrong + 1} by its name, but its 'split.no' is {numbers[wrong]} "
            f"instead of {wrong}.",
            files[wrong].path.name,
            "llama.cpp refuses to load the set: 'invalid split file idx' or 'illegal split file idx'",
            fix_command(path),
            _same,
        )
    )
    return ordered


def _counts(files: tuple[GGUFFile, ...]) -> list[Finding]:
    """What the first shard says about the set; engines read no other."""
    first = files[0]
    n_tensors = sum(len(file.header.tensors) for file in files)
    out = []
    for key, found, wanted, words in (
        (SPLIT_COUNT, first.header.integer(SPLIT_COUNT), len(files), "shards"),
        (SPLIT_TENSORS_COUNT, first.header.integer(SPLIT_TENSORS_COUNT), n_tensors, "tensors"),
    ):
        if found != wanted and (found is not None or key == SPLIT_COUNT):
            out.append(
                Finding(
                    "shards-miscounted",
                    "error",
                    f"'{key}' in the first shard is {'missing' if found is None else f'{found:,}'}, but the set has "
                    f"{wanted:,} {words}: a shard was added or replaced without updating the first one.",
                    key,
                    "llama.cpp refuses to load the set: 'invalid split file name' or 'corrupted model: ... tensors "
                    "expected but ... found'",
                    fix_command(first.path),
                    _same,
                )
            )
    return out


def _same(patient: Patient) -> Patient:
    """Numbers and counts are set whenever a set is written."""
    return patient
