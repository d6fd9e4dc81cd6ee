"""What the caller may choose: one class of options per layout maker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..gguf.header import pad_to
from ..gguf.types import TensorType, parse_type_name
from ..writing.plan import LinkMode

IN_PLACE = "in-place"
LAYOUTS = ("shards", "sidecar", "bundle", IN_PLACE)

RoomPolicy = Callable[[int, int], int]
"""(bytes that the header lacks, grain) -> bytes of room to insert; at least the first, a multiple of the second."""


def least_room(lacking: int, grain: int) -> int:
    """The least room that fits the header and that the file system can insert."""
    return pad_to(lacking, grain)


@dataclass(frozen=True)
class Room:
    """What can be done about a header that does not fit."""

    grain: int | None  # inserted room is a multiple of this (see `ranges.grain_of`); None: none can be inserted
    policy: RoomPolicy = least_room


@dataclass(frozen=True)
class AttachOptions:
    """How to attach; None means the documented default."""

    layout: str | None = None
    type: TensorType | None = None  # block's matrices
    draft_head: TensorType | None = None
    embd_type: TensorType | None = None  # sidecar's embeddings and head; None: carry unchanged
    out: Path | str | None = None
    link: LinkMode = LinkMode.AUTO
    qkv: str | None = None  # q, k and v "split", "fused" or "as-trunk"; None: as the family's blocks are published
    for_engine: str | None = None  # "llama.cpp", "ik", "both", "lmstudio"; None: any engine that accepts the file
    room: Room = Room(None)  # in place: what can be done about a longer header


@dataclass(frozen=True)
class ExtractOptions:
    """How to extract."""

    block_only: bool = False  # nothing but the block
    type: TensorType | None = None  # None: unchanged (checkpoints: q8_0)
    embd_type: TensorType | None = None  # sidecar's embeddings and head; None: unchanged
    out: Path | str | None = None
    qkv: str | None = None  # q, k and v "split", "fused" or "as-trunk"; None: unchanged
    for_engine: str | None = None  # the engine of a runnable sidecar: "llama.cpp", "ik" or "both"; None: any
    draft_head: TensorType | None = None  # sidecar: type of a draft head made from the model's head; None: none


@dataclass(frozen=True)
class PackOptions:
    """How to pack; None means the documented default."""

    out: Path  # the folder
    layout: str | None = None  # of shard sets; single files always get a sidecar
    type: TensorType | None = None  # block's matrices
    draft_head: TensorType | None = None
    embd_type: TensorType | None = None  # sidecar's embeddings and head; None: carry unchanged
    link: LinkMode = LinkMode.AUTO
    ready_sidecar: bool = False  # the block is a sidecar to publish unchanged


AS_IS = "as-is"


def named_type(name: str | TensorType | None) -> TensorType | None:
    """A tensor type by name; None stays None. Raises QuantizeError."""
    if name is None or isinstance(name, TensorType):
        return name
    return parse_type_name(name)


def embeddings_type(name: str | TensorType) -> TensorType | None:
    """The type of a sidecar's embeddings and output head, None for "as-is". Raises QuantizeError."""
    if isinstance(name, str) and name.lower().replace("_", "-") in (AS_IS, "asis"):
        return None
    return named_type(name)
