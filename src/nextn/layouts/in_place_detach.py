"""In place: a block removed from the file itself. Pure planning; `writing.in_place` carries it out."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from ..archs import refuse_other_use
from ..errors import InPlaceRefused, NoBlock
from ..gguf.files import GGUFFile, Model
from ..gguf.header import build_header, header_size, pad_to
from ..gguf.kv import KV
from ..gguf.kv_table import KVTable, edit
from ..gguf.tensors import UNKNOWN, TensorInfo
from ..writing.plan import Change, Plan, Tail
from . import metadata
from .detach import TrunkOf, trunk_of
from .in_place_undo import Undo, check_contiguous, head_of, note_of
from .options import Room


def plan_detach(model: Model, room: Room) -> Plan:
    """The plan that removes the block in place.

    Raises NoBlock, InPlaceRefused, UsageError for sidecars and donor files.
    """
    refuse_other_use(model.architecture, model.entry)
    trunk = trunk_of(model)
    if not trunk.seen.blocks:
        raise NoBlock(f"{model.entry}: there is no MTP block in this model, so there is nothing to detach.")
    notes: list[str] = []
    own = _restored(trunk, room, notes)
    changes = (own,) if own is not None else _cut(trunk)
    return Plan(
        verb="detach",
        layout="in-place",
        folder=model.entry.parent,
        outputs=(),
        entry=model.entry,
        sidecar=None,
        header_bytes=model.header_bytes,
        notes=tuple(notes),
        changes=changes,
        change_steps=tuple(_detach_steps(changes)),
    )


def _restored(trunk: TrunkOf, room: Room, notes: list[str]) -> Change | None:
    """The change back to the file that nextn attached to, or None when that file is not known."""
    file = trunk.seen.model.files[0]
    found = note_of(file.header)
    if found is None:
        return None
    undo, replaced, added = found
    data, tail = undo.head(file.header, replaced, added), undo.tail
    if data is None or not _is_sound(undo, file, trunk):
        notes.append("the header was changed since the block was attached: the original is not restored byte for byte")
        return None
    if undo.room and (room.grain is None or undo.room % room.grain):
        notes.append(
            f"this file system cannot remove the {undo.room:,} bytes of room again: they stay as padding, and the "
            "file is not byte for byte what it was"
        )
        return None
    return Change(file.path.resolve(), file.size_bytes, head_of(file), undo.size_bytes, data, undo.room, tail)


def _is_sound(undo: Undo, file: GGUFFile, trunk: TrunkOf) -> bool:
    """Whether the file that a note restores holds the complete trunk, and the rest of this one is the block."""
    infos, tail = file.header.tensors, undo.tail
    rows = trunk.seen.trunk_rows(file)
    if rows != array("I", range(undo.n_tensors)) or len(rows) == len(infos):
        return False
    kept = trunk.tensors(file)
    if kept and file.header.data_offset != undo.head_bytes + undo.room:
        return False
    end = file.end_of(kept) - undo.room if kept else undo.head_bytes
    # A tensor whose type does not give its size reaches to the next one, so the padding behind the trunk is part of it.
    most = pad_to(undo.size_bytes, file.header.alignment) if UNKNOWN in kept.sizes else undo.size_bytes
    if end > most or undo.size_bytes >= file.size_bytes:
        return False
    if tail is None:
        return True
    in_order = end <= tail.bare_at <= tail.bare_at + tail.size_bytes == undo.size_bytes <= tail.block_at
    return in_order and tail.block_at + tail.size_bytes + undo.room == file.size_bytes


def _cut(trunk: TrunkOf) -> tuple[Change, ...]:
    """Changes to every file that holds some of the block, and to the first file, which comes last."""
    model = trunk.seen.model
    first, *others = model.files
    put = metadata.split_kvs(0, len(model.files), trunk.n_tensors, model) if model.is_sharded else []
    changes = [_cut_file(file, trunk, file.header.kvs) for file in others if not trunk.is_all_of(file)]
    return (*changes, _cut_file(first, trunk, edit(trunk.kvs, put=put)))


def _cut_file(file: GGUFFile, trunk: TrunkOf, kvs: Sequence[KV]) -> Change:
    header, alignment = file.header, file.header.alignment
    check_contiguous(file)
    kept = trunk.tensors(file)
    if not kept and file is not trunk.seen.model.files[0]:
        raise InPlaceRefused(
            f"{file.path}: this shard holds nothing but the block, so nothing has to be changed: 'nextn detach' "
            "without --in-place links the others into a set without it."
        )
    end = pad_to(file.end_of(header.tensors), alignment)
    others = trunk.seen.other_rows(file)
    infos, tail, size = kept, None, file.size_bytes
    if others is not None:
        one, last = (header.tensors[row] for row in others)
        start = header.data_offset + one.offset
        stop = min(header.data_offset + last.offset + pad_to(file.stored_size(last), alignment), end)
        low, high = one.offset, last.offset
        middle = next((kept[i] for i, offset in enumerate(kept.offsets) if low < offset < high), None)
        n_tail = max(file.size_bytes - stop, 0)
        if middle or n_tail > stop - start:
            raise InPlaceRefused(_in_the_middle(file, middle, stop - start, n_tail))
        cut = stop - start
        infos = kept.moved(array("Q", (offset if offset < low else offset - cut for offset in kept.offsets)))
        tail = Tail(start, n_tail, stop) if n_tail else None
        size = start + n_tail
    least = header_size(kvs, infos)
    gap = header.data_offset - least
    extra = []
    if gap >= alignment:
        extra = [metadata.padding_kv(gap)] if gap >= metadata.padding_least() else []
    data = build_header(KVTable.of(kvs).plus(extra), infos, version=header.version, alignment=alignment)
    if len(data) != header.data_offset:
        raise InPlaceRefused(
            f"{file.path}: the header without the block takes {least:,} bytes, which do not fill the "
            f"{header.data_offset:,} before the data; use 'nextn detach' without --in-place."
        )
    return Change(file.path.resolve(), file.size_bytes, head_of(file), size, data, 0, tail)


def _in_the_middle(file: GGUFFile, middle: TensorInfo | None, n_block: int, n_tail: int) -> str:
    why = (
        f"its block is in several pieces, with '{middle.name}' between them"
        if middle
        else f"{n_tail:,} bytes follow its block of {n_block:,}, more than can be moved there safely"
    )
    return (
        f"{file.path}: {why}, and llama.cpp refuses a file with a gap between tensors; "
        "use 'nextn detach' without --in-place, which writes a new file."
    )


def _detach_steps(changes: Sequence[Change]) -> list[str]:
    steps = ["write a journal beside it: once it is there, the detach will be finished even if the run is interrupted"]
    for change in changes:
        name = change.path.name
        if change.room:
            steps.append(f"{name}: remove the {change.room:,} bytes that were inserted at its start")
        if change.tail is not None:
            steps.append(f"{name}: move the {change.tail.size_bytes:,} bytes after the block to where it starts")
        if change.bare_size + change.room < change.size_bytes:
            steps.append(f"{name}: shorten it from {change.size_bytes:,} to {change.bare_size:,} bytes")
        steps.append(f"{name}: write its header of {len(change.bare_head):,} bytes")
    return [*steps, "remove the journal"]
