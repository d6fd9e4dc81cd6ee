"""The MTP block as one object, lazily read: names, shapes and places of its tensors, wherever it comes from."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..gguf.files import Model
from ..sources.checkpoint import Checkpoint
from ..sources.ranges import FileRange
from ..sources.rows import RowSource

_BLOCK_TENSOR = re.compile(r"^blk\.(\d+)\.(.+)$")
EH_PROJ = "nextn.eh_proj.weight"
DRAFT_HEAD = "nextn.shared_head_head.weight"
EMBED_TOKENS = "nextn.embed_tokens.weight"
SHARED_MARKS = ("nextn_shared_target_tensors",)  # keys of forks whose sidecars share the target's embeddings


@dataclass(frozen=True)
class BlockTensor:
    """One tensor of a block."""

    layer: int  # number of the block it belongs to, from 0
    suffix: str  # GGUF name behind `blk.N.`
    ne: tuple[int, ...]  # ggml order
    rows: RowSource  # how to read it as float32
    stored: FileRange | None = None  # its bytes as they lie in a GGUF, to be carried
    type_id: int | None = None  # the type of `stored`
    f32: bool = False  # kept in F32 whatever type is asked for
    kept: str | None = None  # name of another type it is kept in whatever type is asked for
    root: bool = False  # no layer's tensor

    def name(self, n_layer_trunk: int) -> str:
        """The tensor's name on a trunk of so many layers."""
        return self.suffix if self.root else f"blk.{n_layer_trunk + self.layer}.{self.suffix}"


@dataclass(frozen=True)
class Block:
    """One or more predictor layers, with what must fit a trunk."""

    origin: Path  # file or folder it comes from
    kind: str  # "checkpoint", "bundled", "sidecar" or "donor"
    architecture: str
    n_layer_trunk: int | None  # layers of the trunk it was trained on
    n_layer_nextn: int
    tensors: tuple[BlockTensor, ...]
    hidden_size: int | None
    n_vocab: int | None
    header_bytes: int = 0  # bytes of headers, for checkpoints of JSON, that finding and comparing it takes
    revision: str | None = None
    label: str | None = None  # what to call the origin; None: its name
    model: Model | None = None  # for GGUF donors
    checkpoint: Checkpoint | None = None

    @property
    def donor_name(self) -> str:
        """What provenance calls the origin: never a path of this machine, since files are published."""
        return self.label or self.origin.resolve().name

    @property
    def read_bytes(self) -> int:
        """Source bytes of all its tensors."""
        return sum(tensor.rows.read_bytes for tensor in self.tensors)

    @property
    def ranges(self) -> list[FileRange]:
        """Where those bytes lie."""
        return [where for tensor in self.tensors for where in tensor.rows.ranges]

    def find(self, suffix: str) -> BlockTensor | None:
        """The first tensor of that name behind `blk.N.`."""
        return next((tensor for tensor in self.tensors if tensor.suffix == suffix), None)


def layer_of(name: str) -> int | None:
    """The layer number in a tensor's name, or None for root tensors."""
    match = _BLOCK_TENSOR.match(name)
    return int(match[1]) if match else None


def suffix_of(name: str) -> str:
    """The name behind `blk.N.`."""
    match = _BLOCK_TENSOR.match(name)
    return match[2] if match else name


def block_layers(names: Iterator[str] | list[str]) -> list[int]:
    """The layer numbers that carry `nextn.eh_proj`, sorted: an MTP block's certain mark."""
    return sorted({n for name in names if suffix_of(name) == EH_PROJ and (n := layer_of(name)) is not None})
