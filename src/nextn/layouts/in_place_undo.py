"""What the header of a model with a block in place records about the file without it, so that it can be restored."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from typing import Any

from ..errors import FormatError, InPlaceRefused
from ..gguf.files import GGUFFile
from ..gguf.header import Header, build_header, pad_to
from ..gguf.kv import KV
from ..gguf.kv_table import edit
from ..gguf.tensors import UNKNOWN
from ..writing.plan import Tail
from . import metadata


@dataclass(frozen=True)
class Undo:
    """What the new header no longer says about the original file, so that a detach restores it byte for byte."""

    size_bytes: int
    head_bytes: int
    head_sha256: str
    n_tensors: int
    room: int
    tail: Tail | None
    dropped: tuple[tuple[int, str | int], ...]  # position in the original; base64 of the pair, or size of padding
    padding: str  # base64 of the bytes between header and data, "" for zeros

    def to_json(self) -> dict[str, Any]:
        """As it is stored in the header's note."""
        tail = self.tail
        return {
            "size": self.size_bytes, "head": [self.head_bytes, self.head_sha256], "tensors": self.n_tensors,
            "room": self.room, "tail": None if tail is None else [tail.bare_at, tail.size_bytes, tail.block_at],
            "dropped": [list(pair) for pair in self.dropped], "padding": self.padding,
        }  # fmt: skip

    @classmethod
    def from_json(cls, note: dict[str, Any]) -> Undo:
        """From a header's note. Raises ValueError, KeyError, TypeError."""
        tail = None if note["tail"] is None else Tail(*map(int, note["tail"]))
        dropped = tuple((int(i), raw if isinstance(raw, int) else str(raw)) for i, raw in note["dropped"])
        n_head, digest = note["head"]
        return cls(
            int(note["size"]), int(n_head), str(digest), int(note["tensors"]), int(note["room"]), tail, dropped,
            str(note["padding"]),
        )  # fmt: skip

    def head(self, new: Header, replaced: dict[str, KV], added: set[str]) -> bytes | None:
        """The original header, or None when the new one is not what an attach made of it."""
        sizes = [raw for _, raw in self.dropped if isinstance(raw, int)]
        if not 0 <= self.n_tensors <= len(new.tensors) or max([self.head_bytes, *sizes]) > new.data_offset:
            return None  # not an attach's note: an attach only ever makes a header longer
        drop = {*added, *metadata.OWN_KEYS}
        put = [kv for kv in replaced.values() if kv.key not in drop and new.kvs.position(kv.key) is not None]
        kvs = edit(new.kvs, put=put, drop=drop)
        try:
            for i, raw in self.dropped:
                padding = metadata.padding_kv(raw) if isinstance(raw, int) else None
                kvs = kvs.inserted(i, padding or metadata.parse_kv(base64.b64decode(str(raw))))
            behind = base64.b64decode(self.padding)
        except (ValueError, FormatError):
            return None
        data = build_header(kvs, new.tensors[: self.n_tensors], version=new.version, alignment=1)
        data += behind or bytes(max(self.head_bytes - len(data), 0))
        return data if hashlib.sha256(data).hexdigest() == self.head_sha256 else None


def undo_of(file: GGUFFile, head: bytes, room: int, tail: Tail | None) -> Undo:
    """What a header that replaces `head` has to record about the file as it is."""
    header = file.header
    padding = head[header.header_end :]
    return Undo(
        file.size_bytes,
        len(head),
        hashlib.sha256(head).hexdigest(),
        len(header.tensors),
        room,
        tail,
        tuple((i, _dropped(header.kvs[i])) for i in sorted(header.kvs.positions(metadata.OWN_KEYS))),
        base64.b64encode(padding).decode() if padding.strip(b"\0") else "",
    )


def _dropped(kv: KV) -> str | int:
    """A pair as it is stored in the note. For padding only the size is noted: it serves as room and is not kept."""
    if kv.key == metadata.PADDING and kv.size_bytes >= metadata.padding_least():
        same = metadata.padding_kv(kv.size_bytes)
        if same.same_as(kv):
            return kv.size_bytes
    return base64.b64encode(bytes(kv.raw)).decode()


def note_of(header: Header) -> tuple[Undo, dict[str, KV], set[str]] | None:
    """What an in-place attach noted: undo, pairs that it replaced, keys that it added."""
    text = header.get(metadata.UNDO)
    if not isinstance(text, str):
        return None
    try:
        note = json.loads(text)
        undo = Undo.from_json(note["in_place"])
        replaced = [metadata.parse_kv(base64.b64decode(raw)) for raw in note["replaced"].values()]
        return undo, {kv.key: kv for kv in replaced}, set(map(str, note["added"]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, FormatError):
        return None


def head_of(file: GGUFFile) -> bytes:
    """The file's bytes up to its data, as they were read with its header."""
    header = file.header
    return bytes(header.kvs[0].buffer[: header.data_offset if header.tensors else header.header_end])


def check_contiguous(file: GGUFFile) -> None:
    """Raise InPlaceRefused for a file whose data has holes or is out of order: no engine accepts it as it is."""
    header, at = file.header, 0
    tensors = header.tensors
    for row, (offset, size) in enumerate(zip(tensors.offsets, tensors.sizes, strict=True)):
        if offset != at:
            info = tensors[row]
            raise InPlaceRefused(
                f"{file.path}: tensor '{info.name}' starts at byte {info.offset:,} of the data instead of {at:,}, so "
                "llama.cpp refuses the file as it is; use --layout bundle, which writes a contiguous one."
            )
        at += pad_to(file.stored_size(tensors[row]) if size == UNKNOWN else size, header.alignment)
