"""In place: a block appended to the file itself. Pure planning; `writing.in_place` carries it out.

The block's data goes after the last tensor of the first file, whose header has to change anyway: so even for a set the
transaction covers one file. A GGUF's data has to be contiguous (llama.cpp compares each tensor's offset with the sum of
the padded sizes before it), so the header cannot grow into the data: it grows into padding, into room that the file
system inserts at the start of the file, or not at all.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import InPlaceRefused
from ..gguf.files import GGUFFile, Model
from ..gguf.header import Header, build_header, header_size, pad_to
from ..gguf.kv import KV, KVType
from ..gguf.kv_table import KVTable, edit
from ..gguf.sets import SPLIT_TENSORS_COUNT
from ..gguf.tensors import TensorTable
from ..units import size as readable
from ..writing.plan import Change, Hashes, LateHeader, Tail
from . import build, metadata
from .in_place_undo import Undo, check_contiguous, head_of, note_of, undo_of
from .options import Room
from .parts import Part, data_segments


def attached(
    trunk: Model, kvs: KVTable, parts: Sequence[Part], made: build.Provenance, room: Room
) -> tuple[Change, tuple[str, ...]]:
    """The change that puts `parts` into the trunk's first file, and its steps.

    `kvs`: the trunk's pairs with what a block changes, and the note that records the change.
    Raises InPlaceRefused when there is no room for the header.
    """
    file = trunk.files[0]
    header, alignment, head = file.header, file.header.alignment, head_of(file)
    check_contiguous(file)
    kvs = _with_count(kvs, trunk, len(trunk.tensors) + len(parts))
    has_data = bool(header.tensors)
    bare_end = pad_to(file.end_of(header.tensors), alignment) if has_data else len(head)
    relative = bare_end - header.data_offset if has_data else 0
    new = []
    for part in parts:
        new.append(part.info.at(relative))
        relative += pad_to(part.size_bytes, alignment)
    infos = header.tensors.plus(new)
    n_data = sum(pad_to(part.size_bytes, alignment) for part in parts)

    def fitted(inserted: int) -> _Fitted:
        limit = header.data_offset + inserted if has_data else None
        data_at = bare_end
        while True:  # without data the header may end anywhere, and its own note records where
            tail = _tail_behind(file, bare_end, data_at + n_data)
            undo = undo_of(file, head, inserted, tail)
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
        segments=tuple(data_segments(parts, alignment, [])),
        header=LateHeader(draft.size_bytes, draft.build),
    )
    draft.check(head)
    return change, _attach_steps(change, n_data)


@dataclass(frozen=True)
class _Fitted:
    """A header that has to fit a given number of bytes."""

    kvs: KVTable
    infos: TensorTable
    made: build.Provenance
    like: Header
    undo: Undo
    limit: int | None  # where data begins; None: wherever the header ends

    def _pairs(self, hashes: Hashes, source_hash: str, slack: int = 0) -> KVTable:
        note = {**json.loads(_note(self.kvs).value), "in_place": None}
        note["in_place"] = self.undo.to_json()
        text = json.dumps(note, separators=(",", ":")) + " " * slack
        put = [KV.make(metadata.UNDO, KVType.STRING, text)]
        return edit(self.kvs, put=put).plus(self.made.pairs(hashes, source_hash))

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
        """The header, padded up to the data."""
        pairs = self._padded(hashes, source_hash)
        return build_header(pairs, self.infos, version=self.like.version, alignment=self.like.alignment)

    def _padded(self, hashes: Hashes, source_hash: str) -> KVTable:
        """All pairs, with padding up to the data: a pair, or spaces within the note where a pair does not fit."""
        gap = self.data_offset - self._least
        extra = []
        slack = 0
        if gap >= self.like.alignment:
            if gap >= metadata.padding_least():
                extra = [metadata.padding_kv(gap)]
            else:
                slack = gap
        return self._pairs(hashes, source_hash, slack).plus(extra)

    def check(self, head: bytes) -> None:
        """Assert that the original header can be restored from this one."""
        blank = "0" * 64
        pairs = self._padded(dict.fromkeys(self.made.names, blank), blank)
        made = Header(self.like.version, pairs, self.infos, 0, self.data_offset, self.like.alignment)
        found = note_of(made)
        if found is None or found[0].head(made, found[1], found[2]) != head:
            raise AssertionError("the header would not lead back to the original")


def _tail_behind(file: GGUFFile, bare_end: int, block_end: int) -> Tail | None:
    """Whatever follows the last tensor: it is kept after the block."""
    n = file.size_bytes - bare_end
    return None if n <= 0 else Tail(bare_end, n, max(block_end, bare_end + n))


def _note(kvs: KVTable) -> KV:
    """The pair that records what an attach changed."""
    found = kvs.find(metadata.UNDO)
    assert found is not None
    return found


def _with_count(kvs: KVTable, trunk: Model, n_tensors: int) -> KVTable:
    """The pairs with the set's new number of tensors, noted so that a detach puts the old one back."""
    old = trunk.header.by_key.get(SPLIT_TENSORS_COUNT)
    if len(trunk.files) == 1 or old is None:
        return kvs
    note = json.loads(_note(kvs).value)
    note["replaced"][old.key] = base64.b64encode(bytes(old.raw)).decode()
    return edit(kvs, put=[old.with_value(n_tensors), KV.make(metadata.UNDO, KVType.STRING, json.dumps(note))])


def _no_room(file: GGUFFile, draft: _Fitted) -> str:
    return (
        f"{file.path}: the header grows by {draft.lacking:,} bytes beyond the {file.header.data_offset:,} before the "
        "data; there is no padding for them, and this file system cannot insert room into a file (ext4 and XFS can); "
        "use --layout sidecar (a new file for the block), or bundle or shards."
    )


def _attach_steps(change: Change, n_data: int) -> tuple[str, ...]:
    header = change.header
    assert header is not None
    steps = [
        f"write a journal beside it ({readable(len(change.head))}): it restores the original if the run is interrupted"
    ]
    if change.tail is not None:
        steps.append(f"copy the {change.tail.size_bytes:,} bytes after its last tensor to after the block")
    steps.append(f"append the block: {n_data:,} bytes at byte {change.block_at:,}")
    if change.room:
        steps.append(f"insert {change.room:,} bytes at the start of the file (no data is moved on the disk)")
    steps.append(f"write the new header: {header.size_bytes:,} bytes")
    steps.append("remove the journal: after that the change is complete")
    return tuple(steps)
