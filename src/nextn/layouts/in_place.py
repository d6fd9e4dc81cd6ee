"""In place: a block appended to the file itself, and taken off again. Pure planning; `writing.in_place` carries it out.

The block's data goes after the last tensor of the first file, whose header has to change anyway: so one file is one
transaction, also of a set. Data of a GGUF has to be contiguous (llama.cpp compares each tensor's offset with the sum of
the padded sizes before it), so the header cannot grow into the data: it grows into padding, into room that the file
system inserts at the start of the file, or not at all.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..archs import refuse_other_use
from ..errors import FormatError, InPlaceRefused, NoBlock
from ..gguf.files import SPLIT_TENSORS_COUNT, GGUFFile, Model
from ..gguf.header import Header, TensorInfo, build_header, header_size, pad_to
from ..gguf.kv import KV, KVType, edit
from ..gguf.parser import parse_header
from ..units import size as readable
from ..writing.plan import Change, Hashes, LateHeader, Plan, Tail
from . import build, metadata
from .detach import TrunkOf, trunk_of
from .options import Room


@dataclass(frozen=True)
class _Undo:
    """What of the original file its new header does not say: a detach gives it back byte for byte."""

    size_bytes: int
    head_bytes: int
    head_sha256: str
    n_tensors: int
    room: int
    tail: Tail | None
    dropped: tuple[tuple[int, str | int], ...]  # place among the original's pairs; base64 of the pair, size of padding
    padding: str  # base64 of what lay between header and data, "" for zeros

    def to_json(self) -> dict[str, Any]:
        """As the header's note holds it."""
        tail = self.tail
        return {
            "size": self.size_bytes, "head": [self.head_bytes, self.head_sha256], "tensors": self.n_tensors,
            "room": self.room, "tail": None if tail is None else [tail.bare_at, tail.size_bytes, tail.block_at],
            "dropped": [list(pair) for pair in self.dropped], "padding": self.padding,
        }  # fmt: skip

    @classmethod
    def from_json(cls, note: dict[str, Any]) -> _Undo:
        """The note of a header. Raises ValueError, KeyError, TypeError."""
        tail = None if note["tail"] is None else Tail(*map(int, note["tail"]))
        dropped = tuple((int(i), raw if isinstance(raw, int) else str(raw)) for i, raw in note["dropped"])
        n_head, digest = note["head"]
        return cls(
            int(note["size"]), int(n_head), str(digest), int(note["tensors"]), int(note["room"]), tail, dropped,
            str(note["padding"]),
        )  # fmt: skip

    def head(self, new: Header, replaced: dict[str, KV], added: set[str]) -> bytes | None:
        """The original's header, or None when the new one is not what an attach had made of it."""
        sizes = [raw for _, raw in self.dropped if isinstance(raw, int)]
        if not 0 <= self.n_tensors <= len(new.tensors) or max([self.head_bytes, *sizes]) > new.data_offset:
            return None  # not what an attach notes, which only ever makes a header longer
        kvs = [replaced.get(kv.key, kv) for kv in new.kvs if kv.key not in added and kv.key not in metadata.OWN_KEYS]
        try:
            for i, raw in self.dropped:
                padding = metadata.padding_kv(raw) if isinstance(raw, int) else None
                kvs.insert(i, padding or metadata.parse_kv(base64.b64decode(str(raw))))
            behind = base64.b64decode(self.padding)
        except (ValueError, FormatError):
            return None
        data = build_header(kvs, new.tensors[: self.n_tensors], version=new.version, alignment=1)
        data += behind or bytes(max(self.head_bytes - len(data), 0))
        return data if hashlib.sha256(data).hexdigest() == self.head_sha256 else None


# -- attach ----------------------------------------------------------------------------------------------------------


def attached(
    trunk: Model, kvs: Sequence[KV], parts: Sequence[build.Part], made: build.Provenance, room: Room
) -> tuple[Change, tuple[str, ...]]:
    """The change that puts `parts` into the trunk's first file, and its steps.

    `kvs`: the trunk's pairs with what a block changes, and the note of it.
    Raises InPlaceRefused when there is no room for the header.
    """
    file = trunk.files[0]
    header, alignment, head = file.header, file.header.alignment, _head_of(file)
    _check_contiguous(file)
    kvs = _with_count(kvs, trunk, len(trunk.tensors) + len(parts))
    has_data = bool(header.tensors)
    bare_end = max((pad_to(file.tensor_range(info)[1], alignment) for info in header.tensors), default=len(head))
    relative = bare_end - header.data_offset if has_data else 0
    infos = list(header.tensors)
    for part in parts:
        infos.append(part.info.at(relative))
        relative += pad_to(part.size_bytes, alignment)
    n_data = sum(pad_to(part.size_bytes, alignment) for part in parts)

    def fitted(inserted: int) -> _Fitted:
        limit = header.data_offset + inserted if has_data else None
        data_at = bare_end
        while True:  # without data the header may end anywhere; where it ends, its own note says
            tail = _tail_behind(file, bare_end, data_at + n_data)
            undo = _undo_of(file, head, kvs, inserted, tail)
            draft = _Fitted(kvs, infos, made, header, undo, limit)
            if has_data or draft.data_offset == data_at:
                return draft
            data_at = draft.data_offset

    inserted = 0
    draft = fitted(0)
    while draft.lacking:
        if room.grain is None:
            raise InPlaceRefused(_no_room(file, draft))
        grain = max(room.grain, alignment)
        more = room.policy(inserted + draft.lacking, grain)
        if more < inserted + draft.lacking or more % grain:
            raise ValueError(f"the policy gave {more} bytes of room, not a multiple of {grain} and enough")
        inserted = more
        draft = fitted(inserted)
    data_at = bare_end if has_data else draft.data_offset
    change = Change(
        path=file.path.resolve(),
        size_bytes=file.size_bytes,
        head=head,
        bare_size=file.size_bytes,
        bare_head=head,
        room=inserted,
        tail=draft.undo.tail,
        block_at=data_at,
        segments=tuple(build.data_segments(parts, alignment, [])),
        header=LateHeader(draft.size_bytes, draft.build),
    )
    draft.check(head)
    return change, _attach_steps(change, n_data)


def _head_of(file: GGUFFile) -> bytes:
    """The file's bytes up to its data, as they were read with its header."""
    header = file.header
    return bytes(header.kvs[0].buffer[: header.data_offset if header.tensors else header.header_end])


@dataclass(frozen=True)
class _Fitted:
    """A header for a place of so many bytes."""

    kvs: Sequence[KV]
    infos: Sequence[TensorInfo]
    made: build.Provenance
    like: Header
    undo: _Undo
    limit: int | None  # where data begins, None: wherever the header ends

    def _pairs(self, hashes: Hashes, source_hash: str, slack: int = 0) -> list[KV]:
        note = {**json.loads(next(kv.value for kv in self.kvs if kv.key == metadata.UNDO)), "in_place": None}
        note["in_place"] = self.undo.to_json()
        text = json.dumps(note, separators=(",", ":")) + " " * slack
        chosen = {name: hashes[name] for name in self.made.names}
        put = [KV.make(metadata.UNDO, KVType.STRING, text)]
        own = metadata.provenance_kvs(self.made.donor, self.made.revision, chosen, source_hash)
        return [*edit(self.kvs, put=put), *own]

    @property
    def _least(self) -> int:
        blank = "0" * 64
        return header_size(self._pairs(dict.fromkeys(self.made.names, blank), blank), self.infos)

    @property
    def lacking(self) -> int:
        """Bytes by which the header is too long; 0: it fits."""
        return 0 if self.limit is None else max(self._least - self.limit, 0)

    @property
    def data_offset(self) -> int:
        """Where the data begins."""
        return pad_to(self._least, self.like.alignment) if self.limit is None else self.limit

    @property
    def size_bytes(self) -> int:
        """Bytes of the header with its padding."""
        return self.data_offset

    def build(self, hashes: Hashes, source_hash: str) -> bytes:
        """The header, filled up to the data: with a pair of spaces, or what is too little for one in the note."""
        gap = self.data_offset - self._least
        extra = []
        slack = 0
        if gap >= self.like.alignment:
            if gap >= metadata.padding_least():
                extra = [metadata.padding_kv(gap)]
            else:
                slack = gap
        pairs = [*self._pairs(hashes, source_hash, slack), *extra]
        return build_header(pairs, self.infos, version=self.like.version, alignment=self.like.alignment)

    def check(self, head: bytes) -> None:
        """Assert that the original header can be had back from this one."""
        blank = "0" * 64
        data = self.build(dict.fromkeys(self.made.names, blank), blank)
        made = parse_header(data, file_size=1 << 62)
        found = _note_of(made)
        if found is None or found[0].head(made, found[1], found[2]) != head:
            raise AssertionError("the header would not lead back to the original")


def _undo_of(file: GGUFFile, head: bytes, kvs: Sequence[KV], room: int, tail: Tail | None) -> _Undo:
    header = file.header
    padding = head[header.header_end :]
    return _Undo(
        file.size_bytes,
        len(head),
        hashlib.sha256(head).hexdigest(),
        len(header.tensors),
        room,
        tail,
        tuple((i, _dropped(kv)) for i, kv in enumerate(header.kvs) if kv.key in metadata.OWN_KEYS),
        base64.b64encode(padding).decode() if padding.strip(b"\0") else "",
    )


def _dropped(kv: KV) -> str | int:
    """A pair as the note holds it. Padding is noted by its size: it is to be room, not to be kept."""
    if kv.key == metadata.PADDING and kv.size_bytes >= metadata.padding_least():
        same = metadata.padding_kv(kv.size_bytes)
        if same.same_as(kv):
            return kv.size_bytes
    return base64.b64encode(bytes(kv.raw)).decode()


def _tail_behind(file: GGUFFile, bare_end: int, block_end: int) -> Tail | None:
    """What lies after the last tensor, whatever it is: it is kept after the block."""
    n = file.size_bytes - bare_end
    return None if n <= 0 else Tail(bare_end, n, max(block_end, bare_end + n))


def _with_count(kvs: Sequence[KV], trunk: Model, n_tensors: int) -> list[KV]:
    """The pairs with the set's new number of tensors, noted so that a detach puts the old one back."""
    old = trunk.header.by_key.get(SPLIT_TENSORS_COUNT)
    if len(trunk.files) == 1 or old is None:
        return list(kvs)
    note = json.loads(next(kv.value for kv in kvs if kv.key == metadata.UNDO))
    note["replaced"][old.key] = base64.b64encode(bytes(old.raw)).decode()
    return edit(kvs, put=[old.with_value(n_tensors), KV.make(metadata.UNDO, KVType.STRING, json.dumps(note))])


def _check_contiguous(file: GGUFFile) -> None:
    header, at = file.header, 0
    for info in header.tensors:
        if info.offset != at:
            raise InPlaceRefused(
                f"{file.path}: tensor '{info.name}' starts at {info.offset:,} of the data instead of {at:,}, so "
                "llama.cpp refuses the file as it is; use --layout bundle, which writes a contiguous one."
            )
        at += pad_to(file.stored_size(info), header.alignment)


def _no_room(file: GGUFFile, draft: _Fitted) -> str:
    return (
        f"{file.path}: the header grows by {draft.lacking:,} bytes beyond the {file.header.data_offset:,} before the "
        "data; there is no padding for them, and this file system cannot insert room into a file (ext4 and XFS can); "
        "use --layout sidecar (a new file for the block), or bundle or shards."
    )


def _attach_steps(change: Change, n_data: int) -> tuple[str, ...]:
    header = change.header
    assert header is not None
    steps = [f"write a journal beside it ({readable(len(change.head))}): it is what leads back if the run is stopped"]
    if change.tail is not None:
        steps.append(f"copy the {change.tail.size_bytes:,} bytes after its last tensor to after the block")
    steps.append(f"append the block: {n_data:,} bytes at byte {change.block_at:,}")
    if change.room:
        steps.append(f"insert {change.room:,} bytes at the start of the file (no data is moved on the disk)")
    steps.append(f"write the new header: {header.size_bytes:,} bytes")
    steps.append("remove the journal: from here on the change is done")
    return tuple(steps)


# -- detach ----------------------------------------------------------------------------------------------------------


def _note_of(header: Header) -> tuple[_Undo, dict[str, KV], set[str]] | None:
    """What an attach in place noted: undo, pairs that it replaced, keys that it added."""
    text = header.get(metadata.UNDO)
    if not isinstance(text, str):
        return None
    try:
        note = json.loads(text)
        undo = _Undo.from_json(note["in_place"])
        replaced = [metadata.parse_kv(base64.b64decode(raw)) for raw in note["replaced"].values()]
        return undo, {kv.key: kv for kv in replaced}, set(map(str, note["added"]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, FormatError):
        return None


def plan_detach(model: Model, room: Room) -> Plan:
    """The plan that takes the block off in place.

    Raises NoBlock, InPlaceRefused, UsageError for sidecars and donor files.
    """
    refuse_other_use(model.architecture, model.entry)
    trunk = trunk_of(model)
    if not trunk.seen.blocks:
        raise NoBlock(f"{model.entry}: there is no MTP block in this model, so there is nothing to take off.")
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
        steps=tuple(_detach_steps(changes)),
    )


def _restored(trunk: TrunkOf, room: Room, notes: list[str]) -> Change | None:
    """The change back to the file that nextn attached to, or None when that is not known."""
    file = trunk.seen.model.files[0]
    found = _note_of(file.header)
    if found is None:
        return None
    undo, replaced, added = found
    data, tail = undo.head(file.header, replaced, added), undo.tail
    if data is None or not _is_sound(undo, file, trunk):
        notes.append("the header was changed since the block was attached: the original is not restored byte for byte")
        return None
    if undo.room and (room.grain is None or undo.room % room.grain):
        notes.append(
            f"this file system cannot take the {undo.room:,} bytes of room out again: they stay as padding, and the "
            "file is not byte for byte the one it was"
        )
        return None
    return Change(file.path.resolve(), file.size_bytes, _head_of(file), undo.size_bytes, data, undo.room, tail)


def _is_sound(undo: _Undo, file: GGUFFile, trunk: TrunkOf) -> bool:
    """Whether the file that a note leads back to holds the whole trunk, and the rest of this one is the block."""
    infos, tail = file.header.tensors, undo.tail
    kept, gone = infos[: undo.n_tensors], infos[undo.n_tensors :]
    if not all(map(trunk.keeps, kept)) or any(map(trunk.keeps, gone)) or not gone:
        return False
    if kept and file.header.data_offset != undo.head_bytes + undo.room:
        return False
    end = max((file.tensor_range(info)[1] - undo.room for info in kept), default=undo.head_bytes)
    if not end <= undo.size_bytes < file.size_bytes:
        return False
    if tail is None:
        return True
    in_order = end <= tail.bare_at <= tail.bare_at + tail.size_bytes == undo.size_bytes <= tail.block_at
    return in_order and tail.block_at + tail.size_bytes + undo.room == file.size_bytes


def _cut(trunk: TrunkOf) -> tuple[Change, ...]:
    """Changes of every file that holds some of the block, and of the first; the first is the last one."""
    model = trunk.seen.model
    first, *others = model.files
    n_tensors = sum(trunk.keeps(info) for _, info in model.items())
    put = metadata.split_kvs(0, len(model.files), n_tensors, model) if model.is_sharded else []
    changes = [
        _cut_file(file, trunk, file.header.kvs)
        for file in others
        if not all(map(trunk.keeps, file.header.tensors))
    ]
    return (*changes, _cut_file(first, trunk, edit(trunk.kvs, put=put)))


def _cut_file(file: GGUFFile, trunk: TrunkOf, kvs: Sequence[KV]) -> Change:
    header, alignment = file.header, file.header.alignment
    _check_contiguous(file)
    kept = [info for info in header.tensors if trunk.keeps(info)]
    if not kept and file is not trunk.seen.model.files[0]:
        raise InPlaceRefused(
            f"{file.path}: this shard holds nothing but the block, so nothing has to be changed: 'nextn detach' "
            "without --in-place links the others to a set without it."
        )
    end = max(pad_to(file.tensor_range(info)[1], alignment) for info in header.tensors)
    gone = [info for info in header.tensors if not trunk.keeps(info)]
    infos, tail, size = list(kept), None, file.size_bytes
    if gone:
        start = header.data_offset + gone[0].offset
        stop = min(header.data_offset + gone[-1].offset + pad_to(file.stored_size(gone[-1]), alignment), end)
        middle = [info for info in kept if gone[0].offset < info.offset < gone[-1].offset]
        n_tail = max(file.size_bytes - stop, 0)
        if middle or n_tail > stop - start:
            raise InPlaceRefused(_in_the_middle(file, middle, stop - start, n_tail))
        infos = [info if info.offset < gone[0].offset else info.at(info.offset - (stop - start)) for info in kept]
        tail = Tail(start, n_tail, stop) if n_tail else None
        size = start + n_tail
    least = header_size(kvs, infos)
    gap = header.data_offset - least
    extra = []
    if gap >= alignment:
        extra = [metadata.padding_kv(gap)] if gap >= metadata.padding_least() else []
    data = build_header([*kvs, *extra], infos, version=header.version, alignment=alignment)
    if len(data) != header.data_offset:
        raise InPlaceRefused(
            f"{file.path}: the header without the block takes {least:,} bytes, which do not fill the "
            f"{header.data_offset:,} before the data; use 'nextn detach' without --in-place."
        )
    return Change(file.path.resolve(), file.size_bytes, _head_of(file), size, data, 0, tail)


def _in_the_middle(file: GGUFFile, middle: Sequence[TensorInfo], n_block: int, n_tail: int) -> str:
    why = (
        f"its block is in several pieces, with '{middle[0].name}' between them"
        if middle
        else f"{n_tail:,} bytes lie after its block of {n_block:,}, more than can be moved there safely"
    )
    return (
        f"{file.path}: {why}, and llama.cpp refuses a file with a hole between tensors; "
        "use 'nextn detach' without --in-place, which writes a new file."
    )


def _detach_steps(changes: Sequence[Change]) -> list[str]:
    steps = ["write a journal beside it: once it is there, the detach is finished even if the run is stopped"]
    for change in changes:
        name = change.path.name
        if change.room:
            steps.append(f"{name}: take out the {change.room:,} bytes that were inserted at its start")
        if change.tail is not None:
            steps.append(f"{name}: move the {change.tail.size_bytes:,} bytes after the block to where it starts")
        if change.bare_size + change.room < change.size_bytes:
            steps.append(f"{name}: cut it from {change.size_bytes:,} to {change.bare_size:,} bytes")
        steps.append(f"{name}: write its header of {len(change.bare_head):,} bytes")
    return [*steps, "remove the journal"]
