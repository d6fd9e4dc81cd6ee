"""The MTP block as one object, read lazily: names, shapes and places of its tensors, whatever its source."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..brief import Brief
from ..gguf.files import Model
from ..gguf.names import MOST_DIGITS
from ..sources.checkpoint import Checkpoint
from ..sources.ranges import FileRange
from ..sources.rows import RowSource

EH_PROJ = "nextn.eh_proj.weight"
MARK = "nextn."  # prefix of names that only an MTP block's layer has
DRAFT_HEAD = "nextn.shared_head_head.weight"
EMBED_TOKENS = "nextn.embed_tokens.weight"
# Root tensors that only serve drafting, and that other engines refuse.
DRAFT_ROOTS = ("output_extra.weight",)
SHARED_MARKS = ("nextn_shared_target_tensors",)  # keys of forks whose sidecars share the target's embeddings


@dataclass(frozen=True)
class BlockTensor:
    """One tensor of a block."""

    layer: int  # number of the block it belongs to, from 0
    suffix: str  # GGUF name after `blk.N.`
    ne: tuple[int, ...]  # ggml order
    rows: RowSource  # how to read it as float32
    stored: FileRange | None = None  # its bytes as stored in a GGUF, to be carried
    type_id: int | None = None  # the type of `stored`
    f32: bool = False  # kept in F32 whatever type is requested
    kept: str | None = None  # name of another type that it is kept in whatever type is requested
    root: bool = False  # a root tensor: it belongs to no layer

    def name(self, n_layer_trunk: int) -> str:
        """The tensor's name on a trunk of `n_layer_trunk` layers."""
        return self.suffix if self.root else f"blk.{n_layer_trunk + self.layer}.{self.suffix}"


@dataclass(frozen=True)
class Block(Brief):
    """One or more predictor layers, with everything that must match a trunk."""

    origin: Path  # file or folder it comes from
    kind: str  # "checkpoint", "bundled", "sidecar" or "donor"
    architecture: str
    n_layer_trunk: int | None  # layers of the trunk it was trained on
    n_layer_nextn: int
    tensors: tuple[BlockTensor, ...]
    hidden_size: int | None
    n_vocab: int | None
    header_bytes: int = 0  # bytes of headers (for checkpoints, of JSON) read to find and compare it
    revision: str | None = None
    label: str | None = None  # what to call the origin; None: its name
    model: Model | None = None  # for GGUF donors
    checkpoint: Checkpoint | None = None

    @property
    def donor_name(self) -> str:
        """The origin's name in the provenance: never a local path, since files are published."""
        return self.label or self.origin.resolve().name

    @property
    def read_bytes(self) -> int:
        """Source bytes of all its tensors."""
        return sum(tensor.rows.read_bytes for tensor in self.tensors)

    @property
    def ranges(self) -> list[FileRange]:
        """Where those bytes are."""
        return [where for tensor in self.tensors for where in tensor.rows.ranges]

    def find(self, suffix: str) -> BlockTensor | None:
        """The first tensor with that name after `blk.N.`."""
        return next((tensor for tensor in self.tensors if tensor.suffix == suffix), None)


def split_name(name: str) -> tuple[int | None, str]:
    """(layer, the name without `blk.N.`) of a tensor's name; root tensors have no layer and keep their name.

    A number that no layer can have makes a root tensor too.
    """
    if not name.startswith("blk."):
        return None, name
    number, _, suffix = name[4:].partition(".")
    if not suffix or not number.isdecimal() or not number.isascii() or (number[0] == "0" and number != "0"):
        return None, name
    if len(number) > MOST_DIGITS:
        return None, name
    return int(number), suffix


def layer_of(name: str) -> int | None:
    """The layer number in a tensor's name, or None for root tensors."""
    return split_name(name)[0]


def suffix_of(name: str) -> str:
    """The name without `blk.N.`."""
    return split_name(name)[1]


def marks_block(name: str) -> bool:
    """Whether only an MTP block's layer has a tensor of this name."""
    layer, suffix = split_name(name)
    return layer is not None and suffix.startswith(MARK)
