"""Assemble: join shards, or single-tensor files, into one file or one set, with chosen tensors from other sets.

The base is the set being assembled. A pick takes the tensors whose names match from another set of the same model:
another quant of them, tensors that the base lacks, or a block. A shard that is reused unchanged under its own number
is linked.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from ..block.anatomy import Anatomy
from ..errors import DonorMismatch, FormatError, IncompleteModel, UsageError
from ..gguf import strangers
from ..gguf.files import (
    GGUFFile,
    Model,
    check_kind,
    check_name,
    model_candidates,
    os_error,
    read_header,
    set_prefix,
    split_shard_name,
)
from ..gguf.known import ARCHITECTURE
from ..gguf.kv_table import edit
from ..gguf.names import decoded
from ..gguf.sets import SPLIT_COUNT, SPLIT_KEYS, SPLIT_NO, SPLIT_TENSORS_COUNT, SetTensors
from ..printable import printable
from ..writing.plan import LinkMode, NewBytes, NewFile, Plan
from . import naming
from .chosen import ChosenTensors, Groups, NewShard
from .explode import MOST_SHARDS, set_plan


@dataclass(frozen=True)
class Pieces:
    """Files of one model, some of which may be missing."""

    where: str  # what the user named
    files: tuple[GGUFFile, ...]  # in the order of their numbers
    count: int  # number of shards in the set

    @property
    def first(self) -> GGUFFile | None:
        """The file with the model's metadata."""
        return next((file for file in self.files if ARCHITECTURE in file.header.by_key), None)

    @cached_property
    def tensors(self) -> SetTensors:
        """The tensors of all files."""
        return SetTensors(self.files)

    @property
    def base_name(self) -> str:
        """Name without shard numbers and `.gguf`."""
        name = self.files[0].path.name
        parts = split_shard_name(name)
        return parts[0] if parts else name.removesuffix(".gguf")


@dataclass(frozen=True)
class Pick:
    """Tensors to take from another set."""

    pattern: str  # a regular expression that must match the full name
    source: Pieces


@dataclass(frozen=True)
class Taken:
    """One tensor that a pick supplies."""

    name: str
    pattern: str
    file: GGUFFile
    type_name: str
    replaces: str | None  # the tensor's type in the base; None: the base has no such tensor


@dataclass(frozen=True)
class Assembly:
    """The plan of an assembly and what went into it."""

    plan: Plan
    taken: tuple[Taken, ...]


def open_pieces(paths: Sequence[Path | str]) -> Pieces:
    """The shards in a folder, or the named files; some may be missing.

    Raises UsageError (nothing there, or several models in the folder), FormatError, StorageError.
    """
    named = [Path(path) for path in paths]
    if not named:
        raise UsageError("a set needs at least one file; name its folder, or its shards.")
    where = str(named[0]) if len(named) == 1 else f"{named[0]} and {len(named) - 1} more"
    if len(named) == 1:
        named = _shards_at(named[0])
    for path in named:
        check_name(path)
    read = sorted((read_header(path) for path in named), key=_number)
    for file in read:
        check_kind(file, file.path)
    tensors = SetTensors(tuple(read))
    if len(read) > 1 and (row := tensors.index.twice) is not None:
        name = decoded(tensors.name_of(row))
        other = next(file for file in read if file.header.tensors.find(name) is not None)
        raise IncompleteModel(
            f"{tensors.file_of(row).path}: tensor '{printable(name)}' is also in {other.path.name}; name the files of "
            "one model."
        )
    counts = [parts[2] for file in read if (parts := split_shard_name(file.path.name))]
    first = next((file for file in read if ARCHITECTURE in file.header.by_key), None)
    said = first.header.integer(SPLIT_COUNT) if first is not None else None
    pieces = Pieces(where, tuple(read), said or max([len(read), *counts]))
    _check_numbers(pieces)
    return pieces


def _check_numbers(pieces: Pieces) -> None:
    """Raise FormatError for a count that no set has, and for a shard whose number its set does not have."""
    if not 1 <= pieces.count <= MOST_SHARDS:
        raise FormatError(
            f"this file is of a set of {pieces.count:,} shards by its name or '{SPLIT_COUNT}', and sets have 1 to "
            f"{MOST_SHARDS:,}; get it again",
            path=(pieces.first or pieces.files[0]).path,
        )
    for file in pieces.files:
        if pieces.count > 1 and _number(file) >= pieces.count:
            raise FormatError(
                f"this is shard {_number(file) + 1:,}, and the set has {pieces.count:,}; get this file again, or leave "
                "it out",
                path=file.path,
            )


def _shards_at(path: Path) -> list[Path]:
    """All files of the one set in a folder, or of the set that a file belongs to."""
    if path.is_dir():
        found = model_candidates(path)
        if not found:
            raise UsageError(f"{path}: {strangers.no_gguf(path)}.")
        if len(found) > 1:
            raise UsageError(
                f"{path}: this folder holds {len(found)} models ({', '.join(each.name for each in found[:4])}); name "
                "one of them."
            )
        path = found[0]
    parts = split_shard_name(path.name)
    if parts is None:
        return [path]
    prefix, _, count = parts
    try:
        names = sorted(entry.name for entry in path.parent.iterdir())
    except OSError as error:
        raise os_error(error, path.parent, "list the folder") from error
    wanted = [(name, split_shard_name(name)) for name in names]
    found = [path.parent / name for name, own in wanted if own is not None and (own[0], own[2]) == (prefix, count)]
    return found or [path]  # which is not there, as reading it says


def _number(file: GGUFFile) -> int:
    """The shard's number, from 0: from its key, else from its name; a file with neither comes first."""
    number = file.header.integer(SPLIT_NO)
    if number is not None:
        return number
    parts = split_shard_name(file.path.name)
    return parts[1] - 1 if parts else -1


def plan_assemble(
    base: Pieces, picks: Sequence[Pick], out: Path | str | None, link: LinkMode = LinkMode.AUTO
) -> Assembly:
    """The plan that puts the base together, with the picked tensors.

    `out`: a name ending in `.gguf` is one file for everything; a folder gets a set with the same shards as the base.

    Raises UsageError (a pick that matches nothing, no metadata), DonorMismatch (another model, another shape),
    IncompleteModel (a tensor or shard is missing and no pick supplies it), FormatError for a truncated file.
    """
    first = base.first
    if first is None:
        raise UsageError(
            f"{base.where}: no file here holds the model's metadata ('{ARCHITECTURE}'); name the first shard too."
        )
    notes: list[str] = []
    for pick in picks:
        _check_same_model(first, pick, notes)
    taken = _taken(base, picks)
    chosen, ends = _slots(base, taken)
    for file in chosen.files:
        file.check_whole()
    model = Model((first, *(file for file in base.files if file is not first)))
    default = naming.same_base(base.base_name, is_model=Anatomy.of(model).has_trunk) + ".gguf"
    folder, name = naming.resolve_output(out, Path.cwd(), default)
    is_single = out is None or str(out).lower().endswith(".gguf")
    if not is_single:
        plan = set_plan(
            "assemble", first.header.kvs, model, (chosen, ends), folder, set_prefix(default), link, notes
        )
    else:
        kvs = edit(first.header.kvs, drop=SPLIT_KEYS)
        single = Groups(
            chosen, array("I", (len(chosen),)), lambda _: kvs, first.header.version, first.header.alignment,
            lambda _: name,
        )  # fmt: skip
        new = NewShard(single, 0)
        plan = Plan(
            verb="assemble", layout="single", folder=folder, outputs=(new,), entry=folder / name, sidecar=None,
            header_bytes=model.header_bytes, notes=tuple(notes),
        )  # fmt: skip
    return Assembly(plan, tuple(taken.values()))


def with_recipe(assembly: Assembly, name: str, data: bytes) -> Assembly:
    """The assembly that also writes its recipe beside the model."""
    plan = assembly.plan
    recipe = NewFile(name, (NewBytes(data),))
    return replace(assembly, plan=replace(plan, outputs=(recipe, *plan.outputs)))


def _check_same_model(first: GGUFFile, pick: Pick, notes: list[str]) -> None:
    """Refuse a set whose metadata belong to another model."""
    other = pick.source.first
    if other is None:
        notes.append(f"{pick.source.where} has no metadata: only its tensors' shapes were compared")
        return
    arch = first.header.get(ARCHITECTURE)
    for key in (ARCHITECTURE, f"{arch}.embedding_length", f"{arch}.attention.head_count"):
        mine, theirs = first.header.get(key), other.header.get(key)
        if mine != theirs:
            raise DonorMismatch(
                f"{pick.source.where}: '{key}' is {theirs!r:.80} there and {mine!r:.80} in {first.path.name}: this is "
                "a different model; take the tensors from a set of the same one."
            )
    tokens = [file.header.by_key.get("tokenizer.ggml.tokens") for file in (first, other)]
    sizes = [None if kv is None else kv.n_items for kv in tokens]
    if None not in sizes and sizes[0] != sizes[1]:
        raise DonorMismatch(
            f"{pick.source.where}: its vocabulary has {sizes[1]:,} tokens and that of {first.path.name} has "
            f"{sizes[0]:,}: this is a different model; take the tensors from a set of the same one."
        )


def _taken(base: Pieces, picks: Iterable[Pick]) -> dict[str, Taken]:
    """Tensor name -> what supplies it. The first matching pick wins."""
    own = base.tensors
    out: dict[str, Taken] = {}
    for pick in picks:
        try:
            matches = re.compile(pick.pattern).fullmatch
        except (re.error, RecursionError, OverflowError) as error:
            raise UsageError(f"--pick: '{pick.pattern}' is not a regular expression ({error}).") from None
        theirs, n_found = pick.source.tensors, 0
        for row, name in enumerate(theirs.names()):
            if not matches(name):
                continue
            n_found += 1
            if name in out:
                continue
            (file, info), mine = theirs[row], own.find(name)
            if mine is not None and mine[1].ne != info.ne:
                raise DonorMismatch(
                    f"{file.path}: the shape of '{printable(name)}' is {list(info.ne)}, and in {base.where} it is "
                    f"{list(mine[1].ne)}; take it from a set of the same model."
                )
            out[name] = Taken(name, pick.pattern, file, info.type_name, None if mine is None else mine[1].type_name)
        if not n_found:
            raise UsageError(f"--pick: no tensor of {pick.source.where} matches '{pick.pattern}'.")
    return out


def _slots(base: Pieces, taken: dict[str, Taken]) -> tuple[ChosenTensors, array[int]]:
    """The tensors of the result in order, and the place after each shard's last one. Raises IncompleteModel."""
    by_number = {max(0, _number(file)): file for file in base.files}
    one_file = base.count <= 1 or len(by_number) != len(base.files)
    chosen, ends, left = ChosenTensors(), array("I"), dict(taken)
    ordered = dict(enumerate(base.files)) if one_file else by_number
    new_ones: dict[int, list[str]] = {}
    for each in taken.values():
        if each.replaces is None:
            new_ones.setdefault(_number(each.file), []).append(each.name)
    numbers = range(len(base.files) if one_file else base.count)
    missing = [number for number in numbers if number not in ordered and number not in new_ones]
    placed = {name for number in numbers if number not in ordered for name in new_ones.get(number, ())}
    rest = [name for some in new_ones.values() for name in some if name not in placed]

    def supply(names: Iterable[str]) -> None:
        for name in names:
            file = left.pop(name).file
            row = file.header.tensors.row(name)
            assert row is not None
            chosen.add(file, row)

    home = missing.pop(0) if rest and missing else len(numbers)  # of new tensors whose own shard is there already
    empty = set(missing)
    for number in numbers:
        file = ordered.get(number)
        if file is not None:
            _add_file(chosen, file, left, supply)
        elif number not in empty:
            supply(rest if number == home else new_ones[number])
        if number not in empty:
            ends.append(len(chosen))
    if rest and home == len(numbers):
        supply(rest)
        ends.append(len(chosen))
    wanted = None if base.first is None else base.first.header.integer(SPLIT_TENSORS_COUNT)
    there = len(chosen)
    lacks = missing if wanted is None else there < wanted
    if lacks and base.count > 1:
        some = ", ".join(str(number + 1) for number in missing[:5])
        more = f" (shard {some}{' and others' if len(missing) > 5 else ''} of {base.count} missing)" if missing else ""
        what = "all tensors" if wanted is None else f"{wanted:,} tensors"
        raise IncompleteModel(
            f"{base.where}: the set should hold {what}, but {there:,} are present{more}; get the others, or supply "
            "them with --pick 'REGEX=DIR'."
        )
    return chosen, ends


def _add_file(
    chosen: ChosenTensors, file: GGUFFile, left: dict[str, Taken], supply: Callable[[Iterable[str]], None]
) -> None:
    """Add a file's tensors, those that were taken from elsewhere in their place."""
    if not left:
        chosen.add_all(file)
        return
    for row, name in enumerate(file.header.tensors.names()):
        if name in left:
            supply((name,))
        else:
            chosen.add(file, row)
