"""Is the trunk untouched? Every tensor bit-identical, every KV equal except those that must change."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from ..archs import FAMILIES
from ..archs.base import GENERIC_LAYER_ARRAYS
from ..block.anatomy import Anatomy
from ..block.model import DRAFT_ROOTS
from ..gguf.files import GGUFFile, Model
from ..gguf.sets import SPLIT_KEYS
from ..gguf.tensors import TensorInfo
from ..layouts.metadata import PREFIX, recorded_hashes
from ..progress import Progress
from ..sources.ranges import FileRange, Reader


@dataclass
class FileReport:
    """What comparing files showed."""

    n_tensors: int = 0  # trunk tensors compared
    n_same_bytes: int = 0  # of those, proved equal by comparing every byte
    n_same_file: int = 0  # of those, proved equal because they are the same bytes on disk (hard or symbolic link)
    n_hashed: int = 0  # block tensors whose recorded SHA-256 was recomputed
    changed_keys: list[str] = field(default_factory=list)  # KV that had to change, and did
    problems: list[str] = field(default_factory=list)


def may_change(arch: str, key: str) -> bool:
    """Whether attach or detach has to change the key."""
    family = FAMILIES.get(arch)
    arrays = (*GENERIC_LAYER_ARRAYS, *(family.array_tail if family else ()))
    names = {f"{arch}.{suffix}" for suffix in ("block_count", "nextn_predict_layers", *arrays)}
    return key in names or key in SPLIT_KEYS or key.startswith(PREFIX)


def check_files(
    model: Model, original: Model | None, reader: Reader, progress: Progress | None = None
) -> FileReport:
    """Compare `model` with the trunk it was made from, and its block with the hashes recorded in it."""
    report = FileReport()
    try:
        model.check_whole()
    except Exception as error:
        report.problems.append(str(error))
        return report
    if original is not None:
        _check_tensors(model, original, reader, report, progress)
        check_kvs(model, original, report)
    _check_hashes(model, reader, report)
    return report


def _check_tensors(
    model: Model, original: Model, reader: Reader, report: FileReport, progress: Progress | None
) -> None:
    seen, before = Anatomy.of(model), Anatomy.of(original)

    def of_trunk(name: str) -> bool:
        return not seen.of_block(name) and not before.of_block(name)

    total = sum(file.stored_size(info) for file, info in original.items() if of_trunk(info.name))
    done = 0
    for file, info in original.items():
        if not of_trunk(info.name):
            continue
        if info.name in DRAFT_ROOTS and info.name not in model.tensors:
            continue  # used for drafting only, and detach removes it with the block
        report.n_tensors += 1
        mine = model.tensors.get(info.name)
        if mine is None:
            report.problems.append(f"tensor '{info.name}' of the original is missing")
            continue
        if (mine[1].ne, mine[1].type_id) != (info.ne, info.type_id):
            report.problems.append(
                f"tensor '{info.name}' is {mine[1].type_name} {mine[1].ne}, and was {info.type_name} {info.ne}"
            )
            continue
        where = _first_difference(mine, (file, info), reader, report)
        if where is not None:
            report.problems.append(f"tensor '{info.name}' differs from the original at its byte {where:,}")
        done += file.stored_size(info)
        if progress is not None:
            progress(done, total)
    extra = [name for name in model.tensors if of_trunk(name) and name not in original.tensors]
    report.problems += [f"tensor '{name}' is not in the original" for name in extra]


def _first_difference(
    mine: tuple[GGUFFile, TensorInfo], theirs: tuple[GGUFFile, TensorInfo], reader: Reader, report: FileReport
) -> int | None:
    """The first differing byte of a tensor, or None if there is none."""
    left = FileRange.of(mine[0], *mine[0].tensor_range(mine[1]))
    right = FileRange.of(theirs[0], *theirs[0].tensor_range(theirs[1]))
    if left.start == right.start and left.path.samefile(right.path):
        report.n_same_file += 1
        return None
    if left.size_bytes != right.size_bytes:
        return min(left.size_bytes, right.size_bytes)
    done = 0
    for a, b in zip(reader.pieces(left), reader.pieces(right), strict=True):
        if a != b:
            return done + next(i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y)
        done += len(a)
    report.n_same_bytes += 1
    return None


def check_kvs(model: Model, original: Model, report: FileReport) -> None:
    """Compare key-value pairs with those of the trunk that `model` was made from."""
    arch = original.architecture
    mine, theirs = model.header.by_key, original.header.by_key
    for key in dict.fromkeys([*theirs, *mine]):
        left, right = mine.get(key), theirs.get(key)
        if left is not None and right is not None and left.same_as(right):
            continue
        if not may_change(arch, key):
            what = "is missing" if left is None else "was added" if right is None else "was changed"
            report.problems.append(f"key '{key}' {what}")
        elif left is not None and right is not None and (left.type, left.item_type) != (right.type, right.item_type):
            report.problems.append(f"key '{key}' has type {left.type.name}, and had {right.type.name}")
        elif not key.startswith(PREFIX):
            report.changed_keys.append(key)


def _check_hashes(model: Model, reader: Reader, report: FileReport) -> None:
    for name, wanted in recorded_hashes(model).items():
        found = model.tensors.get(name)
        if found is None:
            report.problems.append(f"tensor '{name}' was attached and is missing now")
            continue
        file, info = found
        digest = hashlib.sha256()
        for data in reader.pieces(FileRange.of(file, *file.tensor_range(info))):
            digest.update(data)
        report.n_hashed += 1
        if digest.hexdigest() != wanted:
            report.problems.append(f"tensor '{name}' is not what was attached: its sha256 differs")
